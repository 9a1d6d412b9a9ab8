/* priorities ABI: calls that raise a task's share of the machine, each of itself, of a child and of nobody; one line each, and
 * what the child has afterwards.
 */
#include "pointers.h"

#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

static pid_t child;

static void clean_up(int nr64, long result)
{
	static const struct sched_param none;
	struct sched_param own = {0}, childs = {0};

	if (nr64 == SYS_setpriority)
		printf("  nice %d, child %d\n", getpriority(PRIO_PROCESS, 0), getpriority(PRIO_PROCESS, (id_t)child));
	if (nr64 == SYS_sched_setattr)
		printf("  nice %d, child %d,", getpriority(PRIO_PROCESS, 0), getpriority(PRIO_PROCESS, (id_t)child));
	if (nr64 == SYS_sched_setscheduler || nr64 == SYS_sched_setparam || nr64 == SYS_sched_setattr) {
		sched_getparam(0, &own);
		sched_getparam(child, &childs);
		printf("  policy %#x/%d, child %#x/%d\n", sched_getscheduler(0), own.sched_priority, sched_getscheduler(child),
		       childs.sched_priority);
	}
	if (nr64 == SYS_ioprio_set)
		printf("  io %#lx, child %#lx\n", syscall(SYS_ioprio_get, 1, 0), syscall(SYS_ioprio_get, 1, child));
	if (result < 0)
		return;
	setpriority(PRIO_PROCESS, 0, 19);
	setpriority(PRIO_PROCESS, (id_t)child, 19);
	sched_setscheduler(0, SCHED_OTHER, &none);
	sched_setscheduler(child, SCHED_OTHER, &none);
	syscall(SYS_ioprio_set, 1, 0, 2 << 13 | 4);
	syscall(SYS_ioprio_set, 1, child, 2 << 13 | 4);
}

static void try_three(const char *name, const char *variant, int nr64, int nr32, word first, word second, word third)
{
	const word a[6] = {first, second, third, 0xdead, 0xbeef, 0};

	try_call(name, variant, nr64, nr32, a);
}

#define NICE(variant, ...) try_three("setpriority", variant, SYS_setpriority, 97, __VA_ARGS__)
#define SCHED(variant, ...) try_three("sched_setscheduler", variant, SYS_sched_setscheduler, 156, __VA_ARGS__)
#define PARAM(variant, ...) try_three("sched_setparam", variant, SYS_sched_setparam, 154, __VA_ARGS__, 0xdead)
#define ATTR(variant, ...) try_three("sched_setattr", variant, SYS_sched_setattr, 351, __VA_ARGS__)
#define IO(variant, ...) try_three("ioprio_set", variant, SYS_ioprio_set, 289, __VA_ARGS__)

/* A struct sched_attr. */
static word attributes(char *at, unsigned size, unsigned policy, unsigned long flags, int nice, unsigned priority)
{
	const struct {
		unsigned size, policy;
		unsigned long flags;
		int nice;
		unsigned priority;
		unsigned long runtime, deadline, period, utilisation;
	} a = {size, policy, flags, nice, priority, 0, 0, 0, 0};

	return (word)memcpy(at, &a, size > 48 && size < sizeof a ? size : size > 48 ? sizeof a : 48);
}

