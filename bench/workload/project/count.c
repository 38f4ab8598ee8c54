#include "words.h"

#include <ctype.h>

int count_words(FILE *file, struct table *table) {
    char word[256];
    size_t length = 0;
    for (;;) {
        int c = getc(file);
        if (c != EOF && isalnum(c)) {
            if (length < sizeof word - 1) word[length++] = (char)tolower(c);
            continue;
        }
        if (length) {
            word[length] = '\0';
            length = 0;
            if (!table_add(table, word)) return 0;
        }
        if (c == EOF) return 1;
    }
}
