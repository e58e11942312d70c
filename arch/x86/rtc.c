/*
 * A MC146818A real-time clock (Motorola data sheet) with a PC's century byte and CMOS memory.
 *
 * The clock is the host's plus an offset, which the guest changes by setting the time. While it
 * sets it (SET in register B) the time registers are plain memory.
 *
 * Update In Progress never reads as set, so nobody waits for it. Instead a read of register A, with
 * which every reader begins, latches the time for LATCH_NS: what is read after it is of one moment,
 * however slow the accesses are.
 *
 * Alarm and update-ended interrupts work (Linux builds all its RTC timers on the alarm), by one
 * timer that is armed for the next of them only while it is enabled. The periodic interrupt is
 * never raised, and register C tells only of enabled interrupts.
 */
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "arch/x86/layout.h"
#include "arch/x86/rtc.h"

enum {
	SECONDS,
	SECONDS_ALARM,
	MINUTES,
	MINUTES_ALARM,
	HOURS,
	HOURS_ALARM,
	DAY_OF_WEEK,
	DAY_OF_MONTH,
	MONTH,
	YEAR,
	REG_A,
	REG_B,
	REG_C,
	REG_D,
	CENTURY = 0x32,
	LOW_RAM = 0x34,  /* from 16 MiB to 4 GiB, in 64 KiB: two bytes */
	HIGH_RAM = 0x5b, /* above 4 GiB, in 64 KiB: three bytes */
};

#define A_UIP     0x80
#define A_DEFAULT 0x26 /* 32.768 kHz time base, 1024 Hz rate */

#define B_SET 0x80
#define B_AIE 0x20
#define B_UIE 0x10
#define B_DM  0x04 /* binary, else BCD */
#define B_24H 0x02

#define C_IRQF 0x80
#define C_AF   0x20 /* the flags have the place of their enable bits in B */
#define C_UF   0x10

#define D_VRT 0x80

#define HOURS_PM        0x80
#define ALARM_ANY       0xc0 /* both bits: the alarm's byte matches any time */
#define SECONDS_PER_DAY 86400
#define LATCH_NS        100000000
#define NEVER           INT64_MAX

static uint8_t encode(const struct rtc *rtc, unsigned value)
{
	return (uint8_t)(rtc->reg[REG_B] & B_DM ? value : value / 10 << 4 | value % 10);
}

static unsigned decode(const struct rtc *rtc, uint8_t byte)
{
	return rtc->reg[REG_B] & B_DM ? byte : (byte >> 4) * 10u + (byte & 0xf);
}

static uint8_t encode_hours(const struct rtc *rtc, unsigned hours)
{
	if (rtc->reg[REG_B] & B_24H)
		return encode(rtc, hours);
	return encode(rtc, (hours + 11) % 12 + 1) | (hours >= 12 ? HOURS_PM : 0);
}

static unsigned decode_hours(const struct rtc *rtc, uint8_t byte)
{
	if (rtc->reg[REG_B] & B_24H)
		return decode(rtc, byte);
	return decode(rtc, byte & (uint8_t)~HOURS_PM) % 12 + (byte & HOURS_PM ? 12 : 0);
}

/* Show the time in the time registers. */
static void latch(struct rtc *rtc)
{
	struct tm tm;

	clock_gettime(CLOCK_REALTIME, &rtc->latched);
	time_t now = rtc->latched.tv_sec + rtc->offset;

	gmtime_r(&now, &tm);
	unsigned year = (unsigned)(tm.tm_year + 1900) % 10000;

	rtc->reg[SECONDS] = encode(rtc, (unsigned)tm.tm_sec);
	rtc->reg[MINUTES] = encode(rtc, (unsigned)tm.tm_min);
	rtc->reg[HOURS] = encode_hours(rtc, (unsigned)tm.tm_hour);
	rtc->reg[DAY_OF_WEEK] = encode(rtc, (unsigned)tm.tm_wday + 1);
	rtc->reg[DAY_OF_MONTH] = encode(rtc, (unsigned)tm.tm_mday);
	rtc->reg[MONTH] = encode(rtc, (unsigned)tm.tm_mon + 1);
	rtc->reg[YEAR] = encode(rtc, year % 100);
	rtc->reg[CENTURY] = encode(rtc, year / 100);
}

