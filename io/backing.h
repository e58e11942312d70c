/*
 * A disk image: a raw file or a block device, from its name on the command line to an open, locked
 * file of known size and alignment. Its contents are never looked at: what a guest writes into the
 * first sectors cannot make it another format.
 *
 * backing_parse: any thread. The rest: main thread.
 */
#ifndef IO_BACKING_H
#define IO_BACKING_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#define BACKING_SECTOR     512 /* the size is a multiple of it */
#define BACKING_ALIGN_MAX  65536
#define BACKING_QUEUES_MAX 16
#define BACKING_SERIAL_MAX 20
#define BACKING_WHY_MAX    512 /* room for one line of error */

struct backing_config {
	char path[PATH_MAX];
	char serial[BACKING_SERIAL_MAX + 1]; /* filled up with zeroes; "": none */
	unsigned queues;
	bool readonly;
	bool direct;  /* O_DIRECT */
	bool sync;    /* no write is done before it is durable */
	bool discard; /* what the guest discards is given back to the host */
};

struct backing {
	const struct backing_config *config;
	int fd;
	uint32_t block; /* bytes that the host writes without reading: a power of two */
	bool at_once;   /* the kernel reads and writes it while it takes the operation */

	/* With O_DIRECT what offsets and lengths, and memory must be a multiple of. */
	uint32_t align; /* at least BACKING_SECTOR */
	uint32_t mem_align;
};

/*
 * Parse PATH[,readonly][,direct][,queues=N][,serial=S][,discard=on|off][,sync]; a path that has a
 * comma cannot be named. Returns 0, or -EINVAL and @why (BACKING_WHY_MAX bytes) holds one line.
 */
int backing_parse(struct backing_config *config, const char *text, char *why);

/*
 * Open and lock what @config, which must outlive the image, says. There is one writer, or any
 * number of readers. Sizes that are no multiple of BACKING_SECTOR, with O_DIRECT of its alignment,
 * are refused: whatever became of the last bytes, somebody would miss them.
 * Returns 0, or -errno, nothing is held and @why (BACKING_WHY_MAX bytes) holds one line.
 */
int backing_open(struct backing *backing, const struct backing_config *config, char *why);
void backing_close(struct backing *backing);

/* Bytes it has now, less what does not fill up its alignment; -errno. */
int64_t backing_size(const struct backing *backing);

#endif
