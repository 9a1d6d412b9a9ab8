/* The FUSE loop: every opcode, well formed and not, from hostile programs and from no kernel that there is, while texts change
 * their sizes and cannot be read, mounts come and go, and time passes.
 *
 * What must hold: each request that a kernel waits for is answered, once, before the loop waits without an end; an answer is
 * what fuse_dev_do_write() (fs/fuse/dev.c) takes, for a reader whose answer is refused hangs; none has more than was asked for;
 * what is read is part of one snapshot, and so is what an open file reads that is read whole; nothing is left open.
 *
 * An input is a list of steps, of which epoll_wait(2) takes one at a time.
 */
#include "fuzz.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <sanitizer/asan_interface.h>
#include <stdbool.h>

#include "../../interceptor/native/fuse.h"
#include "fuse_kernel.h"
#undef read
#undef write

#define FDS 64
#define MOUNTS 2             /* the first is cached, the second direct */
#define OUTSTANDING 1024
#define OPCODES 64           /* more than there are */
#define ASKED (128u << 10)   /* by one READ at most: FUSE_DEFAULT_MAX_PAGES_PER_REQ */
#define TEXT 70000u          /* more than the loop has room for at first */
#define TOO_MUCH ((1u << 24) + 1)
#define STEPS 1024
#define WHOLE 2              /* the inode that is, of the direct mount */
#define WATCHED 4
#define WATCHES 40           /* descriptors; the loop takes less at one time, and this has less to give than it asks for */
#define FILES 16             /* open files that are remembered here: snapshots.c keeps two snapshots for each of so many */
#define SECOND 1000000000ull

static struct {
	struct input input;
	struct ic_fuse_server *server;
	bool open[FDS];
	uint64_t listens[FDS];       /* what epoll says of it; 0: nothing */
	int device[MOUNTS];
	uint64_t time, unique;
	unsigned steps, crowd;
	uint32_t asked;
	struct {
		uint64_t unique;
		uint32_t opcode, asked;
		int device;
		int opened;          /* which of `files` it reads by read(2), or releases; -1: none */
		uint64_t offset;
	} waits[OUTSTANDING];
	struct {
		uint64_t fh, next;
		char letter;
	} files[FILES];
	unsigned opens, watches;
	int watched;
	unsigned waiting;
	int pending;                 /* the device that has a request; -1: none */
	size_t size;
	uint32_t text;
	int32_t unreadable, unwritable;
	uint8_t version;
	_Alignas(8) uint8_t request[IC_FUSE_REQUEST];
} kernel;

/* ---- descriptors, and what is known of them ---- */

static int opened(void)
{
	for (int fd = 3; fd < FDS; fd++)
		if (!kernel.open[fd]) {
			kernel.open[fd] = true;
			kernel.listens[fd] = 0;
			return fd;
		}
	abort();
}

int k_close(int fd)
{
	MUST(fd >= 3 && fd < FDS && kernel.open[fd]);
	kernel.open[fd] = false;
	return 0;
}

int k_epoll_create1(int flags)
{
	return opened();
}

int k_eventfd(unsigned value, int flags)
{
	return opened();
}

int k_fcntl(int fd, int command, int value)
{
	return 0;
}

int k_epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event)
{
	MUST(kernel.open[fd]);
	kernel.listens[fd] = operation == EPOLL_CTL_DEL ? 0 : event->data.u64;
	return 0;
}

int k_clock_gettime(clockid_t clock, struct timespec *time)
{
	time->tv_sec = (time_t)(kernel.time / SECOND);
	time->tv_nsec = (long)(kernel.time % SECOND);
	return 0;
}

/* ---- whose files these are: a snapshot is one letter, again and again, and a newline ---- */

static int64_t content(uint64_t mount, uint32_t node, char *buffer, uint32_t size)
{
	if (kernel.unreadable)
		return kernel.unreadable;
	if (kernel.text > size)
		return kernel.text;
	kernel.version++;
	if (kernel.text) {
		memset(buffer, 'a' + kernel.version % 26, kernel.text);
		buffer[kernel.text - 1] = '\n';
	}
	return kernel.text;
}