static bool latch_expired(const struct rtc *rtc)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	int64_t seconds = now.tv_sec - rtc->latched.tv_sec;

	if (seconds < 0 || seconds > 1)
		return true;
	int64_t age = seconds * 1000000000 + now.tv_nsec - rtc->latched.tv_nsec;

	return age < 0 || age > LATCH_NS;
}

/* Make the clock go on from what the time registers say. */
static void set_time(struct rtc *rtc)
{
	struct tm tm = {
		.tm_sec = (int)decode(rtc, rtc->reg[SECONDS]),
		.tm_min = (int)decode(rtc, rtc->reg[MINUTES]),
		.tm_hour = (int)decode_hours(rtc, rtc->reg[HOURS]),
		.tm_mday = (int)decode(rtc, rtc->reg[DAY_OF_MONTH]),
		.tm_mon = (int)decode(rtc, rtc->reg[MONTH]) - 1,
		.tm_year =
		        (int)(decode(rtc, rtc->reg[CENTURY]) * 100 + decode(rtc, rtc->reg[YEAR])) -
		        1900,
	};

	clock_gettime(CLOCK_REALTIME, &rtc->latched);
	rtc->offset = timegm(&tm) - rtc->latched.tv_sec;
}

static bool alarm_matches(uint8_t alarm, uint8_t time)
{
	return (alarm & ALARM_ANY) == ALARM_ANY || alarm == time;
}

/* The first time after @now that the alarm's registers name, or NEVER. */
static int64_t next_alarm(const struct rtc *rtc, int64_t now)
{
	for (int64_t t = now + 1; t <= now + SECONDS_PER_DAY;) {
		unsigned of_day =
		        (unsigned)((t % SECONDS_PER_DAY + SECONDS_PER_DAY) % SECONDS_PER_DAY);

		if (!alarm_matches(rtc->reg[HOURS_ALARM], encode_hours(rtc, of_day / 3600)))
			t += 3600 - of_day % 3600;
		else if (!alarm_matches(rtc->reg[MINUTES_ALARM], encode(rtc, of_day / 60 % 60)))
			t += 60 - of_day % 60;
		else if (!alarm_matches(rtc->reg[SECONDS_ALARM], encode(rtc, of_day % 60)))
			t++;
		else
			return t;
	}
	return NEVER;
}

static int64_t guest_time(const struct rtc *rtc)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return now.tv_sec + rtc->offset;
}

/* Flags and the interrupt line, IRQF, which is edge-triggered. */
static void set_flags(struct rtc *rtc, uint8_t flags)
{
	bool was_high = rtc->reg[REG_C] & C_IRQF;

	flags |= rtc->reg[REG_C] & (C_AF | C_UF);
	rtc->reg[REG_C] = flags;
	if (flags & rtc->reg[REG_B]) {
		rtc->reg[REG_C] |= C_IRQF;
		if (!was_high)
			irq_raise(rtc->irq);
	}
}

/* What has happened since arm(). */
static void advance(struct rtc *rtc)
{
	int64_t now = guest_time(rtc);

	set_flags(rtc, (uint8_t)((now >= rtc->update ? C_UF : 0) | (now >= rtc->alarm ? C_AF : 0)));
}

