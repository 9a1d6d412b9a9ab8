/* interceptor-runc: what each command of the OCI runtime command line becomes.
 *
 *   create exec delete   the supervisor has a part in them: shim_create.c
 *   run                  create, start, wait, delete: shim_run.c
 *   ps                   the container's whole cgroup: shim_ps.c
 *   supervise            starts the supervisor if none runs, for our own programs (client.py)
 *   keep                 holds what must outlive a supervisor, and starts it again: keeper.c
 *   checkpoint restore   refused: a checkpoint would freeze intercepted calls that only the supervisor can answer
 *   all others           go to the runtime underneath as they came
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "keeper.h"
#include "shim.h"

#ifndef INTERCEPTOR_VERSION
#define INTERCEPTOR_VERSION "unknown"
#endif

static const char HELP[] =
	"interceptor-runc " INTERCEPTOR_VERSION ": an OCI runtime for system containers\n"
	"\n"
	"usage: interceptor-runc [GLOBAL OPTION…] COMMAND [OPTION…] [ARGUMENT…]\n"
	"\n"
	"Commands and options are those of runc(8) and crun(1); one of the two does the work underneath, with a\n"
	"configuration that the supervisor has rewritten: a user namespace with ids of its own, and system calls that\n"
	"are intercepted by policy.\n"
	"\n"
	"  create, run, exec, delete     with the supervisor's help, which is started when none runs\n"
	"  ps                            the processes of the container's cgroup and of those below it\n"
	"  start, state, kill, list, pause, resume, update, events, features, spec\n"
	"                                by the runtime underneath (whose list takes containers with a clock of their\n"
	"                                own for stopped: see `interceptor ps`)\n"
	"  checkpoint, restore           are not supported\n"
	"  supervise                     start the supervisor if none runs\n"
	"  keep [--service]              what is started then: runs the supervisor, restarts it, and holds what must outlive it\n"
	"\n"
	"environment:\n"
	"  INTERCEPTOR_RUNTIME  the runtime underneath: a name in PATH or an absolute path (default: the key `runtime`\n"
	"                       of /etc/interceptor/interceptor.yaml, else runc, else crun)\n"
	"  INTERCEPTOR_RUN      the run directory with the supervisor's sockets (default: /run/interceptor)\n"
	"  INTERCEPTOR_CONFIG   the configuration file (default: /etc/interceptor/interceptor.yaml)\n";

/* Go's runtime does the same: an fd opened later must not become somebody's stdio. */
static void open_stdio(void)
{
	for (int fd = 0; fd < 3; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd)
			exit(1);
}

/* Engines read the runtime's own lines, of which the last that says "version" counts (moby, parseRuntimeVersion()). */
static int print_version(void)
{
	const char *why, *runtime = find_runtime(NULL, &why);
	printf("interceptor-runc version %s\n", INTERCEPTOR_VERSION);
	fflush(stdout);
	if (!runtime) {
		complain("%s", why);
		return 0;
	}
	become((char *const[]){(char *)runtime, (char *)"--version", NULL});
}

/* The command as it came, by the runtime that created the container and on the container's clock. */
_Noreturn static void pass_on(const struct options *options)
{
	char **argv = allocate(NULL, ((size_t)options->argc + 2) * sizeof *argv);
	argv[0] = (char *)runtime_of(options->id);
	memcpy(argv + 1, options->argv, ((size_t)options->argc + 1) * sizeof *argv);
	if (options->id)
		time_namespace_of(options->id);
	become(argv);
}

static bool is_one_of(const char *command, const char *const *names)
{
	while (*names)
		if (strcmp(*names++, command) == 0)
			return true;
	return false;
}

static bool has_container(const char *command)
{
	static const char *const names[] = {"start", "state", "kill", "pause", "resume", "ps", "update", "events", NULL};
	return is_one_of(command, names);
}

static int dispatch(struct options *options)
{
	static const char *const unsupported[] = {"checkpoint", "restore", NULL};
	struct created created;
	if (strcmp(options->command, "create") == 0)
		return create(options, &created);
	if (strcmp(options->command, "run") == 0)
		return run(options);
	if (strcmp(options->command, "exec") == 0)
		exec_in_container(options);
	if (strcmp(options->command, "delete") == 0)
		return delete_container(options);
	if (strcmp(options->command, "supervise") == 0) {
		supervisor_ensure();
		return 0;
	}
	if (is_one_of(options->command, unsupported))
		fail("not supported: intercepted calls cannot be frozen and thawed; stop the container and start it again");
	if (strcmp(options->command, "ps") == 0 && list_processes(options))
		return 0;
	if (!has_container(options->command))
		options->id = NULL;
	pass_on(options);
}

int main(int argc, char **argv)
{
	struct options options;
	open_stdio();
	if (argc > 1 && strcmp(argv[1], "keep") == 0)
		return keep_main(argc - 1, argv + 1);
	remember_signal_mask();
	options_parse(&options, argc - 1, argv + 1);
	if (options.version)
		return print_version();
	if (options.help || !options.command) {
		fputs(HELP, options.help ? stdout : stderr);
		return options.help ? 0 : 1;
	}
	return dispatch(&options);
}
