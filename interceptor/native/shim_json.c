/* JSON (RFC 8259), as much of it as the control socket's messages and one look into config.json need.
 *
 * Read in place: json_parse() checks a document once; from then on a value is a slice of it, and looking for a member is
 * skipping over its neighbours. Quadratic in principle, and a hundredth of the size of any library.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shim.h"

#define LEVELS 64

/* ---- writing ---- */

void text_add(struct text *text, const char *data, size_t length)
{
	if (text->length + length + 1 > text->capacity) {
		text->capacity = (text->length + length + 1) * 2;
		text->data = allocate(text->data, text->capacity);
	}
	memcpy(text->data + text->length, data, length);
	text->length += length;
	text->data[text->length] = '\0';
}

void text_adds(struct text *text, const char *string)
{
	text_add(text, string, strlen(string));
}

/* Bytes of the well-formed UTF-8 sequence at `at` (Unicode, table 3-7), or 0. */
static size_t utf8_length(const unsigned char *at)
{
	unsigned char low = 0x80, high = 0xbf;
	size_t length = at[0] < 0x80 ? 1 : at[0] < 0xc2 ? 0 : at[0] < 0xe0 ? 2 : at[0] < 0xf0 ? 3 : at[0] < 0xf5 ? 4 : 0;
	if (at[0] == 0xe0)
		low = 0xa0;
	else if (at[0] == 0xed)
		high = 0x9f;
	else if (at[0] == 0xf0)
		low = 0x90;
	else if (at[0] == 0xf4)
		high = 0x8f;
	for (size_t i = 1; i < length; i++, low = 0x80, high = 0xbf)
		if (at[i] < low || at[i] > high)
			return 0;
	return length;
}

void json_add_string(struct text *text, const char *string)
{
	char escape[8];
	text_adds(text, "\"");
	for (const unsigned char *at = (const unsigned char *)string; *at;) {
		size_t length = utf8_length(at);
		if (length && *at >= 0x20 && *at != 0x7f && *at != '"' && *at != '\\') {
			text_add(text, (const char *)at, length);
			at += length;
			continue;
		}
		if (!length)
			snprintf(escape, sizeof escape, "\\udc%02x", *at);
		else if (*at == '"' || *at == '\\')
			snprintf(escape, sizeof escape, "\\%c", *at);
		else
			snprintf(escape, sizeof escape, "\\u%04x", *at);
		text_adds(text, escape);
		at++;
	}
	text_adds(text, "\"");
}

void json_add_name(struct text *text, const char *name)
{
	if (text->length && text->data[text->length - 1] != '{')
		text_adds(text, ",");
	json_add_string(text, name);
	text_adds(text, ":");
}

void json_add_member(struct text *text, const char *name, const char *string)
{
	json_add_name(text, name);
	if (string)
		json_add_string(text, string);
	else
		text_adds(text, "null");
}

void json_add_bool(struct text *text, const char *name, bool value)
{
	json_add_name(text, name);
	text_adds(text, value ? "true" : "false");
}

void json_add_strings(struct text *text, const char *name, char *const *strings, int count)
{
	json_add_name(text, name);
	text_adds(text, "[");
	for (int i = 0; i < count; i++) {
		if (i)
			text_adds(text, ",");
		json_add_string(text, strings[i]);
	}
	text_adds(text, "]");
}

/* ---- checking ---- */

struct cursor {
	const char *at, *end;
	const char *error;
	int level;
};

static bool wrong(struct cursor *cursor, const char *error)
{
	cursor->error = error;
	return false;
}

static void skip_space(struct cursor *cursor)
{
	while (cursor->at < cursor->end && memchr(" \t\r\n", *cursor->at, 4))
		cursor->at++;
}

static bool take(struct cursor *cursor, char expected)
{
	if (cursor->at == cursor->end || *cursor->at != expected)
		return false;
	cursor->at++;
	return true;
}

static int hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The value of four hexadecimal digits, or -1. */
static int four_digits(const char *at, const char *end)
{
	int value = 0;
	if (end - at < 4)
		return -1;
	for (int i = 0; i < 4; i++) {
		if (hex_digit(at[i]) < 0)
			return -1;
		value = value * 16 + hex_digit(at[i]);
	}
	return value;
}

