#include "fuse.h"

#include "snapshots.h"
#include "watches.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000ull
#define QUIET_NS (SECOND / 4)        /* nobody stands in the middle of a file that nobody asked about for so long */
#define DRAIN_NS (SECOND / 50)       /* how long readers that had begun have for finding the end; see fuse.h */
#define NAMES_VALID_S 3600
#define FIRST_NODE 2u
#define NODES_MAX 65536u
#define BLOCK 65536u                 /* st_blksize: what stdio reads at once */
#define EVENTS 64
#define PAGE 4096u                   /* of the smallest that there are */
#define NOTIFY_RESEND 7              /* linux/fuse.h from 6.9 on: FUSE_NOTIFY_RESEND */
#define OWED_NS (SECOND / 25)        /* how long at most who then read the beginning of a text may come back for its rest */
#define ERRNO_END 512                /* ERESTARTSYS and above are the kernel's own */
#define WAITING_MAX 256              /* reads that may wait for a drain; any more are answered at once */
#define NUMBERS_NS 10000             /* on the average, open files and snapshots are not numbered faster */
#define PAGES_NS (SECOND / 100)      /* how long pages stay of a snapshot that is not good any more */
#define TOGETHER_NS (SECOND / 100)   /* how much longer, so that many are dropped at once */
#define SWEEP 32                     /* how many files' pages are dropped at once */

/* What the page cache may have of a file. */
enum pages {
	PAGES_NONE,
	PAGES_GIVEN,                 /* those of its text */
	PAGES_DROPPED,               /* they were: who reads by pages now has not asked for attributes */
};

struct node {
	uint32_t mode;
	struct ic_text *text;
	uint64_t taken, changed;     /* CLOCK_MONOTONIC of the snapshot, CLOCK_REALTIME of its last change */
	uint64_t asked;              /* when somebody last asked */
	uint64_t drained;            /* until when readers drain; 0: they do not */
	int growing;                 /* it has been longer than at first: leave room */
	enum pages pages;
	uint32_t told;               /* its size, as the kernel knows it */
	struct ic_text *before;      /* the last text that was no longer than that, while `text` is */
	char name[];
};

struct waiting {
	uint64_t unique;
	uint32_t node;
};

struct mount {
	uint64_t name;
	int fd, direct, used;
	uint32_t uid, gid, generation, node_count, waiting_count;
	struct node **nodes;
	struct waiting *waiting;
	struct ic_handles handles;   /* of those that are read whole */
	struct ic_watches watches;
};

/* A file of a mount, which may be gone. */
struct place {
	uint32_t slot, generation, node;
};

struct ic_fuse_server {
	struct ic_fuse_ask ask;
	uint64_t valid, requests;
	int epoll, stop;
	pthread_mutex_t lock;
	pthread_cond_t work, swept;  /* for ic_fuse_sweep(); for who waits for its end of a round */
	int sweeper, sweeping, stopping;
	struct place *given;         /* files with PAGES_GIVEN, each once */
	uint32_t given_count, given_room;
	struct mount *mounts;
	uint32_t mount_count, drains;
	char *scratch;
	uint32_t scratch_size;
	char request[IC_FUSE_REQUEST] __attribute__((aligned(8)));
};

static uint64_t now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

/* ---- answers ---------------------------------------------------------------------------------------------------------- */

static void answer(const struct mount *mount, uint64_t unique, int error, const void *data, size_t size)
{
	struct fuse_out_header header = {.len = (uint32_t)(sizeof header + size), .error = -error, .unique = unique};
	struct iovec parts[2] = {{&header, sizeof header}, {(void *)(uintptr_t)data, size}};
	/* A request whose asker was killed meanwhile is ENOENT: nobody waits for it. */
	ssize_t written = writev(mount->fd, parts, size ? 2 : 1);

	(void)written;
}

/* What the kernel does not take as an errno (fuse_dev_do_write()) would leave the asker waiting. */
static void refuse(const struct mount *mount, const struct fuse_in_header *in, int64_t error)
{
	answer(mount, in->unique, error < 0 || error >= ERRNO_END ? EIO : (int)error, 0, 0);
}

/* ---- files ------------------------------------------------------------------------------------------------------------ */

/* What the two kinds of a direct mount are: see fuse.h. */
static int is_whole(const struct mount *mount, const struct node *node)
{
	return mount->direct && (!(node->mode & 0222) || node->mode & IC_FUSE_WATCHED);
}

static int is_written(const struct mount *mount, const struct node *node)
{
	return mount->direct && !is_whole(mount, node);
}

/* ---- snapshots -------------------------------------------------------------------------------------------------------- */

static struct node *find(const struct mount *mount, uint64_t id)
{
	return id >= FIRST_NODE && id < mount->node_count ? mount->nodes[id] : 0;
}

/* The content into the scratch buffer: its length, or a negative errno. */
static int64_t ask(struct ic_fuse_server *server, const struct mount *mount, uint32_t id)
{
	for (;;) {
		int64_t size = server->ask.content(mount->name, id, server->scratch, server->scratch_size);
		char *larger;

		if (size < 0 || size <= server->scratch_size)
			return size;
		if (size > 1 << 24)
			return -EFBIG;
		larger = realloc(server->scratch, (size_t)size);
		if (!larger)
			return -ENOMEM;
		server->scratch = larger;
		server->scratch_size = (uint32_t)size;
	}
}

