/*
 * One-byte ports that only tell the host something: POST code, firmware's debug output, markers.
 *
 * ports_init, ports_attach: main thread, before the first vCPU runs.
 */
#ifndef ARCH_X86_PORTS_H
#define ARCH_X86_PORTS_H

#include <stdint.h>

#include "core/bus.h"

/* Called on the vCPU thread that wrote @value, with no lock held. */
struct ports_ops {
	void (*mark)(void *arg, uint8_t value);  /* to PORT_MARKER */
	void (*debug)(void *arg, uint8_t value); /* to PORT_FW_DEBUG; NULL: there is no such port */
};

struct ports {
	const struct ports_ops *ops;
	void *arg;
	_Atomic uint8_t post; /* the last POST code */
};

void ports_init(struct ports *ports, const struct ports_ops *ops, void *arg);
int ports_attach(struct ports *ports, struct bus *bus); /* 0 or bus_add()'s error */

#endif
