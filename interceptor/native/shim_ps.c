/* ps: the processes of a container, by its cgroup and all below it.
 *
 * Answered here, not by the runtime underneath: a system container moves its own processes into cgroups that it makes
 * below its own, and crun (to 1.8 at least) looks at its own alone, dereferencing NULL where nothing is left in it.
 * The output is runc's (ps.go): a JSON array of host pids, or those lines of ps(1) whose PID is among them.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shim.h"

struct pids {
	long *at;
	size_t count, capacity;
};

static void add_pid(struct pids *pids, long pid)
{
	if (pids->count == pids->capacity) {
		pids->capacity = pids->capacity * 2 + 64;
		pids->at = allocate(pids->at, pids->capacity * sizeof *pids->at);
	}
	pids->at[pids->count++] = pid;
}

/* The processes in the cgroup at `directory` and below; false when there is no such directory. Below, a cgroup that goes
 * meanwhile has none, and neither has a threaded one (cgroup-v2.rst, "Threads"): its domain lists them.
 */
static bool collect(struct pids *pids, const char *directory)
{
	DIR *entries = opendir(directory);
	if (!entries)
		return false;
	char *text = read_file(format("%s/cgroup.procs", directory), NULL), *end;
	for (char *at = text; at; at = end) {
		long pid = strtol(at, &end, 10);
		if (end == at)
			break;
		if (pid > 0) /* 0: a process that our pid namespace does not know */
			add_pid(pids, pid);
	}
	for (struct dirent *entry; (entry = readdir(entries));)
		if (entry->d_type == DT_DIR && strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			collect(pids, format("%s/%s", directory, entry->d_name));
	closedir(entries);
	return true;
}

static int by_number(const void *left, const void *right)
{
	long a = *(const long *)left, b = *(const long *)right;
	return (a > b) - (a < b);
}

/* In order, and each once: a process that moves while we look may be met twice. */
static void sort(struct pids *pids)
{
	size_t kept = 0;
	if (pids->count)
		qsort(pids->at, pids->count, sizeof *pids->at, by_number);
	for (size_t i = 0; i < pids->count; i++)
		if (!kept || pids->at[kept - 1] != pids->at[i])
			pids->at[kept++] = pids->at[i];
	pids->count = kept;
}

static void print_json(const struct pids *pids)
{
	putchar('[');
	for (size_t i = 0; i < pids->count; i++)
		printf("%s%ld", i ? "," : "", pids->at[i]);
	puts("]");
}

/* ---- the table ---- */

static pid_t launch_ps(char *const *argv, int *output)
{
	int ends[2];
	if (pipe(ends) < 0)
		fail("pipe: %s", strerror(errno));
	pid_t child = fork();
	if (child < 0)
		fail("fork: %s", strerror(errno));
	if (child == 0) {
		dup2(ends[1], STDOUT_FILENO);
		close(ends[0]);
		close(ends[1]);
		execvp(argv[0], argv);
		complain("cannot execute %s: %s", argv[0], strerror(errno));
		_exit(127);
	}
	close(ends[1]);
	*output = ends[0];
	return child;
}

/* Where the word number `number` of a line begins; NULL when there are fewer. */
static const char *word(const char *line, int number)
{
	for (line += strspn(line, " \t"); *line && *line != '\n'; line += strspn(line, " \t")) {
		if (number-- == 0)
			return line;
		line += strcspn(line, " \t\n");
	}
	return NULL;
}

static int column(const char *heading, const char *name)
{
	const char *at;
	size_t length = strlen(name);
	for (int number = 0; (at = word(heading, number)); number++)
		if (strncmp(at, name, length) == 0 && strchr(" \t\n", at[length]))
			return number;
	return -1;
}

static void print_line_of(const struct pids *pids, const char *line, int number)
{
	const char *at = word(line, number);
	long pid = at ? strtol(at, NULL, 10) : 0;
	if (pids->count && bsearch(&pid, pids->at, pids->count, sizeof pid, by_number))
		fputs(line, stdout);
}

static void print_lines(const struct pids *pids, FILE *table)
{
	char *line = NULL;
	size_t size = 0;
	int number = -1;
	if (getline(&line, &size, table) < 0)
		return; /* ps has said why */
	if ((number = column(line, "PID")) < 0)
		fail("the output of ps has no column PID; it is needed to tell which lines are the container's");
	fputs(line, stdout);
	while (getline(&line, &size, table) >= 0)
		print_line_of(pids, line, number);
}

static void print_table(const struct pids *pids, const struct options *options)
{
	char **argv = allocate(NULL, ((size_t)options->argc + 3) * sizeof *argv);
	int count = 0, output, status;
	argv[count++] = (char *)"ps";
	for (int i = options->id_at + 1; i < options->argc; i++)
		argv[count++] = options->argv[i];
	if (count == 1)
		argv[count++] = (char *)"-ef";
	argv[count] = NULL;
	pid_t child = launch_ps(argv, &output);
	FILE *table = fdopen(output, "r");
	if (!table)
		fail("fdopen: %s", strerror(errno));
	print_lines(pids, table);
	fclose(table);
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			fail("waitpid: %s", strerror(errno));
	if (status)
		fail("ps ended with status %d", exit_status(status));
}

bool list_processes(const struct options *options)
{
	struct pids pids = {0};
	const char *wanted = options->format ? options->format : "table";
	char *cgroup = options->id ? read_file(format("%s/cgroup", container_directory(options->id)), NULL) : NULL;
	if (!cgroup)
		return false;
	cgroup[strcspn(cgroup, "\n")] = '\0';
	if (!collect(&pids, cgroup))
		return false;
	sort(&pids);
	if (strcmp(wanted, "json") == 0)
		print_json(&pids);
	else if (strcmp(wanted, "table") == 0)
		print_table(&pids, options);
	else
		fail("--format %s: it is table or json", wanted);
	if (fflush(stdout) != 0 || ferror(stdout))
		fail("cannot write the list: %s", strerror(errno));
	return true;
}
