#include <stddef.h>
#include <stdio.h>

struct entry {
    char *word;
    size_t count;
};

struct table {
    struct entry *entries;
    size_t length;
    size_t capacity;
};

/* Counts one more of the word; returns 0 when memory is exhausted. */
int table_add(struct table *table, const char *word);
void table_sort(struct table *table);
void table_free(struct table *table);

/* Counts the words of a file; returns 0 when memory is exhausted. */
int count_words(FILE *file, struct table *table);
