/* Overlays that a user namespace may not mount: trusted.* attributes, metacopy, redirect_dir.
 *
 * The mounter (whose credentials overlayfs uses for all of its own work, ovl_fill_super()) is the container's root kuid with
 * our capabilities on the host. Overlayfs protects nothing from its mounter, so a layer must be the container's own:
 * a directory that the tracee may list, owned by ids of the container. Files in it that belong to nobody inside cannot be
 * copied up onto an id-mapped upper (EOVERFLOW).
 * The superblock belongs to the host's user namespace, which would make device nodes in layers usable; one mounted natively
 * by the container would not. Hence nodev, locked.
 */
#include "agent.h"
#include "agent_sys.h"

#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/mount.h>
#include <linux/stat.h>

#define LAYERS_MAX 504 /* OVL_MAX_STACK, upper, work and two to spare */

enum kind { LOWER, DATA, UPPER, WORK };
static const char *const kind_keys[] = { "lowerdir+", "datadir+", "upperdir", "workdir" };

struct overlay {
	struct call *call;
	int context;
	unsigned count;
	long result;
};

static struct {
	enum kind kind;
	int fd;
} layers[LAYERS_MAX];

/* Options without a path in them. Any other is EINVAL, as an unknown one is: what a later kernel may take as a path would
 * be looked up with the mounter's rights. */
static const char *const plain[] = {
	"redirect_dir", "index", "nfs_export", "xino", "metacopy", "verity", "uuid", "volatile", "userxattr",
	"default_permissions",
};
/* True of this mounter anyway. */
static const char *const implied[] = { "override_creds", "nooverride_creds" };

static int listed(const char *key, const char *const list[], unsigned count)
{
	while (count--)
		if (text_equal(key, list[count]))
			return 1;
	return 0;
}
#define LISTED(key, list) listed(key, list, sizeof(list) / sizeof((list)[0]))

static int of_container(uint32_t id, uint32_t first, uint32_t count)
{
	return id >= first && id - first < count;
}

/* What overlayfs will do with its mounter's rights, the tracee must own and be able to read. */
static long add_directory(struct overlay *overlay, enum kind kind, long fd)
{
	const struct agent_request *request = overlay->call->request;
	struct facts facts;
	long error;

	if (overlay->count == LAYERS_MAX)
		return -EINVAL;
	error = path_facts(fd, &facts);
	if (error)
		return error;
	if (!S_ISDIR(facts.mode))
		return -EINVAL;
	if (!of_container(facts.uid, request->root_uid, request->id_count) ||
	    !of_container(facts.gid, request->root_gid, request->id_count))
		return -EPERM;
	fd = path_open(overlay->call, fd, ".", PATH_READABLE);
	if (fd < 0)
		return fd;
	layers[overlay->count].kind = kind;
	layers[overlay->count++].fd = fd;
	return 0;
}

static long add_layer(struct overlay *overlay, enum kind kind, const char *path)
{
	long fd;

	if (!*path)
		return -EINVAL;
	fd = path_open(overlay->call, overlay->call->fd[AGENT_FD_CWD], path, 0);
	return fd < 0 ? fd : add_directory(overlay, kind, fd);
}

static void drop(struct overlay *overlay, enum kind first, enum kind last)
{
	unsigned i, kept = 0;

	for (i = 0; i < overlay->count; i++)
		if (layers[i].kind < first || layers[i].kind > last)
			layers[kept++] = layers[i];
	overlay->count = kept;
}

/* "a:b::data": ':' parts lower layers, '::' starts the data-only ones, '\' keeps the next character as it is
 * (ovl_parse_param_lowerdir(), ovl_parse_param_split_lowerdirs()). */
static long add_lowers(struct overlay *overlay, char *value)
{
	enum kind kind = LOWER;
	unsigned added = 0;
	char *in = value, *out, *path;
	long error;

	drop(overlay, LOWER, DATA);
	if (!*value)
		return 0;
	if (*value == ':')
		return -EINVAL;
	for (;;) {
		int ended;

		for (path = out = in; *in && *in != ':'; *out++ = *in++)
			if (*in == '\\' && in[1])
				in++;
		ended = !*in;
		*out = 0;
		error = add_layer(overlay, kind, path);
		if (error || ended)
			return error;
		added++;
		in++;
		if (*in == ':') {
			kind = DATA;
			in++;
		} else if (kind == DATA) {
			return -EINVAL; /* a regular layer below a data-only one */
		}
	}
}

