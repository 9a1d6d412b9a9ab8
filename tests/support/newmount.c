/* newmount STEP…: the new mount API, one call a step, as programs do it; prints what each step says.
 *
 *   open TYPE            fsopen; the context is the current one
 *   set KEY=VALUE        fsconfig SET_STRING (SET_FLAG without a value)
 *   dir KEY=PATH         fsconfig SET_FD with the directory's descriptor
 *   create               fsconfig CMD_CREATE
 *   mount ATTRIBUTES     fsmount; the mount is the current one
 *   move PATH            move_mount; "fd:PATH" onto a descriptor of PATH
 *   clone PATH           open_tree(OPEN_TREE_CLONE); the mount is the current one
 *   reclone              open_tree(OPEN_TREE_CLONE) of the current mount, without what is mounted below it
 *   attr SET CLEAR       mount_setattr of the current mount
 *   ls NAME              opens NAME below the current mount
 *   close                closes the current mount
 *   wait                 for a byte from standard input
 *   keep, run PROGRAM …  the context survives execve, which is what happens next; `inherit FD`: it is the current one
 *   umount PATH
 *   old SOURCE TARGET TYPE  mount(2), without the loop devices that mount(8) sets up for files; read-only, nosuid
 *   show PATH            mountinfo of what is mounted at or below PATH: point, flags, type, source, options
 *
 * Built with -m32 -nostdlib it is a program of i386: no C library is needed.
 */
typedef unsigned long word;

#if defined(__i386__)
static long sys(long nr, word a, word b, word c, word d, word e)
{
	long result;
	__asm__ volatile("int $0x80" : "=a"(result) : "0"(nr), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e) : "memory");
	return result;
}
enum { WRITE = 4, READ = 3, OPENAT = 295, CLOSE = 6, EXIT = 1, UMOUNT2 = 52, MOUNT = 21, FCNTL = 55, EXECVE = 11 };
#else
static long sys(long nr, word a, word b, word c, word d, word e)
{
	register word r10 __asm__("r10") = d, r8 __asm__("r8") = e;
	long result;
	__asm__ volatile("syscall" : "=a"(result) : "0"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8) : "rcx", "r11", "memory");
	return result;
}
enum { WRITE = 1, READ = 0, OPENAT = 257, CLOSE = 3, EXIT = 60, UMOUNT2 = 166, MOUNT = 165, FCNTL = 72, EXECVE = 59 };
#endif
enum { OPEN_TREE = 428, MOVE_MOUNT, FSOPEN, FSCONFIG, FSMOUNT, FSPICK, MOUNT_SETATTR = 442 };
#define HERE (-100)
#define P(pointer) ((word)(pointer))

static unsigned size(const char *text)
{
	unsigned n = 0;

	while (text[n])
		n++;
	return n;
}

static void say(const char *text)
{
	sys(WRITE, 1, P(text), size(text), 0, 0);
}

