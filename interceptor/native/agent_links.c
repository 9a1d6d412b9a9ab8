/* Paths with magic links of procfs in them, component by component.
 *
 * `self` and `thread-self` in a procfs mean who walks. That would be us, and so the kernel is never told to follow them:
 * `self/fd/N`, `self/cwd` and `self/root` lead to the descriptors of the tracee that the supervisor took. One that it has not
 * taken yet is asked for (AGENT_WANTS), and the request comes again. Every other magic link is refused with ELOOP.
 * Each step is a system call with the tracee's rights, as in agent_path.c; what changes between two of them leads to another
 * place that the tracee could have named.
 */
#include "agent.h"
#include "agent_sys.h"

#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <linux/stat.h>
#include <asm/statfs.h>

#define PATH_SIZE 4096
#define NAME_SIZE 256
#define LINKS_MAX 40     /* MAXSYMLINKS */
#define PROC_ROOT_INO 1  /* linux/proc_fs.h */
#ifndef ST_NOSYMFOLLOW
#define ST_NOSYMFOLLOW 0x2000
#endif

static struct {
	int is_wanted;
	int64_t number;
} want;

static long wanted(int64_t number)
{
	want.is_wanted = 1;
	want.number = number;
	return -ELOOP;
}

void links_begin(void)
{
	want.is_wanted = 0;
}

int links_wanted(int64_t *number)
{
	*number = want.number;
	return want.is_wanted;
}

struct way {
	const struct call *call;
	int at;
	unsigned links;
	const char *rest;      /* what is still to be walked, at the end of … */
	char text[PATH_SIZE];
};

/* Takes the next component off; 0 at the end. */
static long next(struct way *way, char *name)
{
	const char *in = way->rest;
	char *out = name;

	while (*in == '/')
		in++;
	while (*in && *in != '/') {
		if (out - name == NAME_SIZE - 1)
			return -ENAMETOOLONG;
		*out++ = *in++;
	}
	*out = 0;
	way->rest = in;
	return out != name;
}

static long start(struct way *way, const char *path)
{
	size_t size = text_size(path);

	if (size >= PATH_SIZE)
		return -ENAMETOOLONG;
	memcpy(way->text, path, size + 1);
	way->rest = way->text;
	if (*path == '/')
		way->at = way->call->fd[AGENT_FD_ROOT];
	return 0;
}

/* The text of a symbolic link goes before the rest. */
static long splice(struct way *way, int link)
{
	static char text[PATH_SIZE];
	size_t rest = text_size(way->rest);
	long size;

	if (++way->links > LINKS_MAX)
		return -ELOOP;
	size = sys(readlinkat, link, "", text, sizeof text);
	if (size < 0)
		return size;
	if (!size || size + 1 + rest >= PATH_SIZE)
		return size ? -ENAMETOOLONG : -ENOENT;
	text[size] = 0;
	if (rest) {
		text[size] = '/';
		memcpy(text + size + 1, way->rest, rest + 1);
	}
	return start(way, text);
}

static int is_self(const char *name)
{
	return text_equal(name, "self") || text_equal(name, "thread-self");
}

static long taken(const struct call *call, const char *digits)
{
	int64_t number = 0;
	unsigned i;

	for (i = 0; digits[i]; i++) {
		if (digits[i] < '0' || digits[i] > '9' || i == 9)
			return -ENOENT;
		number = 10 * number + digits[i] - '0';
	}
	for (i = 0; i < call->taken_count; i++)
		if (call->taken_number[i] == number)
			return call->taken[i];
	return wanted(number);
}

/* What follows `self/`. */
static long own(struct way *way)
{
	const struct call *call = way->call;
	char name[NAME_SIZE];
	long found = next(way, name);

	if (found <= 0)
		return found ? found : -ELOOP;
	if (text_equal(name, "root"))
		return call->fd[AGENT_FD_ROOT];
	if (text_equal(name, "cwd"))
		return call->fd[AGENT_FD_CWD] >= 0 ? call->fd[AGENT_FD_CWD] : wanted(AGENT_WANTED_CWD);
	if (!text_equal(name, "fd"))
		return -ELOOP;
	found = next(way, name);
	return found <= 0 ? (found ? found : -ELOOP) : taken(call, name);
}

/* may_follow_link(): with fs.protected_symlinks, which every distribution sets, links in a sticky directory that all may write
 * to are followed for their owner and the directory's only. */
static long may_follow(const struct way *way, const struct facts *link)
{
	struct facts directory;
	struct statfs filesystem;
	long error = path_facts(way->at, &directory);

	if (!error)
		error = sys(fstatfs, way->at, &filesystem);
	if (error)
		return error;
	if (filesystem.f_flags & ST_NOSYMFOLLOW)
		return -ELOOP;
	if (link->uid == way->call->request->fsuid || (directory.mode & (S_ISVTX | S_IWOTH)) != (S_ISVTX | S_IWOTH))
		return 0;
	return link->uid == directory.uid ? 0 : -EACCES;
}

/* The link `name` in the directory where we are, open as `link`. */
static long follow(struct way *way, const char *name, int link, const struct facts *facts)
{
	struct statfs filesystem;
	struct facts directory;
	long error = sys(fstatfs, link, &filesystem);

	if (error)
		return error;
	if (filesystem.f_type != PROC_SUPER_MAGIC) {
		error = may_follow(way, facts);
		return error ? error : splice(way, link);
	}
	error = path_facts(way->at, &directory);
	if (error)
		return error;
	if (directory.inode != PROC_ROOT_INO || !is_self(name))
		return -ELOOP;
	way->at = own(way);
	return way->at < 0 ? way->at : 0;
}

static long step(struct way *way, const char *name, uint32_t flags)
{
	struct open_how how = { .flags = O_PATH | O_NOFOLLOW | O_CLOEXEC, .resolve = RESOLVE_NO_MAGICLINKS };
	struct facts facts;
	long fd = sys(openat2, way->at, name, &how, sizeof how);
	long error = fd < 0 ? fd : path_facts(fd, &facts);

	if (error)
		return error;
	if (S_ISLNK(facts.mode) && (*way->rest || !(flags & PATH_NOFOLLOW)))
		return follow(way, name, fd, &facts);
	way->at = fd;
	return 0;
}

long links_walk(const struct call *call, int base, const char *path, uint32_t flags)
{
	static struct way way;
	char name[NAME_SIZE];
	long found = 0, error;

	way.call = call;
	way.at = base;
	way.links = 0;
	error = start(&way, path);
	while (!error && (found = next(&way, name)) > 0)
		error = step(&way, name, flags);
	return error ? error : found ? found : way.at;
}
