/* What the command `compile` compiles where there is no more than a C library. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(void) {
    size_t words = 0;
    int inside = 0;
    for (int c; (c = getchar()) != EOF; inside = isalpha(c) != 0) words += isalpha(c) && !inside;
    printf("%zu\n", words);
    return ferror(stdin) ? EXIT_FAILURE : EXIT_SUCCESS;
}