/* upperdir and workdir have always been unescaped; lowerdir+ and datadir+ never. */
static void unescape(char *text)
{
	char *out = text;

	for (; *text; *out++ = *text++)
		if (*text == '\\' && text[1])
			text++;
	*out = 0;
}

static long plain_option(struct overlay *overlay, const char *key, const char *value)
{
	if (LISTED(key, implied))
		return value ? -EINVAL : 0;
	if (!LISTED(key, plain))
		return -EINVAL;
	return value ? context_set(overlay->context, key, value) : context_flag(overlay->context, key);
}

static long option(struct overlay *overlay, const char *key, char *value)
{
	enum kind kind;

	if (!value)
		return plain_option(overlay, key, 0);
	if (text_equal(key, "lowerdir"))
		return add_lowers(overlay, value);
	if (text_equal(key, "lowerdir+"))
		return add_layer(overlay, LOWER, value);
	if (text_equal(key, "datadir+"))
		return add_layer(overlay, DATA, value);
	if (text_equal(key, "upperdir") || text_equal(key, "workdir")) {
		kind = *key == 'u' ? UPPER : WORK;
		unescape(value);
		drop(overlay, kind, kind);
		return add_layer(overlay, kind, value);
	}
	return plain_option(overlay, key, value);
}

/* Splits the data string as ovl_next_opt() does: at commas without a backslash before them. */
static long options(struct overlay *overlay, char *text)
{
	long error = 0;

	while (!error && *text) {
		char *key = text, *value = 0;

		for (; *text && *text != ','; text++) {
			if (*text == '\\' && text[1])
				text++;
			else if (*text == '=' && !value)
				value = text;
		}
		if (*text)
			*text++ = 0;
		if (value == key || !*key)
			continue;
		if (value)
			*value++ = 0;
		error = option(overlay, key, value);
	}
	return error;
}

/* How the kernel takes layers; asked of it once. */
static enum giving {
	UNKNOWN,
	BY_FD,              /* Linux 6.13 */
	BY_NAME,            /* Linux 6.5: one lowerdir+ for each */
	JOINED,             /* "lowerdir=a:b", in which fsconfig(2) takes 255 bytes: some sixty layers */
} giving;

static int takes_fds(int overlay)
{
	long tmpfs = sys(fsopen, "tmpfs", FSOPEN_CLOEXEC);
	long mount;

	if (AGENT_NEWEST_KERNEL < 613 || tmpfs < 0 || context_create(tmpfs))
		return 0;
	mount = sys(fsmount, tmpfs, FSMOUNT_CLOEXEC, 0);
	return mount >= 0 && !context_fd(overlay, kind_keys[LOWER], mount);
}

/* Before 6.5 overlayfs had no parameters of its own: any name is taken, and looked at when it is too late. */
static int takes_anything(int overlay)
{
	return AGENT_NEWEST_KERNEL < 605 || !context_flag(overlay, "no-such-option");
}

static void find_out(void)
{
	long overlay = sys(fsopen, "overlay", FSOPEN_CLOEXEC);

	if (giving != UNKNOWN || overlay < 0)
		return;
	giving = takes_anything(overlay) ? JOINED : takes_fds(overlay) ? BY_FD : BY_NAME;
}

static long give_fds(const struct overlay *overlay)
{
	unsigned i;
	long error = 0;

	for (i = 0; !error && i < overlay->count; i++)
		error = context_fd(overlay->context, kind_keys[layers[i].kind], layers[i].fd);
	return error;
}

/* One "lowerdir=3:4::5". */
static long give_joined(const struct overlay *overlay)
{
	char text[LAYERS_MAX * 12];
	size_t size = 0;
	unsigned i;

	for (i = 0; i < overlay->count; i++) {
		if (layers[i].kind > DATA)
			continue;
		if (size)
			text[size++] = ':';
		if (size && layers[i].kind == DATA)
			text[size++] = ':';
		size += text_number(text + size, layers[i].fd);
	}
	text[size] = 0;
	return size ? context_set(overlay->context, "lowerdir", text) : 0;
}

