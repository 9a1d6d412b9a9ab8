/* Callers that die, or become another program, while their call is decided.
 *
 * deaths exit ROUNDS PLACE: a process is killed at any moment of its call.
 * deaths exec ROUNDS PLACE: one thread calls, another executes a program; now the leader does the one, now the other, so that
 * a thread takes over the number of the one that waits. The program is this one, "after", which finds the memory at the address
 * that an answer was to be written to as a new program must find it.
 *
 * Prints pairs as races does (races.h); "raced" are those that died in a call.
 */
#include "races.h"

#define LONGEST 150000 /* ns after the beginning of a call at which it is interrupted, at the latest: most take less */
#define UNTOUCHED 200  /* us for which the new program watches its memory */

static struct {
	atomic_int calling;
	atomic_long begun, ended;
} *shared;
static volatile struct sysinfo answer; /* where a program that is not position-independent has it each time it is executed */
static char dead[512];
static const char *self;
static long current;

static void call(long number)
{
	int failed;

	shared->begun += number % 3 != 0;
	shared->calling = 1;
	if (number % 3 == 0)
		failed = sysinfo((struct sysinfo *)&answer);
	else
		failed = mount(source(number), dead, number % 3 == 1 ? "proc" : "debugfs", 0, NULL);
	shared->calling = 0;
	shared->ended += number % 3 != 0 && !failed;
}

static void *calls(void *first)
{
	stand(CALLER);
	for (long i = (long)first;; i++)
		call(i);
	return NULL;
}

/* Waits until somebody calls, and then for a part of what a call takes. */
static void aim(long round)
{
	struct timespec from, now;
	long nanoseconds = (round * 7919) % LONGEST;

	stand(RACER);
	while (!shared->calling)
		sched_yield();
	clock_gettime(CLOCK_MONOTONIC, &from);
	do
		clock_gettime(CLOCK_MONOTONIC, &now);
	while ((now.tv_sec - from.tv_sec) * 1000000000 + now.tv_nsec - from.tv_nsec < nanoseconds);
}

static void *executes(void *unused)
{
	aim(current);
	execl(self, "deaths", "after", (char *)NULL);
	_exit(4);
	return unused;
}

static void become_another(long round)
{
	pthread_t thread;

	if (round & 1) {
		must(pthread_create(&thread, NULL, executes, NULL) == 0, "pthread_create");
		calls((void *)round);
	}
	must(pthread_create(&thread, NULL, calls, (void *)round) == 0, "pthread_create");
	executes(NULL);
}

static int is_untouched(void)
{
	for (size_t i = 0; i < sizeof answer; i++)
		if (((volatile char *)&answer)[i])
			return 0;
	return 1;
}

static int after(void)
{
	int untouched = is_untouched();

	usleep(UNTOUCHED);
	return untouched && is_untouched() ? 0 : 3;
}

static int die(long round, int by_exec)
{
	pid_t child;
	int status;

	shared->calling = 0;
	current = round;
	child = fork();
	must(child >= 0, "fork");
	if (child == 0) {
		if (by_exec)
			become_another(round);
		calls((void *)round);
	}
	if (!by_exec) {
		aim(round);
		kill(child, SIGKILL);
	}
	must(waitpid(child, &status, 0) == child, "waitpid");
	if (by_exec)
		expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the new program ended with status %#x\n", status);
	return shared->calling;
}

static void batch(long first, long last, int by_exec, long *raced)
{
	long before = mounted, made;

	shared->begun = shared->ended = 0;
	for (long i = first; i < last; i++)
		*raced += die(i, by_exec);
	every_mount();
	made = mounted - before;
	expect(made >= shared->ended && made <= shared->begun, "%ld mounts of %ld calls that succeeded, %ld that were begun\n", made,
	       (long)shared->ended, (long)shared->begun);
	succeeded += shared->ended;
}

int main(int argc, char **argv)
{
	long rounds, raced = 0;

	if (argc == 2 && !strcmp(argv[1], "after"))
		return after();
	if (argc != 4)
		return 2;
	self = argv[0];
	rounds = atol(argv[2]);
	place = argv[3];
	snprintf(dead, sizeof dead, "%s/target", place);
	shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	must(shared != MAP_FAILED, "mmap");
	every_mount();
	for (long done = 0; done < rounds; done += BATCH) {
		open_stage();
		make_directories();
		batch(done, done + BATCH < rounds ? done + BATCH : rounds, !strcmp(argv[1], "exec"), &raced);
		close_stage();
	}
	printf("raced %ld ", raced);
	close_books(rounds);
	return 0;
}
