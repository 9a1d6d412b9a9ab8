/* pointers ABI: every intercepted call with pointers, lengths and flags as no program should give them, one line each.
 *
 * To be run with and without our filter: the lines must be the same. What a call mounted or named is undone before the next.
 */
#include "pointers.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/utsname.h>

#define TARGET "/mnt"

static void clean_up(int nr64, long result)
{
	if (nr64 == SYS_fsopen && result >= 0)
		close((int)result);
	while (umount2(TARGET, MNT_DETACH) == 0)
		;
}

static void mounts(void)
{
	const word good[6] = {text("source"), text(TARGET), text("proc"), 0, 0, 0xdeadbeef};
	static const struct {
		const char *name;
		word flags;
	} flags[] = {{"none", 0}, {"poison", POISON}, {"bit 26", 1 << 26}, {"bit 31", 1ul << 31}, {"magic", 0xc0ed0000}, {"RDONLY", 1}};
	const char *const values[] = {"source", TARGET, "proc", 0, "hidepid=2"};
	word a[6];

	for (int at = 0; at < 5; at++)
		if (values[at])
			try_pointers("mount", SYS_mount, 21, good, at, values[at]);
	for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
		memcpy(a, good, sizeof a);
		a[3] = flags[i].flags;
		try_call("mount flags", flags[i].name, SYS_mount, 21, a);
	}
	for (int one = 0; one < 5; one++)
		for (int other = one + 1; other < 5; other++) {
			char variant[80];

			if (one == 3 || other == 3)
				continue;
			memcpy(a, good, sizeof a);
			a[one] = at_end('x', 5000, 0);
			a[other] = 1;
			snprintf(variant, sizeof variant, "argument %d too long, %d unreadable", one, other);
			try_call("mount", variant, SYS_mount, 21, a);
			a[one] = 1;
			a[other] = at_end('x', 5000, 0);
			snprintf(variant, sizeof variant, "argument %d too long, %d unreadable", other, one);
			try_call("mount", variant, SYS_mount, 21, a);
		}
}

/* mount(2)'s data is cut at the end of a page: the last option that fits is "gid=5", and "gid=55" would be another. */
static void long_data(void)
{
	word a[6] = {text("source"), text(TARGET), text("proc"), 0, 0, 0};
	char line[4096];
	FILE *file;

	for (size_t commas = 4088; commas < 4093; commas++) {
		char *data = low + 2 * PAGE;

		memset(data, ',', commas);
		strcpy(data + commas, "gid=5555");
		a[4] = (word)data;
		printf("data %zu: %ld", commas, call(SYS_mount, 21, a));
		file = fopen("/proc/self/mountinfo", "r");
		while (file && fgets(line, sizeof line, file))
			if (strstr(line, " " TARGET " "))
				printf(" %s", strstr(line, "gid=") ? strstr(line, "gid=") : "none\n");
		if (file)
			fclose(file);
		clean_up(SYS_mount, 0);
	}
	puts("");
}

static void umounts(void)
{
	const word good[6] = {text("/nothing/there"), 0, 0xdead, 0, 0, 0};
	static const word flags[] = {0, 1, 2, 4, 8, 16, 64, 0x80000000ul, POISON, POISON | 2, 6, 15};
	char variant[80];
	word a[6];

	try_pointers("umount2", SYS_umount2, 52, good, 0, "/nothing/there");
	for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
		for (int there = 0; there < 3; there++) {
			static const char *const target[] = {"/nothing/there", "/data", "/mnt"};

			memcpy(a, good, sizeof a);
			a[0] = text(target[there]);
			a[1] = flags[i];
			if (there == 2 && mount("none", TARGET, "tmpfs", 0, 0))
				perror("tmpfs");
			snprintf(variant, sizeof variant, "%s with %#lx", target[there], flags[i]);
			try_call("umount2", variant, SYS_umount2, 52, a);
		}
}

static void names(const char *name, int nr64, int nr32)
{
	static const word lengths[] = {0, 1, 5, 64, 65, 4096, 0x7fffffff, 0x80000000ul, 0xffffffff, POISON | 5, 1ul << 32};
	const word good[6] = {text("abcde"), 5, 0, 0, 0, 0};
	struct utsname before, after;
	char variant[80];
	word a[6];

	uname(&before);
	memcpy(a, good, sizeof a);
	for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
		word pointers[] = {good[0], 0, 1, at_end('n', 64, 1), at_end('n', 3, 1)};

		for (size_t j = 0; j < sizeof pointers / sizeof *pointers; j++) {
			memset(low + 7 * PAGE, 'n', PAGE);
			a[0] = pointers[j];
			a[1] = lengths[i];
			snprintf(variant, sizeof variant, "pointer %zu length %#lx", j, lengths[i]);
			try_call(name, variant, nr64, nr32, a);
			uname(&after);
			printf("  %.70s %.70s\n", after.nodename, after.domainname);
		}
	}
	sethostname(before.nodename, strlen(before.nodename));
	setdomainname(before.domainname, strlen(before.domainname));
}

static void contexts(void)
{
	const word good[6] = {text("tmpfs"), 0, 0xdead, 0, 0, 0};
	static const word flags[] = {1, 2, 0x80000000ul, POISON, POISON | 1};
	char variant[80];
	word a[6];

	try_pointers("fsopen", SYS_fsopen, 430, good, 0, "tmpfs");
	memcpy(a, good, sizeof a);
	for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
		a[1] = flags[i];
		snprintf(variant, sizeof variant, "flags %#lx", flags[i]);
		try_call("fsopen", variant, SYS_fsopen, 430, a);
	}
}

int main(int argc, char **argv)
{
	begin(argc, argv);
	mounts();
	long_data();
	umounts();
	names("sethostname", SYS_sethostname, 74);
	names("setdomainname", SYS_setdomainname, 121);
	contexts();
	return 0;
}
