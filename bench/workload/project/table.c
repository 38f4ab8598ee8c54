#include "words.h"

#include <stdlib.h>
#include <string.h>

int table_add(struct table *table, const char *word) {
    for (size_t i = 0; i < table->length; i++) {
        if (strcmp(table->entries[i].word, word) == 0) {
            table->entries[i].count++;
            return 1;
        }
    }
    if (table->length == table->capacity) {
        size_t capacity = table->capacity ? 2 * table->capacity : 64;
        struct entry *entries = realloc(table->entries, capacity * sizeof *entries);
        if (!entries) return 0;
        table->entries = entries;
        table->capacity = capacity;
    }
    char *copy = strdup(word);
    if (!copy) return 0;
    table->entries[table->length++] = (struct entry){copy, 1};
    return 1;
}

static int more_frequent(const void *left, const void *right) {
    const struct entry *one = left, *other = right;
    if (one->count != other->count) return one->count < other->count ? 1 : -1;
    return strcmp(one->word, other->word);
}

void table_sort(struct table *table) {
    if (table->length) qsort(table->entries, table->length, sizeof *table->entries, more_frequent);
}

void table_free(struct table *table) {
    for (size_t i = 0; i < table->length; i++) free(table->entries[i].word);
    free(table->entries);
}
