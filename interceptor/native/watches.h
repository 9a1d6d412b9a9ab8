/* What poll(2) of open files waits for: descriptors that have POLLPRI when it has happened, in the server's epoll. */
#ifndef INTERCEPTOR_WATCHES_H
#define INTERCEPTOR_WATCHES_H

#include <stdint.h>

#define IC_WATCH (1ull << 63)        /* marks their events; the rest is the descriptor */

struct ic_watch {
	uint64_t fh, kh;             /* which open file, and the kernel's name for who waits; 0: nobody has yet */
	uint32_t node;
	int fd, happened, broken;    /* broken: it never will again */
};

/* Those of one mount; all zero before the first. */
struct ic_watches {
	struct ic_watch *all;
	uint32_t count;
};

/* NULL: it waits for nothing. Good until one is added or removed. */
struct ic_watch *ic_watch(const struct ic_watches *watches, uint64_t fh);
/* Takes over `fd`. 0, or a negative errno. */
int32_t ic_watch_add(struct ic_watches *watches, int epoll, uint32_t node, uint64_t fh, uint64_t kh, int fd);
void ic_watch_remove(struct ic_watches *watches, int epoll, struct ic_watch *watch);
/* An event of `fd`: whose it is, or NULL. */
struct ic_watch *ic_watch_happens(const struct ic_watches *watches, int epoll, int fd, uint32_t events);
void ic_watches_free(struct ic_watches *watches, int epoll);

#endif
