/* The limit that bench/roundtrip.py measures against: FD: receive and answer notifications, nothing else. */
#include <errno.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS _IOW('!', 4, unsigned long long)
#endif

int main(int count, char **word)
{
	int notifier = count == 2 ? atoi(word[1]) : -1;
	struct seccomp_notif request;
	struct seccomp_notif_resp answer;

	ioctl(notifier, SECCOMP_IOCTL_NOTIF_SET_FLAGS, 1ul); /* SYNC_WAKE_UP, as far as the kernel has it */
	for (;;) {
		memset(&request, 0, sizeof request);
		if (ioctl(notifier, SECCOMP_IOCTL_NOTIF_RECV, &request) < 0) {
			if (errno == EINTR)
				continue;
			return errno != ENOENT;
		}
		memset(&answer, 0, sizeof answer);
		answer.id = request.id;
		ioctl(notifier, SECCOMP_IOCTL_NOTIF_SEND, &answer);
	}
}
