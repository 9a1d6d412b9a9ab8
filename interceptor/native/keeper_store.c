/* What the keeper holds: descriptors by kind and key, and which of them the supervisor that runs has been told. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "keeper.h"

struct store store;

size_t name_length(const char *name)
{
	size_t length = 0;
	for (int part = 0; part < 3; part++)
		length += strlen(name + length) + 1;
	return length;
}

bool is_kind(const struct held *held, const char *kind)
{
	return strcmp(held->name, kind) == 0;
}

static void forget(size_t i)
{
	struct held *held = &store.held[i];
	manager_keeps(held->name, held->fd, false);
	store.untold -= !held->told;
	store.connections -= is_kind(held, "connection");
	close(held->fd);
	free(held->name);
	*held = store.held[--store.count];
}

void drop(const char *name)
{
	for (size_t i = 0; i < store.count; i++)
		if (is_kind(&store.held[i], name) && strcmp(store.held[i].name + strlen(name) + 1, name + strlen(name) + 1) == 0) {
			forget(i);
			return;
		}
}

void keep(const char *name, int fd, bool told)
{
	size_t length = name_length(name);
	drop(name);
	if (store.count == store.room) {
		size_t room = store.room ? 2 * store.room : 16;
		struct held *larger = realloc(store.held, room * sizeof *larger);
		store.room = larger ? room : store.room;
		store.held = larger ? larger : store.held;
	}
	char *copy = malloc(length);
	if (!copy || store.count == store.room) {
		say(true, "out of memory: %s %s is not held", name, name + strlen(name) + 1);
		free(copy);
		close(fd);
		return;
	}
	memcpy(copy, name, length);
	store.held[store.count++] = (struct held){.name = copy, .fd = fd, .told = told};
	store.untold += !told;
	store.connections += is_kind(&store.held[store.count - 1], "connection");
	manager_keeps(copy, fd, true);
}

bool holds_anything(void)
{
	for (size_t i = 0; i < store.count; i++)
		if (!is_kind(&store.held[i], "socket") && !is_kind(&store.held[i], "listener"))
			return true;
	return false;
}

void tell_again(void)
{
	for (size_t i = 0; i < store.count; i++)
		store.held[i].told = false;
	store.untold = store.count;
}
