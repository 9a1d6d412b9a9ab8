/* random_calls CALLS[@RATE] SEED [/FILE] CALL…: so many system calls (RATE a second) with random arguments, each one of the
 * given CALLs: a number, with an i before it as a 32-bit task makes it. Behind it may stand, in hexadecimal, :REGISTER,MASK,VALUE
 * (mostly one of these is given to a register) and +REGISTER,MASK,VALUE (each of these, every other time): what is behind a
 * filter or a magic number is never met by chance. Pointers lead to strings, to structures, to random bytes, to the end of
 * a page, to nowhere; a second thread writes to what they lead to. Workers make a few hundred each, some in namespaces of their
 * own, and are replaced when a call ends or holds them.
 *
 * Prints how many calls were made, succeeded, were refused, and were answered with EIO. Ends before them where a call has left no
 * limits to go on with. In FILE, which must be there and have a page, the same four stand as uint64_t all the time.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORKERS 4
#define BATCH 400
#define PATIENCE 20      /* seconds for a batch: agents have deadlines of their own */
#define POOR 3           /* a worker's status that was left too little memory to begin with */
#define ARENA 0x20000000ul /* where 32-bit calls reach it */
#define PAGES 16
#define PAGE 4096ul

static const char *const words[] = {
	"proc", "sysfs", "tmpfs", "overlay", "debugfs", "tracefs", "securityfs", "devpts", "cgroup2", "bpf", "ext4", "nfs", "fuse", "none",
	"/", ".", "..", "", "/proc", "/proc/self/fd/0", "/proc/self/ns/mnt", "/proc/self/cwd", "/proc/1/root", "/sys", "/dev/null", "/dev/sda",
	"/tmp", "/tmp/a", "/tmp/a/b/../../a", "/mnt", "/mnt/x", "/data", "/etc", "/nowhere", "//tmp//", "self/fd/3", "/tmp/a/",
	"/dev/loop0", "/dev/loop1", "/tmp/f", "squashfs", "ext3", "pstore", "127.0.0.1:/none", "addr=127.0.0.1", "hidepid=2",
	"lowerdir=/tmp:/mnt,upperdir=/tmp/a,workdir=/tmp/b", "size=1m,mode=755", "uid=0", "trusted.overlay.opaque", "trusted.", "user.x",
	"security.capability", "lowerdir+", "source", "web-1", "a\nb\\012", "\xff\xfe", "%s%n",
};

/* Structures as calls take them, or nearly. */
static const uint64_t structures[][8] = {
	{1},                                              /* sched_param; timespec of the past */
	{1024, 4096}, {~0ul, ~0ul}, {64 | 64ul << 32},    /* rlimit, and of 32 bits */
	{48, 0, 3},                                       /* sched_attr: SCHED_OTHER, nice 3 */
	{48, 0, (uint64_t)-9 << 32},
	{48 | 1ul << 32, 0, 1ul << 32},                   /* SCHED_FIFO, priority 1 */
	{ARENA + 64, 8},                                  /* xattr_args */
	{1, 0, 0, 0},                                     /* mount_attr: MOUNT_ATTR_RDONLY */
	{15 | 2ul << 32, ARENA + 512, ARENA + 8},         /* bpf_attr: a device program of two instructions */
	{0xb7 | 1ul << 32, 0x95},                         /* the two: r0 = 1, exit */
	{3 | 4ul << 32, 6},                               /* bpf_attr: attach 4 to 3 as device program */
	{0x8000, 1, 0, 0}, {1, 100},                      /* timex */
	{0x10102464c457ful},                              /* the beginning of an ELF file */
};

static struct shared {
	uint64_t calls, succeeded, refused, eio;
} *shared;

struct part {
	int at;
	uint64_t mask, value;
};
static struct kind {
	long number;
	int foreign; /* of the 32-bit table */
	int either_count, also_count;
	struct part either[24], also[8];
} kinds[256];
static int count;
static unsigned pause_us; /* of a worker between its calls */
static __thread uint64_t state;

static uint64_t any(void)
{
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return state * 0x2545f4914f6cdd1dull;
}

