/* pointers_files ABI DIRECTORY: device nodes, extended attributes and owners with pointers, sizes, modes and numbers as no
 * program should give them, one line each.
 *
 * To be run in the container and as root of the host, in an empty directory: the lines must be the same.
 */
#include "pointers.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#define NODE "directory/node"
#define ATTRIBUTE "trusted.pointers"
#define NULL_DEVICE 0x103ul

static int directory; /* "directory", open */

/* The file's attribute, for who reads and removes it, and its owner. */
static void attribute(int nr64)
{
	if (nr64 == SYS_removexattr || nr64 == SYS_lremovexattr || nr64 == SYS_fremovexattr)
		setxattr("file", ATTRIBUTE, "value", 5, 0);
	if (nr64 == SYS_setxattr || nr64 == SYS_lsetxattr || nr64 == SYS_fsetxattr)
		removexattr("file", ATTRIBUTE);
}

static void clean_up(int nr64, long result)
{
	struct stat status;

	if (nr64 != SYS_mknod && nr64 != SYS_mknodat) {
		attribute(nr64);
		return;
	}
	if (result == 0 && lstat(NODE, &status) == 0)
		printf("  %o %lx %u:%u\n", status.st_mode, (unsigned long)status.st_rdev, status.st_uid, status.st_gid);
	unlink(NODE);
	unlink("node");
}

static void paths(const char *name, int nr64, int nr32, const word *good, int at)
{
	/* The program runs as root of the host, too: nothing here may lead out of its directory, which is its root by then. */
	static const char *const forms[] = {
		"node", "node/", "node//", "./node", "directory/../node", "directory", "directory/", "directory/.", "directory/..", ".",
		"..", "/", "//", "file", "file/node", "file/", "nowhere/node", "link", "link/", "dangling", "dangling/", "loop/node",
		"to-directory/node", "",
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

/* One register with values of its own. */
static void values(const char *name, int nr64, int nr32, const word *good, int at, const word *list, size_t count)
{
	char variant[80];
	word a[6];

	for (size_t i = 0; i < count; i++) {
		memcpy(a, good, sizeof a);
		a[at] = list[i];
		snprintf(variant, sizeof variant, "argument %d value %zu", at, i);
		try_call(name, variant, nr64, nr32, a);
	}
}

static const word sizes[] = {0, 1, 4, 5, 6, 17, 4096, 65536, 65537, POISON | 6, 1ul << 32, 0x80000000ul, 0xffffffff, ~0ul};
static const word flags[] = {1, 2, 3, 4, 0x80000000ul, POISON, POISON | 1};
#define COUNT(list) (sizeof(list) / sizeof *(list))

struct three {
	const char *name;
	int nr64, nr32;
};

/* What a family's path, l- and f-forms share: the first register is a path or a descriptor. */
static void first_register(const struct three *calls, int which, const word *good)
{
	const word fds[] = {POISON | good[0], (word)-1, 99, 0x80000000ul};

	if (which == 2) {
		values(calls[2].name, calls[2].nr64, calls[2].nr32, good, 0, fds, COUNT(fds));
	} else {
		try_pointers(calls[which].name, calls[which].nr64, calls[which].nr32, good, 0, "file");
		paths(calls[which].name, calls[which].nr64, calls[which].nr32, good, 0);
	}
}

static void attributes(void)
{
	static const struct three get[] = {{"getxattr", 191, 229}, {"lgetxattr", 192, 230}, {"fgetxattr", 193, 231}};
	static const struct three list[] = {{"listxattr", 194, 232}, {"llistxattr", 195, 233}, {"flistxattr", 196, 234}};
	static const struct three set[] = {{"setxattr", 188, 226}, {"lsetxattr", 189, 227}, {"fsetxattr", 190, 228}};
	static const struct three take[] = {{"removexattr", 197, 235}, {"lremovexattr", 198, 236}, {"fremovexattr", 199, 237}};
	static const char *const names[] = {"user.pointers", "trusted", "trusted.", "trusted.nothing", "nonsense", "trusted.\xff"};
	const word file = (word)open("file", O_RDWR);

	for (int which = 0; which < 3; which++) {
		const word at = which == 2 ? file : text("file"), name = text(ATTRIBUTE), room = (word)low + 5 * PAGE;
		const word got[6] = {at, name, room, 16, 0xdead, 0}, listed[6] = {at, room, 64, 0xdead, 0, 0};
		const word given[6] = {at, name, text("value"), 5, 0, 0xdead}, taken[6] = {at, name, 0xdead, 0, 0, 0};
		word list_of_names[COUNT(names)];

		for (size_t i = 0; i < COUNT(names); i++)
			list_of_names[i] = text(names[i]);
		setxattr("file", ATTRIBUTE, "value", 5, 0);
		first_register(get, which, got);
		try_pointers(get[which].name, get[which].nr64, get[which].nr32, got, 1, ATTRIBUTE);
		try_pointers(get[which].name, get[which].nr64, get[which].nr32, got, 2, "0123456789");
		values(get[which].name, get[which].nr64, get[which].nr32, got, 1, list_of_names, COUNT(names));
		values(get[which].name, get[which].nr64, get[which].nr32, got, 3, sizes, COUNT(sizes));
		first_register(list, which, listed);
		try_pointers(list[which].name, list[which].nr64, list[which].nr32, listed, 1, "01234567890123456789");
		values(list[which].name, list[which].nr64, list[which].nr32, listed, 2, sizes, COUNT(sizes));
		first_register(take, which, taken);
		try_pointers(take[which].name, take[which].nr64, take[which].nr32, taken, 1, ATTRIBUTE);
		values(take[which].name, take[which].nr64, take[which].nr32, taken, 1, list_of_names, COUNT(names));
		removexattr("file", ATTRIBUTE);
		first_register(set, which, given);
		try_pointers(set[which].name, set[which].nr64, set[which].nr32, given, 1, ATTRIBUTE);
		try_pointers(set[which].name, set[which].nr64, set[which].nr32, given, 2, "0123456789");
		values(set[which].name, set[which].nr64, set[which].nr32, given, 3, sizes, COUNT(sizes));
		values(set[which].name, set[which].nr64, set[which].nr32, given, 4, flags, COUNT(flags));
	}
	close((int)file);
}

static void owners(void)
{
	static const struct three own[] = {{"chown", 92, 212}, {"lchown", 94, 198}, {"fchown", 93, 207}};
	static const word ids[] = {0, 1, POISON | 1, 0xffffffff, ~0ul};
	static const word at_flags[] = {0x100, 0x1000, 0x1100, 1, POISON, POISON | 0x100, 0x80000000ul};
	const word fd = (word)open("file", O_RDWR);
	const word at[6] = {(word)directory, text("../file"), 1, 1, 0, 0xdead};

	for (int which = 0; which < 3; which++) {
		const word good[6] = {which == 2 ? fd : text("file"), 1, 1, 0xdead, 0, 0};

		first_register(own, which, good);
		values(own[which].name, own[which].nr64, own[which].nr32, good, 1, ids, COUNT(ids));
		values(own[which].name, own[which].nr64, own[which].nr32, good, 2, ids, COUNT(ids));
	}
	try_pointers("fchownat", SYS_fchownat, 298, at, 1, "../file");
	values("fchownat", SYS_fchownat, 298, at, 4, at_flags, COUNT(at_flags));
	close((int)fd);
}

static int prepare(const char *at)
{
	if (chdir(at) || chroot(".") || mkdir("directory", 0755) || mknod("file", S_IFREG | 0644, 0) || symlink("file", "link") ||
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
	attributes();
	owners();
	return 0;
}
