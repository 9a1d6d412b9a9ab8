/* modules FILE: asks for the module of FILE in every way that there is, and to remove it. Prints "what: errno" or "ok". */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define POISON 0xdeadbeef00000000ul

static void say(const char *what, long result)
{
	printf("%s: %s\n", what, result < 0 ? strerrorname_np(errno) : "ok");
}

static long finit(int fd, const char *parameters, unsigned flags)
{
	return syscall(SYS_finit_module, POISON | (unsigned)fd, parameters, POISON | flags);
}

int main(int argc, char **argv)
{
	int fd, ends[2];
	struct stat st;
	char *image, *edge, name[64];
	const char *base;

	if (argc != 2 || (fd = open(argv[1], O_RDONLY)) < 0 || fstat(fd, &st) || pipe(ends))
		return 2;
	image = mmap(0, st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	edge = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	munmap(edge + 4096, 4096);
	memcpy(edge + 4096 - st.st_size, image, st.st_size);
	base = strrchr(argv[1], '/') + 1;
	snprintf(name, sizeof name, "%.*s", (int)strcspn(base, "."), base);

	say("finit_module", finit(fd, "", 0));
	say("finit_module with parameters", finit(fd, "a=1", 3));
	say("finit_module of no descriptor", finit(-1, "", 0));
	say("finit_module of one for writing", finit(open("/tmp/module", O_WRONLY | O_CREAT, 0600), "", 0));
	say("finit_module of a pipe", finit(ends[0], "", 0));
	say("finit_module of a directory", finit(open("/", O_RDONLY), "", 0));
	say("finit_module of another file", finit(open("/proc/self/exe", O_RDONLY), "", 0));
	say("finit_module of a path", finit(open(argv[1], O_PATH), "", 0));
	say("finit_module of a compressed file", finit(fd, "", 4));
	say("finit_module with a flag that is none", finit(fd, "", 8));
	say("init_module", syscall(SYS_init_module, image, st.st_size, ""));
	say("init_module at the end of a page", syscall(SYS_init_module, edge + 4096 - st.st_size, st.st_size, ""));
	say("init_module beyond it", syscall(SYS_init_module, edge + 4096 - st.st_size, st.st_size + 4096, ""));
	say("init_module of nothing", syscall(SYS_init_module, image, 0, ""));
	say("init_module of no memory", syscall(SYS_init_module, 0, st.st_size, ""));
	say("delete_module", syscall(SYS_delete_module, name, O_NONBLOCK));
	say("delete_module of none", syscall(SYS_delete_module, "no_such_module", O_NONBLOCK));
	say("delete_module of no memory", syscall(SYS_delete_module, 0, O_NONBLOCK));
	unlink("/tmp/module");
	return 0;
}