static bool check_escape(struct cursor *cursor)
{
	if (cursor->at == cursor->end)
		return wrong(cursor, "ends inside a string");
	char c = *cursor->at++;
	if (c != 'u')
		return memchr("\"\\/bfnrt", c, 8) ? true : wrong(cursor, "an escape that JSON does not have");
	if (four_digits(cursor->at, cursor->end) < 0)
		return wrong(cursor, "\\u without four hexadecimal digits");
	cursor->at += 4;
	return true;
}

static bool check_string(struct cursor *cursor)
{
	if (!take(cursor, '"'))
		return wrong(cursor, "a string was expected");
	while (cursor->at < cursor->end) {
		unsigned char c = (unsigned char)*cursor->at++;
		if (c == '"')
			return true;
		if (c < 0x20)
			return wrong(cursor, "a control character inside a string");
		if (c == '\\' && !check_escape(cursor))
			return false;
	}
	return wrong(cursor, "ends inside a string");
}

static bool check_digits(struct cursor *cursor)
{
	const char *start = cursor->at;
	while (cursor->at < cursor->end && *cursor->at >= '0' && *cursor->at <= '9')
		cursor->at++;
	return cursor->at > start ? true : wrong(cursor, "a value was expected");
}

static bool check_number(struct cursor *cursor)
{
	take(cursor, '-');
	if (!take(cursor, '0') && !check_digits(cursor))
		return false;
	if (take(cursor, '.') && !check_digits(cursor))
		return false;
	if (!take(cursor, 'e') && !take(cursor, 'E'))
		return true;
	if (!take(cursor, '+'))
		take(cursor, '-');
	return check_digits(cursor);
}

static bool check_word(struct cursor *cursor, const char *word)
{
	size_t length = strlen(word);
	if ((size_t)(cursor->end - cursor->at) < length || memcmp(cursor->at, word, length) != 0)
		return wrong(cursor, "a value was expected");
	cursor->at += length;
	return true;
}

static bool check_value(struct cursor *cursor);

static bool check_name(struct cursor *cursor)
{
	skip_space(cursor);
	if (!check_string(cursor))
		return false;
	skip_space(cursor);
	return take(cursor, ':') ? true : wrong(cursor, "a colon was expected");
}

/* An object or array, from its opening bracket on. */
static bool check_nested(struct cursor *cursor, char close)
{
	cursor->at++;
	if (++cursor->level > LEVELS)
		return wrong(cursor, "nested too deeply");
	skip_space(cursor);
	if (!take(cursor, close)) {
		do {
			if ((close == '}' && !check_name(cursor)) || !check_value(cursor))
				return false;
			skip_space(cursor);
		} while (take(cursor, ','));
		if (!take(cursor, close))
			return wrong(cursor, "a comma or the closing bracket was expected");
	}
	cursor->level--;
	return true;
}

static bool check_value(struct cursor *cursor)
{
	skip_space(cursor);
	if (cursor->at == cursor->end)
		return wrong(cursor, "ends where a value was expected");
	switch (*cursor->at) {
	case '{':
		return check_nested(cursor, '}');
	case '[':
		return check_nested(cursor, ']');
	case '"':
		return check_string(cursor);
	case 't':
		return check_word(cursor, "true");
	case 'f':
		return check_word(cursor, "false");
	case 'n':
		return check_word(cursor, "null");
	default:
		return check_number(cursor);
	}
}

/* ---- reading what has been checked ---- */

/* The value that begins at or after `at`; none where a closing bracket stands. */
static struct json value_at(const char *at, const char *document_end)
{
	struct cursor cursor = {.at = at, .end = document_end};
	skip_space(&cursor);
	const char *start = cursor.at;
	if (!check_value(&cursor))
		return (struct json){0};
	return (struct json){start, cursor.at, document_end};
}

const char *json_parse(const char *data, size_t length, struct json *document)
{
	struct cursor cursor = {.at = data, .end = data + length};
	if (!check_value(&cursor))
		return cursor.error;
	skip_space(&cursor);
	if (cursor.at != cursor.end)
		return "goes on after its end";
	*document = value_at(data, data + length);
	return NULL;
}

