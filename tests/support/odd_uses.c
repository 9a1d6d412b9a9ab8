/* Uses files of proc and sysfs as nobody should, and says how that ended: odd_uses read|write PATH...
 *
 * Prints lines "PATH USE RESULT": an errno's name, "0", or "some" for any positive number; what depends on the content is said in
 * words. `write` needs a sysctl of one number between 0 and 255, and leaves 7 there.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <unistd.h>

static const char *path;
static void *volatile nowhere = (void *)8;
static char whole[1 << 16], again[1 << 16];

static void say(const char *use, long result)
{
	if (result < 0)
		printf("%s %s %s\n", path, use, strerrorname_np(errno));
	else
		printf("%s %s %s\n", path, use, result ? "some" : "0");
}

static void say_text(const char *use, const char *text)
{
	printf("%s %s %s\n", path, use, text);
}

static ssize_t read_all(int fd, char *text, size_t step)
{
	ssize_t size = 0, n;

	while ((n = read(fd, text + size, step)) > 0)
		size += n;
	return n < 0 ? n : size;
}

/* How many lines of it begin as those of `whole`: a snapshot may be another, its form is the same. */
static const char *form(const char *text, ssize_t size)
{
	size_t lines = 0, others = 0;
	ssize_t i;

	if (size < 0)
		return strerrorname_np(errno);
	if (!size)
		return *whole ? "nothing" : "whole";
	for (i = 0; i < size; i++)
		lines += text[i] == '\n';
	for (i = 0; whole[i]; i++)
		others += whole[i] == '\n';
	return lines == others && *text == *whole && text[size - 1] == '\n' ? "whole" : "something else";
}

static int open_it(int flags)
{
	int fd = open(path, flags | O_CLOEXEC);

	if (fd < 0) {
		perror(path);
		exit(2);
	}
	return fd;
}

static ssize_t through(int out, int in, int by_splice)
{
	ssize_t size = 0, n;

	for (;;) {
		n = by_splice ? splice(in, 0, out, 0, sizeof again, 0) : sendfile(out, in, 0, sizeof again);
		if (n <= 0)
			return n < 0 ? n : size;
		size += n;
	}
}

static void by_pipe(const char *use, int by_splice)
{
	int fd = open_it(O_RDONLY), link[2];
	ssize_t size;

	memset(again, 0, sizeof again);
	if (pipe(link) || fcntl(link[1], F_SETPIPE_SZ, 1 << 20) < 0)
		exit(2);
	size = through(link[1], fd, by_splice);
	if (size > 0)
		size = read(link[0], again, sizeof again - 1);
	say_text(use, form(again, size));
	close(link[0]);
	close(link[1]);
	close(fd);
}

/* Where it can be opened so. */
static void by_direct(void)
{
	static char aligned[1 << 16] __attribute__((aligned(4096)));
	int fd = open(path, O_RDONLY | O_DIRECT);

	if (fd < 0)
		return;
	memset(aligned, 0, sizeof aligned);
	say_text("read-direct", form(aligned, read(fd, aligned, sizeof aligned - 4096)));
	close(fd);
}

static void map(const char *use, int protection, int flags)
{
	int fd = open_it(O_RDONLY);
	char *at = mmap(0, 4096, protection, flags, fd, 0);

	say(use, at == MAP_FAILED ? -1 : 0);
	if (at != MAP_FAILED) {
		if (!(protection & PROT_WRITE))
			say_text(use, *at == *whole ? "whole" : "something else");
		munmap(at, 4096);
	}
	close(fd);
}

static void try_open(const char *use, int flags)
{
	int fd = open(path, flags | O_CLOEXEC, 0644);

	say(use, fd < 0 ? -1 : 0);
	if (fd >= 0)
		close(fd);
}

static void seeks(void)
{
	int fd = open_it(O_RDONLY);

	say("lseek-set", lseek(fd, 5, SEEK_SET));
	say("lseek-current", lseek(fd, -2, SEEK_CUR));
	say("lseek-before-start", lseek(fd, -1, SEEK_SET));
	say("lseek-end", lseek(fd, 0, SEEK_END));
	say("lseek-data", lseek(fd, 0, SEEK_DATA));
	say("lseek-hole", lseek(fd, 0, SEEK_HOLE));
	say("lseek-unknown", lseek(fd, 0, 77));
	say("lseek-back", lseek(fd, 0, SEEK_SET));
	memset(again, 0, sizeof again);
	say_text("read-after-lseek", form(again, read_all(fd, again, sizeof again - 1)));
	say("read-at-end", read(fd, again, 100));
	close(fd);
}

/* The kernel's own files give a page at a time. */
static ssize_t pread_all(int fd, char *text, size_t room)
{
	ssize_t size = 0, n;

	while ((n = pread(fd, text + size, room - (size_t)size, size)) > 0)
		size += n;
	return n < 0 ? n : size;
}

