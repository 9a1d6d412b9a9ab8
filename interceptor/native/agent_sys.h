/* System calls without a C library: results are the kernel's, a negative errno is a failure.
 *
 * The agent is built with -nostdlib because every container pays for its pages: glibc's start-up alone touches more
 * memory than all processes of an idle container may use.
 */
#ifndef INTERCEPTOR_AGENT_SYS_H
#define INTERCEPTOR_AGENT_SYS_H

#include <asm/unistd.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__)

static inline long sys6(long number, long a, long b, long c, long d, long e, long f)
{
	register long r10 asm("r10") = d;
	register long r8 asm("r8") = e;
	register long r9 asm("r9") = f;
	long result;
	asm volatile("syscall" : "=a"(result) : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
		     : "rcx", "r11", "memory");
	return result;
}

#elif defined(__aarch64__)

static inline long sys6(long number, long a, long b, long c, long d, long e, long f)
{
	register long x8 asm("x8") = number;
	register long x0 asm("x0") = a;
	register long x1 asm("x1") = b;
	register long x2 asm("x2") = c;
	register long x3 asm("x3") = d;
	register long x4 asm("x4") = e;
	register long x5 asm("x5") = f;
	asm volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
	return x0;
}

#else
#error "the agent knows the system call convention of x86-64 and aarch64 only"
#endif

#define SYS_PADDED(number, a, b, c, d, e, f, ...) \
	sys6(number, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
/* sys(openat2, dirfd, path, …): missing arguments are 0. */
#define sys(name, ...) SYS_PADDED(__NR_##name, __VA_ARGS__, 0, 0, 0, 0, 0, 0)

/* Runs `child(argument)` in a process that shares memory and descriptor table with us, but not root, cwd, namespaces
 * and credentials, while we sleep (CLONE_VM|CLONE_FILES|CLONE_VFORK); it exits with the function's result.
 * Returns 0 when it ended by itself, else a negative errno. */
long sys_run_child(int (*child)(void *), void *argument);

/* What a child calls once its credentials are final: their change made the kernel forget both (commit_creds()). */
void sys_harden(void);

void *memcpy(void *to, const void *from, size_t count);
void *memset(void *to, int byte, size_t count);
size_t text_size(const char *text);
int text_equal(const char *a, const char *b);
/* Writes `value` in decimal and a NUL; returns the digits' number. `out` holds 11 bytes. */
size_t text_number(char *out, uint32_t value);

#endif