struct json json_first(struct json array)
{
	return array.at && *array.at == '[' ? value_at(array.at + 1, array.document_end) : (struct json){0};
}

struct json json_next(struct json element)
{
	struct cursor cursor = {.at = element.end, .end = element.document_end};
	skip_space(&cursor);
	return take(&cursor, ',') ? value_at(cursor.at, cursor.end) : (struct json){0};
}

/* The last one of that name counts, as in Python and Go. */
struct json json_member(struct json object, const char *name)
{
	struct json found = {0};
	if (!object.at || *object.at != '{')
		return found;
	for (struct json key = value_at(object.at + 1, object.document_end); key.at;) {
		struct cursor cursor = {.at = key.end, .end = key.document_end};
		skip_space(&cursor);
		struct json value = value_at(cursor.at + 1, cursor.end); /* after the colon */
		char *text = json_string(key);
		if (text && strcmp(text, name) == 0)
			found = value;
		key = json_next(value);
	}
	return found;
}

static void add_utf8(struct text *text, unsigned long point)
{
	char bytes[4];
	if (point < 0x80) {
		bytes[0] = (char)point;
		text_add(text, bytes, 1);
	} else if (point < 0x800) {
		bytes[0] = (char)(0xc0 | point >> 6);
		bytes[1] = (char)(0x80 | (point & 0x3f));
		text_add(text, bytes, 2);
	} else if (point < 0x10000) {
		bytes[0] = (char)(0xe0 | point >> 12);
		bytes[1] = (char)(0x80 | (point >> 6 & 0x3f));
		bytes[2] = (char)(0x80 | (point & 0x3f));
		text_add(text, bytes, 3);
	} else {
		bytes[0] = (char)(0xf0 | point >> 18);
		bytes[1] = (char)(0x80 | (point >> 12 & 0x3f));
		bytes[2] = (char)(0x80 | (point >> 6 & 0x3f));
		bytes[3] = (char)(0x80 | (point & 0x3f));
		text_add(text, bytes, 4);
	}
}

/* The \u escape whose digits begin at `at`, and its second half where there is one. Returns what comes after it. */
static const char *add_unicode(struct text *text, const char *at, const char *end)
{
	unsigned long point = (unsigned long)four_digits(at, end);
	at += 4;
	if (point >= 0xdc80 && point <= 0xdcff) { /* surrogateescape: the byte that was no UTF-8 */
		char byte = (char)(point & 0xff);
		text_add(text, &byte, 1);
		return at;
	}
	if (point >= 0xd800 && point < 0xdc00 && end - at >= 6 && at[0] == '\\' && at[1] == 'u') {
		int low = four_digits(at + 2, end);
		if (low >= 0xdc00 && low < 0xe000) {
			point = 0x10000 + ((point - 0xd800) << 10) + (unsigned long)(low - 0xdc00);
			at += 6;
		}
	}
	add_utf8(text, point);
	return at;
}

char *json_string(struct json value)
{
	static const char escapes[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
	struct text text = {0};
	if (!value.at || *value.at != '"')
		return NULL;
	text_adds(&text, "");
	for (const char *at = value.at + 1; at < value.end - 1;) {
		if (*at != '\\') {
			text_add(&text, at++, 1);
		} else if (at[1] == 'u') {
			at = add_unicode(&text, at + 2, value.end);
		} else {
			text_add(&text, &meanings[strchr(escapes, at[1]) - escapes], 1);
			at += 2;
		}
	}
	return strlen(text.data) == text.length ? text.data : NULL;
}

static bool is_word(struct json value, const char *word)
{
	size_t length = strlen(word);
	return value.at && (size_t)(value.end - value.at) == length && memcmp(value.at, word, length) == 0;
}

bool json_is_true(struct json value)
{
	return is_word(value, "true");
}

bool json_is_null(struct json value)
{
	return !value.at || is_word(value, "null");
}

bool json_integer(struct json value, long *integer)
{
	char *end;
	if (!value.at || !(*value.at == '-' || (*value.at >= '0' && *value.at <= '9')))
		return false;
	errno = 0;
	*integer = strtol(value.at, &end, 10);
	return errno == 0 && end == value.end;
}