static int32_t written(uint64_t mount, uint32_t node, const char *data, uint32_t size, uint32_t tid, uint32_t uid)
{
	static volatile uint8_t sum;

	MUST(size <= IC_FUSE_WRITE_MAX);
	if (node == WATCHED && kernel.watches < WATCHES) {
		kernel.watches++;
		return kernel.unwritable < 0 ? kernel.unwritable : opened();
	}
	MUST((const uint8_t *)data >= kernel.request || size <= kernel.size); /* read it: a sanitizer knows its bounds */
	for (uint32_t i = 0; i < size; i++)
		sum += (uint8_t)data[i];
	return kernel.unwritable;
}

static void watched(uint64_t mount, uint32_t node, uint64_t fh, uint64_t kh, int fd)
{
	MUST(fh && node == WATCHED);
	MUST(fd < 0 || kernel.open[fd]);
	kernel.watched += fd < 0 ? 0 : !kh;
	kernel.watched -= fd < 0;
	MUST(kernel.watched >= 0);
}

/* ---- answers ---- */

/* The index of an open file whose snapshots must be there; -1: it is none. */
static int find_file(uint64_t fh)
{
	for (int i = 0; i < FILES && kernel.opens <= FILES; i++)
		if (fh && kernel.files[i].fh == fh)
			return i;
	return -1;
}

/* The letter of a text; 0: it has none. */
static char letter_of(const char *text, size_t size)
{
	char letter = 0;

	for (size_t i = 0; i < size; i++) {
		if (text[i] == ' ' || text[i] == '\n')
			continue;
		MUST(!letter || text[i] == letter);
		letter = text[i];
	}
	return letter;
}

/* `opened`: a read of an open file that is remembered, or none. */
static void check_whole(int opened, uint64_t offset, char letter, size_t size)
{
	if (opened < 0)
		return;
	if (!offset || offset != kernel.files[opened].next)
		kernel.files[opened].letter = 0;
	MUST(!letter || !kernel.files[opened].letter || letter == kernel.files[opened].letter);
	kernel.files[opened].letter = letter ? letter : kernel.files[opened].letter;
	kernel.files[opened].next = offset + size;
}

/* Who opens more files than that takes snapshots away from them. */
static void remember(uint64_t fh)
{
	MUST(!fh || find_file(fh) < 0);
	if (fh && kernel.opens++ < FILES)
		kernel.files[kernel.opens - 1].fh = fh;
}

static size_t size_of(uint32_t opcode)
{
	switch (opcode) {
	case FUSE_GETATTR:
	case FUSE_SETATTR: return sizeof(struct fuse_attr_out);
	case FUSE_LOOKUP: return sizeof(struct fuse_entry_out);
	case FUSE_OPEN: return sizeof(struct fuse_open_out);
	case FUSE_WRITE: return sizeof(struct fuse_write_out);
	case FUSE_STATFS: return sizeof(struct fuse_statfs_out);
	case FUSE_INIT: return sizeof(struct fuse_init_out);
	case FUSE_POLL: return sizeof(struct fuse_poll_out);
	default: return 0;
	}
}

/* fuse_notify() */
static void check_notice(const struct fuse_out_header *out, const struct iovec *parts, int count)
{
	size_t size = out->error == FUSE_NOTIFY_POLL ? sizeof(struct fuse_notify_poll_wakeup_out) : sizeof(struct fuse_notify_inval_inode_out);

	MUST(out->error == FUSE_NOTIFY_POLL || out->error == FUSE_NOTIFY_INVAL_INODE);
	MUST(count == 1 && parts[0].iov_len == size && out->len == sizeof *out + size);
}

