/* The agent's own seccomp filter: whoever takes the agent over through a kernel or filesystem bug has these calls left. */
#include "agent.h"
#include "agent_sys.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>

#if defined(__x86_64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
#else
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#endif

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define RETURN(action) BPF_STMT(BPF_RET | BPF_K, action)
#define ALLOW(name) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_##name, 0, 1), RETURN(SECCOMP_RET_ALLOW)

static const struct sock_filter program[] = {
	LOAD(arch),
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE, 1, 0),
	RETURN(SECCOMP_RET_KILL_PROCESS),
	LOAD(nr),
	/* the link */
	ALLOW(recvmsg), ALLOW(sendto), ALLOW(sendmsg), ALLOW(close_range), ALLOW(close), ALLOW(setitimer),
	/* where we stand and who we are */
	ALLOW(setns), ALLOW(unshare), ALLOW(fchdir), ALLOW(chroot), ALLOW(setgroups), ALLOW(setfsuid), ALLOW(setfsgid),
	ALLOW(setresuid), ALLOW(setresgid), ALLOW(capget), ALLOW(capset), ALLOW(prctl),
	/* paths and mounts */
	ALLOW(openat2), ALLOW(openat), ALLOW(statx), ALLOW(readlinkat), ALLOW(fstatfs), ALLOW(fsopen), ALLOW(fsconfig), ALLOW(fsmount),
	ALLOW(open_tree), ALLOW(mount_setattr),
	ALLOW(move_mount), ALLOW(ioctl),
	/* the staging namespace */
	ALLOW(mount), ALLOW(umount2), ALLOW(pivot_root), ALLOW(mkdirat), ALLOW(dup3),
	/* device nodes */
	ALLOW(mknodat), ALLOW(umask), ALLOW(faccessat2), ALLOW(fstatfs),
	/* extended attributes */
	ALLOW(setxattr), ALLOW(fsetxattr), ALLOW(getxattr), ALLOW(fgetxattr), ALLOW(listxattr), ALLOW(flistxattr),
	ALLOW(removexattr), ALLOW(fremovexattr), ALLOW(pread64), ALLOW(pwrite64),
	/* names */
	ALLOW(sethostname), ALLOW(setdomainname),
	/* children; the kernel restarts sleeps through restart_syscall */
	ALLOW(clone), ALLOW(wait4), ALLOW(exit_group), ALLOW(restart_syscall),
	RETURN(SECCOMP_RET_KILL_PROCESS),
};

long filter_install(void)
{
	struct sock_fprog list = { .len = sizeof program / sizeof program[0], .filter = (struct sock_filter *)program };
	long error = sys(prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);

	return error ? error : sys(seccomp, SECCOMP_SET_MODE_FILTER, 0, &list);
}
