#include "devicebpf.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FILEID_KERNFS 0xfe /* include/linux/exportfs.h */

static int bpf(enum bpf_cmd command, union bpf_attr *attr)
{
	int result = (int)syscall(SYS_bpf, command, attr, sizeof *attr);

	return result < 0 ? -errno : result;
}

int ic_device_load(const void *instructions, uint32_t count, const char *name)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof attr); /* = {0} leaves what only the longest member reaches */
	attr.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
	attr.insns = (uintptr_t)instructions;
	attr.insn_cnt = count;
	attr.license = (uintptr_t)"";
	strncpy(attr.prog_name, name, sizeof attr.prog_name - 1);
	return bpf(BPF_PROG_LOAD, &attr);
}

int ic_device_attach(int cgroup, int program, uint32_t flags, int replace)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof attr);
	attr.target_fd = (uint32_t)cgroup;
	attr.attach_bpf_fd = (uint32_t)program;
	attr.attach_type = BPF_CGROUP_DEVICE;
	attr.attach_flags = flags;
	if (flags & BPF_F_REPLACE)
		attr.replace_bpf_fd = (uint32_t)replace;
	return bpf(BPF_PROG_ATTACH, &attr);
}

int ic_device_detach(int cgroup, int program)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof attr);
	attr.target_fd = (uint32_t)cgroup;
	attr.attach_bpf_fd = (uint32_t)program;
	attr.attach_type = BPF_CGROUP_DEVICE;
	return bpf(BPF_PROG_DETACH, &attr);
}

int ic_device_query(int cgroup, uint32_t *flags, uint32_t *ids, uint32_t room)
{
	union bpf_attr attr;
	int error;

	memset(&attr, 0, sizeof attr);
	attr.query.target_fd = (uint32_t)cgroup;
	attr.query.attach_type = BPF_CGROUP_DEVICE;
	attr.query.prog_ids = (uintptr_t)ids;
	attr.query.prog_cnt = room;
	error = bpf(BPF_PROG_QUERY, &attr);
	if (error && error != -ENOSPC)
		return error;
	*flags = attr.query.attach_flags;
	return (int)attr.query.prog_cnt;
}

int ic_device_by_id(uint32_t id)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof attr);
	attr.prog_id = id;
	return bpf(BPF_PROG_GET_FD_BY_ID, &attr);
}

int ic_device_info(int program, void *info, uint32_t size)
{
	union bpf_attr attr;
	int error;

	memset(info, 0, size);
	memset(&attr, 0, sizeof attr);
	attr.info.bpf_fd = (uint32_t)program;
	attr.info.info_len = size;
	attr.info.info = (uintptr_t)info;
	error = bpf(BPF_OBJ_GET_INFO_BY_FD, &attr);
	return error ? error : (int)attr.info.info_len;
}

int ic_cgroup_open(int hierarchy, uint64_t id)
{
	struct {
		struct file_handle head;
		uint64_t id;
	} handle = { { sizeof handle.id, FILEID_KERNFS }, id };
	int fd = (int)syscall(SYS_open_by_handle_at, hierarchy, &handle, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}
