/* The keeper: a supervisor may die, its descriptors do not.
 *
 * It starts the supervisor, holds a duplicate of every descriptor that must outlive it (notifiers, listening sockets, FUSE
 * devices, the journal), starts the supervisor again when it ends, and hands everything over. While no supervisor runs,
 * intercepted calls wait, because somebody holds their notifier (seccomp_unotify(2)), and connections queue. It knows
 * nothing of what it holds: a kind, a key and a note, which are the supervisor's words.
 *
 * In C and inside interceptor-runc, because it must be the smallest and last thing to fail: a page or two of its own, up in
 * a millisecond, nothing to configure, installed wherever the entry is. An interpreter takes 10 MB and 15 ms.
 *
 * The link is a SOCK_SEQPACKET pair; a message is a letter, then kind NUL key NUL note. From the supervisor:
 *   K keep the descriptor that came along; what had its kind and key is replaced   D drop   R it serves   B let go at its end
 *   P its end is meant, and this program (empty: the same) comes next; should that not serve in time, the former does
 * to the supervisor:
 *   E a descriptor, which the keeper keeps as well   . everything that an earlier one left has been said
 * Connections to what has the kind "listener" are accepted here and handed over under kind "connection", so that no moment
 * is left in which the death of a supervisor could lose a notifier that a runtime has just sent.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "keeper.h"
#include "shim.h"

#define MESSAGE_MAX 8192
#define CONNECTIONS_MAX 256 /* accepted and not yet taken; more wait in the socket's own queue */
#define LISTENERS_MAX 4
#define FAILURES_MAX 10     /* then a start is tried only now and then, and each failure told to everybody */
#define SETTLED_MS 500      /* who served for so long did not fail at start */
#define LOCK_MS 10000       /* for the keeper before us to end */
#define TRIAL_MS 3000       /* for a new program to serve */
#define MALLOC "glibc.malloc.arena_max=1:glibc.malloc.tcache_count=0" /* its many threads share one heap, and keep nothing back */

struct held {
	char *name; /* kind NUL key NUL note NUL */
	int fd;
	bool told;  /* the supervisor that runs has it */
};

static struct {
	struct held *held;
	size_t count, room, untold, connections;
	unsigned serial;         /* of connections */
	int link, pidfd, ready, signals;
	pid_t supervisor;
	bool service, greeted, ours, bye, ending;
	int64_t served, next;    /* when it said that it serves, or 0; when to start the next one; ms */
	int64_t deaf;            /* listeners are left alone until then: no descriptor was free */
	unsigned failures;
	char program[PATH_MAX], former[PATH_MAX];
	enum { NO_TRIAL, ANNOUNCED, TRIED } trial;
	int64_t trial_end;
} keeper = {.link = -1, .pidfd = -1, .ready = -1};

static int64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void say(bool loudly, const char *pattern, ...) __attribute__((format(printf, 2, 3)));
static void say(bool loudly, const char *pattern, ...)
{
	char text[512];
	va_list arguments;
	va_start(arguments, pattern);
	vsnprintf(text, sizeof text, pattern, arguments);
	va_end(arguments);
	dprintf(2, "keeper: %s\n", text);
	int log = loudly ? open("/dev/kmsg", O_WRONLY | O_CLOEXEC | O_NOCTTY) : -1;
	if (log >= 0) {
		dprintf(log, "<2>interceptor: %s\n", text);
		close(log);
	}
}

/* ---- what is held ---- */

static size_t name_length(const char *name)
{
	size_t length = 0;
	for (int part = 0; part < 3; part++)
		length += strlen(name + length) + 1;
	return length;
}

static bool is(const struct held *held, const char *kind)
{
	return strcmp(held->name, kind) == 0;
}

static void forget(size_t i)
{
	struct held *held = &keeper.held[i];
	manager_keeps(held->name, held->fd, false);
	keeper.untold -= !held->told;
	keeper.connections -= is(held, "connection");
	close(held->fd);
	free(held->name);
	*held = keeper.held[--keeper.count];
}

static void drop(const char *name)
{
	for (size_t i = 0; i < keeper.count; i++)
		if (is(&keeper.held[i], name) && strcmp(keeper.held[i].name + strlen(name) + 1, name + strlen(name) + 1) == 0) {
			forget(i);
			return;
		}
}

