/* interceptor-runc: the OCI entry. */
#include <stdio.h>

int main(void)
{
	fputs("interceptor-runc: not yet\n", stderr);
	return 1;
}
