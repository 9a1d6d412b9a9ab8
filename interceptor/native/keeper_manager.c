/* The keeper's own keeper: a service manager with a descriptor store (sd_notify(3) FDSTORE=1, sd_listen_fds(3)).
 *
 * It only has a name of 255 characters for each descriptor, so that notes do not survive a keeper: they help people.
 */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "keeper.h"
#include "shim.h"

#define NAME_MAX_LENGTH 255 /* systemd, fdname_is_valid() */

void manager_tell(const char *told, int pass)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct text message = {.data = (char *)told, .length = strlen(told)};
	if (!path || !*path || strlen(path) >= sizeof address.sun_path)
		return;
	memcpy(address.sun_path, path, strlen(path));
	if (*path == '@')
		address.sun_path[0] = '\0';
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, length) < 0 || !send_message(fd, &message, pass))
		dprintf(2, "keeper: the service manager does not listen: %s\n", strerror(errno));
	if (fd >= 0)
		close(fd);
}

/* Connections are of the moment, and a name is all that says what a descriptor is. */
static bool can_be_stored(const char *kind, const char *key)
{
	return getenv("NOTIFY_SOCKET") && strcmp(kind, "connection") != 0 && strlen(kind) + 1 + strlen(key) <= NAME_MAX_LENGTH &&
	       !strpbrk(key, ":\n");
}

void manager_keeps(const char *name, int fd, bool stored)
{
	char text[640];
	const char *key = name + strlen(name) + 1;
	if (!can_be_stored(name, key))
		return;
	snprintf(text, sizeof text, "%s=1\nFDNAME=%s.%s\n%s", stored ? "FDSTORE" : "FDSTOREREMOVE", name, key, stored ? "FDPOLL=0\n" : "");
	manager_tell(text, stored ? fd : -1);
}

/* kind.key → kind NUL key NUL NUL. */
static bool split(const char *given, size_t length, char name[NAME_MAX_LENGTH + 3])
{
	const char *dot = memchr(given, '.', length);
	if (!dot || length > NAME_MAX_LENGTH)
		return false;
	memset(name, 0, NAME_MAX_LENGTH + 3);
	memcpy(name, given, length);
	name[dot - given] = '\0';
	return true;
}

void manager_gives_back(void)
{
	const char *pid = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS"), *names = getenv("LISTEN_FDNAMES");
	char name[NAME_MAX_LENGTH + 3];
	if (!pid || !count || !names || atol(pid) != getpid())
		return;
	for (int fd = 3; fd < 3 + atoi(count) && names; fd++) {
		size_t length = strcspn(names, ":");
		if (split(names, length, name))
			keep(name, fd, false);
		else
			close(fd);
		names = names[length] ? names + length + 1 : NULL;
	}
}
