/* The OCI runtime command line, as far as it must be understood in order to pass it on.
 *
 * Source: runc's main.go and *.go commands (urfave/cli over Go's flag package: -option and --option are the same, a value
 * follows after a space or a "=", arguments and options may be mixed except in `exec` and `ps`), crun's src/ *.c (argp).
 * An option that is not in the table is passed on as one that takes no value: the runtime says what it thinks of it.
 */
#include <stdlib.h>
#include <string.h>

#include "shim.h"

/* One option of one or several commands. */
struct option {
	const char *commands; /* space-separated, or "" for those before the command */
	const char *name;
	char letter;
	bool takes_value;
};

static const struct option OPTIONS[] = {
	{"", "debug", 0, false},
	{"", "log", 0, true},
	{"", "log-format", 0, true},
	{"", "root", 0, true},
	{"", "criu", 0, true},
	{"", "rootless", 0, true},
	{"", "systemd-cgroup", 0, false},
	{"", "cgroup-manager", 0, true}, /* crun */
	{"", "help", 'h', false},
	{"", "version", 'v', false},
	{"create run", "bundle", 'b', true},
	{"create run", "config", 'f', true}, /* crun */
	{"create run exec", "console-socket", 0, true},
	{"create run exec", "pid-file", 0, true},
	{"create run exec", "preserve-fds", 0, true},
	{"create run", "no-pivot", 0, false},
	{"create run", "no-new-keyring", 0, false},
	{"create run", "no-subreaper", 0, false},
	{"run exec", "detach", 'd', false},
	{"run", "keep", 0, false},
	{"run", "sync-fd", 0, true}, /* ours: shim_run.c */
	{"delete", "force", 'f', false},
	{"exec", "process", 'p', true},
	{"exec", "cwd", 0, true},
	{"exec", "env", 'e', true},
	{"exec", "tty", 't', false},
	{"exec", "user", 'u', true},
	{"exec", "additional-gids", 'g', true},
	{"exec", "process-label", 0, true},
	{"exec", "apparmor", 0, true},
	{"exec", "no-new-privs", 0, false},
	{"exec", "cap", 'c', true},
	{"exec", "cgroup", 0, true},
	{"exec", "ignore-paused", 0, false},
	{"events", "interval", 0, true},
	{"ps list", "format", 'f', true},
	{"update", "resources", 'r', true},
	{"update", "blkio-weight", 0, true},
	{"update", "cpu-period", 0, true},
	{"update", "cpu-quota", 0, true},
	{"update", "cpu-burst", 0, true},
	{"update", "cpu-share", 0, true},
	{"update", "cpu-rt-period", 0, true},
	{"update", "cpu-rt-runtime", 0, true},
	{"update", "cpu-idle", 0, true},
	{"update", "cpuset-cpus", 0, true},
	{"update", "cpuset-mems", 0, true},
	{"update", "kernel-memory", 0, true},
	{"update", "kernel-memory-tcp", 0, true},
	{"update", "memory", 0, true},
	{"update", "memory-reservation", 0, true},
	{"update", "memory-swap", 0, true},
	{"update", "pids-limit", 0, true},
	{"update", "l3-cache-schema", 0, true},
	{"update", "mem-bw-schema", 0, true},
};

/* One word of the command line, or two: an option with its value, or an argument. */
struct word {
	const struct option *option; /* NULL for an argument, and for an option that is not in the table */
	bool is_option;
	const char *value;
	int next; /* index after it */
};

static bool belongs_to(const struct option *option, const char *command)
{
	size_t length = strlen(command);
	if (!*option->commands || !length)
		return !*option->commands && !length;
	for (const char *at = option->commands; (at = strstr(at, command)); at += length)
		if ((at == option->commands || at[-1] == ' ') && (at[length] == ' ' || !at[length]))
			return true;
	return false;
}

static const struct option *find_option(const char *command, const char *name, size_t length, bool by_letter)
{
	for (size_t i = 0; i < sizeof OPTIONS / sizeof *OPTIONS; i++) {
		const struct option *option = &OPTIONS[i];
		if (!belongs_to(option, command))
			continue;
		if (by_letter ? option->letter == *name : strlen(option->name) == length && memcmp(option->name, name, length) == 0)
			return option;
	}
	return NULL;
}

/* The word at `at`. `command` is "" for what stands before the command. */
static struct word read_word(const struct options *options, const char *command, int at)
{
	const char *argument = options->argv[at];
	struct word word = {.next = at + 1, .value = argument};
	if (argument[0] != '-' || !argument[1])
		return word;
	word.is_option = true;
	const char *name = argument + (argument[1] == '-' ? 2 : 1);
	size_t length = strcspn(name, "=");
	const char *attached = name[length] ? name + length + 1 : NULL;
	word.option = find_option(command, name, length, false);
	if (!word.option && argument[1] != '-' && (word.option = find_option(command, name, 1, true)) && length > 1)
		attached = name + 1; /* -bDIR */
	if (!word.option)
		return word;
	word.value = attached;
	if (word.option->takes_value && !attached) {
		if (at + 1 >= options->argc)
			fail("option %s needs a value", argument);
		word.value = options->argv[at + 1];
		word.next = at + 2;
	}
	return word;
}

