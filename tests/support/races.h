/* What races have in common: somebody who changes things while calls are made, and the books of what came of it.
 *
 * A race is made in batches. Each has a stage, a tmpfs of its own over the directory of the race, and ends with a look at every
 * mount that there is; then the stage is taken away with all that was mounted in it, by one unmount.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define BATCH 64

static const char *place; /* the directory of the race */
static long succeeded, mounted, wrong;

static void must(int ok, const char *what)
{
	if (!ok) {
		perror(what);
		exit(1);
	}
}

/* Says what must not be. */
#define expect(ok, ...)                                   \
	do {                                              \
		if (!(ok) && wrong++ < 20)                \
			fprintf(stderr, __VA_ARGS__);     \
	} while (0)

/* -- the books ----------------------------------------------------------------------------------------------------------- */

static struct {
	char key[96];
	long count;
} books[64];

static void count(const char *key)
{
	unsigned i = 0;

	while (i < 63 && *books[i].key && strcmp(books[i].key, key))
		i++;
	snprintf(books[i].key, sizeof books[i].key, "%s", key);
	books[i].count++;
}

static void close_books(long rounds)
{
	printf("calls %ld succeeded %ld mounted %ld wrong %ld", rounds, succeeded, mounted, wrong);
	for (unsigned i = 0; i < 64 && *books[i].key; i++)
		printf(" %s %ld", books[i].key, books[i].count);
	printf("\n");
}

/* -- the stage ----------------------------------------------------------------------------------------------------------- */

/* Another address for each of a batch: a runtime without WAIT_KILLABLE_RECV has the same mount by the same call done once
 * (docs/design.md, section 8). */
static const char *source(long i)
{
	static char names[BATCH][8];

	memcpy(names[i % BATCH], "none", 5);
	return names[i % BATCH];
}

static long elsewhere = -1; /* mounts that are not of the race */

static void look(const char *line)
{
	size_t length = strlen(place);
	char point[256], options[256], type[64], given[256], key[1024];

	must(sscanf(line, "%*d %*d %*s %*s %255s %255s", point, options) == 2, "mountinfo");
	must(sscanf(strstr(line, " - ") + 3, "%63s %*s %255s", type, given) == 2, "mountinfo");
	if (strncmp(point, place, length) || (point[length] && point[length] != '/')) {
		elsewhere--;
		return;
	}
	if (!point[length])
		return; /* the stage */
	mounted++;
	snprintf(key, sizeof key, "%s:%s%s%s", point + length + 1, type, strstr(given, "hidepid") ? ":" : "",
		 strstr(given, "hidepid") ? strstr(given, "hidepid") : "");
	count(key);
	if (strstr(options, "noexec"))
		count("noexec");
}

/* Every mount is in its place, and no other has come or gone. */
static void every_mount(void)
{
	static long before = -1;
	FILE *table = fopen("/proc/self/mountinfo", "re");
	char line[1024];

	must(table != NULL, "mountinfo");
	elsewhere = 0;
	while (fgets(line, sizeof line, table))
		look(line);
	fclose(table);
	if (before < 0)
		before = elsewhere;
	expect(elsewhere == before, "%ld mounts elsewhere, %ld before\n", -elsewhere, -before);
}

static void open_stage(void)
{
	must(mount("stage", place, "tmpfs", 0, "mode=755") == 0, "the stage");
}

static void make_directories(void)
{
	static const char *const directories[] = {"flip", "flip/in", "trap", "trap/in", "jail", "jail/in", "in", "target"};

	must(chdir(place) == 0, place);
	for (unsigned i = 0; i < sizeof directories / sizeof *directories; i++)
		mkdir(directories[i], 0755);
}

static void close_stage(void)
{
	must(chdir("/") == 0, "chdir /");
	must(umount2(place, MNT_DETACH) == 0, "umount of the stage");
}

/* Who changes things and who is looked at are never at work on one processor. */
enum side { CALLER, RACER };
static void stand(enum side side)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(side == CALLER ? 0 : sysconf(_SC_NPROCESSORS_ONLN) - 1, &set);
	sched_setaffinity(0, sizeof set, &set); /* where that is not allowed, the scheduler knows */
}