/* The layers by name: relative to our own /proc/self/fd, of which nobody else has a say. */
static long give_names(const struct overlay *overlay)
{
	char number[11];
	unsigned i;
	long error = sys(openat, PROC_FD, "self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (error >= 0)
		error = sys(fchdir, error);
	if (!error && giving == JOINED)
		error = give_joined(overlay);
	for (i = 0; !error && i < overlay->count; i++) {
		if (giving == JOINED && layers[i].kind <= DATA)
			continue;
		text_number(number, layers[i].fd);
		error = context_set(overlay->context, kind_keys[layers[i].kind], number);
	}
	return error;
}

static int create_as_mounter(void *argument)
{
	struct overlay *overlay = argument;
	long error = creds_of_mounter(overlay->call->request);

	if (!error && overlay->count && giving != BY_FD)
		error = give_names(overlay);
	overlay->result = error ? error : context_create(overlay->context);
	return 0;
}

static long make(struct overlay *overlay)
{
	struct call *call = overlay->call;
	long error = context_common(overlay->context, call);

	if (!error && call->text[AGENT_TEXT_OPTIONS])
		error = options(overlay, (char *)call->text[AGENT_TEXT_OPTIONS]);
	find_out();
	if (!error && giving == BY_FD)
		error = give_fds(overlay);
	if (!error)
		error = sys_run_child(create_as_mounter, overlay);
	if (!error)
		error = overlay->result;
	return error ? error : context_mount(overlay->context, call, MOUNT_ATTR_NODEV);
}

long act_overlay(struct call *call)
{
	struct overlay overlay = { .call = call };
	long mount, target = path_enter_target(call);

	if (target < 0)
		return target;
	overlay.context = sys(fsopen, "overlay", FSOPEN_CLOEXEC);
	if (overlay.context < 0)
		return overlay.context;
	mount = make(&overlay); /* here, in the tracee's mount namespace: clone_private_mount() asks for the caller's */
	if (mount >= 0)
		mount = stage(call, mount, 0, 0, 1);
	return mount < 0 ? mount : attach(call, mount, target);
}

/* fsconfig(2) on a context of ours: each option is checked as one of mount(2)'s, and given to the kernel at once. */

int overlay_takes_options_one_by_one(void)
{
	find_out();
	return giving == BY_FD || giving == BY_NAME;
}

/* vfs_parse_sb_flag() knows these, and none is a path. */
static const char *const generic[] = { "ro", "rw", "sync", "async", "dirsync", "mand", "nomand", "lazytime", "nolazytime" };
static const char *const appended[] = { "lowerdir+", "datadir+" };

static int give_as_mounter(void *argument)
{
	struct overlay *overlay = argument;
	long error = creds_of_mounter(overlay->call->request);

	overlay->result = error ? error : give_names(overlay);
	return 0;
}

static long give(struct overlay *overlay)
{
	long error;

	if (giving == BY_FD || !overlay->count)
		return give_fds(overlay);
	error = sys_run_child(give_as_mounter, overlay);
	return error ? error : overlay->result;
}

static long one_option(struct overlay *overlay, const char *key, char *value)
{
	if (text_equal(key, "source"))
		return context_set(overlay->context, key, value ? value : "");
	if (!value && LISTED(key, generic))
		return context_flag(overlay->context, key);
	if (value && text_equal(key, "lowerdir")) {
		long error = context_set(overlay->context, key, ""); /* forgets those before (ovl_reset_lowerdirs()) */

		if (error)
			return error;
	}
	return option(overlay, key, value);
}

static long one_directory(struct overlay *overlay, const char *key, int fd)
{
	if (LISTED(key, appended))
		return add_directory(overlay, *key == 'd' ? DATA : LOWER, fd);
	if (text_equal(key, "upperdir") || text_equal(key, "workdir"))
		return add_directory(overlay, *key == 'u' ? UPPER : WORK, fd);
	return -EINVAL;
}

long act_overlay_option(struct call *call)
{
	struct overlay overlay = { .call = call, .context = call->fd[AGENT_FD_CONTEXT] };
	const char *key = call->text[AGENT_TEXT_KEY];
	long error = path_enter(call);

	if (error)
		return error;
	find_out();
	if (call->fd[AGENT_FD_BASE] >= 0)
		error = one_directory(&overlay, key, call->fd[AGENT_FD_BASE]);
	else
		error = one_option(&overlay, key, (char *)call->text[AGENT_TEXT_VALUE]);
	return error ? error : give(&overlay);
}

long act_overlay_create(struct call *call)
{
	struct overlay overlay = { .call = call, .context = call->fd[AGENT_FD_CONTEXT] };
	long error = path_enter(call); /* clone_private_mount() asks for the caller's mount namespace */

	if (!error)
		error = sys_run_child(create_as_mounter, &overlay);
	return error ? error : overlay.result;
}
