/* Leaves: files of ours that are mounted over those of a container's proc and sysfs. */
#include "agent.h"
#include "agent_sys.h"

#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/sched.h>

#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif

/* Takes one line off the list, in place. */
static char *next_line(char **list)
{
	char *line = *list, *end = line;

	while (*end && *end != '\n')
		end++;
	*list = end + (*end == '\n');
	*end = 0;
	return line;
}

static long take(int directory, const char *name)
{
	struct open_how how = {
		.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
	};
	long fd = sys(openat2, directory, name, &how, sizeof how);
	long tree;

	if (fd < 0)
		return fd;
	tree = sys(open_tree, fd, "", AT_EMPTY_PATH | AT_RECURSIVE | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	sys(close, fd);
	return tree;
}

long leaves_take(const struct call *call, struct cover *covers, unsigned room)
{
	char *list = (char *)call->text[AGENT_TEXT_LEAVES];
	unsigned count = 0;
	long error;

	if (!list || call->fd[AGENT_FD_LEAVES] < 0 || call->fd[AGENT_FD_LEAVES_NS] < 0)
		return 0;
	error = sys(setns, call->fd[AGENT_FD_LEAVES_NS], CLONE_NEWNS); /* a mount is cloned in its own namespace only */
	if (error)
		return error;
	while (*list && count < room) {
		const char *path = next_line(&list);
		long tree = take(call->fd[AGENT_FD_LEAVES], next_line(&list));

		if (tree < 0)
			continue;
		covers[count].path = path;
		covers[count++].fd = tree;
	}
	error = sys(setns, call->fd[AGENT_FD_MNTNS], CLONE_NEWNS);
	return error ? error : (long)count;
}
