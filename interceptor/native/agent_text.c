/* The few functions on strings that the agent needs. */
#include "agent_sys.h"

size_t text_size(const char *text)
{
	size_t size = 0;

	while (text[size])
		size++;
	return size;
}

int text_equal(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

size_t text_number(char *out, uint32_t value)
{
	char digits[10];
	size_t count = 0, written = 0;

	do
		digits[count++] = '0' + value % 10;
	while (value /= 10);
	while (count)
		out[written++] = digits[--count];
	out[written] = 0;
	return written;
}