/* Takes ownership of `fd`. */
static void keep(const char *name, int fd, bool told)
{
	size_t length = name_length(name);
	drop(name);
	if (keeper.count == keeper.room) {
		size_t room = keeper.room ? 2 * keeper.room : 16;
		struct held *larger = realloc(keeper.held, room * sizeof *larger);
		keeper.room = larger ? room : keeper.room;
		keeper.held = larger ? larger : keeper.held;
	}
	char *copy = malloc(length);
	if (!copy || keeper.count == keeper.room) {
		say(true, "out of memory: %s %s is not held", name, name + strlen(name) + 1);
		free(copy);
		close(fd);
		return;
	}
	memcpy(copy, name, length);
	keeper.held[keeper.count++] = (struct held){.name = copy, .fd = fd, .told = told};
	keeper.untold += !told;
	keeper.connections += is(&keeper.held[keeper.count - 1], "connection");
	manager_keeps(copy, fd, true);
}

/* Whether somebody would miss us: more than the sockets, which the next one can bind again. */
static bool holds_anything(void)
{
	for (size_t i = 0; i < keeper.count; i++)
		if (!is(&keeper.held[i], "socket") && !is(&keeper.held[i], "listener"))
			return true;
	return false;
}

static void accept_one(int listener)
{
	char name[64];
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (fd >= 0) {
		snprintf(name, sizeof name, "connection%c%u%c", 0, keeper.serial++, 0);
		keep(name, fd, false);
	} else if (errno != EINTR && errno != EAGAIN && errno != ECONNABORTED) {
		say(false, "accept: %s", strerror(errno));
		keeper.deaf = now() + 100;
	}
}

/* ---- the link ---- */

/* As much as the socket takes; nobody waits for a supervisor that does not read. */
static void hand_over(void)
{
	char space[MESSAGE_MAX];
	for (size_t i = 0; i < keeper.count && keeper.untold; i++) {
		struct held *held = &keeper.held[i];
		struct text message = {.data = space, .length = name_length(held->name) + 1};
		if (held->told)
			continue;
		space[0] = 'E';
		memcpy(space + 1, held->name, message.length - 1);
		if (!send_message(keeper.link, &message, held->fd))
			return;
		held->told = true;
		keeper.untold--;
	}
	if (!keeper.untold && !keeper.greeted)
		keeper.greeted = send_message(keeper.link, &(struct text){.data = (char *)".", .length = 1}, -1);
}

static void obey(const char *message, int fd)
{
	if (message[0] == 'K' && fd >= 0) {
		keep(message + 1, fd, true);
		return;
	}
	if (message[0] == 'D')
		drop(message + 1);
	if (message[0] == 'R' && !keeper.served) {
		keeper.served = now();
		keeper.trial = NO_TRIAL;
		manager_tell("READY=1\n", -1);
	}
	if (message[0] == 'B')
		keeper.bye = true;
	if (message[0] == 'P') {
		keeper.trial = ANNOUNCED;
		memcpy(keeper.former, keeper.program, sizeof keeper.former);
		if (message[1] && strlen(message + 1) < sizeof keeper.program)
			strcpy(keeper.program, message + 1);
	}
	if (fd >= 0)
		close(fd);
}

