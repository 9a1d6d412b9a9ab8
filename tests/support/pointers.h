/* What programs share that make system calls with pointers as no program should give them, one line each: memory whose
 * end is known, and the calls themselves for both ABIs. ABI 64 is the syscall instruction, 32 is int 0x80, which x86-64
 * kernels take from 64-bit programs, too.
 */
#ifndef POINTERS_H
#define POINTERS_H

#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096ul
#define POISON 0xdeadbeef00000000ul

typedef unsigned long word;

static int abi;
static char *low; /* memory below 4 GiB: pages 0 … 7 are mapped, page 8 is not */

static long call(int nr64, int nr32, const word *a)
{
	register word r10 __asm__("r10") = a[3], r8 __asm__("r8") = a[4], r9 __asm__("r9") = a[5];
	long result;

	if (abi == 64) {
		__asm__ volatile("syscall" : "=a"(result) : "a"((long)nr64), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9)
				 : "rcx", "r11", "memory");
		return result;
	}
	__asm__ volatile("int $0x80" : "=a"(result) : "a"((long)nr32), "b"(a[0]), "c"(a[1]), "d"(a[2]), "S"(a[3]), "D"(a[4])
			 : "r8", "r9", "r10", "r11", "memory");
	return (int)result;
}

/* A string at its own place in low memory. */
static word text(const char *string)
{
	static size_t used;
	char *at = low + used;

	strcpy(at, string);
	used += strlen(string) + 1;
	return (word)at;
}

/* `length` times C, and a NUL, so that the NUL is the last byte that is mapped; without the NUL when `open`. */
static word at_end(char c, size_t length, int open)
{
	char *at = low + 8 * PAGE - length - !open;

	memset(at, c, length);
	if (!open)
		at[length] = 0;
	return (word)at;
}

static word at_end_text(const char *string)
{
	size_t size = strlen(string) + 1;

	return (word)memcpy(low + 8 * PAGE - size, string, size);
}

static word crossing(const char *string)
{
	return (word)strcpy(low + 6 * PAGE - strlen(string) / 2, string);
}

static void report(const char *name, const char *variant, long result)
{
	if (result < 0)
		printf("%s %s: %s\n", name, variant, strerrorname_np((int)-result));
	else
		printf("%s %s: ok\n", name, variant);
	fflush(stdout);
}

/* The program's: undoes what a call did, so that the next finds everything as it was. */
static void clean_up(int nr64, long result);

static void try_call(const char *name, const char *variant, int nr64, int nr32, const word *args)
{
	long result = call(nr64, nr32, args);

	report(name, variant, result);
	clean_up(nr64, result);
}

static inline void try_pointers(const char *name, int nr64, int nr32, const word *good, int at, const char *value)
{
	static const struct {
		const char *name;
		word address;
	} bad[] = {{"NULL", 0}, {"1", 1}, {"unmapped", 0x1000}, {"kernel", 0xffffffff81000000ul}, {"no address", 0x7fffffffffff0000ul}};
	word a[6];
	char variant[80];
#define TRY(label, register_value) \
	do { \
		memcpy(a, good, sizeof a); \
		a[at] = (register_value); \
		snprintf(variant, sizeof variant, "argument %d %s", at, label); \
		try_call(name, variant, nr64, nr32, a); \
	} while (0)

	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		if (abi == 64 || bad[i].address < 1ul << 32)
			TRY(bad[i].name, bad[i].address);
	TRY("empty", text(""));
	TRY("ends with the page", at_end_text(value));
	TRY("crosses pages", crossing(value));
	TRY("open at the end", at_end('x', 3, 1));
	TRY("4094 long", at_end('x', 4094, 0));
	TRY("4095 long", at_end('x', 4095, 0));
	TRY("4096 long", at_end('x', 4096, 0));
	TRY("5000 long", at_end('x', 5000, 0));
	TRY("5000 open", at_end('x', 5000, 1));
	TRY("no end", at_end('x', 3 * PAGE, 1));
	if (abi == 32)
		TRY("poisoned upper half", good[at] | POISON);
#undef TRY
}

/* To be called first: the ABI of the command line, and the memory. */
static void begin(int argc, char **argv)
{
	abi = argc > 1 ? atoi(argv[1]) : 64;
	low = mmap(0, 9 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	if (low == MAP_FAILED || munmap(low + 8 * PAGE, PAGE))
		exit(2);
}

#endif
