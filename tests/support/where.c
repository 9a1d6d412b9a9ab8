/* where FORM TYPE FLAGS OPTIONS: mounts TYPE at /mnt/here, which it names in the way FORM says, and prints what came of it.
 *
 * The result, then what is mounted below /mnt as mountinfo shows it (point, mount's flags, type, source, options of the
 * superblock), then who owns the mount's root. "-" for OPTIONS is NULL. Undone at the end: run it in a mount namespace that
 * nobody else needs.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *form, *type, *options;
static unsigned long flags;
static char target[256];
static int failed; /* errno of a preparation */

#define MUST(what) \
	do { \
		if ((what) < 0) { \
			printf("%s: %s\n", #what, strerrorname_np(errno)); \
			exit(3); \
		} \
	} while (0)

static int directory(const char *path)
{
	int fd = open(path, O_PATH | O_DIRECTORY);

	MUST(fd);
	return fd;
}

static void fresh_root(const char *at)
{
	char path[64];
	static const char *const parts[] = {"/mnt", "/mnt/here", "/proc", "/sys", "/lib", 0};

	MUST(mount("t", at, "tmpfs", 0, 0));
	for (int i = 0; parts[i]; i++) {
		snprintf(path, sizeof path, "%s%s", at, parts[i]);
		MUST(mkdir(path, 0755));
	}
	snprintf(path, sizeof path, "%s/proc", at);
	MUST(mount("/proc", path, 0, MS_BIND | MS_REC, 0));
	snprintf(path, sizeof path, "%s/sys", at);
	MUST(mount("/sys", path, 0, MS_BIND | MS_REC, 0));
}

static void prepare(void)
{
	strcpy(target, "/mnt/here");
	if (!strcmp(form, "relative")) {
		MUST(chdir("/mnt"));
		strcpy(target, "here");
	} else if (!strcmp(form, "dots")) {
		MUST(chdir("/mnt/here"));
		strcpy(target, "../../mnt/./here/../here");
	} else if (!strcmp(form, "dot")) {
		MUST(chdir("/mnt/here"));
		strcpy(target, ".");
	} else if (!strcmp(form, "beyond the root")) {
		strcpy(target, "/../../../mnt/here");
	} else if (!strcmp(form, "symlink")) {
		MUST(symlink("here", "/mnt/link"));
		strcpy(target, "/mnt/link");
	} else if (!strcmp(form, "absolute symlink")) {
		MUST(symlink("/mnt/here", "/mnt/link"));
		strcpy(target, "/mnt/link");
	} else if (!strcmp(form, "chain of symlinks")) {
		MUST(symlink("/mnt/two/here", "/mnt/one"));
		MUST(symlink("../mnt", "/mnt/two"));
		strcpy(target, "/mnt/one");
	} else if (!strcmp(form, "loop of symlinks")) {
		MUST(symlink("/mnt/two", "/mnt/one"));
		MUST(symlink("/mnt/one", "/mnt/two"));
		strcpy(target, "/mnt/one");
	} else if (!strcmp(form, "nowhere")) {
		strcpy(target, "/mnt/nowhere");
	} else if (!strcmp(form, "file")) {
		MUST(mknod("/mnt/file", S_IFREG | 0644, 0));
		strcpy(target, "/mnt/file");
	} else if (!strcmp(form, "below a file")) {
		MUST(mknod("/mnt/file", S_IFREG | 0644, 0));
		strcpy(target, "/mnt/file/here");
	} else if (!strcmp(form, "slash")) {
		strcpy(target, "//mnt//here/");
	} else if (!strcmp(form, "descriptor")) {
		snprintf(target, sizeof target, "/proc/self/fd/%d", directory("/mnt/here"));
	} else if (!strcmp(form, "below a descriptor")) {
		snprintf(target, sizeof target, "/proc/self/fd/%d/here", directory("/mnt"));
	} else if (!strcmp(form, "descriptor of this thread") || !strcmp(form, "descriptor of another thread")) {
		snprintf(target, sizeof target, "/proc/thread-self/fd/%d", directory("/mnt/here"));
	} else if (!strcmp(form, "descriptor by pid")) {
		snprintf(target, sizeof target, "/proc/%d/fd/%d", getpid(), directory("/mnt/here"));
	} else if (!strcmp(form, "closed descriptor")) {
		strcpy(target, "/proc/self/fd/99");
	} else if (!strcmp(form, "/dev/fd")) {
		snprintf(target, sizeof target, "/dev/fd/%d", directory("/mnt/here"));
	} else if (!strcmp(form, "relative descriptor")) {
		snprintf(target, sizeof target, "self/fd/%d", directory("/mnt/here"));
		MUST(chdir("/proc"));
	} else if (!strcmp(form, "descriptor behind a symlink")) {
		char path[64];

		snprintf(path, sizeof path, "/proc/self/fd/%d", directory("/mnt/here"));
		MUST(symlink(path, "/mnt/link"));
		strcpy(target, "/mnt/link");
	} else if (!strcmp(form, "cwd by procfs")) {
		MUST(chdir("/mnt/here"));
		strcpy(target, "/proc/self/cwd");
	} else if (!strcmp(form, "root by procfs")) {
		strcpy(target, "/proc/self/root/mnt/here");
	} else if (!strcmp(form, "descriptor outside of the root")) {
		int fd = directory("/mnt/here");

		fresh_root("/data");
		MUST(chroot("/data"));
		MUST(chdir("/"));
		snprintf(target, sizeof target, "/proc/self/fd/%d", fd);
	} else if (!strcmp(form, "chroot")) {
		fresh_root("/data");
		MUST(chroot("/data"));
		MUST(chdir("/"));
	} else if (!strcmp(form, "chroot, cwd outside")) {
		fresh_root("/data");
		MUST(chdir("/mnt"));
		MUST(chroot("/data"));
		strcpy(target, "here");
	} else if (!strcmp(form, "pivot_root")) {
		fresh_root("/data");
		MUST(chdir("/data"));
		MUST(syscall(SYS_pivot_root, ".", "."));
		MUST(umount2(".", MNT_DETACH));
		MUST(chdir("/"));
	} else if (!strcmp(form, "pivot_root, nothing visible")) {
		fresh_root("/data");
		MUST(umount2("/data/proc", MNT_DETACH));
		MUST(umount2("/data/sys", MNT_DETACH));
		MUST(chdir("/data"));
		MUST(syscall(SYS_pivot_root, ".", "."));
		MUST(umount2(".", MNT_DETACH));
		MUST(chdir("/"));
	} else if (!strcmp(form, "covered twice")) {
		MUST(mount("below", "/mnt/here", "tmpfs", 0, 0));
	} else if (strcmp(form, "absolute")) {
		printf("no form %s\n", form);
		exit(2);
	}
}

static void *do_mount(void *unused)
{
	if (!strcmp(form, "own file system") || !strcmp(form, "descriptor of another thread"))
		unshare(CLONE_FS);
	failed = mount("source", target, type, flags, strcmp(options, "-") ? options : 0) ? errno : 0;
	return unused;
}

static void show(void)
{
	char line[8192];
	struct stat st;
	FILE *file = fopen("/proc/self/mountinfo", "r");

	printf("%s\n", failed ? strerrorname_np(failed) : "ok");
	while (file && fgets(line, sizeof line, file)) {
		char *save, *field[6], *rest = strstr(line, " - ");

		if (!rest)
			continue;
		*rest = 0;
		field[0] = strtok_r(line, " ", &save);
		for (int i = 1; i < 6; i++)
			field[i] = strtok_r(0, " ", &save);
		if (!strncmp(field[4], "/mnt", 4) || !strcmp(field[4], target))
			printf("%s %s %s", field[4], field[5], rest + 3);
	}
	if (file)
		fclose(file);
	if (!failed && !stat(target, &st))
		printf("root %o %u:%u\n", st.st_mode, st.st_uid, st.st_gid);
}

int main(int argc, char **argv)
{
	pthread_t thread;

	if (argc != 5)
		return 2;
	form = argv[1];
	type = argv[2];
	flags = strtoul(argv[3], 0, 0);
	options = argv[4];
	MUST(unshare(CLONE_NEWNS));
	MUST(mount(0, "/", 0, MS_REC | MS_PRIVATE, 0));
	MUST(mount("mnt", "/mnt", "tmpfs", 0, 0));
	MUST(mkdir("/mnt/here", 0755));
	prepare();
	if (!strcmp(form, "descriptor of another thread")) {
		pthread_create(&thread, 0, do_mount, 0);
		pthread_join(thread, 0);
	} else {
		do_mount(0);
	}
	show();
	return 0;
}