static int same(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

static int starts(const char *a, const char *b)
{
	while (*b && *a == *b)
		a++, b++;
	return !*b;
}

static word number(const char *text)
{
	word n = 0, base = 10;

	if (starts(text, "0x"))
		text += 2, base = 16;
	for (; *text; text++)
		n = n * base + (*text >= 'a' ? *text - 'a' + 10 : *text - '0');
	return n;
}

static void report(const char *step, long result)
{
	char digits[8];
	int n = sizeof digits;

	say(step);
	if (result >= 0) {
		say(" ok\n");
		return;
	}
	say(" errno ");
	digits[--n] = 0;
	digits[--n] = '\n';
	for (result = -result; result; result /= 10)
		digits[--n] = '0' + result % 10;
	say(digits + n);
}

static char buffer[65536];

static void show(const char *path)
{
	long fd = sys(OPENAT, HERE, P("/proc/self/mountinfo"), 0, 0, 0), n;
	unsigned used = 0;
	char *line = buffer;

	while ((n = sys(READ, fd, P(buffer + used), sizeof buffer - 1 - used, 0, 0)) > 0)
		used += n;
	sys(CLOSE, fd, 0, 0, 0, 0);
	buffer[used] = 0;
	while (*line) {
		char *end = line, *field = line;
		int i;

		while (*end && *end != '\n')
			end++;
		if (*end)
			*end++ = 0;
		for (i = 0; i < 4; field++)
			i += *field == ' ';
		if (starts(field, path)) {
			say(field);
			say("\n");
		}
		line = end;
	}
}

static char *environment[] = {"PATH=/bin", 0};
static int context = -1, mount = -1;

static long set(const char *option, int as_directory)
{
	static char key[256];
	unsigned i = 0;
	const char *value = option;

	while (*value && *value != '=')
		key[i++] = *value++;
	key[i] = 0;
	if (!*value)
		return sys(FSCONFIG, context, 0, P(key), 0, 0);
	if (!as_directory)
		return sys(FSCONFIG, context, 1, P(key), P(value + 1), 0);
	return sys(FSCONFIG, context, 5, P(key), 0, sys(OPENAT, HERE, P(value + 1), 0x210000, 0, 0));
}

static long move(const char *path)
{
	if (starts(path, "fd:"))
		return sys(MOVE_MOUNT, mount, P(""), sys(OPENAT, HERE, P(path + 3), 0x210000, 0, 0), P(""), 0x44);
	return sys(MOVE_MOUNT, mount, P(""), HERE, P(path), 0x14);
}

static long attributes(const char *set_, const char *clear)
{
	unsigned long long attr[4] = {number(set_), number(clear), 0, 0};

	return sys(MOUNT_SETATTR, mount, P(""), 0x1000, P(attr), sizeof attr);
}

static char awaited;

static long list(const char *name)
{
	long fd = sys(OPENAT, mount, P(name), 0, 0, 0);

	return fd < 0 ? fd : sys(CLOSE, fd, 0, 0, 0, 0);
}

static int step(char **arg)
{
	const char *what = arg[0];

	if (same(what, "open"))
		report(what, context = sys(FSOPEN, P(arg[1]), 1, 0, 0, 0));
	else if (same(what, "set"))
		report(arg[1], set(arg[1], 0));
	else if (same(what, "dir"))
		report(arg[1], set(arg[1], 1));
	else if (same(what, "create"))
		return report(what, sys(FSCONFIG, context, 6, 0, 0, 0)), 1;
	else if (same(what, "mount"))
		report(what, mount = sys(FSMOUNT, context, 1, number(arg[1]), 0, 0));
	else if (same(what, "move"))
		report(what, move(arg[1]));
	else if (same(what, "clone"))
		report(what, mount = sys(OPEN_TREE, HERE, P(arg[1]), 0x80001, 0, 0));
	else if (same(what, "reclone"))
		return report(what, mount = sys(OPEN_TREE, mount, P(""), 0x81001, 0, 0)), 1;
	else if (same(what, "attr"))
		return report(what, attributes(arg[1], arg[2])), 3;
	else if (same(what, "ls"))
		report(what, list(arg[1]));
	else if (same(what, "close"))
		return report(what, sys(CLOSE, mount, 0, 0, 0, 0)), 1;
	else if (same(what, "wait"))
		return sys(READ, 0, P(&awaited), 1, 0, 0), 1;
	else if (same(what, "old"))
		return report(what, sys(MOUNT, P(arg[1]), P(arg[2]), P(arg[3]), 3, 0)), 4;
	else if (same(what, "keep"))
		report(what, sys(FCNTL, context, 2, 0, 0, 0));
	else if (same(what, "inherit"))
		context = number(arg[1]);
	else if (same(what, "run"))
		report(what, sys(EXECVE, P(arg[1]), P(arg + 1), P(environment), 0, 0));
	else if (same(what, "umount"))
		report(what, sys(UMOUNT2, P(arg[1]), 0, 0, 0, 0));
	else if (same(what, "show"))
		show(arg[1]);
	else
		say("no such step\n");
	return 2;
}

__attribute__((used)) void run(word *stack)
{
	char **arg = (char **)(stack + 2);

	while (*arg)
		arg += step(arg);
	sys(EXIT, 0, 0, 0, 0, 0);
}

#if defined(__i386__)
__asm__(".globl _start\n_start:\n movl %esp, %eax\n andl $-16, %esp\n subl $12, %esp\n pushl %eax\n call run\n");
#else
__asm__(".globl _start\n_start:\n movq %rsp, %rdi\n andq $-16, %rsp\n call run\n");
#endif