static void preads(void)
{
	int fd = open_it(O_RDONLY);

	memset(again, 0, sizeof again);
	say_text("pread", form(again, pread_all(fd, again, sizeof again - 1)));
	say("pread-one", pread(fd, again, 1, 0));
	say("pread-beyond", pread(fd, again, 100, 1 << 20));
	say("pread-far-beyond", pread(fd, again, 100, LLONG_MAX - 200));
	say("pread-negative", pread(fd, again, 100, -1));
	say("read-nothing", read(fd, again, 0));
	say("read-bad-pointer", read(fd, nowhere, 100));
	close(fd);
}

static void vectors(void)
{
	int fd = open_it(O_RDONLY);
	struct iovec parts[3] = {{again, 1}, {again + 1, 0}, {again + 1, sizeof again - 1}};
	ssize_t size, rest;

	memset(again, 0, sizeof again);
	size = readv(fd, parts, 3);
	rest = size > 0 ? read_all(fd, again + size, sizeof again - 1 - (size_t)size) : 0;
	say_text("readv", form(again, rest < 0 ? rest : size + rest));
	say("preadv2", preadv2(fd, parts, 3, 0, 0));
	say("preadv2-unknown", preadv2(fd, parts, 3, 0, 1 << 30));
	close(fd);
	fd = open_it(O_RDONLY);
	memset(again, 0, sizeof again);
	say_text("read-byte-by-byte", form(again, read_all(fd, again, 1)));
	close(fd);
}

static void waits(void)
{
	int fd = open_it(O_RDONLY), epoll = epoll_create1(0);
	struct pollfd one = {.fd = fd, .events = POLLIN | POLLOUT | POLLPRI};
	struct epoll_event event = {.events = EPOLLIN};

	poll(&one, 1, 0);
	say_text("poll", one.revents & POLLIN && one.revents & POLLOUT ? "ready" : one.revents ? "otherwise" : "not");
	say("epoll", epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
	close(epoll);
	close(fd);
}

static void others(void)
{
	int fd = open_it(O_RDONLY), number, to = open("/tmp/odd", O_RDWR | O_CREAT | O_TRUNC, 0600);
	struct stat st;

	say("ftruncate", ftruncate(fd, 0));
	say("fallocate", fallocate(fd, 0, 0, 100));
	say("write", write(fd, "1", 1));
	say("fsync", fsync(fd));
	say("flock", flock(fd, LOCK_SH));
	say("fadvise", posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED));
	say("readahead", readahead(fd, 0, 4096));
	say("ioctl-unknown", ioctl(fd, 0x5401, &number));
	say("ioctl-flags", ioctl(fd, FS_IOC_GETFLAGS, &number));
	say("fgetxattr", fgetxattr(fd, "user.x", again, 10));
	say("fsetxattr", fsetxattr(fd, "user.x", "1", 1, 0));
	say("flistxattr", flistxattr(fd, again, 10));
	say("fchmod", fchmod(fd, 0600));
	say("fchown", fchown(fd, 1, 1));
	say("copy_file_range", copy_file_range(fd, 0, to, 0, 4096, 0));
	say("reflink", ioctl(to, FICLONE, fd));
	say("as-directory", openat(fd, "x", O_RDONLY));
	say("truncate", truncate(path, 0));
	say("unlink", unlink(path));
	say("rename", rename(path, "/tmp/other"));
	say("link", link(path, "/tmp/other"));
	say("readlink", readlink(path, again, 10));
	fstat(fd, &st);
	say_text("type", S_ISREG(st.st_mode) ? "file" : "other");
	say("permissions-to-write", st.st_mode & 0222);
	say("set-user", st.st_mode & 07000);
	close(to);
	unlink("/tmp/odd");
	close(fd);
}

static void try_reading(void)
{
	int fd = open(path, O_RDONLY);

	say("open", fd < 0 ? -1 : 0);
	if (fd < 0)
		return;
	memset(whole, 0, sizeof whole);
	if (read_all(fd, whole, sizeof whole - 1) < 0)
		exit(2);
	close(fd);
	seeks();
	preads();
	vectors();
	map("mmap-private", PROT_READ, MAP_PRIVATE);
	map("mmap-shared", PROT_READ, MAP_SHARED);
	map("mmap-write", PROT_READ | PROT_WRITE, MAP_SHARED);
	by_pipe("splice", 1);
	by_pipe("sendfile", 0);
	waits();
	try_open("open-write", O_WRONLY);
	try_open("open-both", O_RDWR);
	try_open("open-append", O_WRONLY | O_APPEND);
	try_open("open-truncate", O_WRONLY | O_TRUNC);
	try_open("open-create", O_RDONLY | O_CREAT);
	try_open("open-exclusive", O_RDONLY | O_CREAT | O_EXCL);
	try_open("open-directory", O_RDONLY | O_DIRECTORY);
	try_open("open-direct", O_RDONLY | O_DIRECT);
	by_direct();
	try_open("open-nofollow", O_RDONLY | O_NOFOLLOW);
	try_open("open-path", O_PATH);
	try_open("open-temporary", O_RDWR | __O_TMPFILE);
	others();
}

