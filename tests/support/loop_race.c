/* loop_race SECONDS [FILE]: attaches FILE to /dev/loop0 again and again, or without it detaches what is attached. Prints how often
 * that succeeded; "lost" and status 1 where there is no such device any more. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define LOOP_SET_FD 0x4c00
#define LOOP_CLR_FD 0x4c01

int main(int argc, char **argv)
{
	time_t end = time(NULL) + atoi(argv[1]);
	int file = argc > 2 ? open(argv[2], O_RDWR | O_CREAT, 0644) : -1, device;
	long done = 0;

	for (; time(NULL) < end; close(device)) {
		device = open("/dev/loop0", O_RDONLY);
		if (device < 0) {
			puts("lost");
			return 1;
		}
		done += ioctl(device, file < 0 ? LOOP_CLR_FD : LOOP_SET_FD, file) == 0;
	}
	printf("%ld\n", done);
	return 0;
}
