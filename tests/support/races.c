/* Intercepted calls against memory, paths, descriptors, roots that change while they are decided.
 *
 * races MODE ROUNDS PLACE: prints pairs of words and numbers: "raced" are calls during which something changed, "flips" how
 * often it did, "wrong" what must not be; errors by their names; PATH:TYPE, mounts that were found. Run as the container's
 * root. The modes:
 *   type        the filesystem type flips between tmpfs, proc, debugfs and one that is none while mount(2) runs
 *   flags       options of a proc flip between two that are right and one that is not
 *   target      a component of the target flips between a directory and a symbolic link that climbs out of the root
 *   exchange    the same by renameat2(RENAME_EXCHANGE), with an absolute link
 *   root        root and cwd change, of a thread of the same fs_struct
 *   umount      the string of umount2(2) flips between a mount of ours and one that was there from the start
 *   nice        sched_setattr(2): nice value and policy flip between those within a ceiling of -5 and those beyond
 *   limit       prlimit(2): the hard limit of descriptors flips between one within a ceiling of 65536 and one beyond
 *   descriptor  what fsmount(2) is given flips between two contexts, and the target of move_mount(2) as in `exchange`
 *   node        a component of mknod(2)'s path flips as in `exchange`
 *   attribute   setxattr(2): a link flips between a file of the container's and one of somebody else's
 */
#include "races.h"

struct race {
	const char *name;
	void (*flip)(unsigned turn); /* one change */
	int (*act)(long round);      /* the call; 0 or an errno */
	void (*prepare)(void);       /* before each batch, in the directory of the race */
	void (*audit)(void);         /* after it, with nothing changing any more; absent: a look at all mounts */
	int bare;                    /* no stage: what is made are files, or mounts elsewhere */
};

static void count_error(int error)
{
	if (error)
		count(strerrorname_np(error));
	else
		succeeded++;
}

/* -- who changes things -------------------------------------------------------------------------------------------------- */

static atomic_int rest = 1, over;
static atomic_ulong turns;
static sem_t parked, released;

static void *changes(void *flip)
{
	stand(RACER);
	for (unsigned turn = 0;; turn++) {
		if (rest) {
			sem_post(&parked);
			sem_wait(&released);
			if (over)
				return NULL;
		}
		((void (*)(unsigned))flip)(turn);
		turns++;
	}
}

/* On a busy machine who changes things waits for a processor at times. No call is made meanwhile: nothing would be shown. */
static unsigned long await_change(void)
{
	unsigned long before = turns;

	for (int spin = 0; turns == before; spin++)
		if (spin > 10000)
			usleep(50);
	return turns;
}

static void hold(void)
{
	rest = 1;
	sem_wait(&parked);
}

static void go(void)
{
	rest = 0;
	sem_post(&released);
}

/* Eight bytes change at once, as nobody who copies them may hope; each sixteenth time one by one, so that they tear. */
static union {
	char bytes[64];
	_Atomic uint64_t word;
} text, data;

static void put(char *at, const char *string)
{
	for (size_t i = 0; i <= strlen(string); i++)
		((volatile char *)at)[i] = string[i];
}

static void set(_Atomic uint64_t *at, const char *string)
{
	char padded[9] = "";

	strncpy(padded, string, 8);
	uint64_t word;

	memcpy(&word, padded, 8);
	*at = word;
}

static const char *path(const char *below)
{
	static char made[512];

	snprintf(made, sizeof made, "%s/%s", place, below);
	return made;
}

/* -- strings ------------------------------------------------------------------------------------------------------------- */

static void flip_type(unsigned i)
{
	static const char *const types[] = {"tmpfs", "proc", "debugfs", "nosuch"};

	if (i % 16)
		set(&text.word, types[i % 4]);
	else
		put(text.bytes, types[i / 16 % 4]);
}

/* By an absolute path C decides about most, by a relative one Python about all. */
static int act_type(long i)
{
	return mount(source(i), i & 1 ? "target" : path("target"), text.bytes, 0, NULL) ? errno : 0;
}

static void flip_options(unsigned i)
{
	static const char *const options[] = {"hidepid=1", "hidepid=2", "nonsense=1"};

	put(data.bytes, options[i % 3]);
}

static int act_flags(long i)
{
	return mount(source(i), "target", "proc", MS_NOEXEC, data.bytes) ? errno : 0;
}

static void prepare_strings(void)
{
	put(text.bytes, "tmpfs");
	put(data.bytes, "hidepid=1");
}

/* -- paths --------------------------------------------------------------------------------------------------------------- */

#define UP "../../../../../../../../../../../../../../"

static char climbing[512];

static void prepare_target(void)
{
	snprintf(climbing, sizeof climbing, UP "%s/trap", place + 1);
}

static void flip_target(unsigned i)
{
	(void)i;
	rename("flip", "directory");
	must(symlink(climbing, "flip") == 0, "symlink");
	unlink("flip");
	rename("directory", "flip");
}

