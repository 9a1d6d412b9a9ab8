/* What is the machine's: swap, time, log, restart, accounting, quotas, modules. On the host nothing is tried that would change it. */
#include "matrix.h"

#include <linux/quota.h>
#include <linux/reboot.h>
#include <signal.h>
#include <sys/klog.h>
#include <sys/quota.h>
#include <sys/swap.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <time.h>

/* Who may not swap hears so before the file is looked for. */
PROBE("swapon of what is not there") { return swapon("nowhere", 0); }
PROBE("swapoff of what is not there") { return swapoff("nowhere"); }

/* Asks for permission and sets nothing. */
PROBE("settimeofday of nothing")
{
	return syscall(SYS_settimeofday, 0, 0);
}

PROBE("settimeofday")
{
	struct timeval now;

	NOT_ON_THE_HOST;
	MUST(gettimeofday(&now, 0));
	return settimeofday(&now, 0);
}

PROBE("clock_settime")
{
	struct timespec now;

	NOT_ON_THE_HOST;
	MUST(clock_gettime(CLOCK_REALTIME, &now));
	return clock_settime(CLOCK_REALTIME, &now);
}

PROBE("clock_settime of another clock")
{
	const struct timespec one = {1, 0};

	return clock_settime(CLOCK_MONOTONIC, &one);
}

static long adjust(unsigned modes, int with_clock)
{
	struct timex given = {.modes = modes};

	return (with_clock ? clock_adjtime(CLOCK_REALTIME, &given) : adjtimex(&given)) < 0 ? -1 : 0;
}

PROBE("adjtimex that only reads") { return adjust(0, 0); }
PROBE("clock_adjtime that only reads") { return adjust(0, 1); }
PROBE("adjtimex of the frequency") { NOT_ON_THE_HOST; return adjust(ADJ_FREQUENCY, 0); }
PROBE("clock_adjtime of the frequency") { NOT_ON_THE_HOST; return adjust(ADJ_FREQUENCY, 1); }
PROBE("adjtimex that steps") { NOT_ON_THE_HOST; return adjust(ADJ_SETOFFSET, 0); }

PROBE("time namespace: an offset")
{
	int fd;

	MUST(unshare(CLONE_NEWTIME));
	fd = open("/proc/self/timens_offsets", O_WRONLY);
	MUST(fd);
	return write(fd, "boottime 10 0", 13);
}

/* klogctl(3) */
PROBE("syslog: the size of the buffer") { return klogctl(10, 0, 0) > 0 ? 0 : -1; }
PROBE("syslog: how much is unread") { return klogctl(9, 0, 0); }
PROBE("syslog: all of it")
{
	char text[64];

	return klogctl(3, text, sizeof text) < 0 ? -1 : 0;
}
PROBE("syslog: clear") { NOT_ON_THE_HOST; return klogctl(5, 0, 0); }
PROBE("syslog: the console's level") { NOT_ON_THE_HOST; return klogctl(8, 0, 4); }
PROBE("syslog: of no kind") { return klogctl(99, 0, 0); }

/* Only ever the init of a pid namespace made for it. */
static long restart(unsigned command)
{
	int status;
	pid_t pid = (pid_t)syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, 0, 0, 0, 0);

	MUST(pid);
	if (pid == 0)
		_exit(getpid() == 1 && syscall(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, command, 0) ? errno : 0);
	MUST(waitpid(pid, &status, 0));
	if (WIFSIGNALED(status))
		return say("ends its pid namespace by %s", sigabbrev_np(WTERMSIG(status)));
	errno = WEXITSTATUS(status);
	return errno ? -1 : 0;
}

PROBE("reboot: restart") { return restart(LINUX_REBOOT_CMD_RESTART); }
PROBE("reboot: power off") { return restart(LINUX_REBOOT_CMD_POWER_OFF); }
PROBE("reboot: Ctrl-Alt-Del off") { return restart(LINUX_REBOOT_CMD_CAD_OFF); }
PROBE("reboot: kexec") { return restart(LINUX_REBOOT_CMD_KEXEC); }

/* Of its own pid namespace, where none was on. */
PROBE("acct off") { return acct(0); }
PROBE("acct to what is not there") { return acct("nowhere"); }

PROBE("quotactl: sync") { return quotactl(QCMD(Q_SYNC, USRQUOTA), 0, 0, 0); }
PROBE("quotactl of no device") { return quotactl(QCMD(Q_QUOTAON, USRQUOTA), "nowhere", 0, 0); }
PROBE("quotactl_fd of no descriptor") { return syscall(SYS_quotactl_fd, -1, QCMD(Q_QUOTAON, USRQUOTA), 0, 0); }

/* No module, and no module's name. */
PROBE("init_module of nothing") { return syscall(SYS_init_module, "", 0ul, ""); }
PROBE("finit_module of no descriptor") { return syscall(SYS_finit_module, -1, "", 0); }
PROBE("delete_module of what is not there") { return syscall(SYS_delete_module, "matrix_nowhere", O_NONBLOCK); }

PROBE("kexec_load of nothing") { NOT_ON_THE_HOST; return syscall(SYS_kexec_load, 0ul, 0ul, 0, 0ul); }
