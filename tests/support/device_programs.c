/* device_programs CGROUP OWN [FOREIGN | -]: device programs of cgroup v2 as runc, crun and systemd use them, on the new cgroup
 * CGROUP; on OWN and FOREIGN, where it must not work. Prints "what: errno" or "ok", and what was found. With "-" one program is
 * loaded, and attached when somebody has opened the pipe OWN. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef __i386__
#define POISON 0u
#else
#define POISON 0xdeadbeef00000000ul
#endif
#define MULTI BPF_F_ALLOW_MULTI
#define LOAD(to, at) { .code = BPF_LDX | BPF_MEM | BPF_W, .dst_reg = to, .src_reg = 1, .off = at }
#define JNE(reg, value, skip) { .code = BPF_JMP | BPF_JNE | BPF_K, .dst_reg = reg, .imm = value, .off = skip }
#define MOV(reg, value) { .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = reg, .imm = value }
#define EXIT { .code = BPF_JMP | BPF_EXIT }

static union bpf_attr attr;
static const char *cgroup;

static long say(const char *what, long result)
{
	printf("%s: %s\n", what, result < 0 ? strerrorname_np(errno) : "ok");
	return result;
}

static long bpf(unsigned command)
{
	return syscall(SYS_bpf, POISON | command, &attr, POISON | sizeof attr);
}

static union bpf_attr *fresh(void)
{
	memset(&attr, 0, sizeof attr);
	return &attr;
}

static long load_of(unsigned type, const struct bpf_insn *program, unsigned count)
{
	fresh()->prog_type = type;
	attr.insns = (uintptr_t)program;
	attr.insn_cnt = count;
	attr.license = (uintptr_t)"GPL";
	strcpy(attr.prog_name, "filter.1");
	return bpf(BPF_PROG_LOAD);
}

#define LOAD_PROGRAM(...) ({ const struct bpf_insn p_[] = __VA_ARGS__; load_of(BPF_PROG_TYPE_CGROUP_DEVICE, p_, sizeof p_ / sizeof p_[0]); })

static long change(unsigned command, int target, int program, unsigned flags, int replace)
{
	fresh()->target_fd = target;
	attr.attach_bpf_fd = program;
	attr.attach_type = BPF_CGROUP_DEVICE;
	attr.attach_flags = flags;
	attr.replace_bpf_fd = replace;
	return bpf(command);
}

static uint32_t ids[8];

static long query(int target, unsigned flags, unsigned room)
{
	fresh()->query.target_fd = target;
	attr.query.attach_type = BPF_CGROUP_DEVICE;
	attr.query.query_flags = flags;
	attr.query.prog_ids = (uintptr_t)ids;
	attr.query.prog_cnt = room;
	return bpf(BPF_PROG_QUERY);
}

/* What a process in the cgroup can open. */
static void open_inside(const char *when)
{
	static const char *const names[] = { "/dev/null", "/dev/full" };
	int status;

	if (!fork()) {
		char procs[256];
		int fd, i, answer = 0;

		snprintf(procs, sizeof procs, "%s/cgroup.procs", cgroup);
		fd = open(procs, O_WRONLY);
		if (fd < 0 || write(fd, "0", 1) != 1)
			_exit(100);
		for (i = 0; i < 2; i++)
			answer |= (open(names[i], O_RDWR) >= 0) << i;
		_exit(answer);
	}
	wait(&status);
	printf("%s: opens %d\n", when, WEXITSTATUS(status));
}