/* A text of a page stays one: see fuse.h. */
static uint32_t rounded(uint32_t size)
{
	uint32_t step = size < 256 ? 16 : size < 2048 ? 64 : 512;
	uint32_t length = (size + step / 2 + step - 1) / step * step;

	return size <= PAGE && length > PAGE ? PAGE : length;
}

/* How much is shown of a text of `size` bytes now: see fuse.h. */
static uint32_t shown(struct node *node, uint32_t size, int quiet)
{
	if (!node->text || quiet) {
		node->growing = 0;
		return size;
	}
	if (size <= node->text->size)
		return node->text->size;
	node->growing = 1;
	return rounded(size);
}

/* A modification time that differs from every earlier one. */
static void touch(struct node *node)
{
	uint64_t time = now(CLOCK_REALTIME);

	node->changed = time > node->changed ? time : node->changed + 1;
}

/* What may be read by pages: the end of a text that is longer than the kernel knows would be missing. */
static struct ic_text *announced(const struct node *node)
{
	return node->before ? node->before : node->text;
}

static void tell(struct mount *mount, struct node *node)
{
	node->told = node->text ? node->text->size : 0;
	ic_handle_hold(&mount->handles, &node->before, 0);
}

static void show(struct mount *mount, struct node *node, struct ic_text *text)
{
	if (node->text && node->text->size == text->size && !memcmp(node->text->bytes, text->bytes, text->size)) {
		ic_text_retire(&mount->handles, text);
		return;
	}
	if (node->text && text->size > node->told && !node->before)
		ic_handle_hold(&mount->handles, &node->before, node->text);
	else if (text->size <= node->told)
		ic_handle_hold(&mount->handles, &node->before, 0);
	ic_text_retire(&mount->handles, node->text);
	node->text = text;
	touch(node);
}

/* A new snapshot. When it is longer and somebody might see its end as the rest of the old one, the old one stays, and they
 * drain; with `drained`, they have. 0, or an errno. */
static int renew(struct ic_fuse_server *server, struct mount *mount, uint32_t id, uint64_t time, int quiet, int drained)
{
	struct node *node = mount->nodes[id];
	int64_t size = ask(server, mount, id);
	struct ic_text *text;
	uint32_t length;

	if (size < 0)
		return size > -ERRNO_END ? (int)-size : EIO;
	length = shown(node, (uint32_t)size, quiet);
	if (node->text && length > node->text->size && !quiet && !drained) {
		node->drained = time + DRAIN_NS;
		server->drains++;
		return 0;
	}
	text = ic_text(&mount->handles, server->scratch, (uint32_t)size, length);
	if (!text)
		return ENOMEM;
	node->taken = time;
	show(mount, node, text);
	return 0;
}

/* Makes a snapshot if there is none that is still good. 0, or an errno; what cannot be made anew stays as it was. Who reads
 * `by_pages` has not been told a new size. */
static int refresh(struct ic_fuse_server *server, struct mount *mount, uint32_t id, int by_pages)
{
	struct node *node = mount->nodes[id];
	uint64_t time = now(CLOCK_MONOTONIC);
	int quiet = is_written(mount, node) || (!by_pages && time - node->asked > QUIET_NS), error;

	node->asked = time;
	if (node->drained)
		return 0;
	if (node->text && !is_written(mount, node) && time - node->taken < server->valid)
		return 0;
	error = renew(server, mount, id, time, quiet, mount->direct);
	return node->text ? 0 : error;
}

/* ---- pages ------------------------------------------------------------------------------------------------------------ */

/* The page cache has something of the node's text, or should: ic_fuse_sweep() sees to it that this does not last. */
static void give_pages(struct ic_fuse_server *server, const struct mount *mount, uint32_t id)
{
	struct node *node = mount->nodes[id];

	if (node->pages == PAGES_GIVEN || is_written(mount, node))
		return;
	if (server->given_count == server->given_room) {
		uint32_t room = server->given_room ? server->given_room * 2 : 64;
		struct place *more = realloc(server->given, room * sizeof *more);

		if (!more)
			return;
		server->given = more;
		server->given_room = room;
	}
	server->given[server->given_count++] = (struct place){(uint32_t)(mount - server->mounts), mount->generation, id};
	node->pages = PAGES_GIVEN;
	if (server->given_count == 1)
		pthread_cond_signal(&server->work);
}

/* A file whose pages are to be dropped. */
struct notice {
	int fd;
	uint32_t node;
};

/* Those that are due, at most SWEEP of them; `next` is when more are. */
static uint32_t notices(struct ic_fuse_server *server, struct notice *notice, uint64_t *next)
{
	uint64_t time = now(CLOCK_MONOTONIC);
	uint32_t count = 0, i = 0;

	*next = UINT64_MAX;
	while (i < server->given_count && count < SWEEP) {
		const struct place place = server->given[i];
		const struct mount *mount = &server->mounts[place.slot];
		struct node *node = mount->used && mount->generation == place.generation ? mount->nodes[place.node] : 0;
		uint64_t due = !node ? 0 : node->drained ? node->drained + DRAIN_NS : node->taken + server->valid + PAGES_NS;

		if (due > time) {
			*next = due < *next ? due : *next;
			i++;
			continue;
		}
		if (node) {
			notice[count++] = (struct notice){mount->fd, place.node};
			node->pages = PAGES_DROPPED;
		}
		server->given[i] = server->given[--server->given_count];
	}
	return count;
}

