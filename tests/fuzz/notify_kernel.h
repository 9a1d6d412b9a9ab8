/* The kernel that the receive loop meets while it is fuzzed: its system calls go to notify.c. Included before everything else. */
#ifndef NOTIFY_KERNEL_H
#define NOTIFY_KERNEL_H

#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

int model_ioctl(int fd, unsigned long command, ...);
int model_poll(struct pollfd *fds, nfds_t count, int timeout);
ssize_t model_readv(pid_t tid, const struct iovec *local, unsigned long locals, const struct iovec *remote, unsigned long remotes);
int model_open(int directory, const char *name, int flags);
int model_close(int fd);
ssize_t model_read(int fd, void *to, size_t size);
int model_stat(int fd, const char *name, struct stat *found);
int model_statx(int fd, unsigned mask, struct statx *found);
long model_openat2(int directory, const char *path);
long model_capget(void *data);
ssize_t model_send(int fd, const struct msghdr *message);
ssize_t model_receive(int fd, struct msghdr *message);
int model_clock(struct timespec *now);

static inline int model_bind(const cpu_set_t *set)
{
	return set->__bits[0] ? 0 : -1;
}

static inline long model_call(long number, long a, const void *b)
{
	switch (number) {
	case SYS_capget:
		return model_capget((void *)b);
	case SYS_openat2:
		return model_openat2((int)a, b);
	default:
		return -1;
	}
}

#define ioctl(fd, command, ...) model_ioctl(fd, command, ##__VA_ARGS__, 0)
#define poll(fds, count, timeout) model_poll(fds, count, timeout)
#define process_vm_readv(tid, local, locals, remote, remotes, flags) model_readv(tid, local, locals, remote, remotes)
#define open(name, flags) model_open(AT_FDCWD, name, flags)
#define openat(directory, name, flags) model_open(directory, name, flags)
#define close(fd) model_close(fd)
#define read(fd, to, size) model_read(fd, to, size)
#define fstat(fd, found) model_stat(fd, "", found)
#define fstatat(fd, name, found, flags) model_stat(fd, name, found)
#define statx(fd, name, flags, mask, found) model_statx(fd, mask, found)
#define syscall(number, a, b, ...) model_call(number, (long)(a), (const void *)(uintptr_t)(b))
#define sendmsg(fd, message, flags) model_send(fd, message)
#define recvmsg(fd, message, flags) model_receive(fd, message)
#define clock_gettime(clock, now) model_clock(now)
#define clock_nanosleep(clock, flags, until, rest) 0
#define sched_setaffinity(pid, size, set) model_bind(set)
#define sched_getcpu() 0

#endif