/* ---- writing ---------------------------------------------------------------------------------------------------------- */

static void set(const char *value)
{
	int fd = open_it(O_WRONLY);

	if (write(fd, value, strlen(value)) < 0)
		exit(2);
	close(fd);
}

/* What is there now, and begin from 7 again. */
static void now(const char *use)
{
	char text[64] = "";
	int fd = open_it(O_RDONLY);

	if (read(fd, text, sizeof text - 1) < 0)
		exit(2);
	close(fd);
	text[strcspn(text, "\n")] = 0;
	printf("%s %s reads %s\n", path, use, text);
	set("7\n");
}

static void put(const char *use, int flags, off_t offset, const char *text, size_t size)
{
	int fd = open_it(flags);

	say(use, offset < 0 ? write(fd, text, size) : pwrite(fd, text, size, offset));
	close(fd);
	now(use);
}

static void put_in_parts(void)
{
	struct iovec parts[2] = {{"1", 1}, {"2\n", 2}};
	int fd = open_it(O_WRONLY);

	say("writev", writev(fd, parts, 2));
	close(fd);
	now("writev");
	fd = open_it(O_WRONLY);
	say("write-first", write(fd, "1", 1));
	say("write-second", write(fd, "2", 1));
	close(fd);
	now("write-second");
	fd = open_it(O_RDWR);
	say("lseek-then-write", lseek(fd, 3, SEEK_SET) < 0 ? -1 : write(fd, "9", 1));
	close(fd);
	now("lseek-then-write");
	fd = open_it(O_RDWR);
	say("write-zero-bytes", write(fd, "", 0));
	say("write-bad-pointer", write(fd, nowhere, 2));
	close(fd);
	now("write-zero-bytes");
}

static void write_through(const char *use, int by_splice)
{
	int fd = open_it(O_WRONLY), from = open("/tmp/odd", O_RDWR | O_CREAT | O_TRUNC, 0600), link[2];

	if (write(from, "33\n", 3) != 3 || lseek(from, 0, SEEK_SET) || pipe(link) || write(link[1], "33\n", 3) != 3)
		exit(2);
	close(link[1]);
	say(use, by_splice ? splice(link[0], 0, fd, 0, 3, 0) : sendfile(fd, from, 0, 3));
	now(use);
	close(fd);
	close(from);
	close(link[0]);
	unlink("/tmp/odd");
}

static void try_writing(void)
{
	static char blanks[5000];
	char text[16] = "";
	int fd;

	memset(blanks, ' ', sizeof blanks);
	blanks[4094] = '5';
	set("7\n");
	put("write", O_WRONLY, -1, "12\n", 3);
	put("write-no-newline", O_RDWR, -1, "12", 2);
	put("write-too-much", O_WRONLY, -1, blanks, sizeof blanks);
	put("write-a-page", O_WRONLY, -1, blanks, 4095);
	put("write-not-a-number", O_WRONLY, -1, "x", 1);
	put("write-truncating", O_WRONLY | O_TRUNC, -1, "13", 2);
	put("write-appending", O_WRONLY | O_APPEND, -1, "14", 2);
	put("write-synchronously", O_WRONLY | O_SYNC, -1, "15", 2);
	put("pwrite", O_WRONLY, 0, "16", 2);
	put("pwrite-later", O_WRONLY, 1, "17", 2);
	put("pwrite-far", O_WRONLY, 1ll << 40, "17", 2);
	put_in_parts();
	write_through("sendfile-to", 0);
	write_through("splice-to", 1);
	fd = open_it(O_RDWR);
	say("ftruncate-open", ftruncate(fd, 0));
	say("ftruncate-longer", ftruncate(fd, 100));
	say("write-then-read", write(fd, "21\n", 3));
	say_text("read-behind", read(fd, text, 10) > 0 ? "some" : "nothing");
	say("read-again", lseek(fd, 0, SEEK_SET) < 0 ? -1 : read(fd, text, 10));
	text[strcspn(text, "\n")] = 0;
	say_text("read-what", text);
	close(fd);
	now("write-then-read");
	say("truncate-path", truncate(path, 0));
	now("truncate-path");
	fd = open_it(O_RDWR);
	say("mmap-writable", mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED ? -1 : 0);
	say("fallocate-writable", fallocate(fd, 0, 0, 100));
	say("fsync-writable", fsync(fd));
	close(fd);
	set("7\n");
}

int main(int argc, char **argv)
{
	int i;

	for (i = 2; i < argc; i++) {
		path = argv[i];
		if (!strcmp(argv[1], "read"))
			try_reading();
		else
			try_writing();
	}
	return 0;
}
