/*
 * Numbers for tests: without a pattern, and the same each time.
 */
#ifndef TESTS_RANDOM_H
#define TESTS_RANDOM_H

#include <stdint.h>

/* The next one, less than @n. */
static inline uint32_t below(uint64_t *seed, uint32_t n)
{
	*seed = *seed * 6364136223846793005 + 1442695040888963407;
	return (uint32_t)(*seed >> 33) % n;
}

#endif
