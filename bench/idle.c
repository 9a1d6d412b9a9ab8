/* The idle container of bench/memory.py. */
#include <unistd.h>

int main(void)
{
	for (;;)
		pause();
}
