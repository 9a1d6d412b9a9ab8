/* Stands in for agent_sys.h while the agent is fuzzed: its system calls go to agent_kernel.c. Included before everything else. */
#ifndef INTERCEPTOR_AGENT_SYS_H
#define INTERCEPTOR_AGENT_SYS_H

#include <asm/unistd.h>
#include <stddef.h>
#include <stdint.h>

long kernel_call(long number, long a, long b, long c, long d, long e, long f);

#define SYS_PADDED(number, a, b, c, d, e, f, ...) \
	kernel_call(number, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#define sys(name, ...) SYS_PADDED(__NR_##name, __VA_ARGS__, 0, 0, 0, 0, 0, 0)

long sys_run_child(int (*child)(void *), void *argument);
void sys_harden(void);
void *memcpy(void *to, const void *from, size_t count);
void *memset(void *to, int byte, size_t count);
size_t text_size(const char *text);
int text_equal(const char *a, const char *b);
size_t text_number(char *out, uint32_t value);

#endif
