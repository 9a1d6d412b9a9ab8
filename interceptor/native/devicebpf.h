/* Device programs of cgroup v2 (BPF_PROG_TYPE_CGROUP_DEVICE). Results are the kernel's, a negative errno is a failure.
 * Source: bpf(2); Linux kernel/bpf/cgroup.c, include/uapi/linux/bpf.h. */
#ifndef INTERCEPTOR_DEVICEBPF_H
#define INTERCEPTOR_DEVICEBPF_H

#include <stdint.h>

/* Loads `count` struct bpf_insn; `name` is at most 15 bytes. A descriptor, close-on-exec. */
int ic_device_load(const void *instructions, uint32_t count, const char *name);
/* `replace` is a descriptor of the program whose place it takes, with BPF_F_REPLACE among `flags`. */
int ic_device_attach(int cgroup, int program, uint32_t flags, int replace);
int ic_device_detach(int cgroup, int program);
/* What is attached to that one cgroup: how it is (BPF_F_ALLOW_*), and how many; the first `room` of their numbers. */
int ic_device_query(int cgroup, uint32_t *flags, uint32_t *ids, uint32_t room);
/* A descriptor of the program with that number. */
int ic_device_by_id(uint32_t id);
/* struct bpf_prog_info, as far as `size` goes and without what it points to; how many bytes. */
int ic_device_info(int program, void *info, uint32_t size);
/* The cgroup with that inode number as a directory below the mount of cgroup v2 that the directory `hierarchy` lies in. */
int ic_cgroup_open(int hierarchy, uint64_t id);

#endif