static int directory(const char *path)
{
	return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

int main(int argc, char **argv)
{
	static const struct bpf_insn nothing[] = { MOV(0, 1), EXIT };
	struct bpf_prog_info info;
	int inner, own, no_full, everything, again, i, last;
	char *edge;

	if (argc < 3 || (mkdir(argv[1], 0755) && errno != EEXIST))
		return 2;
	cgroup = argv[1];
	inner = directory(cgroup);
	own = directory(argv[2]);
	edge = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	munmap(edge + 4096, 4096);

	no_full = say("load", LOAD_PROGRAM({ LOAD(2, 4), LOAD(3, 8), JNE(2, 1, 3), JNE(3, 7, 2), MOV(0, 0), EXIT, MOV(0, 1), EXIT }));
	printf("cloexec: %d\n", fcntl(no_full, F_GETFD));
	if (argc > 3 && !strcmp(argv[3], "-")) {
		mkfifo(argv[2], 0600);
		own = open(argv[2], O_RDONLY);
		say("attach", change(BPF_PROG_ATTACH, inner, no_full, MULTI, 0));
		open_inside("attached");
		say("detach", change(BPF_PROG_DETACH, inner, no_full, 0, 0));
		return rmdir(cgroup);
	}
	everything = say("load another", LOAD_PROGRAM({ MOV(0, 1), EXIT }));
	open_inside("before");
	say("attach", change(BPF_PROG_ATTACH, inner, no_full, MULTI, 0));
	open_inside("attached");
	say("attach it twice", change(BPF_PROG_ATTACH, inner, no_full, MULTI, 0));
	say("attach with other flags", change(BPF_PROG_ATTACH, inner, everything, 0, 0));
	say("attach with flags that are none", change(BPF_PROG_ATTACH, inner, everything, 1 << 20, 0));
	say("attach to its own cgroup", change(BPF_PROG_ATTACH, own, no_full, MULTI, 0));
	if (argc > 3)
		say("attach to a foreign cgroup", change(BPF_PROG_ATTACH, directory(argv[3]), no_full, MULTI, 0));
	say("attach to a file", change(BPF_PROG_ATTACH, open("/proc/self/exe", O_RDONLY), no_full, MULTI, 0));
	say("attach to a descriptor that is not open", change(BPF_PROG_ATTACH, 999, no_full, MULTI, 0));
	say("attach what is no program", change(BPF_PROG_ATTACH, inner, own, MULTI, 0));
	say("replace what is no program", change(BPF_PROG_ATTACH, inner, everything, MULTI | BPF_F_REPLACE, 0));

	say("query", query(inner, 0, 8));
	printf("attached %u flags %u\n", attr.query.prog_cnt, attr.query.attach_flags);
	last = ids[0];
	say("query its own cgroup", query(own, 0, 8));
	say("query what is effective", query(inner, BPF_F_QUERY_EFFECTIVE, 8));
	fresh()->prog_id = last;
	again = say("get it by its id", bpf(BPF_PROG_GET_FD_BY_ID));
	for (i = 1; i < last; i++) {
		fresh()->prog_id = i;
		if (bpf(BPF_PROG_GET_FD_BY_ID) >= 0)
			break;
	}
	printf("others by id: %s\n", i < last ? "given" : "none");
	memset(&info, 0, sizeof info);
	fresh()->info.bpf_fd = again;
	attr.info.info_len = sizeof info;
	attr.info.info = (uintptr_t)&info;
	say("information", bpf(BPF_OBJ_GET_INFO_BY_FD));
	printf("type %u, the same id %d, name %s, lengths %u %u\n", info.type, info.id == (unsigned)last, info.name, info.jited_prog_len,
	       info.xlated_prog_len);
	say("replace", change(BPF_PROG_ATTACH, inner, everything, MULTI | BPF_F_REPLACE, again));
	open_inside("replaced");
	say("detach what is not attached", change(BPF_PROG_DETACH, inner, no_full, 0, 0));
	say("detach", change(BPF_PROG_DETACH, inner, everything, 0, 0));
	say("attach again", change(BPF_PROG_ATTACH, inner, no_full, MULTI, 0));
	say("attach a second", change(BPF_PROG_ATTACH, inner, everything, MULTI, 0));
	open_inside("both");
	say("query with room for one", query(inner, 0, 1));
	printf("attached %u\n", attr.query.prog_cnt);
	say("detach the one", change(BPF_PROG_DETACH, inner, everything, 0, 0));
	say("detach the other", change(BPF_PROG_DETACH, inner, no_full, 0, 0));
	open_inside("detached");

	/* What the descriptor is to the kernel: nothing. */
	fresh()->link_create.prog_fd = no_full;
	attr.link_create.target_fd = inner;
	attr.link_create.attach_type = BPF_CGROUP_DEVICE;
	say("link", bpf(BPF_LINK_CREATE));

	/* Programs that are no device filters. */
	say("load with a loop", LOAD_PROGRAM({ MOV(0, 1), JNE(0, 1, -1), EXIT }));
	say("load with a helper", LOAD_PROGRAM({ { .code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_ktime_get_ns }, EXIT }));
	say("load with a store", LOAD_PROGRAM({ { .code = BPF_ST | BPF_MEM | BPF_DW, .dst_reg = 10, .off = -8 }, MOV(0, 1), EXIT }));
	say("load with the context changed", LOAD_PROGRAM({ { .code = BPF_ALU64 | BPF_ADD | BPF_K, .dst_reg = 1, .imm = 4 }, EXIT }));
	say("load that the verifier refuses", LOAD_PROGRAM({ EXIT }));
	say("load of nothing", load_of(BPF_PROG_TYPE_CGROUP_DEVICE, nothing, 0));
	say("load of too much", load_of(BPF_PROG_TYPE_CGROUP_DEVICE, nothing, 4097));
	say("load of no memory", load_of(BPF_PROG_TYPE_CGROUP_DEVICE, (void *)(edge + 4088), 2));
	say("load of another type", load_of(BPF_PROG_TYPE_CGROUP_SKB, nothing, 2));
	say("attr of no memory", syscall(SYS_bpf, BPF_PROG_QUERY, edge + 4088, sizeof attr));
	say("attr at the end of a page", syscall(SYS_bpf, BPF_PROG_LOAD, memset(edge + 4096 - 72, 0, 72), 72));
	say("attr too large", syscall(SYS_bpf, BPF_PROG_LOAD, &attr, 4097));
	fresh();
	say("a map", bpf(BPF_MAP_CREATE));
	for (i = 0; i < 1000 && LOAD_PROGRAM({ MOV(0, 1), EXIT }) >= 0; i++)
		;
	say("load without end", i < 1000 ? -1 : 0);
	close_range(3, ~0u, 0);
	say("load after all are closed", LOAD_PROGRAM({ MOV(0, 1), EXIT }));
	rmdir(cgroup);
	return 0;
}
