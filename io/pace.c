/*
 * The pace. Knows counts and times; not what is waited for.
 */
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "io/pace.h"

#define POLL_NSEC 50000

#define BACKOFF_MAX 63
#define SHORT_SLEEP                                                                                \
	2 /* times the limit of polling: it includes being woken up, which polling saves */

#define TRIAL        32 /* sleeps */
#define INTERVAL_MAX 2048

uint64_t pace_poll_nsec(unsigned cores, unsigned busy)
{
	return cores > busy ? POLL_NSEC : 0;
}

bool patience_over(struct patience *patience)
{
	if (!patience->skip)
		return true;
	patience->skip--;
	return false;
}

void patience_learn(struct patience *patience, bool worth)
{
	if (worth)
		patience->backoff = 0;
	else if (patience->backoff < BACKOFF_MAX)
		patience->backoff = 2 * patience->backoff + 1;
	patience->skip = patience->backoff;
}

void pace_init(struct pace *pace, uint64_t poll_nsec, bool may_give_way)
{
	*pace = (struct pace){
		.poll_nsec = poll_nsec,
		/* Who was given another policy keeps it. */
		.may_give_way = may_give_way && !syscall(SYS_sched_getscheduler, 0),
		.sleeps = TRIAL,
		.interval = TRIAL,
	};
}

void pace_polled(struct pace *pace, bool work, bool found)
{
	pace->polling[work].on = found;
	patience_learn(&pace->polling[work].vain, found);
}

void pace_slept(struct pace *pace, bool work, uint64_t nsec)
{
	struct polling *polling = &pace->polling[work];

	if (nsec < SHORT_SLEEP * pace->poll_nsec)
		polling->on |= patience_over(&polling->vain);
}

/* The system call: musl has no sched_setscheduler(). Threads that are started do not inherit it. */
static void give_way(struct pace *pace, bool on)
{
	const struct sched_param param = { 0 };

	pace->gives_way = on;
	syscall(SYS_sched_setscheduler, 0, (on ? SCHED_BATCH : SCHED_OTHER) | SCHED_RESET_ON_FORK,
	        &param);
}

/* One and a half completions a system call: a request that comes alone has one. */
static bool batches_grow(const struct pace *pace, uint64_t enters, uint64_t cqes)
{
	return 2 * (cqes - pace->cqes) > 3 * (enters - pace->enters);
}

void pace_follow(struct pace *pace, uint64_t enters, uint64_t cqes)
{
	if (!pace->may_give_way || --pace->sleeps)
		return;
	if (!pace->gives_way) {
		give_way(pace, true);
	} else if (batches_grow(pace, enters, cqes)) {
		pace->interval = TRIAL;
	} else {
		give_way(pace, false);
		if (pace->interval < INTERVAL_MAX)
			pace->interval *= 2;
	}
	pace->sleeps = pace->gives_way ? TRIAL : pace->interval;
	pace->enters = enters;
	pace->cqes = cqes;
}