/* Set the timer for the next interrupt that is enabled. */
static void arm(struct rtc *rtc)
{
	uint8_t enabled = rtc->reg[REG_B] & B_SET ? 0 : rtc->reg[REG_B];
	int64_t now = guest_time(rtc);

	rtc->update = enabled & B_UIE ? now + 1 : NEVER;
	rtc->alarm = enabled & B_AIE ? next_alarm(rtc, now) : NEVER;

	int64_t next = rtc->update < rtc->alarm ? rtc->update : rtc->alarm;
	struct itimerspec at = { 0 }; /* disarms */

	if (next != NEVER)
		at.it_value.tv_sec = next - rtc->offset;
	timerfd_settime(rtc->timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
}

void rtc_tick(struct rtc *rtc)
{
	pthread_mutex_lock(&rtc->lock);
	advance(rtc);
	arm(rtc);
	pthread_mutex_unlock(&rtc->lock);
}

static bool is_time(unsigned index)
{
	switch (index) {
	case SECONDS:
	case MINUTES:
	case HOURS:
	case DAY_OF_WEEK:
	case DAY_OF_MONTH:
	case MONTH:
	case YEAR:
	case CENTURY:
		return true;
	}
	return false;
}

static bool is_memory(unsigned index)
{
	return index > REG_D && index != CENTURY;
}

static uint8_t reg_read(struct rtc *rtc, unsigned index)
{
	bool runs = !(rtc->reg[REG_B] & B_SET);
	uint8_t value;

	if (runs && (index == REG_A || (is_time(index) && latch_expired(rtc))))
		latch(rtc);
	value = rtc->reg[index];
	if (index == REG_C)
		rtc->reg[REG_C] = 0;
	return value;
}

static void write_b(struct rtc *rtc, uint8_t value)
{
	bool ran = !(rtc->reg[REG_B] & B_SET);

	if (ran)
		latch(rtc);
	rtc->reg[REG_B] = value;
	if (!(value & B_SET)) {
		if (!ran)
			set_time(rtc);
		latch(rtc); /* the format may be another */
	}
	set_flags(rtc, 0);
}

static void write_time(struct rtc *rtc, unsigned index, uint8_t value)
{
	bool runs = !(rtc->reg[REG_B] & B_SET);

	if (runs)
		latch(rtc);
	rtc->reg[index] = value;
	if (runs)
		set_time(rtc);
}

static void reg_write(struct rtc *rtc, unsigned index, uint8_t value)
{
	if (is_memory(index)) {
		rtc->reg[index] = value;
		return;
	}
	advance(rtc);
	if (is_time(index))
		write_time(rtc, index, value);
	else if (index == REG_B)
		write_b(rtc, value);
	else if (index == REG_A)
		rtc->reg[REG_A] = value & (uint8_t)~A_UIP;
	else if (index < REG_A)
		rtc->reg[index] = value;
	arm(rtc);
}

static uint64_t data_read(void *dev, uint64_t off, unsigned len)
{
	struct rtc *rtc = dev;

	(void)off;
	(void)len;
	pthread_mutex_lock(&rtc->lock);
	uint8_t value = reg_read(rtc, rtc->index);

	pthread_mutex_unlock(&rtc->lock);
	return value;
}

static void data_write(void *dev, uint64_t off, unsigned len, uint64_t value)
{
	struct rtc *rtc = dev;

	(void)off;
	(void)len;
	pthread_mutex_lock(&rtc->lock);
	reg_write(rtc, rtc->index, (uint8_t)value);
	pthread_mutex_unlock(&rtc->lock);
}

/* Bit 7 of a PC's index port masks NMIs, of which there are none. */
static void index_write(void *dev, uint64_t off, unsigned len, uint64_t value)
{
	struct rtc *rtc = dev;

	(void)off;
	(void)len;
	pthread_mutex_lock(&rtc->lock);
	rtc->index = value & 0x7f;
	pthread_mutex_unlock(&rtc->lock);
}

static const struct bus_ops index_ops = { .write = index_write, .defer_writes = true };
static const struct bus_ops data_ops = { .read = data_read, .write = data_write };

int rtc_init(struct rtc *rtc, const struct irq *irq, uint64_t low, uint64_t high)
{
	uint64_t extended = low > 0x1000000 ? (low - 0x1000000) >> 16 : 0;

	*rtc = (struct rtc){
		.irq = irq,
		.timer_fd = timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC),
		.update = NEVER,
		.alarm = NEVER,
	};
	if (rtc->timer_fd < 0)
		return -errno;
	pthread_mutex_init(&rtc->lock, NULL);
	rtc->reg[REG_A] = A_DEFAULT;
	rtc->reg[REG_B] = B_24H;
	rtc->reg[REG_D] = D_VRT;
	for (unsigned i = 0; i < 2; i++)
		rtc->reg[LOW_RAM + i] = (uint8_t)(extended >> 8 * i);
	for (unsigned i = 0; i < 3; i++)
		rtc->reg[HIGH_RAM + i] = (uint8_t)(high >> (16 + 8 * i));
	latch(rtc);
	return 0;
}

void rtc_fini(struct rtc *rtc)
{
	if (rtc->timer_fd >= 0)
		close(rtc->timer_fd);
	rtc->timer_fd = -1;
}

int rtc_attach(struct rtc *rtc, struct bus *bus)
{
	const struct bus_range index = { PORT_RTC, 1, "rtc-index", &index_ops, rtc };
	const struct bus_range data = { PORT_RTC + 1, 1, "rtc-data", &data_ops, rtc };
	int err = bus_add(bus, BUS_PORT, &index);

	return err ? err : bus_add(bus, BUS_PORT, &data);
}
