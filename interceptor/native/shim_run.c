/* run: create, start, wait for init, delete; with a terminal in the foreground when the bundle asks for one.
 *
 * The terminal is pumped here and not in a re-executed interpreter: two loops of read and write need no more than poll(2),
 * and the pump must share a process with the wait for init, whose parent, as its subreaper, we are.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "shim.h"

/* ---- the console socket: the runtime connects and sends the pty's master (runc, docs/terminals.md) ---- */

static struct console {
	const char *directory, *path; /* NULL: no terminal of ours */
	int listener, master;
	struct termios before;
	bool raw;
} console = {.listener = -1, .master = -1};

static void console_remove(void)
{
	if (!console.directory)
		return;
	unlink(console.path);
	rmdir(console.directory);
	console.directory = NULL;
	close(console.listener);
}

/* Also called at exit, so that no failure leaves the socket behind or our own terminal raw. */
static void console_end(void)
{
	console_remove();
	if (console.raw)
		tcsetattr(STDIN_FILENO, TCSADRAIN, &console.before);
	console.raw = false;
}

static void console_listen(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	make_directory(run_directory(), 0711);
	console.directory = mkdtemp(format("%s/console-XXXXXX", run_directory()));
	if (!console.directory)
		fail("cannot make a directory for the console socket in %s: %s", run_directory(), strerror(errno));
	atexit(console_end);
	console.path = format("%s/socket", console.directory);
	if (strlen(console.path) >= sizeof address.sun_path)
		fail("the path of the console socket is too long: %s; set INTERCEPTOR_RUN to a shorter one", console.path);
	memcpy(address.sun_path, console.path, strlen(console.path));
	console.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (console.listener < 0 || bind(console.listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(console.listener, 1) < 0)
		fail("console socket %s: %s", console.path, strerror(errno));
}

static int receive_fd(int connection)
{
	char name[4096];
	int fd;
	receive_message(connection, name, sizeof name, &fd);
	return fd;
}

static void copy_window_size(int master)
{
	struct winsize size;
	if (ioctl(STDIN_FILENO, TIOCGWINSZ, &size) == 0)
		ioctl(master, TIOCSWINSZ, &size);
}

/* After a successful create the connection waits in the listener's queue. */
static bool console_accept(void)
{
	struct termios raw;
	int connection = accept4(console.listener, NULL, NULL, SOCK_CLOEXEC);
	console.master = connection < 0 ? -1 : receive_fd(connection);
	if (connection >= 0)
		close(connection);
	console_remove();
	if (console.master < 0)
		return false;
	fcntl(console.master, F_SETFL, O_NONBLOCK);
	copy_window_size(console.master);
	if (tcgetattr(STDIN_FILENO, &console.before) < 0)
		return true; /* a terminal for the container though we have none: fine */
	raw = console.before;
	cfmakeraw(&raw);
	console.raw = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
	return true;
}

/* ---- the pump ---- */

/* What was read on one side and not yet written to the other. */
struct stream {
	char data[8192];
	size_t begin, end;
	bool ended;
};

static bool stream_is_empty(const struct stream *stream)
{
	return stream->begin == stream->end;
}

static void stream_read(struct stream *stream, int fd)
{
	ssize_t got = read(fd, stream->data, sizeof stream->data);
	stream->begin = 0;
	stream->end = got > 0 ? (size_t)got : 0;
	stream->ended = got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR); /* EIO: no process has the slave */
}

static void stream_write(struct stream *stream, int fd)
{
	ssize_t put = write(fd, stream->data + stream->begin, stream->end - stream->begin);
	if (put > 0)
		stream->begin += (size_t)put;
	else if (put < 0 && errno != EAGAIN && errno != EINTR)
		stream->begin = stream->end; /* nobody reads it any more */
}

struct pump {
	struct stream in, out;
	int signals, master; /* master: -1 without a terminal */
};

/* One turn: waits until something can move or a signal comes. */
static void pump_turn(struct pump *pump)
{
	struct stream *in = &pump->in, *out = &pump->out;
	bool terminal = pump->master >= 0;
	struct pollfd watched[] = {
		{.fd = pump->signals, .events = POLLIN},
		{.fd = terminal && !in->ended && stream_is_empty(in) ? STDIN_FILENO : -1, .events = POLLIN},
		{.fd = terminal && !stream_is_empty(out) ? STDOUT_FILENO : -1, .events = POLLOUT},
		{.fd = terminal && !out->ended ? pump->master : -1,
		 .events = (short)((stream_is_empty(out) ? POLLIN : 0) | (stream_is_empty(in) ? 0 : POLLOUT))},
	};
	if (poll(watched, 4, -1) <= 0)
		return;
	if (watched[1].revents)
		stream_read(in, STDIN_FILENO);
	if (watched[2].revents)
		stream_write(out, STDOUT_FILENO);
	if (watched[3].revents & POLLOUT)
		stream_write(in, pump->master);
	if (watched[3].revents & (POLLIN | POLLHUP | POLLERR) && stream_is_empty(out))
		stream_read(out, pump->master);
}

/* What the container wrote before its init ended. */
static void pump_drain(struct pump *pump)
{
	struct stream *out = &pump->out;
	while (pump->master >= 0 && !out->ended) {
		while (!stream_is_empty(out))
			stream_write(out, STDOUT_FILENO);
		struct pollfd left = {.fd = pump->master, .events = POLLIN};
		if (poll(&left, 1, 0) <= 0)
			return;
		stream_read(out, pump->master);
	}
}