static void notify(const struct notice *notice)
{
	struct fuse_notify_inval_inode_out drop = {.ino = notice->node};
	struct fuse_out_header header = {.len = sizeof header + sizeof drop, .error = FUSE_NOTIFY_INVAL_INODE};
	struct iovec parts[2] = {{&header, sizeof header}, {&drop, sizeof drop}};
	ssize_t written = writev(notice->fd, parts, 2); /* ENOENT: nobody has it open */

	(void)written;
}

/* With the lock, which is free meanwhile. Whether anything was due. */
static int sweep(struct ic_fuse_server *server, uint64_t *next)
{
	struct notice batch[SWEEP];
	uint32_t count = notices(server, batch, next), i;

	if (!count)
		return 0;
	server->sweeping = 1;
	pthread_mutex_unlock(&server->lock);
	for (i = 0; i < count; i++)
		notify(&batch[i]);
	pthread_mutex_lock(&server->lock);
	server->sweeping = 0;
	pthread_cond_broadcast(&server->swept);
	return 1;
}

/* Who keeps a file open and sends or maps it asks for no attributes, and would see the same pages for ever. They cannot be
 * dropped by who serves: that waits for reads which are under way (fuse_reverse_inval_inode()). */
int ic_fuse_sweep(struct ic_fuse_server *server)
{
	uint64_t next;

	pthread_mutex_lock(&server->lock);
	server->sweeper = 1;
	while (!server->stopping) {
		struct timespec until;

		if (sweep(server, &next))
			continue;
		if (next != UINT64_MAX)
			next += TOGETHER_NS;
		until = (struct timespec){(time_t)(next / SECOND), (long)(next % SECOND)};
		if (next == UINT64_MAX)
			pthread_cond_wait(&server->work, &server->lock);
		else
			pthread_cond_timedwait(&server->work, &server->lock, &until);
	}
	server->sweeper = 0;
	pthread_cond_broadcast(&server->swept);
	pthread_mutex_unlock(&server->lock);
	return 0;
}

void ic_fuse_sweep_once(struct ic_fuse_server *server)
{
	uint64_t next;

	pthread_mutex_lock(&server->lock);
	sweep(server, &next);
	pthread_mutex_unlock(&server->lock);
}

/* ---- attributes ------------------------------------------------------------------------------------------------------- */

static void attributes(struct mount *mount, uint32_t id, struct fuse_attr *attr)
{
	struct node *node = find(mount, id);

	memset(attr, 0, sizeof *attr);
	attr->ino = id;
	attr->uid = mount->uid;
	attr->gid = mount->gid;
	attr->blksize = BLOCK;
	attr->nlink = node ? 1 : 2;
	attr->mode = node ? S_IFREG | (node->mode & 0777) : S_IFDIR | 0555;
	if (!node)
		return;
	tell(mount, node);
	attr->size = node->told;
	attr->mtime = attr->ctime = attr->atime = node->changed / SECOND;
	attr->mtimensec = attr->ctimensec = attr->atimensec = (uint32_t)(node->changed % SECOND);
}

/* For how long what `attributes` says may be believed. */
static uint64_t validity(const struct ic_fuse_server *server, const struct mount *mount, const struct node *node)
{
	uint64_t age;

	if (!node)
		return NAMES_VALID_S * SECOND;
	if (is_written(mount, node))
		return 0;
	age = now(CLOCK_MONOTONIC) - node->taken;
	return !node->drained && age < server->valid ? server->valid - age : 0;
}

static void send_attributes(const struct ic_fuse_server *server, struct mount *mount, uint32_t id, uint64_t unique)
{
	uint64_t valid = validity(server, mount, find(mount, id));
	struct fuse_attr_out out = {.attr_valid = valid / SECOND, .attr_valid_nsec = (uint32_t)(valid % SECOND)};

	attributes(mount, id, &out.attr);
	answer(mount, unique, 0, &out, sizeof out);
}

static int wait_for_drain(struct mount *mount, const struct fuse_in_header *in)
{
	if (!mount->waiting)
		mount->waiting = calloc(WAITING_MAX, sizeof *mount->waiting);
	if (!mount->waiting || mount->waiting_count == WAITING_MAX)
		return 0;
	mount->waiting[mount->waiting_count++] = (struct waiting){in->unique, (uint32_t)in->nodeid};
	return 1;
}

static void end_drain(struct ic_fuse_server *server, struct mount *mount, uint32_t id, uint64_t time)
{
	uint32_t i, kept = 0;

	mount->nodes[id]->drained = 0;
	server->drains--;
	renew(server, mount, id, time, 0, 1);
	for (i = 0; i < mount->waiting_count; i++)
		if (mount->waiting[i].node == id)
			send_attributes(server, mount, id, mount->waiting[i].unique);
		else
			mount->waiting[kept++] = mount->waiting[i];
	mount->waiting_count = kept;
}