/* One message; false when there is none now. */
static bool listen_to_link(void)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	char space[MESSAGE_MAX + 3];
	struct iovec data = {.iov_base = space, .iov_len = MESSAGE_MAX};
	struct msghdr header = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	int fd = -1;
	ssize_t got = recvmsg(keeper.link, &header, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	if (got < 0 && errno == EINTR)
		return true;
	if (got <= 0)
		return false;
	struct cmsghdr *found = CMSG_FIRSTHDR(&header);
	if (found && found->cmsg_level == SOL_SOCKET && found->cmsg_type == SCM_RIGHTS && found->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(&fd, CMSG_DATA(found), sizeof fd);
	memset(space + got, 0, 3); /* a kind, a key and a note, whatever came */
	obey(space, fd);
	return true;
}

/* ---- the supervisor ---- */

_Noreturn static void become_supervisor(const char *program, int link)
{
	char link_text[16], ready_text[16];
	const char *argv[8] = {program, "supervise", "--keeper-fd", link_text};
	int argc = 4;
	snprintf(link_text, sizeof link_text, "%d", link);
	snprintf(ready_text, sizeof ready_text, "%d", keeper.ready);
	if (!keeper.service)
		argv[argc++] = "--spawned";
	if (keeper.ready >= 0) {
		argv[argc++] = "--ready-fd";
		argv[argc++] = ready_text;
		fcntl(keeper.ready, F_SETFD, 0);
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
	keeper.failures++;
	int64_t delay = keeper.failures == 1 ? 0 : 100L << (keeper.failures - 2);
	if (keeper.failures >= FAILURES_MAX) {
		delay = 60000;
		say(true, "the supervisor failed %u times in a row; intercepted calls of all containers wait; see supervisor.log in the run "
			  "directory; next start in 60 s, or at once on SIGHUP to process %d", keeper.failures, getpid());
	}
	keeper.next = now() + (delay > 10000 && keeper.failures < FAILURES_MAX ? 10000 : delay);
}

static void start_supervisor(void)
{
	int pair[2];
	keeper.trial = keeper.trial == ANNOUNCED ? TRIED : NO_TRIAL;
	keeper.trial_end = keeper.trial == TRIED ? now() + TRIAL_MS : INT64_MAX;
	keeper.served = 0;
	keeper.greeted = keeper.bye = false;
	keeper.ours = true;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0 || (keeper.supervisor = fork()) < 0) {
		say(false, "cannot start the supervisor: %s", strerror(errno));
		failed_start();
		return;
	}
	if (keeper.supervisor == 0)
		become_supervisor(keeper.program, pair[1]);
	close(pair[1]);
	if (keeper.ready >= 0)
		close(keeper.ready);
	keeper.ready = -1;
	keeper.link = pair[0];
	fcntl(keeper.link, F_SETFL, O_NONBLOCK);
	keeper.pidfd = (int)syscall(SYS_pidfd_open, keeper.supervisor, 0);
	for (size_t i = 0; i < keeper.count; i++)
		keeper.held[i].told = false;
	keeper.untold = keeper.count;
	keeper.next = INT64_MAX;
}

/* It has ended: what it still said counts; then the next one, unless it meant to end or never came up and nothing is lost. */
static void supervisor_ended(void)
{
	int status = 0;
	while (listen_to_link())
		;
	if (keeper.ours)
		while (waitpid(keeper.supervisor, &status, 0) < 0 && errno == EINTR)
			;
	close(keeper.link);
	close(keeper.pidfd);
	keeper.link = keeper.pidfd = -1;
	bool settled = keeper.served && now() - keeper.served >= SETTLED_MS;
	if (keeper.bye || keeper.ending || (!keeper.served && !keeper.failures && !holds_anything())) {
		keeper.ending = true;
		return;
	}
	say(false, "supervisor %d ended (%s %d); %zu descriptors are held", keeper.supervisor, WIFSIGNALED(status) ? "signal" : "status",
	    WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), keeper.count);
	keeper.next = 0;
	if (keeper.trial == TRIED) {
		say(true, "%s does not serve; back to %s", keeper.program, keeper.former);
		memcpy(keeper.program, keeper.former, sizeof keeper.program);
	} else if (settled)
		keeper.failures = 0;
	else if (keeper.trial == NO_TRIAL)
		failed_start();
}

static void handle_signals(void)
{
	struct signalfd_siginfo info;
	while (read(keeper.signals, &info, sizeof info) == sizeof info) {
		if (info.ssi_signo == SIGHUP && keeper.pidfd < 0)
			keeper.next = 0;
		else if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT)
			keeper.ending = true;
		if (keeper.pidfd >= 0)
			syscall(SYS_pidfd_send_signal, keeper.pidfd, info.ssi_signo, NULL, 0);
	}
}

static int wait_ms(bool deaf)
{
	int64_t until = keeper.trial == TRIED && keeper.trial_end < keeper.next ? keeper.trial_end : keeper.next;
	if (deaf && keeper.deaf < until)
		until = keeper.deaf;
	int64_t left = until - now();
	return until == INT64_MAX ? -1 : left < 0 ? 0 : (int)(left > 60000 ? 60000 : left);
}

