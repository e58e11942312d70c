/*
 * Reading JSON that kring and its guest have written: finds values, checks nothing.
 *
 * Any thread.
 */
#ifndef BENCH_BENCH_JSON_H
#define BENCH_BENCH_JSON_H

#include <stddef.h>

/*
 * The value at @path in @json: names of members and indices of arrays, separated by slashes
 * ("devices/0/queues/1/kicks"). NULL: there is none.
 */
const char *json_find(const char *json, const char *path);

/* The number there; 0 when there is none. */
double json_number(const char *json, const char *path);

/* The sum of @name over the objects of the array at @path. */
double json_sum(const char *json, const char *path, const char *name);

/* How many bytes the value at @value takes. */
size_t json_length(const char *value);

#endif
