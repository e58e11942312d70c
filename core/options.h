/*
 * The command line: one table for parsing, --help and the checks.
 *
 * Main thread, at start.
 */
#ifndef CORE_OPTIONS_H
#define CORE_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* Exit statuses (README, "How it ends"); 128 + n: ended by signal n. */
enum status {
	STATUS_OK = 0,
	STATUS_USAGE = 2,
	STATUS_PANIC = 123,
	STATUS_TIMEOUT = 124,
	STATUS_FAILED = 125,
	STATUS_SIGNAL = 128,
};

enum command {
	COMMAND_BOOT,
	COMMAND_PROBE,
	COMMAND_BENCH, /* of what is not said */
	COMMAND_BENCH_DISK,
	COMMAND_BENCH_NET,
	COMMAND_BENCH_PEER,
	COMMAND_BENCH_EXITS,
	COMMAND_BENCH_BOOT,
	COMMAND_HELP,
	COMMAND_VERSION,
};

#define OPTION_LIST_MAX 16
#define POLL_AUTO       UINT64_MAX

/* The values of an option that may be given many times. */
struct option_list {
	const char *value[OPTION_LIST_MAX];
	unsigned n;
};

struct options {
	enum command command;
	/* boot */
	const char *dev;
	const char *kernel;
	const char *initrd; /* NULL: none */
	const char *cmdline;
	const char *append; /* NULL: nothing */
	const char *console;
	const char *timings; /* NULL: none; "-": standard output */
	const char *stats;   /* the same */
	struct option_list disks;
	struct option_list nets;
	uint64_t rng;               /* whether there is one */
	uint64_t poll;              /* us; POLL_AUTO: as there are cores */
	uint64_t registered_memory; /* whether it is */
	uint64_t memory;            /* bytes */
	uint64_t cpus;
	uint64_t protocol; /* index into protocol names: auto, linux64, linux32, pvh */
	uint64_t timeout;  /* ns; 0: none */
	uint64_t trace;    /* instructions a line; 0: off */
	uint64_t restart;  /* on a guest reboot: boot again */
	bool json;         /* probe, bench */
	/* bench */
	uint64_t op; /* index into the words of the command's --op */
	uint64_t block_size;
	uint64_t frame_size;
	uint64_t depth; /* 0: the command's own */
	uint64_t queues;
	uint64_t time; /* ns */
	uint64_t runs;
	uint64_t wait;   /* index: poll, irq */
	const char *job; /* NULL: nothing more */
	struct option_list kernels;
	bool plain;
	bool verify;
	bool destroy;
};

/*
 * Parse the command line. Returns 0, or -EINVAL and @why (WHY_MAX bytes) holds one line for the
 * user. For COMMAND_HELP the text has been printed.
 */
int options_parse(struct options *options, int argc, char **argv, char *why);

/* number[gGmMkK] of bytes, as gokvm reads it: any base, unit @unit where none is written. */
int options_size(const char *text, char unit, uint64_t *bytes);

#endif
