/* Snapshots of files' texts, and the open files that are in the middle of one.
 *
 * What is kept for open files is bounded, whatever programs leave open: beyond that, those who are in the middle of the oldest
 * snapshot go on with the newest, and who opens one file more than that has none of its own.
 */
#ifndef INTERCEPTOR_SNAPSHOTS_H
#define INTERCEPTOR_SNAPSHOTS_H

#include <stdint.h>

struct ic_text {
	uint64_t number;             /* later ones have greater numbers */
	uint32_t refs, size;
	int retired;
	char bytes[];
};

/* An open file. */
struct ic_handle {
	uint64_t fh;                 /* 0: it is free */
	struct ic_text *text;        /* what read(2) is in the middle of; NULL: of nothing */
	struct ic_text *pages;       /* what sendfile(2) and its like get */
	uint64_t next;               /* where the last read(2) ended; of a free one: the index of the next free one */
};

/* Those of one mount; all zero, but for `numbers`, before the first. */
struct ic_handles {
	struct ic_handle *all;
	uint32_t count, free, retired;
	uint64_t numbers;            /* the last that was given; a later process must not give it again */
};

/* `size` bytes at `from`, with blanks before the last newline that make it `length` long; the caller's. NULL: no memory. */
struct ic_text *ic_text(struct ic_handles *handles, const char *from, uint32_t size, uint32_t length);
/* It was the caller's, who has a newer one; NULL has no effect. */
void ic_text_retire(struct ic_handles *handles, struct ic_text *text);

/* A number of a new open file; 0 when there are too many. */
uint64_t ic_handle_open(struct ic_handles *handles);
/* NULL: it is unknown. Good until the next one is opened. */
struct ic_handle *ic_handle(const struct ic_handles *handles, uint64_t fh);
/* `place`, one of a handle's, holds `text` from now on; NULL: nothing. */
void ic_handle_hold(struct ic_handles *handles, struct ic_text **place, struct ic_text *text);
void ic_handle_close(struct ic_handles *handles, struct ic_handle *handle);
void ic_handles_free(struct ic_handles *handles);

#endif
