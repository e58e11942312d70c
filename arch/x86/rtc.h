/*
 * The real-time clock and the CMOS memory behind ports 0x70 and 0x71.
 *
 * rtc_init, rtc_attach, rtc_fini: main thread, while no vCPU runs. rtc_tick: the I/O thread.
 */
#ifndef ARCH_X86_RTC_H
#define ARCH_X86_RTC_H

#include <pthread.h>
#include <stdint.h>
#include <time.h>

#include "core/bus.h"
#include "core/irq.h"

struct rtc {
	const struct irq *irq;
	int timer_fd; /* timerfd, readable when an interrupt of the clock is due */
	pthread_mutex_t lock;
	int64_t offset;          /* seconds that the guest's clock is ahead of the host's */
	struct timespec latched; /* the host's time that the time registers show */
	int64_t update;          /* the guest's time of the next update-ended interrupt, if any */
	int64_t alarm;           /* and of the next alarm */
	uint8_t index;
	uint8_t reg[128];
};

/*
 * A clock that shows the host's time, UTC. @irq is raised for alarm and update interrupts. CMOS
 * memory tells firmware that @low bytes of RAM lie from 0 and @high bytes from 4 GiB on.
 * Returns 0, or -errno and nothing is held.
 */
int rtc_init(struct rtc *rtc, const struct irq *irq, uint64_t low, uint64_t high);
void rtc_fini(struct rtc *rtc);
int rtc_attach(struct rtc *rtc, struct bus *bus); /* 0 or bus_add()'s error */

/* timer_fd has expired. */
void rtc_tick(struct rtc *rtc);

#endif