/* Who asks without an open file (open(2) does, and stat(2)) has not begun to read. */
static void getattr(struct ic_fuse_server *server, struct mount *mount, const struct fuse_in_header *in, int reading)
{
	struct node *node = find(mount, in->nodeid);
	int error;

	if (!node && in->nodeid != FUSE_ROOT_ID) {
		refuse(mount, in, ENOENT);
		return;
	}
	error = node ? refresh(server, mount, (uint32_t)in->nodeid, 0) : 0;
	if (error)
		refuse(mount, in, error);
	else if (!node || !node->drained || reading || !wait_for_drain(mount, in))
		send_attributes(server, mount, (uint32_t)in->nodeid, in->unique);
}

/* Makes no snapshot: what is only looked up (to be mounted somewhere) need not be computed. */
static void lookup(struct mount *mount, const struct fuse_in_header *in, const char *name, size_t size)
{
	struct fuse_entry_out out = {0};
	uint32_t id;

	if (in->nodeid != FUSE_ROOT_ID || !size || name[size - 1]) {
		refuse(mount, in, ENOENT);
		return;
	}
	for (id = FIRST_NODE; id < mount->node_count; id++)
		if (mount->nodes[id] && !strcmp(mount->nodes[id]->name, name))
			break;
	if (id >= mount->node_count) {
		refuse(mount, in, ENOENT);
		return;
	}
	out.nodeid = id;
	out.entry_valid = NAMES_VALID_S;
	attributes(mount, id, &out.attr);
	answer(mount, in->unique, 0, &out, sizeof out);
}

/* ---- reading ---------------------------------------------------------------------------------------------------------- */

static void send_text(const struct mount *mount, const struct fuse_in_header *in, const struct fuse_read_in *read,
		      const struct ic_text *text)
{
	uint32_t rest = text && read->offset < text->size ? text->size - (uint32_t)read->offset : 0;

	answer(mount, in->unique, 0, rest ? text->bytes + read->offset : 0, rest < read->size ? rest : read->size);
}

/* Whether a read goes on where the last one of this open file ended. */
static int goes_on(const struct ic_handle *handle, const struct fuse_read_in *read)
{
	return handle && read->offset && read->offset == handle->next;
}

/* By read(2) and its like. As in seq_read_iter() and traverse() (fs/seq_file.c), who does not go on begins anew. */
static void read_directly(struct mount *mount, const struct fuse_in_header *in, const struct fuse_read_in *read,
			  struct ic_handle *handle, struct ic_text *newest)
{
	struct ic_text *text = goes_on(handle, read) ? handle->text : newest;
	uint64_t end = read->offset + read->size;

	send_text(mount, in, read, text);
	if (!handle || !text) /* at the end of one already */
		return;
	handle->next = end < text->size ? end : text->size;
	ic_handle_hold(&mount->handles, &handle->text, end < text->size ? text : 0);
}

/* By sendfile(2) and its like, through pages. */
static void read_by_pages(struct mount *mount, const struct fuse_in_header *in, const struct fuse_read_in *read,
			  struct ic_handle *handle, struct ic_text *newest)
{
	if (handle && (!read->offset || !handle->pages))
		ic_handle_hold(&mount->handles, &handle->pages, newest);
	send_text(mount, in, read, handle ? handle->pages : newest);
}

/* In a cached mount, what is asked for belongs to a snapshot that the attributes have announced already; but to none when the
 * pages of that were dropped since. */
static int is_announced(const struct mount *mount, const struct node *node, const struct fuse_read_in *read,
			const struct ic_handle *handle)
{
	if (!node->text)
		return 0;
	if (is_whole(mount, node))
		return goes_on(handle, read);
	return node->pages != PAGES_DROPPED || read->offset || node->text->size > PAGE;
}

static void read_file(struct ic_fuse_server *server, struct mount *mount, const struct fuse_in_header *in,
		      const struct fuse_read_in *read)
{
	struct node *node = find(mount, in->nodeid);
	struct ic_handle *handle;
	int error = 0, by_pages;

	if (!node) {
		refuse(mount, in, in->nodeid == FUSE_ROOT_ID ? EISDIR : ENOENT);
		return;
	}
	handle = is_whole(mount, node) ? ic_handle(&mount->handles, read->fh) : 0;
	by_pages = !is_whole(mount, node) || !(read->read_flags & FUSE_READ_LOCKOWNER); /* fuse_direct_io() knows an owner, fuse_readahead() none */
	if (!is_announced(mount, node, read, handle))
		error = refresh(server, mount, (uint32_t)in->nodeid, by_pages && node->pages == PAGES_DROPPED);
	if (error)
		refuse(mount, in, error);
	else if (by_pages)
		read_by_pages(mount, in, read, handle, announced(node));
	else
		read_directly(mount, in, read, handle, node->text);
	if (!error && by_pages)
		give_pages(server, mount, (uint32_t)in->nodeid);
}

/* ---- what poll(2) waits for ------------------------------------------------------------------------------------------- */

