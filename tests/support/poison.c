/* Makes system calls as stdin says, which is a list of 64-bit words, and writes what came of each to stdout.
 *
 * Needs no C library, so that any x86-64 compiler builds it for i386, too. What is tried runs in a child of its own; what it
 * leaves behind in files is undone as the list says. See tests/support/poison.py, which writes such lists.
 */
#include <asm/unistd.h>
#include <linux/fcntl.h>
#include <linux/mman.h>
#include <linux/stat.h>
#include <linux/utsname.h>

typedef unsigned long long word;

enum { END, MAP, PROTECT, PUT, TRY, DO, UNDO };

struct report {
	long long result;
	unsigned status; /* of wait4(2) */
	unsigned mode, major, minor, uid, gid; /* of "node" */
	unsigned mounted;		       /* whether "mnt" is the root of a mount */
	unsigned file_uid, file_gid;	       /* of "file" */
	char host[__NEW_UTS_LEN + 1], domain[__NEW_UTS_LEN + 1];
};

/* One call with the six registers at `a`; `int $0x80` is i386's way, which x86-64 kernels take from 64-bit programs, too. */
long call_native(long nr, const unsigned long *a);
long call_i386(long nr, const unsigned long *a);

#ifdef __x86_64__
#define MMAP __NR_mmap
__asm__(".text\ncall_native:\n"
	"	mov %rdi, %rax\n	mov %rsi, %r11\n"
	"	mov (%r11), %rdi\n	mov 8(%r11), %rsi\n	mov 16(%r11), %rdx\n"
	"	mov 24(%r11), %r10\n	mov 32(%r11), %r8\n	mov 40(%r11), %r9\n"
	"	syscall\n	ret\n"
	"call_i386:\n"
	"	push %rbx\n	push %rbp\n"
	"	mov %rdi, %rax\n	mov %rsi, %r11\n"
	"	mov (%r11), %rbx\n	mov 8(%r11), %rcx\n	mov 16(%r11), %rdx\n"
	"	mov 24(%r11), %rsi\n	mov 32(%r11), %rdi\n	mov 40(%r11), %rbp\n"
	"	int $0x80\n	movslq %eax, %rax\n"
	"	pop %rbp\n	pop %rbx\n	ret\n");
#else
#define MMAP __NR_mmap2
#define call_native call_i386
__asm__(".text\ncall_i386:\n"
	"	push %ebx\n	push %esi\n	push %edi\n	push %ebp\n"
	"	mov 20(%esp), %eax\n	mov 24(%esp), %ebp\n"
	"	mov (%ebp), %ebx\n	mov 4(%ebp), %ecx\n	mov 8(%ebp), %edx\n"
	"	mov 12(%ebp), %esi\n	mov 16(%ebp), %edi\n	mov 20(%ebp), %ebp\n"
	"	int $0x80\n"
	"	pop %ebp\n	pop %edi\n	pop %esi\n	pop %ebx\n	ret\n");
#endif

#define OWN(name, ...) call_native(__NR_##name, (const unsigned long[6]){__VA_ARGS__})
#define AT(pointer) ((unsigned long)(pointer))

struct call {
	word abi, nr, a[6];
};

static long call(const struct call *call)
{
	unsigned long a[6];

	for (int i = 0; i < 6; i++)
		a[i] = (unsigned long)call->a[i];
	return call->abi == 64 ? call_native((long)call->nr, a) : call_i386((long)call->nr, a);
}

static void *memory(unsigned long at, unsigned long size, int flags)
{
	long made = call_native(MMAP, (const unsigned long[6]){at, size, PROT_READ | PROT_WRITE, (unsigned long)(flags | MAP_ANONYMOUS), -1ul, 0});

	if ((unsigned long)made > -4096ul)
		OWN(exit, 3);
	return (void *)made;
}

static void copy(volatile char *to, const char *from, unsigned long size)
{
	while (size--)
		*to++ = *from++;
}

static void look(struct report *report)
{
	static struct statx found;
	static struct new_utsname name;

	if (OWN(statx, (unsigned long)AT_FDCWD, AT("node"), AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, AT(&found)) == 0) {
		report->mode = found.stx_mode;
		report->major = found.stx_rdev_major;
		report->minor = found.stx_rdev_minor;
		report->uid = found.stx_uid;
		report->gid = found.stx_gid;
	}
	if (OWN(statx, (unsigned long)AT_FDCWD, AT("mnt"), AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, AT(&found)) == 0)
		report->mounted = (found.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
	if (OWN(statx, (unsigned long)AT_FDCWD, AT("file"), AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, AT(&found)) == 0) {
		report->file_uid = found.stx_uid;
		report->file_gid = found.stx_gid;
	}
	OWN(uname, AT(&name));
	copy(report->host, name.nodename, sizeof report->host);
	copy(report->domain, name.domainname, sizeof report->domain);
}

static void try(const word *what, struct report *report)
{
	static const struct report nothing;
	const struct call tried = *(const struct call *)what; /* the child has no list */
	int status = 0;
	long child;

	copy((char *)report, (const char *)&nothing, sizeof nothing);
	child = OWN(clone, 17 /* SIGCHLD */);
	if (child == 0) {
		report->result = call(&tried);
		look(report);
		OWN(exit, 0);
	}
	if (child < 0)
		OWN(exit, 4);
	OWN(wait4, (unsigned long)child, AT(&status), 0x40000000 /* __WALL */, 0);
	report->status = (unsigned)status;
	OWN(write, 1, AT(report), sizeof *report);
}

__attribute__((force_align_arg_pointer, used)) void _start(void)
{
	const unsigned long most = 32 << 20;
	char *input = memory(0, most, MAP_PRIVATE);
	struct report *report = memory(0, 4096, MAP_SHARED);
	const word *next = (const word *)input;
	unsigned long size = 0;
	long n;

	OWN(madvise, AT(input), most, MADV_DONTFORK);
	while ((n = OWN(read, 0, AT(input + size), most - size)) > 0)
		size += (unsigned long)n;
	for (;;)
		switch (*next) {
		case MAP:
			memory((unsigned long)next[1], (unsigned long)next[2], MAP_PRIVATE | MAP_FIXED_NOREPLACE);
			next += 3;
			break;
		case PROTECT:
			OWN(mprotect, (unsigned long)next[1], (unsigned long)next[2], (unsigned long)next[3]);
			next += 4;
			break;
		case PUT:
			copy((char *)(unsigned long)next[1], (const char *)(next + 3), (unsigned long)next[2]);
			next += 3 + (next[2] + 7) / 8;
			break;
		case TRY:
			try(next + 1, report);
			next += 9;
			break;
		case UNDO:
			if (report->result < 0) {
				next += 9;
				break;
			} /* fallthrough */
		case DO:
			call((const struct call *)(next + 1));
			next += 9;
			break;
		default:
			OWN(exit, *next == END ? 0 : 2);
		}
}
