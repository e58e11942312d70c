/*
 * Looking into a vCPU that is not running: where it stands and what it would execute.
 *
 * From the vCPU's own thread, or any thread once that has stopped.
 */
#ifndef CORE_INSPECT_H
#define CORE_INSPECT_H

#include <stddef.h>
#include <stdint.h>

#include "core/memory.h"

#define INSPECT_MAX 160

/*
 * Copy up to @n bytes that the vCPU sees at the linear address @gva. Returns how many could be
 * read: fewer where a page is not mapped or not RAM.
 */
size_t inspect_bytes(int vcpu_fd, const struct mem *mem, uint64_t gva, uint8_t *buf, size_t n);

/* "rip 0x10000a8, bytes 48 0f c7 0f ..." into @text, cut at @len (INSPECT_MAX is enough). */
void inspect_cpu(int vcpu_fd, const struct mem *mem, char *text, size_t len);

#endif