/* Something that is there, or nearly. */
static uint64_t pointer(void)
{
	char *at = (char *)ARENA + any() % (PAGES * PAGE);

	switch (any() % 14) {
	case 12:
	case 13: {
		const uint64_t *structure = structures[any() % (sizeof structures / sizeof *structures)];

		at = any() % 4 ? (char *)ARENA + any() % (PAGES * PAGE - sizeof *structures) / 8 * 8 : (char *)ARENA + 512;
		memcpy(at, structure, sizeof *structures);
		return (uint64_t)at;
	}
	case 0:
		return 0;
	case 1:
		return ARENA + PAGES * PAGE;              /* nothing is there */
	case 2:
		return any();
	case 3:
		return ~0ul - any() % 8192;               /* the kernel's */
	case 4:
		return ARENA + PAGES * PAGE - any() % 16; /* the very end */
	case 5:
		return (uint64_t)at;                      /* whatever lies there */
	default: {
		const char *word = words[any() % (sizeof words / sizeof *words)];
		size_t size = strlen(word) + 1;

		if (at + size > (char *)ARENA + PAGES * PAGE)
			at -= size;
		memcpy(at, word, size);
		return (uint64_t)at;
	}
	}
}

static uint64_t argument(void)
{
	switch (any() % 8) {
	case 0:
		return any() % 8;
	case 1:
		return any() % 64;
	case 2:
		return 1ull << any() % 34;
	case 3:
		return any() % 3 ? (uint64_t)-1 - any() % 3 : (uint64_t)-100; /* AT_FDCWD */
	case 4:
		return any() & 0xffffff;
	default:
		return pointer();
	}
}

