/* Resource limits, priorities and oom_score_adj: the kernel's without ceilings (limits.txt), and with them (ceilings.txt). */
#include "matrix.h"

#include <sys/resource.h>

static long raised(int resource, rlim_t from, rlim_t to)
{
	MUST(setrlimit(resource, &(struct rlimit){0, from}));
	return setrlimit(resource, &(struct rlimit){0, to});
}

PROBE("a hard limit is lowered")
{
	return setrlimit(RLIMIT_NOFILE, &(struct rlimit){64, 4096});
}

PROBE("a soft limit is raised up to the hard one")
{
	MUST(setrlimit(RLIMIT_NOFILE, &(struct rlimit){64, 4096}));
	return setrlimit(RLIMIT_NOFILE, &(struct rlimit){4096, 4096});
}

PROBE("a hard limit of descriptors is raised") { return raised(RLIMIT_NOFILE, 4096, 65536); }
PROBE("a hard limit of descriptors is raised far") { return raised(RLIMIT_NOFILE, 4096, 65537); }
PROBE("a hard limit of locked memory is taken away") { return raised(RLIMIT_MEMLOCK, 4096, RLIM_INFINITY); }
PROBE("a hard limit of core files is raised") { return raised(RLIMIT_CORE, 0, 1); }

PROBE("a hard limit of a child's is raised")
{
	pid_t child = fork();
	int status;
	long result;

	if (child == 0) {
		setrlimit(RLIMIT_NOFILE, &(struct rlimit){64, 4096});
		raise(SIGSTOP);
		pause();
	}
	MUST(waitpid(child, &status, WUNTRACED));
	result = prlimit(child, RLIMIT_NOFILE, &(struct rlimit){64, 65536}, 0);
	status = errno;
	kill(child, SIGKILL);
	errno = status;
	return result;
}

PROBE("a limit above the hard one")
{
	return setrlimit(RLIMIT_NOFILE, &(struct rlimit){65, 64}) == 0 ? say("taken") : -1;
}

PROBE("setpriority 5") { return setpriority(PRIO_PROCESS, 0, 5); }
PROBE("setpriority -5") { return setpriority(PRIO_PROCESS, 0, -5); }
PROBE("setpriority -20") { return setpriority(PRIO_PROCESS, 0, -20); }

static long scheduler(int policy, int priority)
{
	const struct sched_param parameter = {.sched_priority = priority};

	return sched_setscheduler(0, policy, &parameter);
}

PROBE("SCHED_BATCH") { return scheduler(SCHED_BATCH, 0); }
PROBE("SCHED_IDLE") { return scheduler(SCHED_IDLE, 0); }
PROBE("SCHED_FIFO 1") { return scheduler(SCHED_FIFO, 1); }
PROBE("SCHED_RR 10") { return scheduler(SCHED_RR, 10); }
PROBE("SCHED_RR 99") { return scheduler(SCHED_RR, 99); }

PROBE("sched_setparam 2, of SCHED_FIFO")
{
	const struct sched_param two = {.sched_priority = 2};

	return scheduler(SCHED_FIFO, 1) ? -1 : sched_setparam(0, &two);
}

static long attributes(unsigned policy, int nice, unsigned priority, unsigned long long time)
{
	const struct {
		unsigned size, policy;
		unsigned long long flags;
		int nice;
		unsigned priority;
		unsigned long long runtime, deadline, period;
	} given = {48, policy, 0, nice, priority, time, time * 2, time * 2};

	return syscall(SYS_sched_setattr, 0, &given, 0);
}

PROBE("sched_setattr: nice 5") { return attributes(SCHED_OTHER, 5, 0, 0); }
PROBE("sched_setattr: nice -5") { return attributes(SCHED_OTHER, -5, 0, 0); }
PROBE("sched_setattr: SCHED_FIFO 1") { return attributes(SCHED_FIFO, 0, 1, 0); }
PROBE("sched_setattr: SCHED_DEADLINE") { return attributes(6, 0, 0, 1 << 21); }

PROBE("sched_setaffinity")
{
	cpu_set_t all;

	MUST(sched_getaffinity(0, sizeof all, &all));
	return sched_setaffinity(0, sizeof all, &all);
}

PROBE("ioprio_set: best effort") { return syscall(SYS_ioprio_set, 1, 0, 2 << 13); }
PROBE("ioprio_set: real-time 4") { return syscall(SYS_ioprio_set, 1, 0, 1 << 13 | 4); }
PROBE("ioprio_set: real-time 0") { return syscall(SYS_ioprio_set, 1, 0, 1 << 13); }

static long oom_score(int change)
{
	int fd = open("/proc/self/oom_score_adj", O_RDWR);
	char text[16] = "";

	MUST(fd);
	MUST(read(fd, text, sizeof text - 1));
	snprintf(text, sizeof text, "%d", atoi(text) + change);
	return write(fd, text, strlen(text));
}

PROBE("oom_score_adj is raised") { return oom_score(10); }
PROBE("oom_score_adj is lowered") { return oom_score(-10); }
