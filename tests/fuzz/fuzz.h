/* What fuzz targets share: how an input is taken apart, and how a broken promise is told.
 *
 * A target is LLVMFuzzerTestOneInput(). `make fuzz` links it with libFuzzer, tests with engine.c.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The rest of an input. What is taken beyond its end is zero. */
struct input {
	const uint8_t *at;
	size_t left;
};

static inline uint64_t take(struct input *input, unsigned bytes)
{
	uint64_t value = 0;

	for (unsigned i = 0; i < bytes && input->left; i++, input->left--)
		value |= (uint64_t)*input->at++ << 8 * i;
	return value;
}

/* Copies at most `size` bytes; answers how many there were. */
static inline size_t take_bytes(struct input *input, void *to, size_t size)
{
	if (size > input->left)
		size = input->left;
	if (size)
		memcpy(to, input->at, size);
	input->at += size;
	input->left -= size;
	return size;
}

/* What must hold whatever the input is. */
#define MUST(condition)                                                                            \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "%s:%d: broken: %s\n", __FILE__, __LINE__, #condition);   \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
