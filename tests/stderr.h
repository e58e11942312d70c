/*
 * Tests: what is written to standard error.
 */
#ifndef TESTS_STDERR_H
#define TESTS_STDERR_H

#include <sys/mman.h>
#include <unistd.h>

#define STDERR_MAX 512

static int captured[2];

/* Standard error goes to a file from here until it is read back. */
static inline void capture(void)
{
	captured[0] = dup(2);
	captured[1] = memfd_create("stderr", 0);
	dup2(captured[1], 2);
}

static inline void capture_end(char text[STDERR_MAX])
{
	ssize_t n = pread(captured[1], text, STDERR_MAX - 1, 0);

	text[n > 0 ? n : 0] = 0;
	dup2(captured[0], 2);
	close(captured[0]);
	close(captured[1]);
}

#endif
