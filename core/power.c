/*
 * How a VM ends: one word and one eventfd.
 */
#include <errno.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/power.h"

int power_init(struct power *power)
{
	atomic_init(&power->state, POWER_ON);
	power->fd = eventfd(0, EFD_CLOEXEC);
	return power->fd < 0 ? -errno : 0;
}

void power_fini(struct power *power)
{
	if (power->fd >= 0)
		close(power->fd);
	power->fd = -1;
}

void power_rearm(struct power *power)
{
	atomic_store(&power->state, POWER_ON);
}

void power_request(struct power *power, enum power_state how)
{
	int on = POWER_ON;

	if (atomic_compare_exchange_strong(&power->state, &on, how))
		eventfd_write(power->fd, 1);
}

enum power_state power_state(struct power *power)
{
	return (enum power_state)atomic_load(&power->state);
}
