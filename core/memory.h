/*
 * Guest memory: where a guest physical address becomes a host pointer.
 *
 * Set up and torn down by the main thread; mem_host() may be called from any thread in between.
 */
#ifndef CORE_MEMORY_H
#define CORE_MEMORY_H

#include <stdint.h>

typedef uint64_t gpa_t;

/* RAM ends here below 4 GiB; what does not fit goes on above 4 GiB. Between lie PCI and the APICs.
 */
#define MEM_HOLE_START 0xc0000000ull
#define MEM_HOLE_END   0x100000000ull

struct mem_region {
	gpa_t gpa;
	uint64_t len; /* bytes; 0: the region is not there */
	uint8_t *host;
};

struct mem {
	struct mem_region low;  /* from 0 */
	struct mem_region high; /* from MEM_HOLE_END */
};

/*
 * Reserve @size bytes of guest RAM (a multiple of 4 KiB), zeroed, populated on first touch, aligned
 * so that the host can back it with 2 MiB pages.
 * Returns 0, or -ENOMEM/-EINVAL and nothing is held.
 */
int mem_init(struct mem *mem, uint64_t size);
void mem_fini(struct mem *mem);

/*
 * The one gate from guest addresses to pointers: the host address of [@gpa, @gpa + @len), or NULL
 * when the range is empty, overflows, leaves RAM or straddles the hole.
 */
void *mem_host(const struct mem *mem, gpa_t gpa, uint64_t len);

#endif
