#include <stdio.h>

#include "sprout.h"

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++)
        printf("%s %s: %s\n", GREETING, argv[i], sprout_for(argv[i]));
    return argc > 1 ? 0 : 2;
}
