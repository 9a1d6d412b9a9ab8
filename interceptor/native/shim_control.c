/* The supervisor, asked over its control socket and started where there is none, by the keeper (keeper.c) that we start.
 *
 * Twenty containers may be started at once: the flock of spawn.lock lets one shim start the keeper, and whoever comes
 * after it finds a supervisor that answers. Where the keeper starts one again, we wait in the queue of its socket. A supervisor that was started so goes away when it is idle; one that goes just when we
 * come takes the connection and closes it without an answer, and is replaced.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shim.h"

#define READY_MS 60000   /* a supervisor takes 0.3 s to start; on a machine with hundreds of tasks to run, more than ten */
#define ANSWER_SECONDS 120 /* preparing a rootfs may wait for a slow disk */
#define ATTEMPTS 10 /* supervisors that may die while they are being asked */

extern char **environ;

static const char *socket_path(void)
{
	return format("%s/control.sock", run_directory());
}

/* A connection, or -1 with errno; ECONNREFUSED and ENOENT mean that nobody listens. */
static int try_connect(void)
{
	const char *path = socket_path();
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct timeval timeout = {.tv_sec = ANSWER_SECONDS};
	if (strlen(path) >= sizeof address.sun_path)
		fail("the path of the control socket is longer than %zu bytes: %s; set INTERCEPTOR_RUN to a shorter one",
		     sizeof address.sun_path - 1, path);
	memcpy(address.sun_path, path, strlen(path));
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		fail("socket: %s", strerror(errno));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
	if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
		return fd;
	int error = errno;
	close(fd);
	errno = error;
	return -1;
}

/* ---- starting one ---- */

static void close_all_but(int kept)
{
	if (kept > 3)
		syscall(SYS_close_range, 3U, (unsigned)kept - 1, 0U);
	if (syscall(SYS_close_range, (unsigned)kept + 1, ~0U, 0U) == 0)
		return;
	for (int fd = 3; fd < 4096; fd++) /* Linux before 5.9 */
		if (fd != kept)
			close(fd);
}

/* The engine's environment says things about the shim, not about a supervisor that outlives it. */
void clean_environment(void)
{
	static const char *const foreign[] = {"NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_PID", "WATCHDOG_USEC"};
	for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
		unsetenv(foreign[i]);
}

void reset_signals(void)
{
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	for (int number = 1; number < NSIG; number++)
		signal(number, SIG_DFL);
}

/* In the grandchild: nothing of the engine's is left, neither its session nor its files. */
_Noreturn static void become_keeper(int ready)
{
	char *number = format("%d", ready);
	char *argv[] = {own_path(), (char *)"keep", (char *)"--ready-fd", number, NULL};
	const char *log = format("%s/supervisor.log", run_directory());
	int null = open("/dev/null", O_RDWR);
	int out = open(log, O_WRONLY | O_CREAT | O_APPEND | O_NOCTTY, 0600);
	if (null < 0 || out < 0 || dup2(null, 0) < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0)
		_exit(126);
	umask(022);
	if (chdir("/") < 0 || fcntl(ready, F_SETFD, 0) < 0)
		_exit(126);
	close_all_but(ready);
	clean_environment();
	reset_signals();
	execve(argv[0], argv, environ);
	dprintf(2, "%s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

static void spawn_detached(int ready)
{
	int status;
	pid_t child = fork();
	if (child < 0)
		fail("fork: %s", strerror(errno));
	if (child == 0) {
		setsid();
		pid_t grandchild = fork(); /* not a session leader: it never gets a terminal, and nobody waits for it */
		if (grandchild == 0)
			become_keeper(ready);
		_exit(grandchild < 0);
	}
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
}

/* The last line that a supervisor wrote: why it did not start. */
static const char *last_words(void)
{
	const char *path = format("%s/supervisor.log", run_directory());
	size_t length;
	char *text = read_file(path, &length);
	while (text && length && (text[length - 1] == '\n' || text[length - 1] == ' '))
		text[--length] = '\0';
	if (!text || !length)
		return format("%s is empty", path);
	char *line = memrchr(text, '\n', length);
	return format("%s ends with: %s", path, line ? line + 1 : text);
}

/* Waits for the one byte that a supervisor writes once it listens. */
static void await_ready(int ready, const char *program)
{
	struct pollfd poll_ready = {.fd = ready, .events = POLLIN};
	char byte;
	int count;
	while ((count = poll(&poll_ready, 1, READY_MS)) < 0 && errno == EINTR)
		;
	if (count == 0)
		fail("the supervisor (%s supervise) does not answer within %d s; %s", program, READY_MS / 1000, last_words());
	if (read(ready, &byte, 1) != 1)
		fail("the supervisor (%s supervise) ended as it started; %s", program, last_words());
}

static void spawn(void)
{
	int ready[2];
	const char *program = find_interceptor();
	if (!program)
		fail("no supervisor listens on %s, and there is no program \"interceptor\" beside this one or in PATH to start one", socket_path());
	if (pipe2(ready, O_CLOEXEC) < 0)
		fail("pipe: %s", strerror(errno));
	spawn_detached(ready[1]);
	close(ready[1]);
	await_ready(ready[0], program);
	close(ready[0]);
}

static bool nobody_listens(int error)
{
	return error == ENOENT || error == ECONNREFUSED;
}

static int connect_or_spawn(void)
{
	int fd = try_connect();
	if (fd >= 0)
		return fd;
	if (!nobody_listens(errno))
		fail("cannot connect to the supervisor on %s: %s", socket_path(), strerror(errno));
	make_directory(run_directory(), 0711);
	const char *path = format("%s/spawn.lock", run_directory());
	int lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (lock < 0)
		fail("%s: %s", path, strerror(errno));
	while (flock(lock, LOCK_EX) < 0)
		if (errno != EINTR)
			fail("%s: flock: %s", path, strerror(errno));
	fd = try_connect();
	if (fd < 0 && nobody_listens(errno)) {
		spawn();
		fd = try_connect();
	}
	if (fd < 0)
		fail("cannot connect to the supervisor on %s: %s", socket_path(), strerror(errno));
	close(lock);
	return fd;
}

bool supervisor_runs(void)
{
	int fd = try_connect();
	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

void supervisor_ensure(void)
{
	close(connect_or_spawn());
}

/* ---- asking ---- */

void request_open(struct text *message, const char *operation)
{
	text_adds(message, format("{\"v\":%d", SHIM_WIRE_VERSION));
	json_add_member(message, "op", operation);
}

bool send_message(int fd, const struct text *message, int pass)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec data = {.iov_base = message->data, .iov_len = message->length};
	struct msghdr header = {.msg_iov = &data, .msg_iovlen = 1};
	if (pass >= 0) {
		header.msg_control = &control;
		header.msg_controllen = sizeof control.space;
		*CMSG_FIRSTHDR(&header) = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&header)), &pass, sizeof pass);
	}
	ssize_t sent;
	while ((sent = sendmsg(fd, &header, MSG_NOSIGNAL)) < 0 && errno == EINTR)
		;
	return sent == (ssize_t)message->length;
}

