/* create, exec and delete: the three commands that the supervisor has a part in.
 *
 * create is a transaction over one connection: the supervisor prepares, the runtime creates, the supervisor completes. If
 * the connection ends before that, the supervisor undoes its part; if the supervisor ends, we go on with the one that the
 * keeper starts, and where none comes we undo the runtime's.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shim.h"

#define TERM_SECONDS 5 /* that a runtime gets to clean up once it is told to end */

/* The mount namespace that we run in, for the supervisor to prepare mounts in: an engine's may differ from its own. */
static int own_mount_namespace(void)
{
	int fd = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		fail("/proc/self/ns/mnt: %s", strerror(errno));
	return fd;
}

static const char *need_id(const struct options *options)
{
	if (!options->id)
		fail("the container's id is missing");
	container_directory(options->id);
	return options->id;
}

/* The command that the supervisor wants executed. */
static char **exec_of(struct json reply)
{
	struct json list = json_member(reply, "exec");
	size_t count = 0;
	for (struct json item = json_first(list); item.at; item = json_next(item))
		count++;
	char **argv = allocate(NULL, (count + 1) * sizeof *argv);
	count = 0;
	for (struct json item = json_first(list); item.at; item = json_next(item)) {
		argv[count] = json_string(item);
		if (!argv[count++])
			fail("the supervisor's answer names a command with an argument that is no string");
	}
	argv[count] = NULL;
	if (!count || *argv[0] != '/')
		fail("the supervisor's answer names no command to execute");
	return argv;
}

/* What the runtime underneath is not told, because what it writes with all rights is a minimum, too. */
static struct oom_score oom_score_of(struct json reply)
{
	struct json lent = json_member(reply, "oom_score_adj");
	struct oom_score score = {0};
	score.given = json_integer(json_member(lent, "floor"), &score.floor);
	if (score.given && !json_integer(json_member(lent, "value"), &score.value))
		score.value = strtol(read_file("/proc/self/oom_score_adj", NULL) ?: "0", NULL, 10);
	return score;
}

static struct absent_calls absent_of(struct json reply)
{
	struct absent_calls absent = {0};
	for (struct json each = json_first(json_member(reply, "absent")); each.at; each = json_next(each)) {
		long number;
		if (absent.count == ABSENT_MAX || !json_integer(each, &number))
			fail("the supervisor's answer has system calls that are no numbers, or too many");
		absent.numbers[absent.count++] = (unsigned)number;
	}
	return absent;
}

/* ---- create ---- */

static void ask_create(const struct options *options, struct control *control)
{
	struct text message = {0};
	int namespace = own_mount_namespace();
	request_open(&message, "create");
	json_add_member(&message, "id", need_id(options));
	json_add_member(&message, "bundle", absolute(options->bundle ? options->bundle : "."));
	json_add_strings(&message, "argv", options->argv, options->argc);
	json_add_member(&message, "runtime", getenv("INTERCEPTOR_RUNTIME"));
	json_add_member(&message, "pid_file", options->pid_file ? absolute(options->pid_file) : NULL);
	json_add_bool(&message, "stdio_null", stdio_has_null());
	json_add_name(&message, "creator");
	text_adds(&message, format("%d", getpid()));
	text_adds(&message, "}");
	control_ask(control, &message, namespace);
	close(namespace);
}

/* Blocks what create waits for by signalfd; returns that, and in `before` the mask as it was. */
static int watch_signals(sigset_t *before)
{
	static const int watched[] = {SIGCHLD, SIGTERM, SIGINT, SIGHUP, SIGQUIT};
	sigset_t set;
	sigemptyset(&set);
	for (size_t i = 0; i < sizeof watched / sizeof *watched; i++)
		sigaddset(&set, watched[i]);
	sigprocmask(SIG_BLOCK, &set, before);
	int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0)
		fail("signalfd: %s", strerror(errno));
	return fd;
}

static void forward_signals(int signals, pid_t child)
{
	struct signalfd_siginfo info;
	while (read(signals, &info, sizeof info) == sizeof info)
		if (info.ssi_signo != SIGCHLD)
			kill(child, (int)info.ssi_signo);
}

/* What is said to the supervisor that follows one which ended in the middle of our creation. */
static struct text resume_message(const struct options *options)
{
	struct text message = {0};
	request_open(&message, "resume");
	json_add_member(&message, "id", options->id);
	text_adds(&message, "}");
	return message;
}

/* Waits for the runtime and hands signals on to it. When the supervisor goes away meanwhile and none follows, the runtime
 * may wait forever for an intercepted call: it is told to end, then killed.
 */
static int await_runtime(pid_t child, int signals, struct control *control, const struct text *resume, bool *gone)
{
	int status, timeout = -1;
	struct pollfd watched[] = {{.fd = signals, .events = POLLIN}, {.fd = control->fd, .events = POLLRDHUP}};
	*gone = false;
	for (;;) {
		pid_t ended = waitpid(child, &status, WNOHANG);
		if (ended == child)
			return exit_status(status);
		int ready = poll(watched, *gone ? 1 : 2, timeout);
		if (ready == 0)
			kill(child, SIGKILL);
		forward_signals(signals, child);
		if (ready > 0 && !*gone && watched[1].revents && control_again(control, resume))
			watched[1].fd = control->fd;
		else if (ready > 0 && !*gone && watched[1].revents) {
			*gone = true;
			timeout = TERM_SECONDS * 1000;
			kill(child, SIGTERM);
		}
	}
}

