#ifndef SPROUT_H
#define SPROUT_H

/* The plant that belongs to a name; the same one each time. */
const char *sprout_for(const char *name);

#endif
