/* Where things are: the run directory, containers' records, the runtime underneath, our own other program. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shim.h"

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

static const char *from_environment(const char *name, const char *otherwise)
{
	const char *value = getenv(name);
	return value && *value ? value : otherwise;
}

const char *run_directory(void)
{
	const char *directory = from_environment("INTERCEPTOR_RUN", "/run/interceptor");
	if (*directory != '/')
		fail("INTERCEPTOR_RUN is \"%s\"; it must be an absolute path", directory);
	return directory;
}

const char *container_directory(const char *id)
{
	if (!*id || strchr(id, '/') || strcmp(id, ".") == 0 || strcmp(id, "..") == 0)
		fail("\"%s\" is no container id", id);
	return format("%s/containers/%s", run_directory(), id);
}

char *absolute(const char *path)
{
	char *resolved = realpath(path, NULL);
	if (resolved || *path == '/')
		return resolved ? resolved : format("%s", path);
	char *cwd = getcwd(NULL, 0);
	if (!cwd)
		fail("the current directory cannot be named: %s", strerror(errno));
	return format("%s/%s", cwd, path);
}

char *read_file(const char *path, size_t *length)
{
	struct text text = {0};
	char buffer[4096];
	ssize_t got;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	if (fd < 0)
		return NULL;
	text_adds(&text, "");
	while ((got = read(fd, buffer, sizeof buffer)) > 0)
		text_add(&text, buffer, (size_t)got);
	int error = errno;
	close(fd);
	errno = error;
	if (length)
		*length = text.length;
	return got < 0 ? NULL : text.data;
}

void make_directory(const char *path, mode_t mode)
{
	char *copy = format("%s", path);
	for (char *slash = strchr(copy + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		if (mkdir(copy, 0755) < 0 && errno != EEXIST)
			fail("cannot make the directory %s: %s", copy, strerror(errno));
		*slash = '/';
	}
	if (mkdir(copy, mode) == 0)
		chmod(copy, mode); /* whatever the umask is */
	else if (errno != EEXIST)
		fail("cannot make the directory %s: %s", copy, strerror(errno));
}

static bool is_this_program(const struct stat *found)
{
	struct stat self;
	return stat("/proc/self/exe", &self) == 0 && self.st_dev == found->st_dev && self.st_ino == found->st_ino;
}

static bool is_program(const char *path)
{
	struct stat found;
	return stat(path, &found) == 0 && S_ISREG(found.st_mode) && access(path, X_OK) == 0 && !is_this_program(&found);
}

/* Found in PATH and not this program itself, which may well be installed under the name of runc. */
static char *find_program(const char *name)
{
	for (const char *at = from_environment("PATH", DEFAULT_PATH); at;) {
		size_t length = strcspn(at, ":");
		char *candidate = length ? format("%.*s/%s", (int)length, at, name) : format("./%s", name);
		if (is_program(candidate))
			return absolute(candidate);
		at = at[length] ? at + length + 1 : NULL;
	}
	return NULL;
}

char *own_path(void)
{
	char self[PATH_MAX];
	ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
	if (length < 0)
		fail("/proc/self/exe: %s", strerror(errno));
	return format("%.*s", (int)length, self);
}

const char *find_interceptor(void)
{
	char *self = own_path();
	*strrchr(self, '/') = '\0';
	char *beside = format("%s/interceptor", self);
	if (is_program(beside))
		return beside;
	return find_program("interceptor");
}

/* The value of the top-level key `runtime` of a YAML file, in the plain or quoted one-line form; NULL when there is none.
 * The supervisor reads the same file whole and says what is wrong with it.
 */
static const char *configured_runtime(const char *path)
{
	char *text = read_file(path, NULL);
	for (char *line = text; line && *line;) {
		size_t length = strcspn(line, "\n");
		char *next = line[length] ? line + length + 1 : line + length;
		line[length] = '\0';
		if (strncmp(line, "runtime:", 8) == 0) {
			char *value = line + 8 + strspn(line + 8, " \t");
			char *end = *value == '"' || *value == '\'' ? strchr(value + 1, *value) : value + strcspn(value, " \t\r#");
			value += *value == '"' || *value == '\'';
			if (end)
				*end = '\0';
			return *value ? value : NULL;
		}
		line = next;
	}
	return NULL;
}

static const char *resolve_runtime(const char *name, const char *origin, const char **why)
{
	const char *found = *name == '/' ? (is_program(name) ? name : NULL) : find_program(name);
	if (!found)
		*why = format("%s names the runtime \"%s\", which is %s", origin, name,
			      *name == '/' ? "no executable file" : "no program in PATH");
	return found;
}

static const char *default_runtime(const char **why)
{
	const char *path = from_environment("INTERCEPTOR_CONFIG", "/etc/interceptor/interceptor.yaml");
	const char *name = from_environment("INTERCEPTOR_RUNTIME", NULL);
	if (name)
		return resolve_runtime(name, "INTERCEPTOR_RUNTIME", why);
	if ((name = configured_runtime(path)))
		return resolve_runtime(name, path, why);
	const char *found = find_program("runc");
	if (!found)
		found = find_program("crun");
	if (!found)
		*why = "no OCI runtime: neither runc nor crun is in PATH; install one or set INTERCEPTOR_RUNTIME";
	return found;
}

const char *find_runtime(const char *id, const char **why)
{
	char *recorded = id ? read_file(format("%s/runtime", container_directory(id)), NULL) : NULL;
	if (recorded) {
		recorded[strcspn(recorded, "\n")] = '\0';
		return resolve_runtime(recorded, format("the record of container %s", id), why);
	}
	return default_runtime(why);
}

const char *runtime_of(const char *id)
{
	const char *why = NULL, *runtime = find_runtime(id, &why);
	if (!runtime)
		fail("%s", why);
	return runtime;
}
