/*
 * ACPI's fixed hardware (ACPI 6.5 §4.8.3). The machine is born in ACPI mode (there is no SMI_CMD),
 * and no fixed event ever happens: the FADT has neither fixed buttons nor an RTC wake event, and
 * the timer's carry is not reported. So every status bit stays clear and no SCI is raised.
 */
#include <time.h>

#include "arch/x86/acpi.h"
#include "arch/x86/layout.h"
#include "arch/x86/pm.h"

#define PM1_EN 0xffff0000u /* of PM1_EVT */

/* PM1 control, Table 4.16. Of what is written, these read back. */
#define SCI_EN        0x0001u
#define BM_RLD        0x0002u
#define SLP_TYP_SHIFT 10
#define SLP_TYP       (7u << SLP_TYP_SHIFT)
#define SLP_EN        0x2000u
#define PM_TIMER_HZ   3579545u /* §4.8.3.3 */
#define NS_PER_SECOND 1000000000u

/* The register with @len bytes at @off replaced. */
static uint32_t merge(uint32_t reg, uint64_t off, unsigned len, uint64_t value)
{
	uint32_t mask = (uint32_t)((1ull << 8 * len) - 1) << 8 * off;

	return (reg & ~mask) | ((uint32_t)value << 8 * off & mask);
}

static uint64_t event_read(void *dev, uint64_t off, unsigned len)
{
	struct pm *pm = dev;

	(void)len;
	pthread_mutex_lock(&pm->lock);
	uint32_t value = pm->PM1_EVT;

	pthread_mutex_unlock(&pm->lock);
	return value >> 8 * off;
}

static void event_write(void *dev, uint64_t off, unsigned len, uint64_t value)
{
	struct pm *pm = dev;

	pthread_mutex_lock(&pm->lock);
	pm->PM1_EVT = merge(pm->PM1_EVT, off, len, value) & PM1_EN;
	pthread_mutex_unlock(&pm->lock);
}

static uint64_t control_read(void *dev, uint64_t off, unsigned len)
{
	struct pm *pm = dev;

	(void)len;
	pthread_mutex_lock(&pm->lock);
	uint32_t value = pm->PM1_CNT | SCI_EN;

	pthread_mutex_unlock(&pm->lock);
	return value >> 8 * off;
}

static void control_write(void *dev, uint64_t off, unsigned len, uint64_t value)
{
	struct pm *pm = dev;

	pthread_mutex_lock(&pm->lock);
	uint32_t control = merge(pm->PM1_CNT, off, len, value);

	pm->PM1_CNT = control & (SLP_TYP | BM_RLD);
	pthread_mutex_unlock(&pm->lock);

	if ((control & (SLP_EN | SLP_TYP)) == (SLP_EN | ACPI_SLP_TYP_S5 << SLP_TYP_SHIFT))
		power_request(pm->power, POWER_OFF);
}

static uint64_t timer_read(void *dev, uint64_t off, unsigned len)
{
	struct timespec now;

	(void)dev;
	(void)len;
	clock_gettime(CLOCK_MONOTONIC, &now);
	uint32_t ticks = (uint32_t)((uint64_t)now.tv_sec * PM_TIMER_HZ +
	                            (uint64_t)now.tv_nsec * PM_TIMER_HZ / NS_PER_SECOND);

	return ticks >> 8 * off;
}

static const struct bus_ops event_ops = { .read = event_read, .write = event_write };
static const struct bus_ops control_ops = { .read = control_read, .write = control_write };
static const struct bus_ops timer_ops = { .read = timer_read };

void pm_init(struct pm *pm, struct power *power)
{
	*pm = (struct pm){ .power = power };
	pthread_mutex_init(&pm->lock, NULL);
}

int pm_attach(struct pm *pm, struct bus *bus)
{
	const struct bus_range event = { PORT_PM1_EVT, 4, "pm1-event", &event_ops, pm };
	const struct bus_range control = { PORT_PM1_CNT, 2, "pm1-control", &control_ops, pm };
	const struct bus_range timer = { PORT_PM_TMR, 4, "pm-timer", &timer_ops, pm };
	int err = bus_add(bus, BUS_PORT, &event);

	if (!err)
		err = bus_add(bus, BUS_PORT, &control);
	return err ? err : bus_add(bus, BUS_PORT, &timer);
}
