/*
 * The keyboard controller's ports: no controller, but the ways it resets a PC.
 *
 * i8042_init, i8042_attach: main thread, before the first vCPU runs.
 */
#ifndef ARCH_X86_I8042_H
#define ARCH_X86_I8042_H

#include <stdbool.h>

#include "core/bus.h"
#include "core/power.h"

struct i8042 {
	struct power *power;
	_Atomic bool output_port; /* the next data byte is for it */
};

/* @power hears of a reset. */
void i8042_init(struct i8042 *i8042, struct power *power);
int i8042_attach(struct i8042 *i8042, struct bus *bus); /* 0 or bus_add()'s error */

#endif
