/* The FNV-1a hash, 32 bits. */
#ifndef FNV_H
#define FNV_H
#include <stdint.h>

static inline uint32_t fnv1a(const char *text) {
    uint32_t hash = 2166136261u;
    for (; *text; text++)
        hash = (hash ^ (unsigned char)*text) * 16777619u;
    return hash;
}
#endif
