/*
 * Guest memory. Knows addresses and lengths; not what the guest keeps there.
 */
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/mman.h>

#include "core/memory.h"

#define HUGE_PAGE 0x200000ull

/*
 * RAM that is not aligned to 2 MiB costs the guest tens of thousands of nested page faults: reserve
 * 2 MiB more than asked for and give back both ends.
 */
static int region_map(struct mem_region *region, gpa_t gpa, uint64_t len)
{
	size_t reserve = len + HUGE_PAGE;
	uint8_t *base = mmap(NULL, reserve, PROT_READ | PROT_WRITE,
	                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (base == MAP_FAILED)
		return -errno;

	size_t head = -(uintptr_t)base & (HUGE_PAGE - 1);

	if (head)
		munmap(base, head);
	munmap(base + head + len, reserve - head - len);

	madvise(base + head, len, MADV_HUGEPAGE); /* a wish: kernels without THP refuse it */
	madvise(base + head, len, MADV_DONTDUMP);
	*region = (struct mem_region){ .gpa = gpa, .len = len, .host = base + head };
	return 0;
}

int mem_init(struct mem *mem, uint64_t size)
{
	uint64_t low = size < MEM_HOLE_START ? size : MEM_HOLE_START;

	*mem = (struct mem){ 0 };
	if (!size || size & 0xfff || size >> 52)
		return -EINVAL;

	int err = region_map(&mem->low, 0, low);

	if (!err && size > low)
		err = region_map(&mem->high, MEM_HOLE_END, size - low);
	if (err)
		mem_fini(mem);
	return err;
}

void mem_fini(struct mem *mem)
{
	if (mem->low.len)
		munmap(mem->low.host, mem->low.len);
	if (mem->high.len)
		munmap(mem->high.host, mem->high.len);
	*mem = (struct mem){ 0 };
}

static bool region_holds(const struct mem_region *region, gpa_t gpa, uint64_t len)
{
	return gpa >= region->gpa && gpa - region->gpa < region->len &&
	       len <= region->len - (gpa - region->gpa);
}

void *mem_host(const struct mem *mem, gpa_t gpa, uint64_t len)
{
	const struct mem_region *region = gpa < MEM_HOLE_END ? &mem->low : &mem->high;

	if (!len || !region_holds(region, gpa, len))
		return NULL;
	return region->host + (gpa - region->gpa);
}
