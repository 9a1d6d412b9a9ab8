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
#include <time.h>
#include <unistd.h>

#include "keeper.h"
#include "shim.h"

#define MESSAGE_MAX 8192
#define CONNECTIONS_MAX 256 /* accepted and not yet taken; more wait in the socket's own queue */
#define LISTENERS_MAX 4
#define LOCK_MS 10000       /* for the keeper before us to end */

static struct {
	unsigned serial;         /* of connections */
	int signals;
	bool greeted, ending;
	int64_t deaf;            /* listeners are left alone until then: no descriptor was free */
} keeper;

int64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

void say(bool loudly, const char *pattern, ...)
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
	for (size_t i = 0; i < store.count && store.untold; i++) {
		struct held *held = &store.held[i];
		struct text message = {.data = space, .length = name_length(held->name) + 1};
		if (held->told)
			continue;
		space[0] = 'E';
		memcpy(space + 1, held->name, message.length - 1);
		if (!send_message(supervisor.link, &message, held->fd))
			return;
		held->told = true;
		store.untold--;
	}
	if (!store.untold && !keeper.greeted)
		keeper.greeted = send_message(supervisor.link, &(struct text){.data = (char *)".", .length = 1}, -1);
}

static void obey(const char *message, int fd)
{
	if (message[0] == 'K' && fd >= 0) {
		keep(message + 1, fd, true);
		return;
	}
	if (message[0] == 'D')
		drop(message + 1);
	if (message[0] == 'R')
		supervisor_serves();
	if (message[0] == 'B')
		supervisor.bye = true;
	if (message[0] == 'P')
		supervisor_follows(message + 1);
	if (fd >= 0)
		close(fd);
}

/* One message; false when there is none now. */
static bool listen_to_link(void)
{
	char space[MESSAGE_MAX + 3];
	int fd;
	ssize_t got = receive_message(supervisor.link, space, MESSAGE_MAX, &fd);
	if (got <= 0)
		return false;
	memset(space + got, 0, 3); /* a kind, a key and a note, whatever came */
	obey(space, fd);
	return true;
}

/* ---- the loop ---- */

static void handle_signals(void)
{
	struct signalfd_siginfo info;
	while (read(keeper.signals, &info, sizeof info) == sizeof info) {
		if (info.ssi_signo == SIGHUP && supervisor.pidfd < 0)
			supervisor.next = 0;
		else if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT)
			keeper.ending = true;
		supervisor_signal((int)info.ssi_signo);
	}
}

static int wait_ms(bool deaf)
{
	int64_t until = supervisor_due();
	if (deaf && keeper.deaf < until)
		until = keeper.deaf;
	int64_t left = until - now();
	return until == INT64_MAX ? -1 : left < 0 ? 0 : (int)(left > 60000 ? 60000 : left);
}

static void turn(void)
{
	struct pollfd watched[3 + LISTENERS_MAX] = {
		{.fd = keeper.signals, .events = POLLIN},
		{.fd = supervisor.pidfd, .events = POLLIN},
		{.fd = supervisor.link, .events = (short)(POLLIN | (store.untold || !keeper.greeted ? POLLOUT : 0))},
	};
	nfds_t count = 3;
	bool deaf = now() < keeper.deaf;
	for (size_t i = 0; i < store.count && count < 3 + LISTENERS_MAX && !deaf && store.connections < CONNECTIONS_MAX; i++)
		if (is_kind(&store.held[i], "listener"))
			watched[count++] = (struct pollfd){.fd = store.held[i].fd, .events = POLLIN};
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
	if (watched[1].revents) {
		while (listen_to_link()) /* what it still said counts */
			;
		keeper.ending = !supervisor_ended(!keeper.ending);
	} else if (watched[2].revents & POLLHUP) { /* its descriptors are closed: it is about to end */
		struct pollfd end = {.fd = supervisor.pidfd, .events = POLLIN};
		poll(&end, 1, 1000);
	}
	supervisor_judge();
	if (supervisor.pidfd < 0 && !keeper.ending && now() >= supervisor.next && supervisor_start()) {
		keeper.greeted = false;
		tell_again();
	}
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
			supervisor.service = true;
		else if (strcmp(argv[i], "--ready-fd") == 0)
			supervisor.ready = number(argv[++i]);
		else if (strcmp(argv[i], "--link-fd") == 0)
			supervisor.link = number(argv[++i]);
		else if (strcmp(argv[i], "--adopt") == 0)
			supervisor.pid = number(argv[++i]);
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
	for (int fd = supervisor.ready; fd >= 0; fd = -1)
		fcntl(fd, F_SETFD, FD_CLOEXEC);
}

int keep_main(int argc, char **argv)
{
	understand(argc, argv);
	lock();
	prepare();
	const char *program = find_interceptor();
	if (!program)
		fail("there is no program \"interceptor\" beside this one or in PATH");
	snprintf(supervisor.program, sizeof supervisor.program, "%s", program);
	manager_gives_back();
	if (supervisor.pid > 0) {
		supervisor_adopt();
		keeper.greeted = true;
	}
	while (!keeper.ending || supervisor.pidfd >= 0)
		turn();
	return 0;
}
