/* A fuzzing engine for where there is only gcc: runs the inputs of a corpus, and so many made of them by simple changes. It sees no
 * coverage; libFuzzer (`make fuzz`) does, and what that finds to be new goes into the corpus.
 *
 * engine -runs=N -seed=S DIRECTORY…   Each input is kept in a file `last` while it runs, where -last=FILE says so.
 */
#include "fuzz.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#define SIZE_MAX_OF_INPUT 4096
#define INPUTS_MAX 8192

static struct {
	uint8_t *data;
	size_t size;
} corpus[INPUTS_MAX];
static size_t inputs;
static uint64_t state;
static uint8_t *last;

static uint64_t any(void) /* xorshift64* (Vigna 2016) */
{
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return state * 0x2545f4914f6cdd1dull;
}

static size_t below(size_t bound)
{
	return bound ? any() % bound : 0;
}

static void add_file(const char *path)
{
	uint8_t *data = malloc(SIZE_MAX_OF_INPUT);
	int fd = open(path, O_RDONLY);
	ssize_t size = fd < 0 ? -1 : read(fd, data, SIZE_MAX_OF_INPUT);

	if (fd >= 0)
		close(fd);
	if (size < 0 || inputs == INPUTS_MAX) {
		free(data);
		return;
	}
	corpus[inputs].data = data;
	corpus[inputs++].size = (size_t)size;
}

static void add_directory(const char *path)
{
	struct dirent **names;
	int count = scandir(path, &names, 0, alphasort);
	char file[4096];

	for (int i = 0; i < count; i++) {
		if (names[i]->d_name[0] != '.') {
			snprintf(file, sizeof file, "%s/%s", path, names[i]->d_name);
			add_file(file);
		}
		free(names[i]);
	}
	if (count >= 0)
		free(names);
}

/* Memory of its exact size, so that whoever reads beyond it is seen. */
static void run(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size ? size : 1);

	memcpy(copy, data, size);
	if (last) {
		*(uint64_t *)last = size;
		memcpy(last + sizeof(uint64_t), data, size);
	}
	LLVMFuzzerTestOneInput(copy, size);
	free(copy);
}

static size_t change(uint8_t *data, size_t size)
{
	static const uint8_t interesting[] = {0, 1, 2, 7, 8, 16, 31, 32, 63, 64, 127, 128, 254, 255, '/', ',', '=', '"', '\\', '\n'};
	size_t at = below(size), length = 1 + below(8), from;

	switch (below(7)) {
	case 0:
		if (size)
			data[at] ^= (uint8_t)(1u << below(8));
		return size;
	case 1:
		if (size)
			data[at] = (uint8_t)any();
		return size;
	case 2:
		if (size)
			data[at] = interesting[below(sizeof interesting)];
		return size;
	case 3: /* cut out */
		if (at + length > size)
			return at;
		memmove(data + at, data + at + length, size - at - length);
		return size - length;
	case 4: /* put in */
		if (size + length > SIZE_MAX_OF_INPUT)
			return size;
		memmove(data + at + length, data + at, size - at);
		for (size_t i = 0; i < length; i++)
			data[at + i] = (uint8_t)any();
		return size + length;
	case 5: /* twice */
		from = below(size);
		for (size_t i = 0; i < length && at + i < size && from + i < size; i++)
			data[at + i] = data[from + i];
		return size;
	default: { /* the end of another */
		size_t other = below(inputs), tail = below(corpus[other].size), count = corpus[other].size - tail;

		if (at + count > SIZE_MAX_OF_INPUT)
			return size;
		memcpy(data + at, corpus[other].data + tail, count);
		return at + count;
	}
	}
}

int main(int argc, char **argv)
{
	static uint8_t data[SIZE_MAX_OF_INPUT];
	unsigned long runs = 0, seed = 1;

	for (int i = 1; i < argc; i++) {
		if (!strncmp(argv[i], "-runs=", 6))
			runs = strtoul(argv[i] + 6, NULL, 10);
		else if (!strncmp(argv[i], "-seed=", 6))
			seed = strtoul(argv[i] + 6, NULL, 10);
		else if (!strncmp(argv[i], "-last=", 6)) {
			int fd = open(argv[i] + 6, O_RDWR | O_CREAT | O_TRUNC, 0600);

			if (fd < 0 || ftruncate(fd, sizeof(uint64_t) + SIZE_MAX_OF_INPUT))
				return 2;
			last = mmap(NULL, sizeof(uint64_t) + SIZE_MAX_OF_INPUT, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
			close(fd);
		} else
			add_directory(argv[i]);
	}
	if (!inputs)
		add_file("/dev/null");
	state = seed * 0x9e3779b97f4a7c15ull + 1;
	for (size_t i = 0; i < inputs; i++)
		run(corpus[i].data, corpus[i].size);
	for (unsigned long i = 0; i < runs; i++) {
		size_t chosen = below(inputs), size = corpus[chosen].size;

		memcpy(data, corpus[chosen].data, size);
		for (size_t changes = 1 + below(6); changes; changes--)
			size = change(data, size);
		run(data, size);
	}
	printf("%zu inputs, %lu changed ones\n", inputs, runs);
	return 0;
}
