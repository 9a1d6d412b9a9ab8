#include "watches.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#define WATCHES_MAX 32

struct ic_watch *ic_watch(const struct ic_watches *watches, uint64_t fh)
{
	uint32_t i;

	for (i = 0; fh && i < watches->count; i++)
		if (watches->all[i].fh == fh)
			return &watches->all[i];
	return 0;
}

int32_t ic_watch_add(struct ic_watches *watches, int epoll, uint32_t node, uint64_t fh, uint64_t kh, int fd)
{
	struct epoll_event event = {.events = EPOLLPRI | EPOLLET, .data.u64 = IC_WATCH | (uint32_t)fd};
	int32_t error = 0;

	if (!watches->all)
		watches->all = calloc(WATCHES_MAX, sizeof *watches->all);
	if (!watches->all || !fh || watches->count == WATCHES_MAX)
		error = -ENOMEM;
	else if (ic_watch(watches, fh))
		error = -EBUSY; /* psi_write() */
	else if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event))
		error = -errno;
	if (error)
		close(fd);
	else
		watches->all[watches->count++] = (struct ic_watch){.fh = fh, .kh = kh, .node = node, .fd = fd};
	return error;
}

void ic_watch_remove(struct ic_watches *watches, int epoll, struct ic_watch *watch)
{
	if (!watch->broken)
		epoll_ctl(epoll, EPOLL_CTL_DEL, watch->fd, 0);
	close(watch->fd);
	*watch = watches->all[--watches->count];
}

struct ic_watch *ic_watch_happens(const struct ic_watches *watches, int epoll, int fd, uint32_t events)
{
	uint32_t i;

	for (i = 0; i < watches->count; i++) {
		struct ic_watch *watch = &watches->all[i];

		if (watch->fd != fd || watch->broken)
			continue;
		if (events & EPOLLERR) { /* its cgroup is gone: kernfs_fop_poll() */
			watch->broken = 1;
			epoll_ctl(epoll, EPOLL_CTL_DEL, fd, 0);
		}
		watch->happened = 1;
		return watch;
	}
	return 0;
}

void ic_watches_free(struct ic_watches *watches, int epoll)
{
	while (watches->count)
		ic_watch_remove(watches, epoll, watches->all);
	free(watches->all);
	*watches = (struct ic_watches){0};
}
