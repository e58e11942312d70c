/*
 * The bus: two sorted tables, ports and MMIO. Knows no device.
 */
#include <errno.h>
#include <string.h>

#include "core/bus.h"

int bus_add(struct bus *bus, enum bus_space space, const struct bus_range *range)
{
	struct bus_range *table = bus->space[space].range;
	unsigned n = bus->space[space].n;
	unsigned at = 0;

	if (!range->len || range->base + range->len - 1 < range->base)
		return -EINVAL;
	if (n == BUS_RANGES_MAX)
		return -ENOSPC;
	while (at < n && table[at].base < range->base)
		at++;
	if (at && range->base - table[at - 1].base < table[at - 1].len)
		return -EEXIST;
	if (at < n && table[at].base - range->base < range->len)
		return -EEXIST;

	memmove(&table[at + 1], &table[at], (n - at) * sizeof(*table));
	table[at] = *range;
	bus->space[space].n++;
	return 0;
}

const struct bus_range *bus_find(const struct bus *bus, enum bus_space space, uint64_t addr,
                                 unsigned len)
{
	const struct bus_range *table = bus->space[space].range;
	unsigned lo = 0;
	unsigned hi = bus->space[space].n;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (addr < table[mid].base)
			hi = mid;
		else if (addr - table[mid].base >= table[mid].len)
			lo = mid + 1;
		else
			return len <= table[mid].len - (addr - table[mid].base) ? &table[mid]
			                                                        : NULL;
	}
	return NULL;
}

bool bus_access(const struct bus *bus, enum bus_space space, uint64_t addr, void *data,
                unsigned len, bool is_write)
{
	const struct bus_range *range = bus_find(bus, space, addr, len);
	uint64_t value = ~0ull;

	if (is_write) {
		value = 0;
		memcpy(&value, data, len);
		if (range && range->ops->write)
			range->ops->write(range->dev, addr - range->base, len, value);
	} else {
		if (range && range->ops->read)
			value = range->ops->read(range->dev, addr - range->base, len);
		memcpy(data, &value, len);
	}
	return range != NULL;
}