/* ---- waiting ---- */

/* Every signal that a process can be told something by. */
static int watch_all_signals(void)
{
	static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT, SIGTTIN, SIGTTOU, SIGTSTP};
	sigset_t set;
	sigfillset(&set);
	for (size_t i = 0; i < sizeof own / sizeof *own; i++)
		sigdelset(&set, own[i]);
	sigprocmask(SIG_BLOCK, &set, NULL);
	int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0)
		fail("signalfd: %s", strerror(errno));
	return fd;
}

static void handle_signals(const struct pump *pump, pid_t init)
{
	struct signalfd_siginfo info;
	while (read(pump->signals, &info, sizeof info) == sizeof info) {
		if (info.ssi_signo == SIGWINCH && pump->master >= 0)
			copy_window_size(pump->master);
		else if (info.ssi_signo != SIGCHLD && info.ssi_signo != SIGPIPE)
			kill(init, (int)info.ssi_signo);
	}
}

/* Reaps what comes to us; true when init was among it. */
static bool reap(pid_t init, int *status)
{
	int each;
	pid_t child;
	bool ended = false;
	while ((child = waitpid(-1, &each, WNOHANG)) > 0)
		if (child == init) {
			*status = exit_status(each);
			ended = true;
		}
	return ended;
}

static int await_init(struct pump *pump, pid_t init)
{
	int status = 0;
	while (!reap(init, &status)) {
		pump_turn(pump);
		handle_signals(pump, init);
	}
	pump_drain(pump);
	return status;
}

/* ---- run ---- */

/* --sync-fd N, for `interceptor run`: on a stream socket N we say which process is init, "PID\n", and wait for one byte
 * before it is started; meanwhile the network is put into its namespace. "started\n" follows. If the connection ends
 * before the byte comes, the container is not started.
 */
static bool sync_say(int fd, const char *line)
{
	return send(fd, line, strlen(line), MSG_NOSIGNAL) == (ssize_t)strlen(line);
}

static bool sync_with_caller(int fd, pid_t init)
{
	char byte;
	ssize_t got = -1;
	if (sync_say(fd, format("%d\n", init)))
		while ((got = read(fd, &byte, 1)) < 0 && errno == EINTR)
			;
	return got == 1;
}

/* -1 without --sync-fd. */
static int sync_descriptor(const struct options *options)
{
	char *end;
	if (!options->sync_fd)
		return -1;
	long fd = strtol(options->sync_fd, &end, 10);
	if (end == options->sync_fd || *end || fd < 3 || fd > INT_MAX || fcntl((int)fd, F_SETFD, FD_CLOEXEC) < 0)
		fail("--sync-fd %s: it is the number of a connected stream socket", options->sync_fd);
	return (int)fd;
}

static bool wants_terminal(const struct options *options)
{
	struct json config;
	size_t length;
	const char *path = format("%s/config.json", options->bundle ? options->bundle : ".");
	char *text = read_file(path, &length);
	if (!text)
		fail("%s: %s", path, strerror(errno));
	const char *problem = json_parse(text, length, &config);
	if (problem)
		fail("%s is no JSON: %s", path, problem);
	return json_is_true(json_member(json_member(config, "process"), "terminal"));
}

static void delete_again(const struct options *options, const char *runtime, bool force)
{
	const char *const forced[] = {"--force", options->id, NULL}, *const plain[] = {options->id, NULL};
	char **argv = options_for(options, runtime, "delete", force ? forced : plain);
	struct options delete;
	int argc = 0;
	while (argv[argc + 1])
		argc++;
	options_parse(&delete, argc, argv + 1);
	report.command = "run";
	delete_container(&delete);
}

static int start(const struct options *options, const char *runtime)
{
	const char *const words[] = {options->id, NULL};
	return run_and_wait(options_for(options, runtime, "start", words), options->id);
}

static int run_foreground(const struct options *options, const struct created *created, int signals)
{
	static struct pump pump;
	pump.signals = signals;
	pump.master = console.master;
	int status = await_init(&pump, created->pid);
	console_end();
	if (!options->keep)
		delete_again(options, created->runtime, false);
	return status;
}

int run(const struct options *options)
{
	struct created created;
	bool terminal = !options->console_socket && wants_terminal(options);
	int signals = -1, sync = sync_descriptor(options);
	if (terminal && options->detach)
		fail("a detached container with a terminal needs --console-socket");
	if (terminal)
		console_listen();
	if (!options->detach) {
		signals = watch_all_signals(); /* from here on none may end us and leave the container alone */
		prctl(PR_SET_CHILD_SUBREAPER, 1);
	}
	struct options create_options = options_run_to_create(options, console.path);
	int status = create(&create_options, &created);
	if (status)
		return status;
	const char *problem = terminal && !console_accept() ? "the runtime sent no terminal"
			      : !options->detach && created.pid <= 0 ? "the runtime did not say which process is the container's init" : NULL;
	if (!problem && sync >= 0 && !sync_with_caller(sync, created.pid))
		problem = "the caller does not want it started";
	if (!problem)
		status = start(&create_options, created.runtime);
	if (!problem && status == 0 && sync >= 0)
		sync_say(sync, "started\n");
	close(sync);
	if (!problem && status == 0)
		return options->detach ? 0 : run_foreground(options, &created, signals);
	console_end();
	delete_again(options, created.runtime, true);
	if (problem)
		fail("%s", problem);
	return status;
}