/* Who waits polls again, and hears then what has happened. */
static void wake(const struct mount *mount, const struct ic_watch *watch)
{
	struct fuse_notify_poll_wakeup_out who = {watch->kh};
	struct fuse_out_header header = {.len = sizeof header + sizeof who, .error = FUSE_NOTIFY_POLL};
	struct iovec parts[2] = {{&header, sizeof header}, {&who, sizeof who}};
	ssize_t written = watch->kh ? writev(mount->fd, parts, 2) : 0;

	(void)written;
}

static void watch_event(struct ic_fuse_server *server, int fd, uint32_t events)
{
	uint32_t i;

	for (i = 0; i < server->mount_count; i++) {
		const struct ic_watch *watch = ic_watch_happens(&server->mounts[i].watches, server->epoll, fd, events);

		if (watch)
			wake(&server->mounts[i], watch);
	}
}

static int32_t watch(struct ic_fuse_server *server, struct mount *mount, uint32_t node, uint64_t fh, int fd)
{
	int32_t error = ic_watch_add(&mount->watches, server->epoll, node, fh, 0, fd);

	if (!error)
		server->ask.watched(mount->name, node, fh, 0, fd);
	return error;
}

/* As psi_trigger_poll() in kernel/sched/psi.c; of all other files as of those without a poll method. */
static void poll_file(struct ic_fuse_server *server, struct mount *mount, const struct fuse_in_header *in,
		      const struct fuse_poll_in *poll)
{
	struct fuse_poll_out out = {.revents = POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM};
	const struct node *node = find(mount, in->nodeid);
	struct ic_watch *watch = ic_watch(&mount->watches, poll->fh);

	if (!mount->direct) {
		refuse(mount, in, ENOSYS); /* from now on poll(2) does not ask */
		return;
	}
	if (node && node->mode & IC_FUSE_WATCHED && (!watch || watch->broken))
		out.revents |= POLLERR | POLLPRI;
	else if (watch && watch->happened)
		out.revents |= POLLPRI;
	if (watch) {
		watch->happened = 0;
		if (poll->flags & FUSE_POLL_SCHEDULE_NOTIFY && watch->kh != poll->kh) {
			watch->kh = poll->kh;
			server->ask.watched(mount->name, watch->node, watch->fh, watch->kh, watch->fd);
		}
	}
	answer(mount, in->unique, 0, &out, sizeof out);
}

/* ---- writing, opening ------------------------------------------------------------------------------------------------- */

/* A write elsewhere than at the start changes nothing and succeeds, as sysctl_writes_strict has it for numbers
 * (proc_first_pos_non_zero_ignore() in kernel/sysctl.c); what is appended to a file of procfs is written at its start, for
 * its size is 0 there. */
static void write_file(struct ic_fuse_server *server, struct mount *mount, const struct fuse_in_header *in,
		       const struct fuse_write_in *write, size_t size)
{
	const char *data = (const char *)(write + 1);
	struct fuse_write_out out = {.size = write->size};
	struct node *node = find(mount, in->nodeid);
	int32_t error = 0;

	if (!node || !mount->direct || write->size > size) {
		refuse(mount, in, EBADF);
		return;
	}
	if (write->size > IC_FUSE_WRITE_MAX) {
		refuse(mount, in, EINVAL);
		return;
	}
	if (ic_watch(&mount->watches, write->fh))
		error = -EBUSY; /* psi_write() */
	else if (!write->offset || write->flags & O_APPEND)
		error = server->ask.written(mount->name, (uint32_t)in->nodeid, data, write->size, in->pid, in->uid);
	if (error > 0)
		error = watch(server, mount, (uint32_t)in->nodeid, write->fh, error);
	touch(node); /* the kernel has what was written in the page cache: not what it became */
	if (error)
		refuse(mount, in, -(int64_t)error);
	else
		answer(mount, in->unique, 0, &out, sizeof out);
}

/* Truncation is what a shell's ">" does before it writes; owners and modes are the kernel's to give (proc_setattr()). */
static void setattr(struct ic_fuse_server *server, struct mount *mount, const struct fuse_in_header *in,
		    const struct fuse_setattr_in *set)
{
	if (set->valid & (FATTR_MODE | FATTR_UID | FATTR_GID))
		refuse(mount, in, EPERM);
	else
		getattr(server, mount, in, 1);
}

static void open_file(struct mount *mount, const struct fuse_in_header *in)
{
	struct fuse_open_out out = {.open_flags = FOPEN_NOFLUSH}; /* no FOPEN_KEEP_CACHE: each open(2) begins without pages */
	const struct node *node = find(mount, in->nodeid);

	if (!mount->direct) {
		refuse(mount, in, ENOSYS); /* from now on open(2) does not ask */
		return;
	}
	if (!node) {
		refuse(mount, in, ENOENT);
		return;
	}
	if (is_whole(mount, node)) {
		out.open_flags |= FOPEN_DIRECT_IO;
		out.fh = ic_handle_open(&mount->handles);
	}
	answer(mount, in->unique, 0, &out, sizeof out);
}