ssize_t k_writev(int fd, const struct iovec *parts, int count)
{
	const struct fuse_out_header *out = parts[0].iov_base;
	size_t rest = count > 1 ? parts[1].iov_len : 0;
	unsigned i = 0;

	MUST(kernel.open[fd] && parts[0].iov_len == sizeof *out);
	if (!out->unique) {
		check_notice(out, &parts[1], count - 1);
		return (ssize_t)out->len;
	}
	MUST(count <= 2 && out->len == sizeof *out + rest);
	MUST(out->error <= 0 && out->error > -512);
	MUST(!out->error || !rest);
	while (i < kernel.waiting && kernel.waits[i].unique != out->unique)
		i++;
	MUST(i < kernel.waiting);
	if (!out->error && kernel.waits[i].opcode == FUSE_READ) {
		MUST(rest <= kernel.waits[i].asked);
		check_whole(kernel.waits[i].opened, kernel.waits[i].offset, letter_of(rest ? parts[1].iov_base : 0, rest), rest);
	} else if (!out->error) {
		MUST(rest == size_of(kernel.waits[i].opcode));
		if (kernel.waits[i].opcode == FUSE_OPEN)
			remember(((const struct fuse_open_out *)parts[1].iov_base)->fh);
		if (kernel.waits[i].opcode == FUSE_RELEASE && kernel.waits[i].opened >= 0)
			kernel.files[kernel.waits[i].opened].fh = 0;
	}
	kernel.waits[i] = kernel.waits[--kernel.waiting];
	return (ssize_t)out->len;
}

/* FUSE_NOTIFY_RESEND, and stopping. */
ssize_t k_write(int fd, const void *buffer, size_t size)
{
	return (ssize_t)size;
}

/* ---- requests ---- */

static uint64_t number(void)
{
	static const uint64_t edges[] = {4095, 4096, 4097, 65535, 65536, 1 << 20, INT32_MAX, 1u << 31, UINT32_MAX, INT64_MAX,
					 1ull << 63, UINT64_MAX};
	uint8_t how = (uint8_t)take(&kernel.input, 1);

	return how < 192 ? how : edges[how % (sizeof edges / sizeof *edges)];
}

static uint64_t file(void)
{
	uint8_t which = (uint8_t)take(&kernel.input, 1);

	return which < 192 ? kernel.files[which % FILES].fh : number();
}

/* The struct of an opcode at `body`: its size. */
static size_t structure(uint32_t opcode, uint8_t *body, uint32_t *asked)
{
	static const char *const names[] = {"two", "three", "no", "", "..", "two/"};
	struct fuse_getattr_in get = {0};
	struct fuse_read_in read = {0};
	struct fuse_write_in write = {0};
	struct fuse_init_in init = {.flags = UINT32_MAX};
	struct fuse_setattr_in set = {0};
	struct fuse_release_in release = {0};
	struct fuse_poll_in poll = {0};

	switch (opcode) {
	case FUSE_GETATTR:
		get.getattr_flags = (uint32_t)take(&kernel.input, 1);
		memcpy(body, &get, sizeof get);
		return sizeof get;
	case FUSE_READ:
		read.offset = number();
		*asked = read.size = (uint32_t)(number() * 16 % (ASKED + 1));
		read.fh = file();
		if (read.offset == 255 && find_file(read.fh) >= 0)
			read.offset = kernel.files[find_file(read.fh)].next;
		read.read_flags = take(&kernel.input, 1) % 4 ? FUSE_READ_LOCKOWNER : 0;
		memcpy(body, &read, sizeof read);
		return sizeof read;
	case FUSE_POLL:
		poll.fh = file();
		poll.kh = take(&kernel.input, 1) % 4;
		poll.flags = (uint32_t)take(&kernel.input, 1) % 2;
		memcpy(body, &poll, sizeof poll);
		return sizeof poll;
	case FUSE_WRITE:
		write.fh = file();
		write.offset = number() % 4 ? 0 : number();
		write.size = (uint32_t)number();
		write.flags = (uint32_t)number();
		memcpy(body, &write, sizeof write);
		return sizeof write;
	case FUSE_INIT:
		init.major = (uint32_t)take(&kernel.input, 1) % 9;
		memcpy(body, &init, sizeof init);
		return sizeof init;
	case FUSE_RELEASE:
		release.fh = file();
		memcpy(body, &release, sizeof release);
		return sizeof release;
	case FUSE_SETATTR:
		set.valid = (uint32_t)take(&kernel.input, 2);
		memcpy(body, &set, sizeof set);
		return sizeof set;
	case FUSE_LOOKUP:
		strcpy((char *)body, names[take(&kernel.input, 1) % 6]);
		return strlen((char *)body) + 1;
	default:
		return 0;
	}
}

static bool is_answered(uint32_t opcode)
{
	return opcode != FUSE_FORGET && opcode != FUSE_BATCH_FORGET && opcode != FUSE_INTERRUPT;
}

