/*
 * The ring's pace: whether it looks for more before it sleeps, and how it shares cores with those
 * that wake it.
 *
 * With a core of its own it may poll: once a sleep was short, and as long as that then finds
 * something. Being woken up takes longer than most of what a guest waits for. While disks are at
 * work it waits for them, else for guests: what it learns of one does not hold for the other.
 *
 * Without one it may give way (SCHED_BATCH): who wakes it then runs on until he sleeps or his time
 * is over, and what he does until then comes in one batch. That suits streams of requests; one
 * that waits for each answer is better served at once. So it is tried from time to time, and kept
 * while batches grow by it.
 *
 * The ring's thread only.
 */
#ifndef IO_PACE_H
#define IO_PACE_H

#include <stdbool.h>
#include <stdint.h>

/* When to try again what was in vain: each time in vain, twice as many occasions pass. */
struct patience {
	unsigned skip;    /* so many occasions from now */
	unsigned backoff; /* and so many when that was in vain */
};

struct polling {
	bool on; /* look before the next sleep */
	struct patience vain;
};

struct pace {
	uint64_t poll_nsec;        /* how long to look for more before a sleep; 0: not at all */
	struct polling polling[2]; /* while no disk is at work, and while one is */

	bool may_give_way;
	bool gives_way;        /* now */
	unsigned sleeps;       /* until the next look at what it brings */
	unsigned interval;     /* sleeps between two trials */
	uint64_t enters, cqes; /* when the trial began */
};

/* How long to poll where @cores are shared with @busy threads that may all run at once; 0: not. */
uint64_t pace_poll_nsec(unsigned cores, unsigned busy);

/* An occasion: whether to try now. */
bool patience_over(struct patience *patience);

/* Tried, and it was worth it or not. */
void patience_learn(struct patience *patience, bool worth);

/* Begin, with either or neither of the two. */
void pace_init(struct pace *pace, uint64_t poll_nsec, bool may_give_way);

/* Polled while a disk was at @work or not, and found something before the time was over or not. */
void pace_polled(struct pace *pace, bool work, bool found);

/* Slept for @nsec. */
void pace_slept(struct pace *pace, bool work, uint64_t nsec);

/* Before a sleep: @enters and @cqes are the ring's. */
void pace_follow(struct pace *pace, uint64_t enters, uint64_t cqes);

#endif
