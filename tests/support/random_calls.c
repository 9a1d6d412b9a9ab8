/* random_calls CALLS[@RATE] SEED NUMBER…: so many system calls (RATE a second) with random arguments, each one of the given numbers
 * (with an i before it: as a 32-bit task makes it). Pointers lead to strings, to structures of random bytes, to the end of a page, to nowhere; a second
 * thread writes to what they lead to. Workers make a few hundred each, some in namespaces of their own, and are replaced
 * when a call ends or holds them.
 *
 * Prints how many calls were made, how many succeeded, and how many were answered with EIO. Ends before them where a call has
 * left no limits to go on with.
 */
#define _GNU_SOURCE
#include <errno.h>
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
	"lowerdir=/tmp:/mnt,upperdir=/tmp/a,workdir=/tmp/b", "size=1m,mode=755", "uid=0", "trusted.overlay.opaque", "trusted.", "user.x",
	"security.capability", "lowerdir+", "source", "web-1", "a\nb\\012", "\xff\xfe", "%s%n",
};

static struct shared {
	uint64_t calls, succeeded, eio, refused;
} *shared;
static long numbers[256];
static char foreign[256]; /* of the 32-bit table */
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

	switch (any() % 12) {
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

static void *scribble(void *seed)
{
	state = (uint64_t)seed | 1;
	for (;;) {
		for (int i = 0; i < 64; i++)
			*(volatile char *)(ARENA + any() % (PAGES * PAGE)) = (char)any();
		usleep(50);
	}
	return NULL;
}

static void work(uint64_t seed, uint64_t left)
{
	pthread_t thread;

	state = seed * 0x9e3779b97f4a7c15ull + 1;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	alarm(PATIENCE);
	if (any() % 2)
		unshare(CLONE_NEWNS | CLONE_NEWUTS | (any() % 4 ? 0 : CLONE_NEWUSER));
	if (mmap((void *)ARENA, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		_exit(POOR);
	pthread_create(&thread, NULL, scribble, (void *)any());
	for (int i = 0; i < BATCH && left; i++, left--) {
		int chosen = (int)(any() % (uint64_t)count);
		uint64_t a[6];
		long result;

		for (int j = 0; j < 6; j++)
			a[j] = argument();
		__atomic_add_fetch(&shared->calls, 1, __ATOMIC_RELAXED);
		if (pause_us)
			usleep(pause_us);
		result = call(numbers[chosen], foreign[chosen], a);
		__atomic_add_fetch(result >= 0 ? &shared->succeeded : result == -EIO ? &shared->eio : &shared->refused, 1, __ATOMIC_RELAXED);
		if (result > 2 && result < 1024 && any() % 4)
			close((int)result); /* perhaps a descriptor; some stay for later calls */
	}
	_exit(0);
}

int main(int argc, char **argv)
{
	char *rest = "";
	uint64_t calls = argc > 1 ? strtoull(argv[1], &rest, 10) : 0, seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;
	int running = 0, poor = 0, status;

	for (int i = 3; i < argc && count < 256; i++, count++) {
		foreign[count] = argv[i][0] == 'i';
		numbers[count] = strtol(argv[i] + foreign[count], NULL, 10);
	}
	if (!count)
		return 2;
	if (*rest == '@')
		pause_us = (unsigned)(1e6 * WORKERS / atof(rest + 1));
	shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	while ((shared->calls < calls && !poor) || running) {
		if (shared->calls < calls && !poor && running < WORKERS) {
			pid_t worker = fork();

			if (worker == 0)
				work(++seed, calls - shared->calls);
			seed++;
			running += worker > 0;
			poor |= worker < 0;
			continue;
		}
		if (wait(&status) > 0) {
			running--;
			poor |= WIFEXITED(status) && WEXITSTATUS(status) == POOR;
		}
	}
	printf("calls %lu succeeded %lu refused %lu eio %lu\n", shared->calls, shared->succeeded, shared->refused, shared->eio);
	return 0;
}
