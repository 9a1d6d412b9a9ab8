/* pointers_files ABI DIRECTORY: device nodes with pointers, modes and numbers as no program should give them, one line each.
 *
 * To be run in the container and as root of the host, in an empty directory: the lines must be the same.
 */
#include "pointers.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define NODE "directory/node"
#define NULL_DEVICE 0x103ul

static int directory; /* "directory", open */

static void clean_up(int nr64, long result)
{
	struct stat status;

	(void)nr64;
	if (result == 0 && lstat(NODE, &status) == 0)
		printf("  %o %lx %u:%u\n", status.st_mode, (unsigned long)status.st_rdev, status.st_uid, status.st_gid);
	unlink(NODE);
	unlink("node");
}

static void paths(const char *name, int nr64, int nr32, const word *good, int at)
{
	static const char *const forms[] = {
		"node", "node/", "node//", "./node", "directory/../node", "directory", "directory/", "directory/.", "directory/..", ".",
		"..", "/", "//", "file", "file/node", "file/", "nowhere/node", "link", "link/", "dangling", "dangling/", "loop/node",
		"to-directory/node", "/proc/self/fd/1", "/proc/self/fd/99/node", "",
	};
	char variant[80];
	word a[6];

	for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
		memcpy(a, good, sizeof a);
		a[at] = text(forms[i]);
		snprintf(variant, sizeof variant, "path %s", forms[i]);
		try_call(name, variant, nr64, nr32, a);
	}
}

static void modes(const char *name, int nr64, int nr32, const word *good, int at)
{
	static const word modes[] = {020000, 020777, 027777, 020000 | 1ul << 16, POISON | 020644, 0170000, 030600, 0};
	static const word devices[] = {0x103, POISON | 0x103, 0x105, 0, POISON, 0xae5, 0xac8};
	char variant[80];
	word a[6];

	for (int mask = 0; mask < 2; mask++) {
		umask(mask ? 027 : 0);
		for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
			memcpy(a, good, sizeof a);
			a[at] = modes[i];
			snprintf(variant, sizeof variant, "mode %lo", modes[i]);
			try_call(name, variant, nr64, nr32, a);
		}
	}
	umask(0);
	for (size_t i = 0; i < sizeof devices / sizeof *devices; i++) {
		memcpy(a, good, sizeof a);
		a[at + 1] = devices[i];
		snprintf(variant, sizeof variant, "device %lx", devices[i]);
		try_call(name, variant, nr64, nr32, a);
	}
}

static void nodes(void)
{
	const word plain[6] = {text(NODE), S_IFCHR | 0640, NULL_DEVICE, 0xdead, 0xbeef, 0};
	const word below[6] = {(word)directory, text("node"), S_IFCHR | 0640, NULL_DEVICE, 0xbeef, 0};
	const word fds[] = {(word)-100, POISON | (word)directory, (word)-1, 99, 1, 0, 0x7fffffff, 0x80000000ul};
	char variant[80];
	word a[6];

	try_pointers("mknod", SYS_mknod, 14, plain, 0, NODE);
	try_pointers("mknodat", SYS_mknodat, 297, below, 1, "node");
	paths("mknod", SYS_mknod, 14, plain, 0);
	paths("mknodat", SYS_mknodat, 297, below, 1);
	modes("mknod", SYS_mknod, 14, plain, 1);
	modes("mknodat", SYS_mknodat, 297, below, 2);
	for (size_t i = 0; i < sizeof fds / sizeof *fds; i++) {
		memcpy(a, below, sizeof a);
		a[0] = fds[i];
		snprintf(variant, sizeof variant, "directory %lx", fds[i]);
		try_call("mknodat", variant, SYS_mknodat, 297, a);
		a[1] = text("/nowhere/node");
		try_call("mknodat nowhere", variant, SYS_mknodat, 297, a);
	}
}

static int prepare(const char *at)
{
	if (chdir(at) || mkdir("directory", 0755) || mknod("file", S_IFREG | 0644, 0) || symlink("file", "link") ||
	    symlink("nowhere", "dangling") || symlink("loop", "loop") || symlink("directory", "to-directory"))
		return -1;
	umask(0);
	directory = open("directory", O_RDONLY | O_DIRECTORY);
	return directory;
}

int main(int argc, char **argv)
{
	begin(argc, argv);
	if (argc != 3 || prepare(argv[2]) < 0) {
		perror("pointers_files ABI DIRECTORY");
		return 2;
	}
	nodes();
	return 0;
}
