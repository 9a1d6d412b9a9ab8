/* Loaded into a supervisor (LD_PRELOAD): while the file LOSE/files is there, the machine has no free file (ENFILE, which cannot be had
 * for one process alone); while LOSE/clock is, the time of day is another.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define JUMP (20 * 365 * 86400l)

static int lost(const char *what)
{
	const char *directory = getenv("LOSE");
	char path[4096];

	if (!directory)
		return 0;
	snprintf(path, sizeof path, "%s/%s", directory, what);
	return access(path, F_OK) == 0;
}

#define NO_FILE_IF_LOST()                \
	do {                             \
		if (lost("files")) {     \
			errno = ENFILE;  \
			return -1;       \
		}                        \
	} while (0)
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int open(const char *path, int flags, ...)
{
	va_list rest;
	unsigned mode;

	va_start(rest, flags);
	mode = va_arg(rest, unsigned);
	va_end(rest);
	NO_FILE_IF_LOST();
	return REAL(open)(path, flags, mode);
}

int open64(const char *path, int flags, ...) __attribute__((alias("open"))); /* where long has 64 bits it is the same */

int openat(int directory, const char *path, int flags, ...)
{
	va_list rest;
	unsigned mode;

	va_start(rest, flags);
	mode = va_arg(rest, unsigned);
	va_end(rest);
	NO_FILE_IF_LOST();
	return REAL(openat)(directory, path, flags, mode);
}

int accept4(int fd, struct sockaddr *restrict address, socklen_t *restrict size, int flags)
{
	NO_FILE_IF_LOST();
	return REAL(accept4)(fd, address, size, flags);
}

int socketpair(int domain, int type, int protocol, int ends[2])
{
	NO_FILE_IF_LOST();
	return REAL(socketpair)(domain, type, protocol, ends);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	int result = REAL(clock_gettime)(clock, now);

	if (!result && clock == CLOCK_REALTIME && lost("clock"))
		now->tv_sec -= JUMP;
	return result;
}
