/* interceptor-runc, the OCI entry: what its files share.
 *
 * A static C program because engines start it some ten times in a container's life and wait for it each time: it is up
 * in less than a millisecond, where an interpreter needs fifteen. It decides nothing. Whatever takes thought is asked of
 * the supervisor over the control socket; the rest of the OCI command line goes to the runtime underneath as it came.
 *
 * Memory is never freed: the process execs or exits in a moment.
 */
#ifndef INTERCEPTOR_SHIM_H
#define INTERCEPTOR_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define SHIM_MESSAGE_MAX (128 * 1024) /* wire.py, CONTROL_MESSAGE_MAX */
#define SHIM_WIRE_VERSION 1           /* wire.py, CONTROL_VERSION */

/* ---- shim_report.c: how failures are told, and memory ---- */

struct report {
	const char *log; /* --log FILE, or NULL */
	bool json;       /* --log-format json */
	const char *command;
};
extern struct report report;

/* Says it to stderr and, as runc does, to --log, which is where containerd looks for what it shows to its user. */
void complain(const char *pattern, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void fail(const char *pattern, ...) __attribute__((format(printf, 1, 2)));
/* A NUL-terminated string in memory of its own. */
char *format(const char *pattern, ...) __attribute__((format(printf, 1, 2)));
void *allocate(void *old, size_t size);

/* ---- shim_json.c ---- */

struct text {
	char *data; /* NUL-terminated */
	size_t length, capacity;
};
void text_add(struct text *text, const char *data, size_t length);
void text_adds(struct text *text, const char *string);
/* A JSON string. Bytes that are not UTF-8 become the lone surrogates of Python's surrogateescape (PEP 383). */
void json_add_string(struct text *text, const char *string);
void json_add_name(struct text *text, const char *name);
/* The value is null for NULL. */
void json_add_member(struct text *text, const char *name, const char *string);
void json_add_bool(struct text *text, const char *name, bool value);
void json_add_strings(struct text *text, const char *name, char *const *strings, int count);

/* One value inside a document that json_parse() has found to be whole. at == NULL: there is none. */
struct json {
	const char *at;  /* its first byte */
	const char *end; /* after its last byte */
	const char *document_end;
};
/* NULL, or what is wrong with the document (RFC 8259; at most 64 levels). */
const char *json_parse(const char *data, size_t length, struct json *document);
struct json json_member(struct json object, const char *name);
/* The elements: json_first(array), then json_next(element) until .at is NULL. */
struct json json_first(struct json array);
struct json json_next(struct json element);
/* NULL when it is no string or holds a NUL, which no path or argument can. */
char *json_string(struct json value);
bool json_is_true(struct json value);
bool json_is_null(struct json value);
/* Whether it is an integer that fits; the integer. */
bool json_integer(struct json value, long *integer);

/* ---- shim_options.c: the command line, as urfave/cli (runc) and argp (crun) read it ---- */

struct options {
	int argc; /* everything after argv[0] */
	char **argv;
	int command_at; /* argv[command_at] is the command; argc when there is none */
	const char *command;
	bool version, help;
	/* Of the command, as far as we need to know them. */
	const char *bundle, *pid_file, *console_socket, *process, *sync_fd, *format, *id;
	int id_at; /* argv[id_at] is the id, where there is one */
	bool force, detach, keep;
	char **env;
	int env_count;
};
void options_parse(struct options *options, int argc, char **argv);
/* Another command on the same container with our global options: `runtime` GLOBAL… `command` WORD… */
char **options_for(const struct options *options, const char *runtime, const char *command, const char *const *words);
/* The options of the `create` that a `run` begins with; `console` is a console socket to add, or NULL. */
struct options options_run_to_create(const struct options *options, const char *console);

/* ---- shim_paths.c ---- */

const char *run_directory(void);
/* The directory of a container's record; fails for an id that could lead out of it. */
const char *container_directory(const char *id);
/* Of this container, or, for an id that is not ours or NULL, the default one. Absolute; NULL with *why. */
const char *find_runtime(const char *id, const char **why);
const char *runtime_of(const char *id);
/* This program's. */
char *own_path(void);
/* `interceptor`, beside this program or in PATH; NULL when there is none. */
const char *find_interceptor(void);
char *absolute(const char *path);
/* The whole file, NUL-terminated; NULL with errno. */
char *read_file(const char *path, size_t *length);
/* mkdir -p; fails with the reason. */
void make_directory(const char *path, mode_t mode);

/* ---- shim_control.c: the supervisor ---- */

struct control {
	int fd;
	struct json reply; /* the last one, in memory of its own */
};
/* Opens a request: {"v":1,"op":…; close it with text_adds(message, "}"). */
void request_open(struct text *message, const char *operation);
/* Connects and asks; starts a supervisor where none answers, and again where one ended before it answered. `pass` is an
 * fd to send along, or -1. Fails with the reason.
 */
void control_ask(struct control *control, const struct text *message, int pass);
/* The connection has ended: says `message` to the next supervisor, which the keeper starts. Whether that agrees. */
bool control_again(struct control *control, const struct text *message);
/* A further message on the same connection: NULL when the answer is ok, else what is wrong. A supervisor that ends before
 * it answers is followed by one that is first told `resume`, then the message.
 */
const char *control_call_again(struct control *control, const struct text *message, const struct text *resume);
/* One message, whole; `pass` is an fd to send along, or -1. */
bool send_message(int fd, const struct text *message, int pass);
/* The size of one message, and in `passed` the fd that came along, or -1; else as recvmsg(2). */
ssize_t receive_message(int fd, char *data, size_t room, int *passed);
/* Of what an engine or a service manager says to the process that it started, and to no child of it. */
void clean_environment(void);
void reset_signals(void);
/* Whether a supervisor listens now. */
bool supervisor_runs(void);
/* Starts one if none does; fails with the reason. */
void supervisor_ensure(void);

/* ---- shim_process.c: processes, time namespaces, /dev/null ---- */

/* Replaces this process; fails if it cannot. */
_Noreturn void become(char *const *argv);
/* A new time namespace for our children whose clocks start at zero (time_namespaces(7)). An fd of the one that they would
 * have had, for time_namespace_restore(); -1 where the kernel has no time namespaces.
 */
int time_namespace_new(void);
void time_namespace_restore(int fd);
/* Enters the time namespace of a process, if that process and its namespace exist. */
void time_namespace_join(pid_t pid);
/* Waits, for some seconds at most, until a container's init has executed its program: see shim_process.c. */
void await_program(pid_t init);
/* What is remembered so that later commands enter the same time namespace: see shim_process.c. */
void time_namespace_remember(const char *id, pid_t pid);
void time_namespace_of(const char *id);
bool stdio_has_null(void);
/* Puts a null device of our own where stdio is the host's: crun chowns what it gets to the container's root. */
void stdio_replace_null(void);
/* To be called first: the signal mask that children get, whatever we block for ourselves. */
void remember_signal_mask(void);
/* Of the oom_score_adj that a container gets: how low its processes may set theirs, and what they begin with. */
struct oom_score {
	bool given;
	long floor, value;
};
/* Takes that for this process, for whatever it becomes and starts; false with errno. A floor that we may not lend
 * (no CAP_SYS_RESOURCE) stays where it is.
 */
bool oom_score_take(const struct oom_score *score);
/* System calls that do not exist for a container, because libseccomp does not know them (interceptor/stanza.py, absent()). */
#define ABSENT_MAX 16
struct absent_calls {
	unsigned count, numbers[ABSENT_MAX];
};
/* Makes them ENOSYS for this process and whatever it becomes and starts; false with errno. */
bool absent_install(const struct absent_calls *absent);
/* fork and execv; the child dies with us. `score` and `absent` are the child's, or NULL. */
pid_t launch(char *const *argv, const struct oom_score *score, const struct absent_calls *absent);
/* 0 … 255, or 128 + the signal that ended it. */
int exit_status(int wait_status);
/* Its exit status; it runs on the clock of container `clock_of`, unless that is NULL. */
int run_and_wait(char *const *argv, const char *clock_of);
/* The same with stdio on /dev/null, for questions. */
int run_silently(char *const *argv);
/* A process's pid as its pid file says, or -1. */
pid_t read_pid_file(const char *path);

/* ---- shim_ps.c ---- */

/* Prints the container's processes as `ps` does; false, and nothing printed, when the cgroup is not known or gone. */
bool list_processes(const struct options *options);

/* ---- shim_create.c, shim_run.c ---- */

struct created {
	const char *runtime; /* absolute path */
	pid_t pid;           /* of init, or -1 when the runtime did not say */
};
/* 0 and a container that the supervisor knows, or the runtime's exit status. Fails for faults of ours. */
int create(const struct options *options, struct created *created);
int delete_container(const struct options *options);
_Noreturn void exec_in_container(const struct options *options);
int run(const struct options *options);

#endif
