#include "snapshots.h"

#include <stdlib.h>
#include <string.h>

#define INDEX_BITS 12                /* of a number: which open file; the rest tells it from earlier ones */
#define HANDLES_MAX (1u << INDEX_BITS)
#define HANDLES_FIRST 16u
#define RETIRED_MAX 32               /* snapshots that only open files need */

struct ic_text *ic_text(struct ic_handles *handles, const char *from, uint32_t size, uint32_t length)
{
	uint32_t head = size && from[size - 1] == '\n' ? size - 1 : size;
	struct ic_text *text = malloc(sizeof *text + length);

	if (!text)
		return 0;
	*text = (struct ic_text){.number = ++handles->numbers, .refs = 1, .size = length};
	memcpy(text->bytes, from, head);
	memset(text->bytes + head, ' ', length - head);
	if (length && head < size)
		text->bytes[length - 1] = '\n';
	return text;
}

static void drop(struct ic_handles *handles, struct ic_text *text)
{
	if (!text || --text->refs)
		return;
	handles->retired -= (uint32_t)text->retired;
	free(text);
}

static const struct ic_text *older(const struct ic_text *one, const struct ic_text *other)
{
	return !other || !other->retired || (one && one->number < other->number) ? one : other;
}

static void forget_oldest(struct ic_handles *handles)
{
	const struct ic_text *oldest = 0;
	uint32_t i;

	for (i = 0; i < handles->count; i++)
		oldest = older(older(oldest, handles->all[i].text), handles->all[i].pages);
	for (i = 0; oldest && i < handles->count; i++) {
		struct ic_handle *handle = &handles->all[i];

		if (handle->text == oldest) {
			handle->next = 0;
			ic_handle_hold(handles, &handle->text, 0);
		}
		if (handle->pages == oldest)
			ic_handle_hold(handles, &handle->pages, 0);
	}
}

void ic_text_retire(struct ic_handles *handles, struct ic_text *text)
{
	if (!text)
		return;
	text->retired = 1;
	handles->retired++;
	drop(handles, text);
	if (handles->retired > RETIRED_MAX)
		forget_oldest(handles);
}

static int enlarge(struct ic_handles *handles)
{
	uint32_t count = handles->count ? handles->count * 2 : HANDLES_FIRST, i;
	struct ic_handle *more = count > HANDLES_MAX ? 0 : realloc(handles->all, count * sizeof *more);

	if (!more)
		return 0;
	for (i = handles->count; i < count; i++)
		more[i] = (struct ic_handle){.next = i + 1};
	handles->all = more;
	handles->free = handles->count;
	handles->count = count;
	return 1;
}

uint64_t ic_handle_open(struct ic_handles *handles)
{
	uint32_t index;

	if (handles->free == handles->count && !enlarge(handles))
		return 0;
	index = handles->free;
	handles->free = (uint32_t)handles->all[index].next;
	handles->all[index] = (struct ic_handle){.fh = ++handles->numbers << INDEX_BITS | index};
	return handles->all[index].fh;
}

struct ic_handle *ic_handle(const struct ic_handles *handles, uint64_t fh)
{
	uint32_t index = fh & (HANDLES_MAX - 1);

	return fh && index < handles->count && handles->all[index].fh == fh ? &handles->all[index] : 0;
}

void ic_handle_hold(struct ic_handles *handles, struct ic_text **place, struct ic_text *text)
{
	if (text)
		text->refs++;
	drop(handles, *place);
	*place = text;
}

void ic_handle_close(struct ic_handles *handles, struct ic_handle *handle)
{
	ic_handle_hold(handles, &handle->text, 0);
	ic_handle_hold(handles, &handle->pages, 0);
	*handle = (struct ic_handle){.next = handles->free};
	handles->free = (uint32_t)(handle - handles->all);
}

void ic_handles_free(struct ic_handles *handles)
{
	uint32_t i;

	for (i = 0; i < handles->count; i++)
		ic_handle_close(handles, &handles->all[i]);
	free(handles->all);
	*handles = (struct ic_handles){0};
}
