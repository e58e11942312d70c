/* The pace: when polling begins and ends, when giving way is tried and kept. */
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "io/pace.h"

#define LIMIT 50000

static void short_sleeps_begin_polling(void **state)
{
	struct pace pace;

	(void)state;
	pace_init(&pace, LIMIT, false);
	pace_slept(&pace, 0, 2 * LIMIT);
	assert_false(pace.polling[0].on);
	pace_slept(&pace, 0, 2 * LIMIT - 1);
	assert_true(pace.polling[0].on);
	pace_polled(&pace, 0, true);
	assert_true(pace.polling[0].on);

	pace_init(&pace, 0, false);
	pace_slept(&pace, 0, 0);
	assert_false(pace.polling[0].on);
}

/* In vain once more: twice as many short sleeps until the next. Success forgives all. */
static void vain_polling_becomes_rare(void **state)
{
	struct pace pace;

	(void)state;
	pace_init(&pace, LIMIT, false);
	for (unsigned skip = 1; skip <= 63; skip = 2 * skip + 1) {
		pace_polled(&pace, 0, false);
		for (unsigned i = 0; i < skip; i++) {
			pace_slept(&pace, 0, 0);
			assert_false(pace.polling[0].on);
		}
		pace_slept(&pace, 0, 0);
		assert_true(pace.polling[0].on);
	}
	pace_polled(&pace, 0, false);
	assert_int_equal(pace.polling[0].vain.skip, 63);
	pace_polled(&pace, 0, true);
	pace_polled(&pace, 0, false);
	assert_int_equal(pace.polling[0].vain.skip, 1);
}

/* Disks that take long are no reason not to look for guests. */
static void disks_and_guests_are_learnt_apart(void **state)
{
	struct pace pace;

	(void)state;
	pace_init(&pace, LIMIT, false);
	for (bool work = false;; work = true) {
		pace_slept(&pace, work, 0);
		assert_true(pace.polling[work].on);
		if (work)
			break;
		assert_false(pace.polling[1].on);
	}
	pace_polled(&pace, true, false);
	assert_true(pace.polling[0].on);
	assert_false(pace.polling[1].on);
	assert_int_equal(pace.polling[0].vain.skip, 0);
	assert_int_equal(pace.polling[1].vain.skip, 1);
}

static int policy(void)
{
	return (int)syscall(SYS_sched_getscheduler, 0) & ~SCHED_RESET_ON_FORK;
}

/* Sleeps, each after @enters system calls and @cqes completions, until giving way was decided. */
static unsigned sleeps_until(struct pace *pace, bool gives_way, unsigned enters, unsigned cqes)
{
	static uint64_t all_enters, all_cqes;
	unsigned n = 0;

	for (; pace->gives_way != gives_way && n < 100000; n++)
		pace_follow(pace, all_enters += enters, all_cqes += cqes);
	assert_int_equal(policy(), gives_way ? SCHED_BATCH : SCHED_OTHER);
	return n;
}

static void giving_way_is_kept_while_batches_grow(void **state)
{
	struct pace pace;

	(void)state;
	pace_init(&pace, 0, true);
	assert_int_equal(sleeps_until(&pace, true, 2, 2), 32);
	for (unsigned i = 0; i < 1000; i++)
		pace_follow(&pace, 2 * i, 8 * i);
	assert_true(pace.gives_way);

	/* One completion a call: twice as long until the next trial. */
	for (unsigned patience = 64; patience <= 2048; patience *= 2) {
		assert_in_range(sleeps_until(&pace, false, 2, 2), 1, 64);
		assert_int_equal(sleeps_until(&pace, true, 2, 2), patience);
	}
	sleeps_until(&pace, false, 2, 2);
	assert_int_equal(sleeps_until(&pace, true, 2, 2), 2048);
	assert_int_equal(sleeps_until(&pace, false, 2, 3), 32); /* no more than one and a half */
}

/* Who starts kring under another policy has his reasons. */
static void a_given_policy_is_kept(void **state)
{
	const struct sched_param param = { 0 };
	struct pace pace;

	(void)state;
	assert_int_equal(syscall(SYS_sched_setscheduler, 0, SCHED_BATCH, &param), 0);
	pace_init(&pace, 0, true);
	for (unsigned i = 0; i < 1000; i++)
		pace_follow(&pace, i, i);
	assert_int_equal(policy(), SCHED_BATCH);
	assert_int_equal(syscall(SYS_sched_setscheduler, 0, SCHED_OTHER, &param), 0);
}

static void nobody_gives_way_unasked(void **state)
{
	struct pace pace;

	(void)state;
	pace_init(&pace, LIMIT, false);
	for (unsigned i = 0; i < 1000; i++)
		pace_follow(&pace, i, 100 * i);
	assert_int_equal(policy(), SCHED_OTHER);
}

static void polling_takes_a_core_to_spare(void **state)
{
	(void)state;
	assert_int_equal(pace_poll_nsec(1, 1), 0);
	assert_int_equal(pace_poll_nsec(2, 4), 0);
	assert_true(pace_poll_nsec(2, 1));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(polling_takes_a_core_to_spare),
		cmocka_unit_test(short_sleeps_begin_polling),
		cmocka_unit_test(vain_polling_becomes_rare),
		cmocka_unit_test(disks_and_guests_are_learnt_apart),
		cmocka_unit_test(giving_way_is_kept_while_batches_grow),
		cmocka_unit_test(a_given_policy_is_kept),
		cmocka_unit_test(nobody_gives_way_unasked),
	};

	return cmocka_run_group_tests_name("io/pace", tests, NULL, NULL);
}
