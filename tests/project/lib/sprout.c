#include "sprout.h"

#include "fnv.h"
#include "words.h"

enum { WORDS = sizeof words / sizeof words[0] };
_Static_assert(WORDS == EXPECTED_WORDS, "the table has every word of the list");

const char *sprout_for(const char *name) {
    return words[fnv1a(name) % WORDS];
}
