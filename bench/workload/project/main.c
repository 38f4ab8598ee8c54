#include "words.h"

int main(void) {
    struct table table = {0};
    if (!count_words(stdin, &table)) {
        fputs("words: out of memory\n", stderr);
        return 1;
    }
    table_sort(&table);
    for (size_t i = 0; i < table.length && i < 10; i++)
        printf("%6zu %s\n", table.entries[i].count, table.entries[i].word);
    table_free(&table);
    return 0;
}
