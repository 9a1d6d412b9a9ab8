/* Included before everything else in the file that is tested: its calls of the kernel are the model's. */
#ifndef FUSE_KERNEL_H
#define FUSE_KERNEL_H

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

int k_clock_gettime(clockid_t clock, struct timespec *time);
int k_close(int fd);
int k_epoll_create1(int flags);
int k_epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event);
int k_epoll_wait(int epoll, struct epoll_event *events, int count, int timeout);
int k_eventfd(unsigned value, int flags);
int k_fcntl(int fd, int command, int value);
ssize_t k_read(int fd, void *buffer, size_t size);
ssize_t k_write(int fd, const void *buffer, size_t size);
ssize_t k_writev(int fd, const struct iovec *parts, int count);

#define clock_gettime k_clock_gettime
#define close k_close
#define epoll_create1 k_epoll_create1
#define epoll_ctl k_epoll_ctl
#define epoll_wait k_epoll_wait
#define eventfd k_eventfd
#define fcntl k_fcntl
#define read k_read
#define write k_write
#define writev k_writev

#endif