int main(int argc, char **argv)
{
	word one, ten, zero, hundred;

	begin(argc, argv);
	setpgid(0, 0); /* a group without whoever started us */
	setpriority(PRIO_PROCESS, 0, 19);
	child = fork();
	if (!child)
		for (;;)
			pause();
	one = (word)memcpy(low, &(int){1}, 4);
	ten = (word)memcpy(low + 8 * PAGE - 4, &(int){10}, 4);
	zero = (word)memcpy(low + 8, &(int){0}, 4);
	hundred = (word)memcpy(low + 12, &(int){100}, 4);

	NICE("of itself", POISON, POISON, (word)-5 & 0xffffffff);
	NICE("of the child", 0, (word)child, (word)-4);
	NICE("beyond", 0, 0, (word)-6);
	NICE("far beyond", 0, (word)child, (word)-100);
	NICE("back", 0, 0, 3);
	NICE("of nobody", 0, 99999, (word)-5);
	NICE("of a negative number", 0, (word)-1, (word)-5);
	NICE("of a group", 1, 0, (word)-5);
	NICE("of a user", 2, 0, (word)-5);
	NICE("of nothing", 3, 0, (word)-5);

	SCHED("of itself", POISON, POISON | SCHED_FIFO, one);
	SCHED("of the child, up to the end of a page", (word)child, SCHED_RR | 0x40000000, ten);
	SCHED("beyond", 0, SCHED_FIFO, (word)memcpy(low + 16, &(int){11}, 4));
	SCHED("0", 0, SCHED_FIFO, zero);
	SCHED("100", 0, SCHED_FIFO, hundred);
	SCHED("without", 0, SCHED_FIFO, 0);
	SCHED("unreadable", 0, SCHED_FIFO, 0x1000);
	SCHED("half unreadable", 0, SCHED_FIFO, (word)(low + 8 * PAGE - 2));
	SCHED("of nobody", 99999, SCHED_FIFO, one);
	SCHED("of a negative number", (word)-1, SCHED_FIFO, one);
	SCHED("of another policy", 0, 77, one);

	/* Its policy stays: SCHED_OTHER, which has no priority. */
	PARAM("of SCHED_OTHER, 0", POISON, zero);
	PARAM("of SCHED_OTHER, 1", 0, one);
	PARAM("of the child, lower", (word)child, one);
	PARAM("of the child, higher again", (word)child, ten);
	PARAM("beyond", 0, (word)memcpy(low + 16, &(int){11}, 4));
	PARAM("NULL", 0, 0);
	PARAM("unreadable", 0, 0x1000);
	PARAM("of nobody", 99999, one);
	PARAM("of a negative number", (word)-1, one);

	ATTR("nice of itself", POISON, attributes(low, 48, SCHED_OTHER, 0, -5, 0), POISON);
	ATTR("nice of the child, at the end of a page", (word)child, attributes(low + 8 * PAGE - 48, 48, SCHED_BATCH, 0, -1, 0), 0);
	ATTR("nice, without a size", 0, attributes(low, 0, SCHED_OTHER, 0, 2, 0), 0);
	ATTR("nice, of a later form", 0, attributes(low, 56, SCHED_OTHER, 0, -2, 0), 0);
	ATTR("nice, of a form to come", 0, attributes(low, 64, SCHED_OTHER, 0, -2, 0), 0);
	ATTR("nice beyond", 0, attributes(low, 48, SCHED_OTHER, 0, -6, 0), 0);
	ATTR("nice of the child, which resets", (word)child, attributes(low, 48, SCHED_OTHER, 1, -3, 0), 0);
	ATTR("SCHED_FIFO of itself", 0, attributes(low, 48, SCHED_FIFO, 0, 7, 10), 0);
	ATTR("SCHED_RR of the child, which resets", (word)child, attributes(low, 48, SCHED_RR, 1, 0, 1), 0);
	ATTR("SCHED_FIFO beyond", 0, attributes(low, 48, SCHED_FIFO, 0, 0, 11), 0);
	ATTR("SCHED_FIFO with 0", 0, attributes(low, 48, SCHED_FIFO, 0, 0, 0), 0);
	ATTR("SCHED_OTHER with a priority", 0, attributes(low, 48, SCHED_OTHER, 0, 0, 1), 0);
	ATTR("SCHED_IDLE", 0, attributes(low, 48, 5, 0, 0, 0), 0);
	ATTR("SCHED_DEADLINE without times", 0, attributes(low, 48, 6, 0, 0, 0), 0);
	ATTR("flags that keep", 0, attributes(low, 48, SCHED_FIFO, 8, 0, 1), 0);
	ATTR("too short", 0, attributes(low, 47, SCHED_OTHER, 0, -1, 0), 0);
	ATTR("too long", 0, attributes(low, 4097, SCHED_OTHER, 0, -1, 0), 0);
	ATTR("with flags", 0, attributes(low, 48, SCHED_OTHER, 0, -1, 0), 1);
	ATTR("NULL", 0, 0, 0);
	ATTR("unreadable", 0, 0x1000, 0);
	ATTR("half unreadable", 0, (word)(low + 8 * PAGE - 47), 0);
	ATTR("of nobody", 99999, attributes(low, 48, SCHED_OTHER, 0, -1, 0), 0);
	ATTR("of a negative number", (word)-1, attributes(low, 48, SCHED_OTHER, 0, -1, 0), 0);

	IO("of itself", POISON | 1, POISON, 1 << 13 | 4);
	IO("of the child", 1, (word)child, 1 << 13 | 7);
	IO("beyond", 1, 0, 1 << 13 | 3);
	IO("of nobody", 1, 99999, 1 << 13 | 4);
	IO("of a group", 2, 0, 1 << 13 | 4);
	IO("of nothing", 9, 0, 1 << 13 | 4);
	kill(child, SIGKILL);
	waitpid(child, 0, 0);
	return 0;
}
