/* The tracee, pinned: a handle of /proc/TID opened first, its memory copied, then ID_VALID asked once.
 *
 * A descriptor of /proc/TID belongs to that task (struct pid) for ever: when the task dies and its number is used again,
 * what is opened below the descriptor fails with ESRCH. So after the one check no number can name somebody else.
 *
 * Source: seccomp_unotify(2), "Design goals"; Linux fs/proc/base.c proc_pid_lookup(), pid_revalidate().
 */
#ifndef INTERCEPTOR_PIN_H
#define INTERCEPTOR_PIN_H

#include <stdint.h>
#include <sys/timex.h>

#define IC_PIECES 6

struct ic_piece {
	uint64_t address;    /* in the tracee */
	uint32_t limit;      /* bytes wanted at most; all limits together fit into the buffer */
	int32_t length;      /* bytes copied; -1: not even the first byte was readable */
	uint32_t terminated; /* 1: stop after the first NUL */
	uint32_t offset;     /* where in the buffer the copy starts */
};

struct ic_pin {
	int proc;                /* O_PATH|O_DIRECTORY of /proc/TID; the caller's to close */
	uint32_t owner;          /* its uid: the tracee's euid when that is dumpable, else host root */
	uint64_t cap_effective;  /* capget(2) of the tracee: a set that counts in the tracee's own user namespace */
	uint64_t user_namespace; /* st_ino of ns/user and ns/mnt */
	uint64_t mount_namespace;
	char comm[16];
	uint32_t comm_tid;       /* whose comm it is, and since when: kept from one pinning to the next */
	uint64_t comm_time;
};

/* 0; -ENOENT when the notification is no longer valid (then nothing is open); another -errno is ours. */
int ic_pin(int notifier, uint64_t id, uint32_t tid, struct ic_pin *pin, struct ic_piece *pieces, int count, char *buffer, uint32_t size);

/* Copies pieces of the memory of thread `tid`, as ic_pin() does; believe them after ID_VALID only. */
void ic_pin_copy(uint32_t tid, struct ic_piece *pieces, int count, char *buffer, uint32_t size);
/* capget(2) of thread `tid`: its effective set, 0 when it is gone; believe it after ID_VALID only. */
uint64_t ic_pin_effective(uint32_t tid);

/* Opens NAME ("root", "cwd", "ns/mnt" …) below a pinned /proc/TID; O_PATH for root and cwd.
 * A descriptor or -errno (ESRCH, ENOENT: gone). */
int ic_pin_open(int proc, const char *name, int path_only);
/* st_ino of what NAME below a pinned /proc/TID points to, or 0. */
uint64_t ic_pin_inode(int proc, const char *name);
/* Whether the tracee may itself read (write: or write) all of that memory; `maps` is an open /proc/TID/maps. 0, -EFAULT, or
 * -ENOTTY before Linux 6.11. */
int ic_pin_mapped(int maps, uint64_t address, uint64_t length, int write);
/* A duplicate of the tracee's descriptor (pidfd_getfd(2)), or -errno; EBADF is the tracee's mistake. */
int ic_pin_getfd(int proc, uint32_t tid, int fd);
/* Whether two descriptors of ours are one open file (F_DUPFD_QUERY of Linux 6.10, else kcmp(2)). */
int ic_same_file(int one, int other);
/* Whether descriptor `number` of thread `tid` is the open file of `fd`, one of ours. */
int ic_is_file_of(uint32_t tid, int number, int fd);
/* Whether `cap_effective`, held in the pinned tracee's user namespace by `euid`, counts in the user namespace that owns
 * the namespace NAME ("ns/mnt" …): security/commoncap.c cap_capable(). 1, 0 or -errno. */
int ic_pin_capable(int proc, const char *name, uint64_t cap_effective, int cap, uint32_t euid);
/* What sched_getaffinity(2) answers to who has room enough: the size of the kernel's masks in bytes. */
long ic_cpumask_size(void);
/* adjtimex(2) that only reads: the state of CLOCK_REALTIME (TIME_OK …), or -errno. */
int ic_clock(struct timex *timex);

#endif
