/* clock ABI: every call of the clock's family with all kinds of arguments, one line each. The clock stays as it is: to be run
 * in a user namespace. A line that ends in "ok" says what was read back.
 */
#include "pointers.h"

#include <sys/timex.h>

static struct {
	word modes;
	long freq, tick;
} asked;

static void clean_up(int nr64, long result)
{
	(void)nr64;
	(void)result;
}

static size_t size(void)
{
	return abi == 64 ? sizeof(struct timex) : 128;
}

static word fill(char *at)
{
	if (abi == 64) {
		struct timex *wide = (struct timex *)at;

		memset(wide, 0, sizeof *wide);
		wide->modes = (unsigned)asked.modes;
		wide->freq = asked.freq;
		wide->tick = asked.tick;
		wide->maxerror = 123;
	} else {
		int *words = (int *)at;

		memset(words, 0, 128);
		words[0] = (int)asked.modes;
		words[2] = (int)asked.freq;
		words[3] = 123;
		words[11] = (int)asked.tick;
	}
	return (word)at;
}

static void read_back(const char *at)
{
	if (abi == 64) {
		const struct timex *wide = (const struct timex *)at;

		printf("  freq %ld maxerror %ld tick %ld seconds %d\n", wide->freq, wide->maxerror, wide->tick, wide->time.tv_sec != 0);
	} else {
		const int *words = (const int *)at;

		printf("  freq %d maxerror %d tick %d seconds %d\n", words[2], words[3], words[11], words[9] != 0);
	}
}

static void adjust(const char *name, int nr64, int nr32, int at)
{
	static const struct {
		const char *name;
		word modes;
		long freq, tick;
	} kinds[] = {
		{"read", 0, 0, 0},
		{"adjtime read", 0xa001, 0, 0},
		{"adjtime", 0x8001, 0, 0},
		{"adjtime and more", 0x8000, 0, 0},
		{"frequency", 2, 65536, 0},
		{"far too much frequency", 2, 0x7fffffff, 0},
		{"maxerror", 4, 0, 0},
		{"tick", 0x4000, 0, 10001},
		{"wrong tick", 0x4000, 0, 20000},
		{"step", 0x100, 0, 0},
		{"all of timesyncd", 0x2000 | 1 | 0x10 | 0x20 | 4 | 8, 0, 0},
	};
	word a[6] = {0};

	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
		asked.modes = kinds[i].modes;
		asked.freq = kinds[i].freq;
		asked.tick = kinds[i].tick;
		a[at] = fill(low + PAGE);
		try_call(name, kinds[i].name, nr64, nr32, a);
		read_back(low + PAGE);
		a[at] = fill(low + 8 * PAGE - size());
		try_call(name, "ends with the page", nr64, nr32, a);
		memset(low + 6 * PAGE, 0, 2 * PAGE);
		a[at] = fill(low + 7 * PAGE - 8);
		try_call(name, "crosses pages", nr64, nr32, a);
		a[at] = (word)memset(low + 8 * PAGE - size() + 1, 0, size() - 1);
		*(int *)a[at] = (int)asked.modes;
		try_call(name, "a byte too far", nr64, nr32, a);
		if (abi == 32) {
			a[at] = fill(low + PAGE) | POISON;
			try_call(name, "poisoned upper half", nr64, nr32, a);
		}
	}
	static const word bad[] = {0, 1, 0x1000, 0xffffffff81000000ul, 0x7fffffffffff0000ul};

	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		a[at] = abi == 64 ? bad[i] : bad[i] & 0xffffffff;
		try_call(name, "bad pointer", nr64, nr32, a);
	}
}

static void of_clocks(void)
{
	static const word clocks[] = {1, 2, 7, 11, 99, POISON | 1, 0xffffffff, 0x80000000ul};
	word a[6] = {0};

	asked.modes = 2;
	for (size_t i = 0; i < sizeof clocks / sizeof *clocks; i++) {
		a[0] = clocks[i];
		a[1] = fill(low + PAGE);
		try_call("clock_adjtime", "of another clock", SYS_clock_adjtime, 343, a);
	}
	a[0] = POISON;
	try_call("clock_adjtime", "poisoned clock", SYS_clock_adjtime, 343, a);
}

static void set(void)
{
	word a[6] = {0};

	memset(low + PAGE, 0, 64);
	a[1] = (word)(low + PAGE);
	try_call("clock_settime", "good", SYS_clock_settime, 264, a);
	a[1] = 1;
	try_call("clock_settime", "bad pointer", SYS_clock_settime, 264, a);
	a[0] = 1;
	try_call("clock_settime", "another clock", SYS_clock_settime, 264, a);
	a[0] = (word)(low + PAGE);
	a[1] = 0;
	try_call("settimeofday", "good", SYS_settimeofday, 79, a);
	a[0] = 1;
	try_call("settimeofday", "bad pointer", SYS_settimeofday, 79, a);
}

int main(int argc, char **argv)
{
	begin(argc, argv);
	adjust("adjtimex", SYS_adjtimex, 124, 0);
	adjust("clock_adjtime", SYS_clock_adjtime, 343, 1);
	of_clocks();
	set();
	return 0;
}
