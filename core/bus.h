/*
 * The bus: which device answers a port or an MMIO address.
 *
 * Ranges are added by the main thread before the first vCPU runs and never change after that, so
 * vCPU threads look them up without a lock. Handlers run on vCPU threads, several at once: a device
 * with state guards it itself.
 */
#ifndef CORE_BUS_H
#define CORE_BUS_H

#include <stdbool.h>
#include <stdint.h>

enum bus_space { BUS_PORT, BUS_MMIO };

/*
 * A device's answer. @off counts from the start of the range, @len is 1, 2, 4 or 8 and the access
 * lies wholly inside the range. A read returns its value in the low @len bytes; a NULL handler
 * reads as all ones, ignores writes.
 */
struct bus_ops {
	uint64_t (*read)(void *dev, uint64_t off, unsigned len);
	void (*write)(void *dev, uint64_t off, unsigned len, uint64_t value);
	/*
	 * Nothing follows from a write but what a later access shows, so KVM may keep writes back
	 * until then: an exit less for each.
	 */
	bool defer_writes;
};

struct bus_range {
	uint64_t base;
	uint64_t len;
	const char *name; /* for --timings */
	const struct bus_ops *ops;
	void *dev;
};

#define BUS_RANGES_MAX 32

struct bus {
	struct {
		struct bus_range range[BUS_RANGES_MAX]; /* ascending, disjoint */
		unsigned n;
	} space[2];
};

/* Add a range; the bus starts zeroed. Returns 0, -EEXIST (overlap), -EINVAL or -ENOSPC. */
int bus_add(struct bus *bus, enum bus_space space, const struct bus_range *range);

/* The range that holds all of [@addr, @addr + @len), or NULL. */
const struct bus_range *bus_find(const struct bus *bus, enum bus_space space, uint64_t addr,
                                 unsigned len);

/*
 * One access of @len bytes at @data. What no device claims reads as all ones, as on a PC.
 * Returns whether a device claimed it.
 */
bool bus_access(const struct bus *bus, enum bus_space space, uint64_t addr, void *data,
                unsigned len, bool is_write);

#endif
