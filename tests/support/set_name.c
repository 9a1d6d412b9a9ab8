/* set_name UID CALL NAME: CALL is sethostname or setdomainname; prints what came of it.
 *
 * With another UID than 0 the process drops to it and cannot be dumped any more, so that all below its /proc/PID belongs
 * to root.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	unsigned id = argc == 4 ? (unsigned)atol(argv[1]) : 0;
	int result;

	if (argc != 4)
		return 2;
	if (id && (setresgid(id, id, id) || setresuid(id, id, id) || prctl(PR_SET_DUMPABLE, 0)))
		return 3;
	result = !strcmp(argv[2], "sethostname") ? sethostname(argv[3], strlen(argv[3])) : setdomainname(argv[3], strlen(argv[3]));
	puts(result ? strerrorname_np(errno) : "done");
	return 0;
}
