#include <stdio.h>

int main(void)
{
	puts("hello from bin1");
	return 0;
}