static void release(struct ic_fuse_server *server, struct mount *mount, const struct fuse_in_header *in,
		    const struct fuse_release_in *file)
{
	struct ic_handle *handle = ic_handle(&mount->handles, file->fh);
	struct ic_watch *watch = ic_watch(&mount->watches, file->fh);

	if (watch) {
		server->ask.watched(mount->name, watch->node, watch->fh, watch->kh, -1);
		ic_watch_remove(&mount->watches, server->epoll, watch);
	}
	if (handle)
		ic_handle_close(&mount->handles, handle);
	refuse(mount, in, 0);
}

/* ---- requests --------------------------------------------------------------------------------------------------------- */

static void init(const struct mount *mount, const struct fuse_in_header *in, const struct fuse_init_in *init)
{
	uint32_t wanted = FUSE_ASYNC_READ | FUSE_PARALLEL_DIROPS | FUSE_NO_OPENDIR_SUPPORT | FUSE_BIG_WRITES |
			  FUSE_AUTO_INVAL_DATA | (mount->direct ? 0 : FUSE_NO_OPEN_SUPPORT);
	struct fuse_init_out out = {
		.major = FUSE_KERNEL_VERSION,
		.minor = FUSE_KERNEL_MINOR_VERSION,
		.max_readahead = init->max_readahead,
		.flags = init->flags & wanted,
		.max_background = 16,
		.congestion_threshold = 12,
		.max_write = 4096,
		.time_gran = 1,
	};

	if (init->major < FUSE_KERNEL_VERSION)
		refuse(mount, in, EPROTO);
	else
		answer(mount, in->unique, 0, &out, sizeof out);
}

/* Bytes that an opcode's own struct has at least; 0 for those without. */
static size_t least(uint32_t opcode)
{
	switch (opcode) {
	case FUSE_INIT: return 4 * sizeof(uint32_t); /* what every version has: major, minor, max_readahead, flags */
	case FUSE_GETATTR: return sizeof(struct fuse_getattr_in);
	case FUSE_READ: return sizeof(struct fuse_read_in);
	case FUSE_WRITE: return sizeof(struct fuse_write_in);
	case FUSE_SETATTR: return sizeof(struct fuse_setattr_in);
	case FUSE_RELEASE: return sizeof(struct fuse_release_in);
	case FUSE_POLL: return sizeof(struct fuse_poll_in);
	default: return 0;
	}
}

static void dispatch(struct ic_fuse_server *server, struct mount *mount, const struct fuse_in_header *in, size_t size)
{
	const void *body = in + 1;
	struct fuse_statfs_out empty = {.st.bsize = 4096, .st.namelen = IC_FUSE_NAME_MAX - 1};

	switch (in->opcode) {
	case FUSE_INIT: init(mount, in, body); break;
	case FUSE_LOOKUP: lookup(mount, in, body, size); break;
	case FUSE_GETATTR: getattr(server, mount, in, !!(((const struct fuse_getattr_in *)body)->getattr_flags & FUSE_GETATTR_FH)); break;
	case FUSE_SETATTR: setattr(server, mount, in, body); break;
	case FUSE_OPEN: open_file(mount, in); break;
	case FUSE_READ: read_file(server, mount, in, body); break;
	case FUSE_WRITE: write_file(server, mount, in, body, size - sizeof(struct fuse_write_in)); break;
	case FUSE_STATFS: answer(mount, in->unique, 0, &empty, sizeof empty); break;
	case FUSE_RELEASE: release(server, mount, in, body); break;
	case FUSE_POLL: poll_file(server, mount, in, body); break;
	case FUSE_READDIR:
	case FUSE_RELEASEDIR: refuse(mount, in, 0); break;
	case FUSE_IOCTL: refuse(mount, in, ENOTTY); break;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT: break; /* these are not answered */
	default: refuse(mount, in, ENOSYS);
	}
}

/* One request, if there is one. What is no request at all is dropped: there is nobody to tell. */
static void serve_one(struct ic_fuse_server *server, struct mount *mount)
{
	const struct fuse_in_header *in = (const struct fuse_in_header *)server->request;
	ssize_t size = read(mount->fd, server->request, sizeof server->request);

	if (size < (ssize_t)sizeof *in) {
		if (size < 0 && errno == ENODEV) /* unmounted everywhere */
			epoll_ctl(server->epoll, EPOLL_CTL_DEL, mount->fd, 0);
		return;
	}
	server->requests++;
	if (in->len != (size_t)size || (size_t)size - sizeof *in < least(in->opcode))
		refuse(mount, in, EIO);
	else
		dispatch(server, mount, in, (size_t)size - sizeof *in);
}

/* Ends the drains whose time has come; answers the milliseconds until the next one, -1 for none. */
static int end_drains(struct ic_fuse_server *server)
{
	uint64_t time = now(CLOCK_MONOTONIC), next = UINT64_MAX;
	uint32_t m, id;

	for (m = 0; server->drains && m < server->mount_count; m++) {
		struct mount *mount = &server->mounts[m];

		for (id = FIRST_NODE; mount->used && id < mount->node_count; id++) {
			struct node *node = mount->nodes[id];

			if (!node || !node->drained)
				continue;
			if (node->drained > time)
				next = node->drained < next ? node->drained : next;
			else
				end_drain(server, mount, id, time);
		}
	}
	return next == UINT64_MAX ? -1 : (int)((next - time) / 1000000) + 1;
}

