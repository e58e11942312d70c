/* The clock: the host's time in every format, set and read back, consistent, with its alarm. */
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "arch/x86/layout.h"
#include "arch/x86/rtc.h"

enum { SEC, SEC_ALARM, MIN, MIN_ALARM, HOUR, HOUR_ALARM, WDAY, MDAY, MON, YEAR, A, B, C, D };

#define CENTURY 0x32
#define SET     0x80
#define AIE     0x20
#define UIE     0x10
#define BINARY  0x04
#define H24     0x02

struct machine {
	struct irq irq;
	struct rtc rtc;
	struct bus bus;
};

static int setup(void **state)
{
	static struct machine machine;

	machine = (struct machine){ .irq.fd = eventfd(0, EFD_NONBLOCK) };
	*state = &machine;
	return rtc_init(&machine.rtc, &machine.irq, 0xc0000000, 0x140000000) ||
	       rtc_attach(&machine.rtc, &machine.bus);
}

static int teardown(void **state)
{
	struct machine *machine = *state;

	rtc_fini(&machine->rtc);
	close(machine->irq.fd);
	return 0;
}

static uint8_t in(struct machine *machine, uint8_t index)
{
	uint8_t value;

	bus_access(&machine->bus, BUS_PORT, PORT_RTC, &index, 1, true);
	bus_access(&machine->bus, BUS_PORT, PORT_RTC + 1, &value, 1, false);
	return value;
}

static void out(struct machine *machine, uint8_t index, uint8_t value)
{
	bus_access(&machine->bus, BUS_PORT, PORT_RTC, &index, 1, true);
	bus_access(&machine->bus, BUS_PORT, PORT_RTC + 1, &value, 1, true);
}

static int from_bcd(uint8_t byte)
{
	assert_true(byte >> 4 < 10 && (byte & 0xf) < 10);
	return (byte >> 4) * 10 + (byte & 0xf);
}

static int from_binary(uint8_t byte)
{
	return byte;
}

/* Read the clock as a driver does: register A first, and UIP must be clear. */
static time_t read_time(struct machine *machine)
{
	assert_false(in(machine, A) & 0x80);

	uint8_t b = in(machine, B);
	int (*from)(uint8_t) = b & BINARY ? from_binary : from_bcd;
	uint8_t hour = in(machine, HOUR);
	struct tm tm = {
		.tm_sec = from(in(machine, SEC)),
		.tm_min = from(in(machine, MIN)),
		.tm_hour = b & H24 ? from(hour) : from(hour & 0x7f) % 12 + (hour & 0x80 ? 12 : 0),
		.tm_mday = from(in(machine, MDAY)),
		.tm_mon = from(in(machine, MON)) - 1,
		.tm_year = from(in(machine, CENTURY)) * 100 + from(in(machine, YEAR)) - 1900,
	};
	int wday = from(in(machine, WDAY));
	time_t t = timegm(&tm);

	assert_int_equal(wday, tm.tm_wday + 1);
	return t;
}

/* Set the clock in binary, 24 hours, as Linux does: SET, the divider held in reset, values. */
static void set_time(struct machine *machine, time_t t)
{
	struct tm tm;

	gmtime_r(&t, &tm);
	out(machine, B, SET | BINARY | H24);
	out(machine, A, 0x76);
	out(machine, YEAR, (uint8_t)(tm.tm_year % 100));
	out(machine, MON, (uint8_t)(tm.tm_mon + 1));
	out(machine, MDAY, (uint8_t)tm.tm_mday);
	out(machine, HOUR, (uint8_t)tm.tm_hour);
	out(machine, MIN, (uint8_t)tm.tm_min);
	out(machine, SEC, (uint8_t)tm.tm_sec);
	out(machine, CENTURY, (uint8_t)((tm.tm_year + 1900) / 100));
	out(machine, B, BINARY | H24);
	out(machine, A, 0x26);
}

/* time() lags behind by up to a tick. */
static time_t host_time(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return now.tv_sec;
}

