/*
 * Pieces of memory. Knows nothing of what they hold.
 */
#include <stdint.h>
#include <string.h>

#include "io/iov.h"

void iov_read(const struct iovec *iov, void *buf, size_t len)
{
	uint8_t *to = buf;

	for (; len; iov++) {
		size_t n = len < iov->iov_len ? len : iov->iov_len;

		memcpy(to, iov->iov_base, n);
		to += n;
		len -= n;
	}
}

void iov_write(const struct iovec *iov, const void *buf, size_t len)
{
	const uint8_t *from = buf;

	for (; len; iov++) {
		size_t n = len < iov->iov_len ? len : iov->iov_len;

		memcpy(iov->iov_base, from, n);
		from += n;
		len -= n;
	}
}

void iov_skip(struct iovec **iov, unsigned *n, size_t len)
{
	for (; *n && len >= (*iov)->iov_len; (*iov)++, (*n)--)
		len -= (*iov)->iov_len;
	if (*n) {
		(*iov)->iov_base = (uint8_t *)(*iov)->iov_base + len;
		(*iov)->iov_len -= len;
	}
}
