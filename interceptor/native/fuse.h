/* A FUSE server for small files that are computed when they are read: one directory, one loop for any number of mounts.
 *
 * Two kinds of mount, because "no open" holds for a whole connection:
 *
 * cached    read-only. OPEN is answered ENOSYS, so that open(2) and close(2) never leave the kernel, and reads come from the
 *           page cache. Attributes are valid for a few milliseconds; the first to ask afterwards (read(2) does, with
 *           FUSE_AUTO_INVAL_DATA) has a new snapshot made, and a new modification time drops the old one's pages.
 * direct    open(2) comes here. Of files that may be written (remembered values), so do write(2) and the first read(2) after
 *           open(2). Of files that nobody may write, every read(2) does (FOPEN_DIRECT_IO): they are read whole, see below.
 *
 * No reader is to see a mixture. A snapshot is whole, and its size stays what it was for as long as somebody keeps reading:
 * a text that got shorter, or longer by less than there is room, ends in blanks before its last newline. Otherwise a reader
 * that asks for more at the end would get the end of a longer, newer text. Only a text that outgrows all of that changes the
 * size. Then the old one is shown for a while (DRAIN_NS) to those who have it open, so that they hear that it ends where it
 * did; who opens it meanwhile waits, and gets a new one, whole.
 * The limits of it: who gets no CPU for as long, between the end of a file and the read(2) that says so, is shown what has grown
 * there; a text that is read by several read(2)s, or is longer than a page, may change between two of them, or of its pages.
 *
 * Files that are read whole have none of these. Who opens one goes on, whenever it comes, with the snapshot that it is in the
 * middle of; who reads anywhere but where its last read(2) ended begins with the newest, as with the kernel's own files
 * (fs/seq_file.c, seq_read_iter() and traverse()). That takes three requests, in place of none. sendfile(2) and splice(2) read
 * such a file by pages still (filemap_splice_read()), which all who use them share: what several of them send at the same time
 * may be mixed.
 *
 * Who sends or maps a file that it keeps open asks for no attributes, and no page of it would ever be another. So pages that are as
 * old as what is shown may be are dropped (ic_fuse_sweep()), and who comes then by pages gets the newest text. Of one that outgrows
 * what the kernel knows of its size the end would be missing: the former is sent until somebody asks for attributes. (To put the
 * new one into the cache, FUSE_NOTIFY_STORE, changes the size first: who is just reading would see the old one, and then zeros.)
 *
 * Of an IC_FUSE_WATCHED file, each open file may wait for something, as with the kernel's /proc/pressure: what it wrote decides for
 * what. poll(2) of all files of a direct mount comes here.
 *
 * The peer is the kernel, but nothing that it sends is believed to be well formed: it passes on what hostile programs ask for.
 * Source: fuse(4), linux/fuse.h; Linux fs/fuse/file.c fuse_cache_read_iter(), fs/fuse/inode.c fuse_change_attributes().
 */
#ifndef INTERCEPTOR_FUSE_H
#define INTERCEPTOR_FUSE_H

#include <stddef.h>
#include <stdint.h>

#define IC_FUSE_NAME_MAX 120
#define IC_FUSE_WRITE_MAX 4096
#define IC_FUSE_WATCHED 0x10000  /* of a file's mode: it is read whole, and what is written says what poll(2) is to wait for */
#define IC_FUSE_REQUEST 65536   /* bytes of the largest request that we accept: a write of a few pages and its headers */

/* What the server asks for. Called with the server locked, one at a time; may not call back into it. */
struct ic_fuse_ask {
	/* The content of `node`, at most `size` bytes of it into `buffer`: its whole length, or a negative errno. When that is
	 * more than `size`, it is asked again at once, and must answer the same. */
	int64_t (*content)(uint64_t mount, uint32_t node, char *buffer, uint32_t size);
	/* `size` bytes were written to `node` by thread `tid` (host's number) with file-system id `uid`: 0, or a negative errno, or,
	 * for IC_FUSE_WATCHED, a descriptor, which is taken over: when it has POLLPRI, so has the open file that was written to. */
	int32_t (*written)(uint64_t mount, uint32_t node, const char *data, uint32_t size, uint32_t tid, uint32_t uid);
	/* `fd` is watched for open file `fh`; -1: not any more. Who keeps it can give it to a later server: ic_fuse_watch(). */
	void (*watched)(uint64_t mount, uint32_t node, uint64_t fh, uint64_t kh, int fd);
};

struct ic_fuse_server;

/* NULL and errno. `valid_ns`: how long a snapshot is good. */
struct ic_fuse_server *ic_fuse_server(const struct ic_fuse_ask *ask, uint64_t valid_ns);
void ic_fuse_server_free(struct ic_fuse_server *server);

/* Serves until ic_fuse_stop(); 0, or a negative errno. */
int ic_fuse_serve(struct ic_fuse_server *server);
void ic_fuse_stop(struct ic_fuse_server *server);
/* Beside ic_fuse_serve(), on a thread of its own and until ic_fuse_stop(): drops pages that are as old as what they show may be. 0. */
int ic_fuse_sweep(struct ic_fuse_server *server);
/* Those that are as old now, for who has no such thread. */
void ic_fuse_sweep_once(struct ic_fuse_server *server);

/* Takes over `fd`, an open /dev/fuse that is (or will be) mounted. `mount` names it in the questions. Files belong to
 * `uid` and `gid` (host ids). 0, or a negative errno; then `fd` stays the caller's. */
int ic_fuse_add(struct ic_fuse_server *server, uint64_t mount, int fd, int direct, uint32_t uid, uint32_t gid);
/* The same for one that an earlier server left mounted; `fd` knows it still. Nothing is served before ic_fuse_begin(), so that
 * its files can be told first. */
int ic_fuse_inherit(struct ic_fuse_server *server, uint64_t mount, int fd, int direct, uint32_t uid, uint32_t gid);
/* Serves it from now on, and first what the earlier server had taken and not answered (Linux 6.9: FUSE_NOTIFY_RESEND; before,
 * whoever asked that waits until a signal comes). 0, or a negative errno. */
int ic_fuse_begin(struct ic_fuse_server *server, uint64_t mount);
/* Closes its descriptor; who still has it mounted gets ENOTCONN. */
void ic_fuse_remove(struct ic_fuse_server *server, uint64_t mount);

/* A file of `mount`: `node` is its inode number, from 2 on. 0, or a negative errno. */
int ic_fuse_file(struct ic_fuse_server *server, uint64_t mount, uint32_t node, const char *name, uint32_t mode);

/* `fd` is watched as before, by an open file of an inherited mount; it is taken over. 0, or a negative errno. */
int ic_fuse_watch(struct ic_fuse_server *server, uint64_t mount, uint32_t node, uint64_t fh, uint64_t kh, int fd);

/* Requests answered so far, of all mounts. */
uint64_t ic_fuse_requests(const struct ic_fuse_server *server);

#endif
