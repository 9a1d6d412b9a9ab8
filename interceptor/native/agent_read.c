/* A piece of a file that the tracee has open, for handlers that look into it: a read may hang, if the filesystem is hostile. */
#include "agent.h"
#include "agent_sys.h"

#include <linux/errno.h>
#include <linux/stat.h>

static char piece[65536];

/* number: offset, size. As kernel_read_file() it takes regular files only; what the descriptor is open for, the kernel checks. */
long act_read(struct call *call)
{
	const int file = call->fd[AGENT_FD_BASE];
	uint64_t offset = call->request->number[0], size = call->request->number[1], done = 0;
	struct facts facts;
	long error = path_facts(file, &facts);

	if (error)
		return error;
	if ((facts.mode & S_IFMT) != S_IFREG)
		return -EINVAL;
	while (done < size) {
		long count = sys(pread64, file, piece, size - done < sizeof piece ? size - done : sizeof piece, offset + done);

		if (count < 0)
			return count;
		if (!count)
			break;
		if (sys(pwrite64, call->fd[AGENT_FD_MEMORY], piece, count, done) != count)
			return -EIO;
		done += count;
	}
	call->value = done;
	return 0;
}
