/* calls: makes one system call for each line of stdin, in this one thread, and prints what came of it.
 *
 * A line is the number and then six arguments: N a number as strtoull(…, 0) reads it, or s and hexadecimal digits, a string
 * of these bytes. A new descriptor is closed again, unless there is an argument. The answer is a line with the result
 * (negative: -errno).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LINE 65536

static long call(long nr, const unsigned long *a)
{
	long result;
	register unsigned long r10 __asm__("r10") = a[3], r8 __asm__("r8") = a[4], r9 __asm__("r9") = a[5];

	__asm__ volatile("syscall" : "=a"(result) : "a"(nr), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

static unsigned long text(const char *digits, char *to)
{
	char *end = to;
	unsigned byte;

	for (; sscanf(digits, "%2x", &byte) == 1; digits += 2)
		*end++ = (char)byte;
	*end = 0;
	return (unsigned long)to;
}

int main(int argc, char **argv)
{
	static char line[LINE], strings[6][LINE / 2];

	setvbuf(stdout, NULL, _IOLBF, 0);
	while (fgets(line, sizeof line, stdin)) {
		unsigned long args[6] = {0};
		char *word = strtok(line, " \n");
		long nr = word ? strtol(word, NULL, 0) : -1, result;

		for (int i = 0; i < 6 && (word = strtok(NULL, " \n")); i++)
			args[i] = *word == 's' ? text(word + 1, strings[i]) : strtoull(word, NULL, 0);
		result = call(nr, args);
		if (nr == SYS_fsopen && result >= 0 && argc == 1) {
			close((int)result);
			result = 0;
		}
		printf("%ld\n", result);
	}
	return 0;
}