static void prepare_exchange(void)
{
	must(symlink(path("trap"), "link") == 0 || errno == EEXIST, "symlink");
}

static void flip_exchange(unsigned i)
{
	(void)i;
	must(renameat2(AT_FDCWD, "flip", AT_FDCWD, "link", RENAME_EXCHANGE) == 0, "renameat2");
}

/* A stand-in is mounted by C, a proc by Python. */
static int act_target(long i)
{
	return mount(source(i), path("flip/in"), i & 1 ? "proc" : "debugfs", 0, NULL) ? errno : 0;
}

static int top, here, jail;

static void prepare_root(void)
{
	if (top)
		must(close(here) + close(jail) + close(top) == 0, "close");
	top = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	here = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	jail = open("jail", O_PATH | O_DIRECTORY | O_CLOEXEC);
}

static void flip_root(unsigned i)
{
	(void)i;
	must(fchdir(jail) == 0 && chroot(".") == 0, "into the jail");
	must(fchdir(here) == 0, "out of it, with its root");
	must(fchdir(top) == 0 && chroot(".") == 0, "out of it");
	must(fchdir(here) == 0, "back");
}

static int act_root(long i)
{
	const char *const targets[] = {"in", "/in", path("in")};

	return mount(source(i), targets[i / 2 % 3], i & 1 ? "proc" : "debugfs", 0, NULL) ? errno : 0;
}

/* -- umount2(2) ---------------------------------------------------------------------------------------------------------- */

static long ours;
static struct statx kept;

static void look_at(const char *at, struct statx *found)
{
	must(statx(AT_FDCWD, at, AT_NO_AUTOMOUNT, STATX_MNT_ID, found) == 0, at);
}

static void prepare_umount(void)
{
	if (!kept.stx_mnt_id) {
		look_at("/kept", &kept);
		mkdir("/mine", 0755);
		while (umount2("/mine", MNT_DETACH) == 0)
			; /* what an earlier run left */
	}
	set(&text.word, "/mine");
	for (; ours < BATCH; ours++)
		must(mount(source(ours), "/mine", "tmpfs", 0, NULL) == 0, "mount");
}

static void flip_umount(unsigned i)
{
	set(&text.word, i & 1 ? "/mine" : "/kept");
}

static int act_umount(long i)
{
	struct statx found;
	int error = umount2(text.bytes, MNT_DETACH) ? errno : 0;

	(void)i;
	ours -= !error;
	look_at("/kept", &found);
	expect(found.stx_mnt_id == kept.stx_mnt_id, "/kept is another mount\n");
	return error;
}

static void audit_umount(void)
{
	FILE *table = fopen("/proc/self/mountinfo", "re");
	char line[1024];
	long found = 0;

	must(table != NULL, "mountinfo");
	while (fgets(line, sizeof line, table))
		found += strstr(line, " /mine ") != NULL;
	fclose(table);
	expect(found == ours, "%ld mounts on /mine, not %ld\n", found, ours);
}

/* -- numbers ------------------------------------------------------------------------------------------------------------- */

static volatile struct {
	unsigned size, policy;
	unsigned long flags;
	int nice;
	unsigned priority;
	unsigned long times[3];
} attributes = {.size = 48};
static volatile struct rlimit limit = {0, 1 << 16};

static void flip_numbers(unsigned i)
{
	if (i % 8 == 0)
		sched_yield(); /* to the supervisor's children, which may be started on this processor: each would wait for a slice */
	attributes.nice = i & 1 ? -20 : -5;
	attributes.policy = attributes.priority = i % 3 == 0; /* SCHED_FIFO */
	limit.rlim_max = i & 1 ? 1 << 20 : 1 << 16;
}

static int act_nice(long i)
{
	int error;

	(void)i;
	must(setpriority(PRIO_PROCESS, 0, 0) == 0, "setpriority");
	error = syscall(SYS_sched_setattr, 0, &attributes, 0) ? errno : 0;
	expect(getpriority(PRIO_PROCESS, 0) >= -5, "nice %d\n", getpriority(PRIO_PROCESS, 0));
	expect(sched_getscheduler(0) == SCHED_OTHER, "policy %d\n", sched_getscheduler(0));
	return error;
}

static int act_limit(long i)
{
	const struct rlimit few = {0, 4096};
	struct rlimit found;
	int error;

	(void)i;
	must(setrlimit(RLIMIT_NOFILE, &few) == 0, "setrlimit");
	error = syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, &limit, NULL) ? errno : 0;
	must(getrlimit(RLIMIT_NOFILE, &found) == 0, "getrlimit");
	expect(found.rlim_max <= 1 << 16, "limit %lu\n", (unsigned long)found.rlim_max);
	return error;
}

static void no_audit(void)
{
}

/* -- the new mount API --------------------------------------------------------------------------------------------------- */

#define NUMBER 100

static atomic_int context[2];

static void flip_descriptor(unsigned i)
{
	dup2(context[i & 1], NUMBER);
	flip_exchange(i);
}