/* What is in `request` comes from `device`. */
static void ask(int device, uint32_t asked)
{
	const struct fuse_in_header *in = (const struct fuse_in_header *)kernel.request;
	const struct fuse_read_in *read = (const struct fuse_read_in *)(in + 1);
	const struct fuse_release_in *release = (const struct fuse_release_in *)(in + 1);

	kernel.pending = device;
	kernel.asked = asked;
	if (kernel.size < sizeof *in) /* nobody knows who waits */
		return;
	if (!is_answered(in->opcode) && in->len == kernel.size)
		return;
	kernel.waits[kernel.waiting].unique = in->unique;
	kernel.waits[kernel.waiting].opcode = in->opcode;
	kernel.waits[kernel.waiting].device = device;
	kernel.waits[kernel.waiting].opened = -1;
	if (in->opcode == FUSE_RELEASE && device == kernel.device[1])
		kernel.waits[kernel.waiting].opened = find_file(release->fh);
	if (in->opcode == FUSE_READ && in->nodeid == WHOLE && device == kernel.device[1] && read->read_flags & FUSE_READ_LOCKOWNER)
		kernel.waits[kernel.waiting].opened = find_file(read->fh);
	kernel.waits[kernel.waiting].offset = read->offset;
	kernel.waits[kernel.waiting++].asked = asked;
}

/* The last request again, from one more thread. */
static void ask_again(int device)
{
	struct fuse_in_header *in = (struct fuse_in_header *)kernel.request;

	in->unique = ++kernel.unique;
	in->pid++;
	ask(device, kernel.asked);
}

static void request(void)
{
	struct fuse_in_header *in = (struct fuse_in_header *)kernel.request;
	uint8_t how = (uint8_t)take(&kernel.input, 1), opcode = (uint8_t)take(&kernel.input, 1);
	uint32_t asked = 0;

	memset(kernel.request, 0, 512);
	*in = (struct fuse_in_header){.opcode = opcode < 240 ? opcode % OPCODES : (uint32_t)number(), .unique = ++kernel.unique};
	in->nodeid = take(&kernel.input, 1);
	in->nodeid = in->nodeid < 200 ? in->nodeid % 5 : number();
	in->pid = (uint32_t)take(&kernel.input, 1) % 4;
	kernel.size = sizeof *in + structure(in->opcode, kernel.request + sizeof *in, &asked);
	if (how & 1)
		kernel.size += take_bytes(&kernel.input, kernel.request + kernel.size, take(&kernel.input, 1) * 20);
	if ((how & 0x0e) == 0x0e) /* cut */
		kernel.size = sizeof *in + (kernel.size - sizeof *in) / 2;
	in->len = (how & 0x70) == 0x70 ? (uint32_t)number() : (uint32_t)kernel.size;
	if (how == 0xff)
		kernel.size = take(&kernel.input, 1) % sizeof *in;
	ask(kernel.device[how >> 7], asked);
}

ssize_t k_read(int fd, void *buffer, size_t size)
{
	MUST(kernel.open[fd]);
	if (kernel.pending != fd) {
		errno = take(&kernel.input, 1) % 8 ? EAGAIN : EINTR;
		return -1;
	}
	kernel.pending = -1;
	MUST(kernel.size <= size);
	ASAN_UNPOISON_MEMORY_REGION(buffer, size);
	memcpy(buffer, kernel.request, kernel.size);
	ASAN_POISON_MEMORY_REGION((char *)buffer + kernel.size, size - kernel.size); /* what earlier ones left is nobody's business */
	return (ssize_t)kernel.size;
}

/* ---- steps ---- */

static void mount(unsigned which)
{
	int fd = opened();

	kernel.device[which] = fd;
	MUST(!ic_fuse_add(kernel.server, which + 1, fd, (int)which, 0, 0));
	MUST(!ic_fuse_file(kernel.server, which + 1, 2, "two", 0444));
	MUST(!ic_fuse_file(kernel.server, which + 1, 3, "three", 0644));
	MUST(!ic_fuse_file(kernel.server, which + 1, WATCHED, "four", 0666 | IC_FUSE_WATCHED));
	MUST(ic_fuse_file(kernel.server, which + 1, 3, "again", 0644) < 0);
}

