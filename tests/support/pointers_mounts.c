/* pointers_mounts ABI: the new mount API with arguments as no program should give them.
 *
 * To be run with and without our filter: the lines must be the same.
 */
#include "pointers.h"

static void clean_up(int nr64, long result)
{
	if ((nr64 == SYS_fsopen || nr64 == SYS_fsmount || nr64 == SYS_open_tree || nr64 == SYS_fspick) && result >= 0)
		close((int)result);
}

static void variants(const char *name, int nr, const word *good, int at, const word *values, size_t count)
{
	char variant[80];
	word a[6];

	memcpy(a, good, sizeof a);
	for (size_t i = 0; i < count; i++) {
		a[at] = values[i];
		snprintf(variant, sizeof variant, "argument %d is %#lx", at, values[i]);
		try_call(name, variant, nr, nr, a);
	}
}
#define VARIANTS(name, nr, good, at, ...) \
	variants(name, nr, good, at, (const word[]){__VA_ARGS__}, sizeof((const word[]){__VA_ARGS__}) / sizeof(word))

/* fsconfig, fsmount, move_mount and the others: on a context of the kernel's and on those that are recognised. */
static void mount_api(const char *type)
{
	const word name[6] = {text(type), POISON};
	long context = call(SYS_fsopen, SYS_fsopen, name);
	const word string[6] = {context | POISON, POISON | 1, text("source"), text("x"), POISON, 0xdead};
	const word flag[6] = {context, 0, text("ro"), 0, 0, 0};
	const word create[6] = {context, 6, 0, 0, 0, 0};
	const word mount_[6] = {context, 1, 0, 0xdead, 0xdead, 0xdead};
	const word move[6] = {context, text(""), -100ul, text("/nothing/there"), POISON | 4, 0xdead};

	printf("with %s: %s\n", type, context < 0 ? strerrorname_np((int)-context) : "ok");
	try_pointers("fsconfig", SYS_fsconfig, SYS_fsconfig, string, 2, "source");
	try_pointers("fsconfig", SYS_fsconfig, SYS_fsconfig, string, 3, "x");
	try_pointers("fsconfig flag", SYS_fsconfig, SYS_fsconfig, flag, 2, "ro");
	VARIANTS("fsconfig", SYS_fsconfig, string, 0, -1ul, 99, 0, 0xffffffff, 0x80000000, 1ul << 32);
	VARIANTS("fsconfig", SYS_fsconfig, string, 1, 0, 2, 3, 4, 5, 7, 9, 10, 0x7fffffff, 0x80000000, 0xffffffff);
	VARIANTS("fsconfig", SYS_fsconfig, string, 4, 1, -1ul, 0x80000000);
	VARIANTS("fsconfig flag", SYS_fsconfig, flag, 3, 1, 0xffffffff);
	VARIANTS("fsconfig flag", SYS_fsconfig, flag, 4, 1, 0xffffffff);
	for (int at = 2; at < 5; at++)
		VARIANTS("fsconfig create", SYS_fsconfig, create, at, 1, 0xffffffff);
	VARIANTS("fsmount", SYS_fsmount, mount_, 0, -1ul, 99, 0, 0xffffffff, context | POISON);
	VARIANTS("fsmount", SYS_fsmount, mount_, 1, 0, 2, 0x80000000, POISON, POISON | 2);
	VARIANTS("fsmount", SYS_fsmount, mount_, 2, 1, 15, 16, 48, 64, 112, 128, 256, 0x100000, 0x200000, 0x80000000, POISON, POISON | 8);
	for (int at = 1; at < 4; at += 2)
		try_pointers("move_mount", SYS_move_mount, SYS_move_mount, move, at, "/nothing/there");
	VARIANTS("move_mount", SYS_move_mount, move, 0, -1ul, 99, 0, -100ul, 0xffffffff, context | POISON);
	VARIANTS("move_mount", SYS_move_mount, move, 2, -1ul, 99, 0, 0xffffffff);
	VARIANTS("move_mount", SYS_move_mount, move, 4, 0, 4, 0x44, 0x40, 0x77, 0x104, 0x204, 0x404, 0x80000004, POISON, POISON | 0x44);
	close((int)context);
}

static void trees(void)
{
	const word tree[6] = {-100ul, text("/nothing/there"), POISON, 0xdead, 0xdead, 0xdead};
	const word attr[6] = {-100ul, text("/nothing/there"), 0, text("12345678123456781234567812345678"), 32, 0xdead};

	try_pointers("open_tree", SYS_open_tree, SYS_open_tree, tree, 1, "/nothing/there");
	VARIANTS("open_tree", SYS_open_tree, tree, 2, 1, 2, 0x80000, 0x1000, 0x80000000, POISON | 1);
	try_pointers("fspick", SYS_fspick, SYS_fspick, tree, 1, "/nothing/there");
	try_pointers("mount_setattr", SYS_mount_setattr, SYS_mount_setattr, attr, 1, "/nothing/there");
	VARIANTS("mount_setattr", SYS_mount_setattr, attr, 4, 0, 1, 31, 33, 4096, 4097, -1ul);
}

int main(int argc, char **argv)
{
	begin(argc, argv);
	mount_api("tmpfs");
	mount_api("proc");
	mount_api("overlay");
	trees();
	return 0;
}
