/*
 * ACPI's fixed hardware: power management events and control, the power management timer.
 *
 * pm_init, pm_attach: main thread, before the first vCPU runs.
 */
#ifndef ARCH_X86_PM_H
#define ARCH_X86_PM_H

#include <pthread.h>
#include <stdint.h>

#include "core/bus.h"
#include "core/power.h"

struct pm {
	struct power *power;
	pthread_mutex_t lock;
	uint32_t PM1_EVT; /* status in the low half, enable in the high half */
	uint32_t PM1_CNT;
};

/* @power hears of soft off. */
void pm_init(struct pm *pm, struct power *power);
int pm_attach(struct pm *pm, struct bus *bus); /* 0 or bus_add()'s error */

#endif