static void tells_the_time(void **state)
{
	struct machine *machine = *state;
	static const uint8_t formats[] = { H24, H24 | BINARY, 0, BINARY };

	assert_int_equal(in(machine, A), 0x26);
	assert_int_equal(in(machine, B), H24);
	assert_int_equal(in(machine, C), 0);
	assert_int_equal(in(machine, D), 0x80);
	for (unsigned i = 0; i < sizeof(formats); i++) {
		out(machine, B, formats[i]);
		time_t before = host_time();
		time_t t = read_time(machine);

		assert_in_range(t, before, host_time());
	}
}

/* Every hour, in the format whose midnight and noon are 12 AM and 12 PM. */
static void hours_of_twelve(void **state)
{
	struct machine *machine = *state;
	const time_t midnight = 1709164800; /* 29 February 2024 */

	for (int hour = 0; hour < 24; hour++) {
		set_time(machine, midnight + hour * 3600);
		out(machine, B, 0);
		uint8_t byte = in(machine, HOUR);

		assert_int_equal(byte & 0x80, hour < 12 ? 0 : 0x80);
		assert_in_range(from_bcd(byte & 0x7f), 1, 12);
		assert_int_equal(from_bcd(byte & 0x7f) % 12, hour % 12);
		assert_in_range(read_time(machine), midnight + hour * 3600,
		                midnight + hour * 3600 + 5);
	}
}

static void set_and_read_back(void **state)
{
	struct machine *machine = *state;
	static const time_t times[] = { 0, 951782399, 1709164799, 4102444799, 253402300700 };

	for (unsigned i = 0; i < sizeof(times) / sizeof(*times); i++) {
		set_time(machine, times[i]);
		assert_in_range(read_time(machine), times[i], times[i] + 5);
		out(machine, B, 0); /* BCD, 12 hours: the same clock */
		assert_in_range(read_time(machine), times[i], times[i] + 5);
	}
}

static void stands_still_while_set(void **state)
{
	struct machine *machine = *state;
	const struct timespec nap = { .tv_sec = 1, .tv_nsec = 100000000 };

	out(machine, B, SET | H24);
	time_t t = read_time(machine);

	nanosleep(&nap, NULL);
	assert_int_equal(read_time(machine), t);
	out(machine, B, H24);
	assert_in_range(read_time(machine), t, t + 1);
}

/* No format and no byte that the guest writes may do harm. */
static void takes_nonsense(void **state)
{
	struct machine *machine = *state;

	for (unsigned b = 0; b < 0x100; b++) {
		for (uint8_t index = 0; index < 0x80; index++) {
			if (index != B)
				out(machine, index, (uint8_t)(b * 7 + index * 151));
			in(machine, index);
		}
		out(machine, B, (uint8_t)b);
		rtc_tick(&machine->rtc);
	}
}

/* All that is read after register A is of one moment, though a second begins meanwhile. */
static void one_moment(void **state)
{
	struct machine *machine = *state;
	struct timespec start, end;
	uint8_t second;

	do {
		clock_gettime(CLOCK_REALTIME, &start);
		const struct timespec nap = { .tv_nsec = 970000000 - start.tv_nsec % 970000000 };

		nanosleep(&nap, NULL);
		clock_gettime(CLOCK_REALTIME, &start);
		in(machine, A);
		const struct timespec over = { .tv_nsec = 1000000000 - start.tv_nsec };

		nanosleep(&over, NULL);
		second = in(machine, SEC);
		clock_gettime(CLOCK_REALTIME, &end);
	} while ((end.tv_sec - start.tv_sec) * 1000000000 + end.tv_nsec - start.tv_nsec > 90000000);

	assert_int_not_equal(start.tv_sec, end.tv_sec);
	assert_int_equal(from_bcd(second), start.tv_sec % 60);
	in(machine, A);
	assert_int_not_equal(from_bcd(in(machine, SEC)), start.tv_sec % 60);
}

