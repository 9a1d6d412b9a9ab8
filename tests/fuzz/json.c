/* JSON as the OCI entry reads it: what the supervisor answers, and config.json of whoever calls.
 *
 * What was found to be whole can be walked to its last value; a string that was read and written again reads the same.
 */
#include "fuzz.h"

#include <stdbool.h>

#include "../../interceptor/native/shim.h"

#define VALUES_MAX 2000

static struct piece {
	struct piece *next;
	size_t size;
	char memory[];
} *pieces;

/* The program never frees: here it is done behind its back. */
void *allocate(void *old, size_t size)
{
	struct piece *piece = malloc(sizeof *piece + size);

	*piece = (struct piece){pieces, size};
	pieces = piece;
	if (old) {
		struct piece *before = (struct piece *)((char *)old - offsetof(struct piece, memory));

		memcpy(piece->memory, old, before->size < size ? before->size : size);
	}
	return piece->memory;
}

static void free_all(void)
{
	for (struct piece *next; pieces; pieces = next) {
		next = pieces->next;
		free(pieces);
	}
}

static void check_string(const char *string)
{
	struct text text = {0};
	struct json again;
	char *read;

	json_add_string(&text, string);
	MUST(!json_parse(text.data, text.length, &again));
	read = json_string(again);
	MUST(read && !strcmp(read, string));
}

static void visit(struct json value, unsigned *left)
{
	long integer;
	char *string;

	if (!*left)
		return;
	--*left;
	MUST(value.at < value.end && value.end <= value.document_end);
	string = json_string(value);
	if (string)
		check_string(string);
	MUST(!(json_is_true(value) && json_is_null(value)));
	json_integer(value, &integer);
	json_member(value, "pid");
	for (struct json element = json_first(value); element.at && *left; element = json_next(element))
		visit(element, left);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *document = malloc(size + 1); /* as all of it is read: with a NUL behind */
	struct json value;
	unsigned left = VALUES_MAX;

	if (size)
		memcpy(document, data, size);
	document[size] = 0;
	if (!json_parse(document, size, &value))
		visit(value, &left);
	if (!memchr(document, 0, size) && size < 1024)
		check_string(document);
	free_all();
	free(document);
	return 0;
}