static void turn(void)
{
	struct pollfd watched[3 + LISTENERS_MAX] = {
		{.fd = keeper.signals, .events = POLLIN},
		{.fd = keeper.pidfd, .events = POLLIN},
		{.fd = keeper.link, .events = (short)(POLLIN | (keeper.untold || !keeper.greeted ? POLLOUT : 0))},
	};
	nfds_t count = 3;
	bool deaf = now() < keeper.deaf;
	for (size_t i = 0; i < keeper.count && count < 3 + LISTENERS_MAX && !deaf && keeper.connections < CONNECTIONS_MAX; i++)
		if (is(&keeper.held[i], "listener"))
			watched[count++] = (struct pollfd){.fd = keeper.held[i].fd, .events = POLLIN};
	if (poll(watched, count, wait_ms(deaf)) < 0)
		return;
	if (watched[0].revents)
		handle_signals();
	if (watched[2].revents & POLLIN)
		while (listen_to_link())
			;
	if (watched[2].revents & POLLOUT)
		hand_over();
	for (nfds_t i = 3; i < count; i++)
		if (watched[i].revents)
			accept_one(watched[i].fd);
	if (watched[1].revents)
		supervisor_ended();
	else if (watched[2].revents & POLLHUP) { /* its descriptors are closed: it is about to end */
		struct pollfd end = {.fd = keeper.pidfd, .events = POLLIN};
		poll(&end, 1, 1000);
	}
	if (keeper.pidfd >= 0 && keeper.trial == TRIED && now() >= keeper.trial_end) {
		syscall(SYS_pidfd_send_signal, keeper.pidfd, SIGKILL, NULL, 0);
		keeper.trial_end = INT64_MAX;
	}
	if (keeper.pidfd < 0 && !keeper.ending && now() >= keeper.next)
		start_supervisor();
}

/* ---- the process ---- */

static int number(const char *text)
{
	char *end;
	long value = strtol(text ? text : "", &end, 10);
	if (!text || end == text || *end || value < 0 || value > INT_MAX)
		fail("keep: %s is no number", text ? text : "nothing");
	return (int)value;
}

static void understand(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--service") == 0)
			keeper.service = true;
		else if (strcmp(argv[i], "--ready-fd") == 0)
			keeper.ready = number(argv[++i]);
		else if (strcmp(argv[i], "--link-fd") == 0)
			keeper.link = number(argv[++i]);
		else if (strcmp(argv[i], "--adopt") == 0)
			keeper.supervisor = number(argv[++i]);
		else
			fail("keep: unknown option %s; there are --service, --ready-fd N, --adopt PID, --link-fd N", argv[i]);
	}
}

/* One keeper per run directory, whose pid stands in the file; the one before us may be about to end. */
static void lock(void)
{
	const char *path = format("%s/keeper.lock", run_directory());
	make_directory(run_directory(), 0711);
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		fail("%s: %s", path, strerror(errno));
	for (int64_t until = now() + LOCK_MS; flock(fd, LOCK_EX | LOCK_NB) < 0; poll(NULL, 0, 20))
		if (now() >= until)
			fail("another keeper runs: it holds %s", path);
	if (ftruncate(fd, 0) == 0)
		dprintf(fd, "%d\n", getpid());
}

static void prepare(void)
{
	sigset_t set;
	struct rlimit files;
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	keeper.signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	for (int fd = keeper.ready; fd >= 0; fd = -1)
		fcntl(fd, F_SETFD, FD_CLOEXEC);
}

/* A supervisor whose keeper died started us, and tells us again what to keep. */
static void adopt(void)
{
	keeper.pidfd = (int)syscall(SYS_pidfd_open, keeper.supervisor, 0);
	if (keeper.pidfd < 0 || fcntl(keeper.link, F_SETFD, FD_CLOEXEC) < 0 || fcntl(keeper.link, F_SETFL, O_NONBLOCK) < 0)
		fail("keep: process %d cannot be adopted over descriptor %d: %s", keeper.supervisor, keeper.link, strerror(errno));
	keeper.greeted = true;
	keeper.next = INT64_MAX;
}

int keep_main(int argc, char **argv)
{
	understand(argc, argv);
	lock();
	prepare();
	const char *program = find_interceptor();
	if (!program)
		fail("there is no program \"interceptor\" beside this one or in PATH");
	snprintf(keeper.program, sizeof keeper.program, "%s", program);
	manager_gives_back(keep);
	if (keeper.supervisor > 0)
		adopt();
	while (!keeper.ending || keeper.pidfd >= 0)
		turn();
	return 0;
}
