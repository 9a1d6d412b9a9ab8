/* attribute get|set|list|remove PATH [NAME], edge PATH, listener PATH: one call, and what came of it. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

/* "trusted" at the end of what is mapped. */
static const char *at_the_edge(void)
{
	char *pages = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	munmap(pages + 4096, 4096);
	return memcpy(pages + 4096 - 7, "trusted", 7);
}

static long listener(void)
{
	struct sock_filter allow[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
	struct sock_fprog program = {1, allow};

	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
}

int main(int argc, char **argv)
{
	char value[1024] = "";
	ssize_t result = -1;

	if (argc < 3)
		return 2;
	if (!strcmp(argv[1], "set"))
		result = setxattr(argv[2], argv[3], "value", 5, 0);
	else if (!strcmp(argv[1], "get"))
		result = getxattr(argv[2], argv[3], value, sizeof value);
	else if (!strcmp(argv[1], "remove"))
		result = removexattr(argv[2], argv[3]);
	else if (!strcmp(argv[1], "edge"))
		result = getxattr(argv[2], at_the_edge(), value, sizeof value);
	else if (!strcmp(argv[1], "listener"))
		result = listener();
	else if (!strcmp(argv[1], "list") && (result = listxattr(argv[2], value, sizeof value)) >= 0)
		return puts(value) < 0;
	puts(result < 0 ? strerrorname_np(errno) : "ok");
	return 0;
}
