/* The keeper's child: which program it is, how it is started, and whether and when again after its end. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "keeper.h"
#include "shim.h"

#define FAILURES_MAX 10     /* then a start is tried only now and then, and each failure told to everybody */
#define SETTLED_MS 500      /* who served for so long did not fail at start */
#define TRIAL_MS 3000       /* for a new program to serve */
#define MALLOC "glibc.malloc.arena_max=1:glibc.malloc.tcache_count=0" /* its many threads share one heap, and keep nothing back */

struct supervisor supervisor = {.link = -1, .pidfd = -1, .ready = -1};

_Noreturn static void become_supervisor(const char *program, int link)
{
	char link_text[16], ready_text[16];
	const char *argv[8] = {program, "supervise", "--keeper-fd", link_text};
	int argc = 4;
	snprintf(link_text, sizeof link_text, "%d", link);
	snprintf(ready_text, sizeof ready_text, "%d", supervisor.ready);
	if (!supervisor.service)
		argv[argc++] = "--spawned";
	if (supervisor.ready >= 0) {
		argv[argc++] = "--ready-fd";
		argv[argc++] = ready_text;
		fcntl(supervisor.ready, F_SETFD, 0);
	}
	fcntl(link, F_SETFD, 0);
	clean_environment();
	setenv("GLIBC_TUNABLES", MALLOC, 0);
	reset_signals();
	execv(program, (char **)argv);
	dprintf(2, "%s: %s\n", program, strerror(errno));
	_exit(127);
}

static void failed_start(void)
{
	supervisor.failures++;
	int64_t delay = supervisor.failures == 1 ? 0 : 100L << (supervisor.failures - 2);
	if (supervisor.failures >= FAILURES_MAX) {
		delay = 60000;
		say(true, "the supervisor failed %u times in a row; intercepted calls of all containers wait; see supervisor.log in the run "
			  "directory; next start in 60 s, or at once on SIGHUP to process %d", supervisor.failures, getpid());
	}
	supervisor.next = now() + (delay > 10000 && supervisor.failures < FAILURES_MAX ? 10000 : delay);
}

bool supervisor_start(void)
{
	int pair[2] = {-1, -1};
	supervisor.trial = supervisor.trial == ANNOUNCED ? TRIED : NO_TRIAL;
	supervisor.trial_end = supervisor.trial == TRIED ? now() + TRIAL_MS : INT64_MAX;
	supervisor.served = 0;
	supervisor.bye = false;
	supervisor.ours = true;
	supervisor.pid = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0 ? -1 : fork();
	if (supervisor.pid < 0) {
		say(false, "cannot start the supervisor: %s", strerror(errno));
		close(pair[0]);
		close(pair[1]);
		failed_start();
		return false;
	}
	if (supervisor.pid == 0)
		become_supervisor(supervisor.program, pair[1]);
	close(pair[1]);
	if (supervisor.ready >= 0)
		close(supervisor.ready);
	supervisor.ready = -1;
	supervisor.link = pair[0];
	fcntl(supervisor.link, F_SETFL, O_NONBLOCK);
	supervisor.pidfd = (int)syscall(SYS_pidfd_open, supervisor.pid, 0);
	supervisor.next = INT64_MAX;
	return true;
}

bool supervisor_ended(bool wanted)
{
	int status = 0;
	if (supervisor.ours)
		while (waitpid(supervisor.pid, &status, 0) < 0 && errno == EINTR)
			;
	close(supervisor.link);
	close(supervisor.pidfd);
	supervisor.link = supervisor.pidfd = -1;
	bool settled = supervisor.served && now() - supervisor.served >= SETTLED_MS;
	if (supervisor.bye || !wanted || (!supervisor.served && !supervisor.failures && !holds_anything()))
		return false;
	say(false, "supervisor %d ended (%s %d); %zu descriptors are held", supervisor.pid, WIFSIGNALED(status) ? "signal" : "status",
	    WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), store.count);
	supervisor.next = 0;
	if (supervisor.trial == TRIED) {
		say(true, "%s does not serve; back to %s", supervisor.program, supervisor.former);
		memcpy(supervisor.program, supervisor.former, sizeof supervisor.program);
	} else if (settled)
		supervisor.failures = 0;
	else if (supervisor.trial == NO_TRIAL)
		failed_start();
	return true;
}

void supervisor_serves(void)
{
	if (supervisor.served)
		return;
	supervisor.served = now();
	supervisor.trial = NO_TRIAL;
	manager_tell("READY=1\n", -1);
}

void supervisor_follows(const char *program)
{
	supervisor.trial = ANNOUNCED;
	memcpy(supervisor.former, supervisor.program, sizeof supervisor.former);
	if (*program && strlen(program) < sizeof supervisor.program)
		strcpy(supervisor.program, program);
}

void supervisor_adopt(void)
{
	supervisor.pidfd = (int)syscall(SYS_pidfd_open, supervisor.pid, 0);
	if (supervisor.pidfd < 0 || fcntl(supervisor.link, F_SETFD, FD_CLOEXEC) < 0 || fcntl(supervisor.link, F_SETFL, O_NONBLOCK) < 0)
		fail("keep: process %d cannot be adopted over descriptor %d: %s", supervisor.pid, supervisor.link, strerror(errno));
	supervisor.next = INT64_MAX;
}

void supervisor_signal(int number)
{
	if (supervisor.pidfd >= 0)
		syscall(SYS_pidfd_send_signal, supervisor.pidfd, number, NULL, 0);
}

int64_t supervisor_due(void)
{
	return supervisor.trial == TRIED && supervisor.trial_end < supervisor.next ? supervisor.trial_end : supervisor.next;
}

void supervisor_judge(void)
{
	if (supervisor.pidfd < 0 || supervisor.trial != TRIED || now() < supervisor.trial_end)
		return;
	supervisor_signal(SIGKILL);
	supervisor.trial_end = INT64_MAX;
}