static void force_delete(const struct options *options, const char *runtime)
{
	const char *const words[] = {"--force", options->id, NULL};
	int status = run_and_wait(options_for(options, runtime, "delete", words), NULL);
	if (status)
		complain("%s delete --force %s: exit status %d", runtime, options->id, status);
}

/* Tells the supervisor how it went; NULL, or why the container cannot be used. */
static const char *complete(const struct options *options, struct control *control, const struct text *resume, int status, pid_t pid)
{
	struct text message = {0};
	request_open(&message, "created");
	json_add_member(&message, "id", options->id);
	json_add_name(&message, "status");
	text_adds(&message, format("%d", status));
	json_add_name(&message, "pid");
	text_adds(&message, pid > 0 ? format("%d", pid) : "null");
	text_adds(&message, "}");
	return control_call_again(control, &message, resume);
}

int create(const struct options *options, struct created *created)
{
	struct control control;
	sigset_t before;
	bool gone;
	ask_create(options, &control);
	char **argv = exec_of(control.reply);
	char *pid_file = json_string(json_member(control.reply, "pid_file"));
	if (json_is_true(json_member(control.reply, "chown_stdio")))
		stdio_replace_null();
	int host_clock = json_is_true(json_member(control.reply, "time_namespace")) ? time_namespace_new() : -1;
	int signals = watch_signals(&before);
	struct text resume = resume_message(options);
	struct oom_score score = oom_score_of(control.reply);
	struct absent_calls absent = absent_of(control.reply);
	int status = await_runtime(launch(argv, &score, &absent), signals, &control, &resume, &gone);
	close(signals);
	sigprocmask(SIG_SETMASK, &before, NULL);
	*created = (struct created){.runtime = argv[0], .pid = !status && pid_file ? read_pid_file(pid_file) : -1};
	if (host_clock >= 0 && created->pid > 0)
		time_namespace_remember(options->id, created->pid);
	const char *problem = gone ? "the supervisor went away" : complete(options, &control, &resume, status, created->pid);
	if (problem && (status == 0 || gone)) {
		force_delete(options, created->runtime);
		fail("container %s was created and deleted again: %s", options->id, problem);
	}
	close(control.fd);
	time_namespace_restore(host_clock);
	return status;
}

/* ---- exec ---- */

void exec_in_container(const struct options *options)
{
	struct control control;
	struct text message = {0};
	long pid;
	request_open(&message, "exec");
	json_add_member(&message, "id", need_id(options));
	json_add_strings(&message, "argv", options->argv, options->argc);
	json_add_member(&message, "process", options->process ? absolute(options->process) : NULL);
	json_add_strings(&message, "env", options->env, options->env_count);
	text_adds(&message, "}");
	control_ask(&control, &message, -1);
	char **argv = exec_of(control.reply);
	close(control.fd);
	if (json_is_true(json_member(control.reply, "chown_stdio")))
		stdio_replace_null();
	if (json_integer(json_member(control.reply, "init_pid"), &pid) && pid > 0 && pid <= INT_MAX) {
		if (json_is_true(json_member(control.reply, "await_program")))
			await_program((pid_t)pid);
		time_namespace_join((pid_t)pid);
	}
	struct oom_score score = oom_score_of(control.reply);
	if (!oom_score_take(&score))
		fail("/proc/self/oom_score_adj %ld: %s", score.value, strerror(errno));
	struct absent_calls absent = absent_of(control.reply);
	if (!absent_install(&absent))
		fail("a seccomp filter: %s", strerror(errno));
	become(argv);
}

/* ---- delete ---- */

static void report_deleted(const char *id)
{
	struct control control;
	struct text message = {0};
	int namespace = own_mount_namespace();
	request_open(&message, "deleted");
	json_add_member(&message, "id", id);
	text_adds(&message, "}");
	control_ask(&control, &message, namespace);
	close(control.fd);
	close(namespace);
}

static bool has_record(const char *id)
{
	struct stat status;
	return lstat(container_directory(id), &status) == 0;
}

/* Engines delete what they failed to create, and what a reboot took: then only our side has anything to forget. */
static bool runtime_knows(const struct options *options, const char *runtime)
{
	const char *const words[] = {options->id, NULL};
	return run_silently(options_for(options, runtime, "state", words)) == 0;
}

int delete_container(const struct options *options)
{
	const char *id = need_id(options), *runtime = runtime_of(id);
	char **argv = allocate(NULL, ((size_t)options->argc + 2) * sizeof *argv);
	argv[0] = (char *)runtime;
	memcpy(argv + 1, options->argv, ((size_t)options->argc + 1) * sizeof *argv);
	int status = run_and_wait(argv, id);
	if ((has_record(id) || supervisor_runs()) && (status == 0 || options->force || !runtime_knows(options, runtime)))
		report_deleted(id);
	return status;
}