static int open_context(const char *type)
{
	int fd = (int)syscall(SYS_fsopen, type, 0);

	must(fd >= 0 && syscall(SYS_fsconfig, fd, 6 /* FSCONFIG_CMD_CREATE */, NULL, NULL, 0) == 0, type);
	return fd;
}

static int act_descriptor(long i)
{
	int old[2] = {context[0], context[1]}, made, error;

	(void)i;
	context[0] = open_context("proc");
	context[1] = open_context("tmpfs");
	await_change(); /* NUMBER is one of them by then */
	await_change();
	for (int j = 0; j < 2; j++)
		close(old[j]);
	made = (int)syscall(SYS_fsmount, NUMBER, 0, 0);
	if (made < 0)
		return errno;
	error = syscall(SYS_move_mount, made, "", AT_FDCWD, "flip/in", 4 /* MOVE_MOUNT_F_EMPTY_PATH */) ? errno : 0;
	close(made);
	return error;
}

static void prepare_descriptor(void)
{
	if (!context[0]) {
		context[0] = open_context("proc");
		context[1] = open_context("tmpfs");
	}
	prepare_exchange();
}

/* -- files --------------------------------------------------------------------------------------------------------------- */

static int act_node(long i)
{
	char name[32];

	snprintf(name, sizeof name, "flip/n%ld", i);
	return mknod(name, S_IFCHR | 0666, makedev(10, 229)) ? errno : 0;
}

/* Counts what was made, and removes it. */
static void audit_nodes(void)
{
	static const char *const directories[] = {"flip", "link", "trap"};
	struct dirent *entry;
	struct stat st;

	for (int i = 0; i < 3; i++) {
		int fd = open(directories[i], O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		DIR *directory = fd < 0 ? NULL : fdopendir(fd);

		if (!directory)
			continue; /* the link */
		while ((entry = readdir(directory)))
			if (*entry->d_name == 'n') {
				must(fstatat(dirfd(directory), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0, entry->d_name);
				expect(S_ISCHR(st.st_mode) && st.st_rdev == makedev(10, 229), "another node\n");
				must(unlinkat(dirfd(directory), entry->d_name, 0) == 0, entry->d_name);
				count(directories[i]);
				mounted++;
			}
		closedir(directory);
	}
}

/* `own` and `theirs` are there already. */
static void prepare_attribute(void)
{
	must(symlink("own", "one") == 0 || errno == EEXIST, "symlink");
	must(symlink("theirs", "other") == 0 || errno == EEXIST, "symlink");
}

static void flip_attribute(unsigned i)
{
	(void)i;
	must(renameat2(AT_FDCWD, "one", AT_FDCWD, "other", RENAME_EXCHANGE) == 0, "renameat2");
}

static int act_attribute(long i)
{
	(void)i;
	return setxattr("one", "trusted.race", "x", 1, 0) ? errno : 0;
}

static void run(const struct race *race, long rounds)
{
	unsigned long raced = 0, flips = 0;
	pthread_t other;

	stand(CALLER);
	sem_init(&parked, 0, 0);
	sem_init(&released, 0, 0);
	if (!race->bare)
		every_mount();
	must(pthread_create(&other, NULL, changes, (void *)race->flip) == 0, "pthread_create");
	sem_wait(&parked);
	for (long done = 0; done < rounds; done += BATCH) {
		if (!race->bare)
			open_stage();
		make_directories();
		if (race->prepare)
			race->prepare();
		go();
		for (long i = done; i < done + BATCH && i < rounds; i++) {
			unsigned long before = await_change();

			count_error(race->act(i));
			raced += turns != before;
			flips += turns - before;
		}
		hold();
		(race->audit ? race->audit : every_mount)();
		if (!race->bare)
			close_stage();
	}
	over = 1;
	sem_post(&released);
	pthread_join(other, NULL);
	printf("raced %lu flips %lu ", raced, flips);
	close_books(rounds);
}

static const struct race all[] = {
	{"type", flip_type, act_type, prepare_strings, NULL, 0},
	{"flags", flip_options, act_flags, prepare_strings, NULL, 0},
	{"target", flip_target, act_target, prepare_target, NULL, 0},
	{"exchange", flip_exchange, act_target, prepare_exchange, NULL, 0},
	{"root", flip_root, act_root, prepare_root, NULL, 0},
	{"umount", flip_umount, act_umount, prepare_umount, audit_umount, 1},
	{"nice", flip_numbers, act_nice, NULL, no_audit, 1},
	{"limit", flip_numbers, act_limit, NULL, no_audit, 1},
	{"descriptor", flip_descriptor, act_descriptor, prepare_descriptor, NULL, 0},
	{"node", flip_exchange, act_node, prepare_exchange, audit_nodes, 1},
	{"attribute", flip_attribute, act_attribute, prepare_attribute, no_audit, 1},
};

int main(int argc, char **argv)
{
	if (argc != 4)
		return 2;
	place = argv[3];
	for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
		if (!strcmp(all[i].name, argv[1])) {
			run(&all[i], atol(argv[2]));
			return 0;
		}
	return 2;
}