/* Who does not read register A sees each second too, a little late. */
static void seconds_alone(void **state)
{
	struct machine *machine = *state;
	struct timespec before;
	uint8_t second;

	do {
		in(machine, SEC);
		clock_gettime(CLOCK_REALTIME, &before);
		const struct timespec nap = { .tv_nsec = 999999999 - before.tv_nsec };
		const struct timespec late = { .tv_nsec = 300000000 };

		nanosleep(&nap, NULL);
		nanosleep(&late, NULL);
		clock_gettime(CLOCK_REALTIME, &before);
		second = in(machine, SEC);
	} while (host_time() != before.tv_sec);
	assert_int_equal(from_bcd(second), before.tv_sec % 60);
}

static void memory(void **state)
{
	struct machine *machine = *state;

	assert_int_equal(in(machine, 0x34) | in(machine, 0x35) << 8, 0xbf00);
	assert_int_equal(in(machine, 0x5b) | in(machine, 0x5c) << 8 | in(machine, 0x5d) << 16,
	                 0x14000);
	out(machine, 0x0f, 0x0a);
	assert_int_equal(in(machine, 0x0f), 0x0a);
	out(machine, 0x8f, 0x0b); /* bit 7 masks NMIs */
	assert_int_equal(in(machine, 0x0f), 0x0b);
	out(machine, 0x7f, 0x5a);
	assert_int_equal(in(machine, 0x7f), 0x5a);
	out(machine, D, 0);
	assert_int_equal(in(machine, D), 0x80);
}

static unsigned raised(struct machine *machine)
{
	eventfd_t n;

	return eventfd_read(machine->irq.fd, &n) ? 0 : (unsigned)n;
}

/* What the I/O thread does. */
static void wait_tick(struct machine *machine)
{
	struct pollfd timer = { .fd = machine->rtc.timer_fd, .events = POLLIN };
	uint64_t n;

	assert_int_equal(poll(&timer, 1, 5000), 1);
	assert_int_equal(read(timer.fd, &n, sizeof(n)), sizeof(n));
	rtc_tick(&machine->rtc);
}

static bool armed(struct machine *machine)
{
	struct itimerspec left;

	timerfd_gettime(machine->rtc.timer_fd, &left);
	return left.it_value.tv_sec || left.it_value.tv_nsec;
}

static void update_interrupts(void **state)
{
	struct machine *machine = *state;

	assert_false(armed(machine));
	out(machine, B, H24 | UIE);
	wait_tick(machine);
	assert_int_equal(raised(machine), 1);
	rtc_tick(&machine->rtc); /* not due, and the line is high */
	assert_int_equal(raised(machine), 0);
	assert_int_equal(in(machine, C), 0x90);
	assert_int_equal(in(machine, C), 0);
	assert_true(armed(machine));
	out(machine, B, H24);
	assert_false(armed(machine));
}

static void alarm_interrupt(void **state)
{
	struct machine *machine = *state;
	const time_t noon = 1709208000;

	set_time(machine, noon - 1);
	out(machine, SEC_ALARM, 0);
	out(machine, MIN_ALARM, 0);
	out(machine, HOUR_ALARM, 12);
	assert_false(armed(machine));
	out(machine, B, BINARY | H24 | AIE);
	assert_true(armed(machine));
	wait_tick(machine);
	assert_int_equal(raised(machine), 1);
	assert_in_range(read_time(machine), noon, noon + 4);
	assert_int_equal(in(machine, C), 0xa0);
	assert_true(armed(machine)); /* for tomorrow */
	out(machine, HOUR_ALARM, 24);
	assert_false(armed(machine));
	out(machine, HOUR_ALARM, 0xff);
	out(machine, MIN_ALARM, 0xc0);
	out(machine, SEC_ALARM, 0xff);
	wait_tick(machine);
	assert_int_equal(in(machine, C), 0xa0);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(tells_the_time),         TEST(hours_of_twelve), TEST(set_and_read_back),
		TEST(stands_still_while_set), TEST(takes_nonsense),  TEST(one_moment),
		TEST(seconds_alone),          TEST(memory),          TEST(update_interrupts),
		TEST(alarm_interrupt),
	};

	return cmocka_run_group_tests_name("arch_rtc", tests, NULL, NULL);
}