static void serve_event(struct ic_fuse_server *server, uint64_t data)
{
	uint32_t slot = (uint32_t)data, generation = (uint32_t)(data >> 32);

	if (slot < server->mount_count && server->mounts[slot].used && server->mounts[slot].generation == generation)
		serve_one(server, &server->mounts[slot]);
}

#define STOP UINT64_MAX

/* One request of each mount in turn: none waits for more than one of each other's. */
int ic_fuse_serve(struct ic_fuse_server *server)
{
	struct epoll_event events[EVENTS];
	int timeout = -1;

	for (;;) {
		int i, count = epoll_wait(server->epoll, events, EVENTS, timeout);

		if (count < 0 && errno != EINTR)
			return -errno;
		for (i = 0; i < count; i++) {
			if (events[i].data.u64 == STOP)
				return 0;
			pthread_mutex_lock(&server->lock);
			if (events[i].data.u64 & IC_WATCH)
				watch_event(server, (int)(uint32_t)events[i].data.u64, events[i].events);
			else
				serve_event(server, events[i].data.u64);
			pthread_mutex_unlock(&server->lock);
		}
		pthread_mutex_lock(&server->lock);
		timeout = server->drains ? end_drains(server) : -1;
		pthread_mutex_unlock(&server->lock);
	}
}

/* ---- what there is to serve ------------------------------------------------------------------------------------------- */

static struct mount *named(struct ic_fuse_server *server, uint64_t name)
{
	uint32_t i;

	for (i = 0; i < server->mount_count; i++)
		if (server->mounts[i].used && server->mounts[i].name == name)
			return &server->mounts[i];
	return 0;
}

/* A slot that is not used; its generation tells events of its earlier mount from those of the next. */
static struct mount *slot(struct ic_fuse_server *server)
{
	struct mount *more;
	uint32_t i;

	for (i = 0; i < server->mount_count; i++)
		if (!server->mounts[i].used)
			return &server->mounts[i];
	more = realloc(server->mounts, (server->mount_count + 1) * sizeof *more);
	if (!more)
		return 0;
	server->mounts = more;
	memset(&more[server->mount_count], 0, sizeof *more);
	return &more[server->mount_count++];
}

static int listen_to(struct ic_fuse_server *server, const struct mount *mount)
{
	struct epoll_event event = {.events = EPOLLIN};

	event.data.u64 = (uint64_t)mount->generation << 32 | (uint64_t)(mount - server->mounts);
	return epoll_ctl(server->epoll, EPOLL_CTL_ADD, mount->fd, &event) ? -errno : 0;
}

static int add(struct ic_fuse_server *server, uint64_t name, int fd, int direct, uint32_t uid, uint32_t gid, int begin)
{
	struct mount *mount = named(server, name) ? 0 : slot(server);
	uint32_t generation;
	int error = 0;

	if (!mount)
		return named(server, name) ? -EEXIST : -ENOMEM;
	generation = mount->generation + 1;
	if (fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK))
		return -errno;
	*mount = (struct mount){
		.name = name, .fd = fd, .direct = direct, .used = 1, .uid = uid, .gid = gid, .generation = generation,
		.handles.numbers = now(CLOCK_MONOTONIC) / NUMBERS_NS};
	if (begin)
		error = listen_to(server, mount);
	if (error)
		*mount = (struct mount){.generation = generation};
	return error;
}

int ic_fuse_add(struct ic_fuse_server *server, uint64_t mount, int fd, int direct, uint32_t uid, uint32_t gid)
{
	int error;

	pthread_mutex_lock(&server->lock);
	error = add(server, mount, fd, direct, uid, gid, 1);
	pthread_mutex_unlock(&server->lock);
	return error;
}

int ic_fuse_inherit(struct ic_fuse_server *server, uint64_t mount, int fd, int direct, uint32_t uid, uint32_t gid)
{
	int error;

	pthread_mutex_lock(&server->lock);
	error = add(server, mount, fd, direct, uid, gid, 0);
	pthread_mutex_unlock(&server->lock);
	return error;
}

int ic_fuse_begin(struct ic_fuse_server *server, uint64_t name)
{
	struct fuse_out_header resend = {.len = sizeof resend, .error = NOTIFY_RESEND};
	struct mount *mount;
	int error = -ENOENT;
	uint32_t id;

	pthread_mutex_lock(&server->lock);
	mount = named(server, name);
	for (id = FIRST_NODE; mount && id < mount->node_count; id++)
		if (mount->nodes[id]) /* an earlier server gave them */
			give_pages(server, mount, id);
	if (mount && write(mount->fd, &resend, sizeof resend) < 0 && errno != EINVAL && errno != ENOSYS)
		error = -errno;
	else if (mount)
		error = listen_to(server, mount);
	pthread_mutex_unlock(&server->lock);
	return error;
}

