#include <stdio.h>

int main(int argc, char **argv)
{
	printf("hello from bin2, %s\n", argc > 1 ? argv[1] : "whoever you are");
	return 0;
}
