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

static long add_layer(struct overlay *overlay, enum kind kind, const char *path)
{
	const struct agent_request *request = overlay->call->request;
	struct facts facts;
	long error, fd;

	if (!*path)
		return -EINVAL;
	if (overlay->count == LAYERS_MAX)
		return -EINVAL;
	fd = path_open(overlay->call, overlay->call->fd[AGENT_FD_CWD], path, 0);
	if (fd < 0)
		return fd;
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

	if (!error && giving != BY_FD)
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
	long target, mount, error = path_enter(call);

	if (error)
		return error;
	target = path_target(call);
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