static long call(long number, int is_foreign, const uint64_t *a)
{
	long result;

	if (is_foreign) {
		__asm__ volatile("push %%rbp\n mov %[f], %%rbp\n int $0x80\n pop %%rbp"
				 : "=a"(result) : "0"(number), "b"(a[0]), "c"(a[1]), "d"(a[2]), "S"(a[3]), "D"(a[4]), [f] "r"(a[5])
				 : "memory", "r8", "r9", "r10", "r11");
		return (int)result;
	}
	register uint64_t r10 __asm__("r10") = a[3], r8 __asm__("r8") = a[4], r9 __asm__("r9") = a[5];
	__asm__ volatile("syscall" : "=a"(result) : "0"(number), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

static void apply(uint64_t *a, const struct part *part)
{
	a[part->at] = (a[part->at] & ~part->mask) | part->value;
}

static void choose(const struct kind *kind, uint64_t *a)
{
	for (int i = 0; i < 6; i++)
		a[i] = argument();
	if (kind->either_count && any() % 8)
		apply(a, &kind->either[any() % (uint64_t)kind->either_count]);
	for (int i = 0; i < kind->also_count; i++)
		if (any() % 2)
			apply(a, &kind->also[i]);
}

static void *scribble(void *seed)
{
	useconds_t pause;

	state = (uint64_t)seed | 1;
	pause = any() % 4 ? 1000 : 50; /* so that most strings last for a call, and some do not */
	for (;;) {
		for (int i = 0; i < 64; i++)
			*(volatile char *)(ARENA + any() % (PAGES * PAGE)) = (char)any();
		usleep(pause);
	}
	return NULL;
}

/* For the calls that take descriptors: a directory, a file, a device of ours, one that nobody writes to, a cgroup. */
static void open_some(void)
{
	int ends[2];

	mkdir("/tmp/a", 0755);
	open("/tmp", O_RDONLY | O_DIRECTORY);
	open("/tmp/f", O_RDWR | O_CREAT, 0644);
	open("/dev/loop0", O_RDWR);
	if (any() % 4 == 0)
		pipe(ends);
	open("/sys/fs/cgroup", O_RDONLY | O_DIRECTORY);
	open("/mnt", O_PATH);
}

/* Whom a worker cannot name it takes no limits from: mostly it goes on in a pid namespace of its own, where alarms end nobody. */
static void stand_by(void)
{
	int status = 0;
	pid_t other = fork();

	if (other == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		return;
	}
	while (other > 0 && waitpid(other, &status, 0) < 0 && errno == EINTR)
		;
	_exit(other < 0 ? POOR : WIFEXITED(status) ? WEXITSTATUS(status) : 0);
}

static void work(uint64_t seed, uint64_t left)
{
	pthread_t thread;

	state = seed * 0x9e3779b97f4a7c15ull + 1;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	alarm(PATIENCE);
	if (any() % 8 && unshare(CLONE_NEWPID) == 0)
		stand_by();
	if (any() % 2)
		unshare(CLONE_NEWNS | CLONE_NEWUTS | (any() % 4 ? 0 : CLONE_NEWUSER));
	if (mmap((void *)ARENA, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		_exit(POOR);
	open_some();
	pthread_create(&thread, NULL, scribble, (void *)any());
	for (int i = 0; i < BATCH && left; i++, left--) {
		const struct kind *kind = &kinds[any() % (uint64_t)count];
		uint64_t a[6];
		long result;

		choose(kind, a);
		__atomic_add_fetch(&shared->calls, 1, __ATOMIC_RELAXED);
		if (pause_us)
			usleep(pause_us);
		result = call(kind->number, kind->foreign, a);
		__atomic_add_fetch(result >= 0 ? &shared->succeeded : result == -EIO ? &shared->eio : &shared->refused, 1, __ATOMIC_RELAXED);
		if (result > 2 && result < 1024 && any() % 4)
			close((int)result); /* perhaps a descriptor; some stay for later calls */
	}
	_exit(0);
}

static void read_kind(struct kind *kind, const char *word)
{
	char *rest;

	kind->foreign = *word == 'i';
	kind->number = strtol(word + kind->foreign, &rest, 10);
	while (*rest) {
		struct part *part = *rest == ':' ? &kind->either[kind->either_count++] : &kind->also[kind->also_count++];

		part->at = (int)strtol(rest + 1, &rest, 16);
		part->mask = strtoull(rest + 1, &rest, 16);
		part->value = strtoull(rest + 1, &rest, 16);
		if (part->at < 0 || part->at > 5 || kind->either_count > 23 || kind->also_count > 7 || (*rest && !strchr(":+", *rest))) {
			fprintf(stderr, "random_calls: %s\n", word);
			exit(2);
		}
	}
}

static void *counters(const char *path)
{
	int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	void *found = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | (path ? 0 : MAP_ANONYMOUS), file, 0);

	if (found == MAP_FAILED) {
		perror(path);
		exit(2);
	}
	if (path)
		close(file);
	return found;
}

int main(int argc, char **argv)
{
	char *rest = "";
	uint64_t calls = argc > 1 ? strtoull(argv[1], &rest, 10) : 0, seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;
	pid_t workers[WORKERS];
	int running = 0, poor = 0, first = argc > 3 && argv[3][0] == '/' ? 4 : 3, status;

	for (int i = first; i < argc && count < 256; i++, count++)
		read_kind(&kinds[count], argv[i]);
	if (!count)
		return 2;
	if (*rest == '@')
		pause_us = (unsigned)(1e6 * WORKERS / atof(rest + 1));
	shared = counters(first == 4 ? argv[3] : NULL);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	while ((shared->calls < calls && !poor) || running) {
		pid_t ended;

		if (shared->calls < calls && !poor && running < WORKERS) {
			pid_t worker = fork();

			if (worker == 0)
				work(++seed, calls - shared->calls);
			seed++;
			if (worker > 0)
				workers[running++] = worker;
			poor |= worker < 0;
			continue;
		}
		ended = wait(&status);
		for (int i = 0; i < running; i++) /* others were left to us by workers whom a call had held */
			if (workers[i] == ended) {
				workers[i] = workers[--running];
				poor |= WIFEXITED(status) && WEXITSTATUS(status) == POOR;
			}
	}
	printf("calls %lu succeeded %lu refused %lu eio %lu\n", shared->calls, shared->succeeded, shared->refused, shared->eio);
	return 0;
}
