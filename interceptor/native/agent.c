/* the agent. */
#include <stdio.h>

int main(void)
{
	fputs("agent: not yet\n", stderr);
	return 1;
}