/* As another thread does it: while the loop waits. Who asked is told by the kernel. */
static void remount(unsigned which)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < kernel.waiting; i++)
		if (kernel.waits[i].device != kernel.device[which])
			kernel.waits[kept++] = kernel.waits[i];
	kernel.waiting = kept;
	ic_fuse_remove(kernel.server, which + 1);
	ic_fuse_remove(kernel.server, which + 1);
	kernel.opens = 0;
	kernel.watched = which ? 0 : kernel.watched;
	memset(kernel.files, 0, sizeof kernel.files);
	mount(which);
}

static void change(void)
{
	static const uint32_t sizes[] = {0, 1, 2, 15, 16, 256, 2048, 4095, 4096, 4097, 16384, 16385, TEXT, TOO_MUCH};
	static const int32_t errors[] = {0, 0, 0, -EIO, -ENOENT, -511, -512, -524, INT32_MIN};
	uint8_t what = (uint8_t)take(&kernel.input, 1);

	if (what < 128)
		kernel.text = sizes[what % (sizeof sizes / sizeof *sizes)];
	else if (what < 192)
		kernel.text = (uint32_t)take(&kernel.input, 2);
	else if (what < 224)
		kernel.unreadable = errors[what % (sizeof errors / sizeof *errors)];
	else
		kernel.unwritable = errors[what % (sizeof errors / sizeof *errors)];
}

static int event(struct epoll_event *events, int fd)
{
	events->events = EPOLLIN;
	events->data.u64 = kernel.listens[fd];
	return 1;
}

/* One of those that are watched, or was; now and then its cgroup has gone. */
static int happens(struct epoll_event *events)
{
	int fd = 5 + (int)(take(&kernel.input, 1) % (FDS - 5));

	event(events, fd);
	events->events = take(&kernel.input, 1) % 8 ? EPOLLPRI : EPOLLPRI | EPOLLERR;
	return kernel.open[fd] && kernel.listens[fd] ? 1 : 0;
}

#define STOP_FD 4 /* the second that the server opens */

int k_epoll_wait(int epoll, struct epoll_event *events, int count, int timeout)
{
	uint8_t what = (uint8_t)take(&kernel.input, 1);
	int fd = kernel.device[what & 1];
	uint64_t before;

	if (!kernel.input.left || kernel.steps++ == STEPS || kernel.waiting == OUTSTANDING) {
		kernel.time += timeout > 0 ? (uint64_t)timeout * 1000000 : 0;
		if (timeout >= 0)
			return 0;
		MUST(!kernel.waiting);
		return event(events, STOP_FD);
	}
	if (kernel.crowd) {
		kernel.crowd--;
		ask_again(fd);
		return event(events, fd);
	}
	if (what < 160) {
		request();
		return kernel.pending < 0 ? 0 : event(events, kernel.pending);
	}
	if (what < 176)
		return happens(events);
	if (what < 208) {
		kernel.time += take(&kernel.input, 2) * (what & 2 ? 1000 : 1000000);
		if (what & 4)
			ic_fuse_sweep_once(kernel.server);
	} else if (what < 240)
		change();
	else if (what < 248)
		return event(events, fd);
	else if (what < 252) {
		before = kernel.listens[fd];
		remount(what & 1);
		events->data.u64 = before;
		return 1;
	} else if (what < 254 && kernel.unique) {
		kernel.crowd = 300;
	} else {
		errno = EINTR;
		return -1;
	}
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct ic_fuse_ask ask = {content, written, watched};

	kernel.input = (struct input){data, size};
	kernel.time = 1000 * SECOND;
	kernel.unique = kernel.waiting = kernel.steps = kernel.crowd = 0;
	kernel.pending = -1;
	kernel.text = 100;
	kernel.unreadable = kernel.unwritable = 0;
	kernel.opens = kernel.watches = 0;
	kernel.watched = 0;
	memset(kernel.files, 0, sizeof kernel.files);
	kernel.server = ic_fuse_server(&ask, 10000000);
	MUST(kernel.server);
	mount(0);
	mount(1);
	MUST(!ic_fuse_serve(kernel.server));
	ic_fuse_server_free(kernel.server);
	for (int fd = 0; fd < FDS; fd++)
		MUST(!kernel.open[fd]);
	return 0;
}
