/*
 * Pieces of memory that are read and written as if they lay one behind the other.
 *
 * Any thread.
 */
#ifndef IO_IOV_H
#define IO_IOV_H

#include <stddef.h>
#include <sys/uio.h>

/* Copy the first @len bytes of the pieces to @buf, or from there; there are as many. */
void iov_read(const struct iovec *iov, void *buf, size_t len);
void iov_write(const struct iovec *iov, const void *buf, size_t len);

/* Leave out the first @len bytes of the *@n pieces at *@iov; at the end nothing is left. */
void iov_skip(struct iovec **iov, unsigned *n, size_t len);

#endif