ssize_t receive_message(int fd, char *data, size_t room, int *passed)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec part = {.iov_base = data, .iov_len = room};
	struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	ssize_t got;
	*passed = -1;
	while ((got = recvmsg(fd, &header, MSG_CMSG_CLOEXEC)) < 0 && errno == EINTR)
		;
	struct cmsghdr *found = got < 0 ? NULL : CMSG_FIRSTHDR(&header);
	if (found && found->cmsg_level == SOL_SOCKET && found->cmsg_type == SCM_RIGHTS && found->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(passed, CMSG_DATA(found), sizeof *passed);
	return got;
}

/* Bytes of the answer in `buffer`, 0 for a connection that ended, or -1 with errno. */
static ssize_t receive(int fd, char *buffer)
{
	ssize_t got;
	while ((got = recv(fd, buffer, SHIM_MESSAGE_MAX, MSG_TRUNC)) < 0 && errno == EINTR)
		;
	if (got < 0 && errno == ECONNRESET)
		return 0;
	if (got > SHIM_MESSAGE_MAX) {
		errno = EMSGSIZE;
		return -1;
	}
	return got;
}

static const char *understand(struct control *control, const char *buffer, size_t length)
{
	long version;
	const char *problem = json_parse(buffer, length, &control->reply);
	if (problem)
		return format("the supervisor's answer is no JSON: %s", problem);
	if (!json_integer(json_member(control->reply, "v"), &version) || version != SHIM_WIRE_VERSION)
		return format("the supervisor speaks another version of the control protocol than this program, which speaks %d; restart it",
			      SHIM_WIRE_VERSION);
	if (json_is_true(json_member(control->reply, "ok")))
		return NULL;
	char *error = json_string(json_member(control->reply, "error"));
	return error && *error ? error : "the supervisor refused and did not say why";
}

/* NULL when the answer is ok, else what is wrong; *gone when that is a connection that ended before the answer. */
static const char *exchange(struct control *control, const struct text *message, int pass, bool *gone)
{
	char *buffer = allocate(NULL, SHIM_MESSAGE_MAX + 1);
	*gone = false;
	if (message->length > SHIM_MESSAGE_MAX)
		return format("the command line makes a message of %zu bytes; the control socket carries %d", message->length, SHIM_MESSAGE_MAX);
	bool sent = send_message(control->fd, message, pass);
	if (!sent && errno != EPIPE && errno != ECONNRESET)
		return format("cannot send to the supervisor: %s", strerror(errno));
	ssize_t got = receive(control->fd, buffer);
	*gone = got == 0;
	if (*gone)
		return "the supervisor went away";
	if (got < 0 && errno == EAGAIN)
		return format("the supervisor does not answer within %d s", ANSWER_SECONDS);
	if (got < 0)
		return format("cannot receive from the supervisor: %s", strerror(errno));
	buffer[got] = '\0';
	return understand(control, buffer, (size_t)got);
}

bool control_again(struct control *control, const struct text *message)
{
	bool gone = true;
	const char *problem = "";
	for (int attempt = 0; gone && attempt < ATTEMPTS; attempt++) {
		close(control->fd);
		control->fd = try_connect();
		if (control->fd < 0)
			return false;
		problem = exchange(control, message, -1, &gone);
	}
	return !problem;
}

const char *control_call_again(struct control *control, const struct text *message, const struct text *resume)
{
	bool gone;
	const char *problem = exchange(control, message, -1, &gone);
	for (int attempt = 0; gone && attempt < ATTEMPTS && control_again(control, resume); attempt++)
		problem = exchange(control, message, -1, &gone);
	return problem;
}

void control_ask(struct control *control, const struct text *message, int pass)
{
	const char *problem = NULL;
	bool gone = true;
	for (int attempt = 0; gone && attempt < ATTEMPTS; attempt++) {
		control->fd = connect_or_spawn();
		problem = exchange(control, message, pass, &gone);
		if (problem)
			close(control->fd);
	}
	if (problem)
		fail("%s", problem);
}
