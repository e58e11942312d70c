/*
 * What all fuzz targets take: a program that is read from front to end, and checks that abort.
 */
#ifndef TESTS_FUZZ_INPUT_H
#define TESTS_FUZZ_INPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct input {
	const uint8_t *data;
	size_t left;
};

static inline void require(bool truth)
{
	if (!truth)
		abort();
}

/* The next @len bytes of the program, little-endian; zeroes behind its end. */
static inline uint64_t take(struct input *in, unsigned len)
{
	uint64_t value = 0;

	if (len > in->left)
		len = (unsigned)in->left;
	memcpy(&value, in->data, len);
	in->data += len;
	in->left -= len;
	return value;
}

#endif
