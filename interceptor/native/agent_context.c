/* Filesystem contexts: what mount(2) is made of. */
#include "agent.h"
#include "agent_sys.h"

#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/mount.h>

#define VALUE_MAX 255 /* fsconfig(2) takes strings of 256 bytes with their NUL */

#ifndef MOUNT_ATTR_NOSYMFOLLOW
#define MOUNT_ATTR_NOSYMFOLLOW 0x00200000
#endif
#ifndef MS_NOSYMFOLLOW
#define MS_NOSYMFOLLOW 256
#endif

long context_set(int context, const char *key, const char *value)
{
	return sys(fsconfig, context, FSCONFIG_SET_STRING, key, value, 0);
}

long context_flag(int context, const char *key)
{
	return sys(fsconfig, context, FSCONFIG_SET_FLAG, key, 0, 0);
}

long context_fd(int context, const char *key, int fd)
{
	return sys(fsconfig, context, FSCONFIG_SET_FD, key, 0, fd);
}

/* vfs_parse_sb_flag(): what of MS_* belongs to the superblock. MS_SILENT concerns the kernel's log only. */
static const struct {
	uint64_t flag;
	const char *key;
} superblock_flags[] = {
	{ MS_RDONLY, "ro" },
	{ MS_SYNCHRONOUS, "sync" },
	{ MS_DIRSYNC, "dirsync" },
	{ MS_MANDLOCK, "mand" },
	{ MS_LAZYTIME, "lazytime" },
};

/* What mountinfo shows; mount(2) takes a page of it, fsconfig(2) not, so that the rest of a longer one is cut off. */
static long context_source(int context, const char *source)
{
	char shown[VALUE_MAX + 1];
	size_t size = text_size(source);

	if (size > VALUE_MAX)
		size = VALUE_MAX;
	memcpy(shown, source, size);
	shown[size] = 0;
	return context_set(context, "source", shown);
}

long context_common(int context, const struct call *call)
{
	unsigned i;
	long error = 0;

	if (call->text[AGENT_TEXT_SOURCE])
		error = context_source(context, call->text[AGENT_TEXT_SOURCE]);
	for (i = 0; !error && i < sizeof superblock_flags / sizeof superblock_flags[0]; i++)
		if (call->request->mount_flags & superblock_flags[i].flag)
			error = context_flag(context, superblock_flags[i].key);
	return error;
}

/* One `key` or `key=value` of `size` bytes. An option without a key is skipped, as vfs_parse_monolithic_sep() does. */
static long context_option(int context, const char *option, size_t size)
{
	char text[2 * (VALUE_MAX + 1)];
	size_t key = 0;

	while (key < size && option[key] != '=')
		key++;
	if (key == 0)
		return 0;
	if (key > VALUE_MAX || size - key > VALUE_MAX)
		return -EINVAL;
	memcpy(text, option, size);
	text[key] = text[size] = 0;
	return key == size ? context_flag(context, text) : context_set(context, text, text + key + 1);
}

long context_options(int context, const char *options)
{
	long error = 0;

	while (!error && *options) {
		size_t size = 0;

		while (options[size] && options[size] != ',')
			size++;
		error = context_option(context, options, size);
		options += size + (options[size] == ',');
	}
	return error;
}

long context_change(int mount, uint64_t attributes)
{
	const uint64_t settable = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NODIRATIME |
				  MOUNT_ATTR_NOSYMFOLLOW | MOUNT_ATTR__ATIME;
	const struct mount_attr change = { .attr_set = attributes, .attr_clr = settable };

	return sys(mount_setattr, mount, "", AT_EMPTY_PATH, &change, sizeof change);
}

long context_create(int context)
{
	return sys(fsconfig, context, FSCONFIG_CMD_CREATE, 0, 0, 0);
}

/* path_mount()'s reading of MS_*: relatime unless something else is asked for, strictatime before noatime. */
uint64_t context_attributes(uint64_t flags)
{
	uint64_t found = 0;

	if (flags & MS_RDONLY)
		found |= MOUNT_ATTR_RDONLY;
	if (flags & MS_NOSUID)
		found |= MOUNT_ATTR_NOSUID;
	if (flags & MS_NODEV)
		found |= MOUNT_ATTR_NODEV;
	if (flags & MS_NOEXEC)
		found |= MOUNT_ATTR_NOEXEC;
	if (flags & MS_NODIRATIME)
		found |= MOUNT_ATTR_NODIRATIME;
	if (flags & MS_NOSYMFOLLOW)
		found |= MOUNT_ATTR_NOSYMFOLLOW;
	if (flags & MS_STRICTATIME)
		found |= MOUNT_ATTR_STRICTATIME;
	else if (flags & MS_NOATIME)
		found |= MOUNT_ATTR_NOATIME;
	return found;
}

long context_mount(int context, const struct call *call, uint64_t add)
{
	return sys(fsmount, context, FSMOUNT_CLOEXEC, context_attributes(call->request->mount_flags) | add);
}