/* Whether the option is set: strconv.ParseBool's words for false count as not. */
static bool is_set(const struct word *word)
{
	static const char *const no[] = {"0", "f", "F", "false", "FALSE", "False"};
	for (size_t i = 0; word->value && i < sizeof no / sizeof *no; i++)
		if (strcmp(word->value, no[i]) == 0)
			return false;
	return true;
}

static void set_log_format(const char *value)
{
	report.json = strcmp(value, "json") == 0;
	if (!report.json && strcmp(value, "text") != 0)
		fail("--log-format %s: it is text or json", value);
}

static void take_global(struct options *options, const struct word *word, const char *argument)
{
	if (!word->option)
		fail("unknown option %s; options of a command come after the command", argument);
	const char *name = word->option->name;
	if (strcmp(name, "log") == 0)
		report.log = strncmp(word->value, "file:", 5) == 0 ? word->value + 5 : word->value; /* file: is crun's */
	else if (strcmp(name, "log-format") == 0)
		set_log_format(word->value);
	else if (strcmp(name, "version") == 0)
		options->version = is_set(word);
	else if (strcmp(name, "help") == 0)
		options->help = is_set(word);
}

static void take_value(struct options *options, const char *name, const char *value)
{
	if (strcmp(name, "bundle") == 0)
		options->bundle = value;
	else if (strcmp(name, "pid-file") == 0)
		options->pid_file = value;
	else if (strcmp(name, "console-socket") == 0)
		options->console_socket = value;
	else if (strcmp(name, "process") == 0)
		options->process = value;
	else if (strcmp(name, "sync-fd") == 0)
		options->sync_fd = value;
	else if (strcmp(name, "format") == 0)
		options->format = value;
	else if (strcmp(name, "config") == 0)
		fail("--config %s: the configuration is the bundle's config.json", value);
	else if (strcmp(name, "env") == 0)
		options->env[options->env_count++] = (char *)value;
}

static void take_option(struct options *options, const struct word *word)
{
	const char *name = word->option->name;
	if (word->option->takes_value)
		take_value(options, name, word->value);
	else if (strcmp(name, "force") == 0)
		options->force = is_set(word);
	else if (strcmp(name, "detach") == 0)
		options->detach = is_set(word);
	else if (strcmp(name, "keep") == 0)
		options->keep = is_set(word);
}

static void parse_command(struct options *options, int at)
{
	bool only_arguments = false;
	while (at < options->argc) {
		if (!only_arguments && strcmp(options->argv[at], "--") == 0) {
			only_arguments = true;
			at++;
			continue;
		}
		struct word word = only_arguments ? (struct word){.value = options->argv[at], .next = at + 1} : read_word(options, options->command, at);
		if (word.option)
			take_option(options, &word);
		else if (!word.is_option && !options->id) {
			options->id = word.value;
			options->id_at = at;
		}
		if (options->id && (strcmp(options->command, "exec") == 0 || strcmp(options->command, "ps") == 0))
			return; /* the rest is the command to run, or for ps(1) */
		at = word.next;
	}
}

void options_parse(struct options *options, int argc, char **argv)
{
	int at = 0;
	*options = (struct options){.argc = argc, .argv = argv, .env = allocate(NULL, (size_t)(argc + 1) * sizeof(char *))};
	while (at < argc && argv[at][0] == '-') {
		struct word word = read_word(options, "", at);
		take_global(options, &word, argv[at]);
		at = word.next;
	}
	options->command_at = at;
	if (at == argc)
		return;
	options->command = argv[at];
	report.command = options->command;
	parse_command(options, at + 1);
}

char **options_for(const struct options *options, const char *runtime, const char *command, const char *const *words)
{
	size_t count = 0, at = 0;
	while (words[count])
		count++;
	char **argv = allocate(NULL, ((size_t)options->command_at + count + 3) * sizeof *argv);
	argv[at++] = (char *)runtime;
	for (int i = 0; i < options->command_at; i++)
		argv[at++] = options->argv[i];
	argv[at++] = (char *)command;
	for (size_t i = 0; i <= count; i++)
		argv[at++] = (char *)words[i];
	return argv;
}

/* Options of `run` that `create` has not. */
static bool is_of_run_alone(const struct word *word)
{
	return word->option && (!belongs_to(word->option, "create") || strcmp(word->option->name, "no-subreaper") == 0);
}

struct options options_run_to_create(const struct options *run, const char *console)
{
	struct options create;
	char **argv = allocate(NULL, ((size_t)run->argc + 3) * sizeof *argv);
	int count = 0;
	for (int i = 0; i < run->command_at; i++)
		argv[count++] = run->argv[i];
	argv[count++] = (char *)"create";
	if (console) {
		argv[count++] = (char *)"--console-socket";
		argv[count++] = (char *)console;
	}
	for (int at = run->command_at + 1; at < run->argc;) {
		struct word word = read_word(run, "run", at);
		for (; at < word.next; at++)
			if (!is_of_run_alone(&word))
				argv[count++] = run->argv[at];
	}
	argv[count] = NULL;
	options_parse(&create, count, argv);
	report.command = run->command;
	return create;
}