static void empty(struct ic_fuse_server *server, struct mount *mount)
{
	uint32_t id, generation = mount->generation;

	epoll_ctl(server->epoll, EPOLL_CTL_DEL, mount->fd, 0);
	close(mount->fd);
	ic_watches_free(&mount->watches, server->epoll);
	for (id = FIRST_NODE; id < mount->node_count; id++) {
		struct node *node = mount->nodes[id];

		if (!node)
			continue;
		if (node->drained)
			server->drains--;
		ic_handle_hold(&mount->handles, &node->before, 0);
		ic_text_retire(&mount->handles, node->text);
		free(node);
	}
	ic_handles_free(&mount->handles);
	free(mount->nodes);
	free(mount->waiting);
	*mount = (struct mount){.generation = generation};
}

void ic_fuse_remove(struct ic_fuse_server *server, uint64_t name)
{
	struct mount *mount;

	pthread_mutex_lock(&server->lock);
	while (server->sweeping) /* it may have the descriptor */
		pthread_cond_wait(&server->swept, &server->lock);
	mount = named(server, name);
	if (mount)
		empty(server, mount);
	pthread_mutex_unlock(&server->lock);
}

static int make_room(struct mount *mount, uint32_t id)
{
	uint32_t count = mount->node_count ? mount->node_count : 64;
	struct node **nodes;

	if (id < mount->node_count)
		return 0;
	while (count <= id)
		count *= 2;
	nodes = realloc(mount->nodes, count * sizeof *nodes);
	if (!nodes)
		return -ENOMEM;
	memset(nodes + mount->node_count, 0, (count - mount->node_count) * sizeof *nodes);
	mount->nodes = nodes;
	mount->node_count = count;
	return 0;
}

static int put(struct mount *mount, uint32_t id, const char *name, uint32_t mode)
{
	int error;

	if (!mount)
		return -ENOENT;
	if (id < FIRST_NODE || id >= NODES_MAX || strlen(name) >= IC_FUSE_NAME_MAX)
		return -EINVAL;
	error = make_room(mount, id);
	if (error)
		return error;
	if (mount->nodes[id])
		return -EEXIST;
	mount->nodes[id] = calloc(1, sizeof *mount->nodes[id] + strlen(name) + 1);
	if (!mount->nodes[id])
		return -ENOMEM;
	strcpy(mount->nodes[id]->name, name);
	mount->nodes[id]->mode = mode & (0777 | IC_FUSE_WATCHED);
	return 0;
}

int ic_fuse_file(struct ic_fuse_server *server, uint64_t mount, uint32_t node, const char *name, uint32_t mode)
{
	int error;

	pthread_mutex_lock(&server->lock);
	error = put(named(server, mount), node, name, mode);
	pthread_mutex_unlock(&server->lock);
	return error;
}

int ic_fuse_watch(struct ic_fuse_server *server, uint64_t name, uint32_t node, uint64_t fh, uint64_t kh, int fd)
{
	struct mount *mount;
	int error;

	pthread_mutex_lock(&server->lock);
	mount = named(server, name);
	error = mount ? ic_watch_add(&mount->watches, server->epoll, node, fh, kh, fd) : -ENOENT;
	if (!mount)
		close(fd);
	pthread_mutex_unlock(&server->lock);
	return error;
}

uint64_t ic_fuse_requests(const struct ic_fuse_server *server)
{
	return server->requests;
}

/* ---- the server ------------------------------------------------------------------------------------------------------- */

struct ic_fuse_server *ic_fuse_server(const struct ic_fuse_ask *ask, uint64_t valid_ns)
{
	struct ic_fuse_server *server = calloc(1, sizeof *server);
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = STOP};
	pthread_condattr_t monotonic;

	if (!server)
		return 0;
	server->ask = *ask;
	server->valid = valid_ns;
	server->scratch_size = 16384;
	server->scratch = malloc(server->scratch_size);
	server->epoll = epoll_create1(EPOLL_CLOEXEC);
	server->stop = eventfd(0, EFD_CLOEXEC);
	pthread_mutex_init(&server->lock, 0);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&server->work, &monotonic);
	pthread_cond_init(&server->swept, &monotonic);
	pthread_condattr_destroy(&monotonic);
	if (server->scratch && server->epoll >= 0 && server->stop >= 0 &&
	    !epoll_ctl(server->epoll, EPOLL_CTL_ADD, server->stop, &event))
		return server;
	ic_fuse_server_free(server);
	return 0;
}

void ic_fuse_stop(struct ic_fuse_server *server)
{
	uint64_t one = 1;
	ssize_t written;

	pthread_mutex_lock(&server->lock);
	server->stopping = 1;
	pthread_cond_broadcast(&server->work);
	while (server->sweeper) /* which may wait for an answer of ours */
		pthread_cond_wait(&server->swept, &server->lock);
	pthread_mutex_unlock(&server->lock);
	written = write(server->stop, &one, sizeof one);
	(void)written;
}

void ic_fuse_server_free(struct ic_fuse_server *server)
{
	uint32_t i;

	for (i = 0; i < server->mount_count; i++)
		if (server->mounts[i].used)
			empty(server, &server->mounts[i]);
	free(server->mounts);
	free(server->scratch);
	free(server->given);
	if (server->epoll >= 0)
		close(server->epoll);
	if (server->stop >= 0)
		close(server->stop);
	pthread_cond_destroy(&server->work);
	pthread_cond_destroy(&server->swept);
	pthread_mutex_destroy(&server->lock);
	free(server);
}
