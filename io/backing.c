/*
 * Disk images. Knows names, locks and sizes; not what is read or written, nor when.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "io/backing.h"

#define BLOCK_MAX 4096 /* larger ones are advice for copying files, not what a device writes */

/* "disk PATH: " and the rest; returns @err. */
__attribute__((format(printf, 4, 5))) static int refuse(char *why, const char *path, int err,
                                                        const char *format, ...)
{
	int n = snprintf(why, BACKING_WHY_MAX, "disk %.256s: ", path);
	va_list args;

	va_start(args, format);
	vsnprintf(why + n, BACKING_WHY_MAX - (size_t)n, format, args);
	va_end(args);
	return err;
}

/* The command line. */

static const struct {
	const char *word;
	size_t field;
	bool value;
} switches[] = {
	{ "readonly", offsetof(struct backing_config, readonly), true },
	{ "direct", offsetof(struct backing_config, direct), true },
	{ "sync", offsetof(struct backing_config, sync), true },
	{ "discard=on", offsetof(struct backing_config, discard), true },
	{ "discard=off", offsetof(struct backing_config, discard), false },
};

/* The value of @word if it is @name=value, or NULL. */
static const char *value_of(const char *word, const char *name)
{
	size_t len = strlen(name);

	return !strncmp(word, name, len) && word[len] == '=' ? word + len + 1 : NULL;
}

static int word_parse(struct backing_config *config, const char *word, char *why)
{
	const char *value;

	for (size_t i = 0; i < sizeof(switches) / sizeof(switches[0]); i++)
		if (!strcmp(word, switches[i].word)) {
			*(bool *)((char *)config + switches[i].field) = switches[i].value;
			return 0;
		}

	if ((value = value_of(word, "queues"))) {
		char *end;
		unsigned long n = strtoul(value, &end, 10);

		if (*value < '0' || *value > '9' || *end || !n || n > BACKING_QUEUES_MAX)
			return refuse(why, config->path, -EINVAL, "%.64s: must be from 1 to %d",
			              word, BACKING_QUEUES_MAX);
		config->queues = (unsigned)n;
		return 0;
	}
	if ((value = value_of(word, "serial"))) {
		if (strlen(value) > BACKING_SERIAL_MAX)
			return refuse(why, config->path, -EINVAL, "%.64s: longer than %d bytes",
			              word, BACKING_SERIAL_MAX);
		strncpy(config->serial, value, BACKING_SERIAL_MAX);
		return 0;
	}
	return refuse(why, config->path, -EINVAL,
	              "unknown option '%.64s'; there are readonly, direct, queues=N, serial=S, "
	              "discard=on|off and sync",
	              word);
}

int backing_parse(struct backing_config *config, const char *text, char *why)
{
	char words[PATH_MAX + 256];
	char *rest = words;
	char *word;
	int err = 0;

	*config = (struct backing_config){ .queues = 1, .discard = true };
	if (strlen(text) >= sizeof(words))
		return refuse(why, text, -EINVAL, "too long");
	memcpy(words, text, strlen(text) + 1);

	word = strsep(&rest, ",");
	if (!*word)
		return refuse(why, text, -EINVAL, "the path is missing");
	if (strlen(word) >= sizeof(config->path))
		return refuse(why, text, -EINVAL, "the path is too long");
	memcpy(config->path, word, strlen(word));
	while (!err && (word = strsep(&rest, ",")))
		err = word_parse(config, word, why);
	return err;
}

/* Opening. */

static int file_open(const struct backing_config *config, const struct stat *st, char *why)
{
	int flags = O_CLOEXEC | (config->readonly ? O_RDONLY : O_RDWR);
	int fd;

	if (!S_ISREG(st->st_mode) && !S_ISBLK(st->st_mode))
		return refuse(why, config->path, -EINVAL, "neither a file nor a block device");
	/* Of a block device: not while the host itself uses it, as for a mounted file system. */
	if (S_ISBLK(st->st_mode) && !config->readonly)
		flags |= O_EXCL;
	if (config->direct)
		flags |= O_DIRECT;

	fd = open(config->path, flags);
	if (fd >= 0)
		return fd;
	switch (errno) {
	case EINVAL:
		return refuse(why, config->path, -EINVAL, "its file system cannot do 'direct'");
	case EBUSY:
		return refuse(why, config->path, -EBUSY, "this host uses it: is it mounted?");
	default:
		return refuse(why, config->path, -errno, "%s", strerror(errno));
	}
}

/* Keep others out who ask: a writer all of them, a reader the writers. */
static int lock(const struct backing *backing, char *why)
{
	bool readonly = backing->config->readonly;
	struct flock whole = { .l_type = readonly ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET };
	int err = fcntl(backing->fd, F_OFD_SETLK, &whole) ? errno : 0;

	if (err && err != EAGAIN && err != EACCES) /* a file system without record locks */
		err = flock(backing->fd, (readonly ? LOCK_SH : LOCK_EX) | LOCK_NB) ? errno : 0;
	switch (err) {
	case 0:
		return 0;
	case EAGAIN:
	case EACCES:
		return refuse(why, backing->config->path, -EBUSY, "a kring or another program %s",
		              readonly ? "writes it"
		                       : "uses it: only 'readonly' ones can be shared");
	default:
		return refuse(why, backing->config->path, -err, "cannot be locked: %s",
		              strerror(err));
	}
}

/* The alignment that reading with O_DIRECT takes, found by trying. */
static int align_try(struct backing *backing)
{
	uint8_t *buf = aligned_alloc(2 * BACKING_ALIGN_MAX, 2 * BACKING_ALIGN_MAX);
	uint32_t align = BACKING_SECTOR / 2;
	int err = EINVAL;

	if (!buf)
		return -ENOMEM;
	while (err == EINVAL && align < BACKING_ALIGN_MAX) {
		align *= 2;
		err = pread(backing->fd, buf + align, align, 0) < 0 ? errno : 0;
	}
	free(buf);
	backing->align = backing->mem_align = align;
	return -err;
}

/* What statx(2) tells of it, from Linux 6.1 on. Not all libcs' headers know. */
struct statx_dio {
	uint32_t stx_mask;
	uint8_t others[148];
	uint32_t stx_dio_mem_align;
	uint32_t stx_dio_offset_align; /* 0: no direct I/O */
	uint8_t more[96];
};

#define STATX_DIO 0x2000

static int align_find(struct backing *backing, char *why)
{
	struct statx_dio st;
	int err = 0;

	if (syscall(SYS_statx, backing->fd, "", AT_EMPTY_PATH, STATX_DIO, &st) ||
	    !(st.stx_mask & STATX_DIO)) {
		err = align_try(backing);
	} else if (!st.stx_dio_offset_align || st.stx_dio_offset_align > BACKING_ALIGN_MAX) {
		err = -EINVAL;
	} else {
		backing->mem_align = st.stx_dio_mem_align;
		if (st.stx_dio_offset_align > BACKING_SECTOR)
			backing->align = st.stx_dio_offset_align;
	}
	if (err)
		refuse(why, backing->config->path, err, "cannot do 'direct': %s", strerror(-err));
	return err;
}

/* What is written without being read first: pages of the page cache, or the device's blocks. */
static uint32_t block_find(const struct backing *backing, const struct stat *st)
{
	unsigned block = (unsigned)st->st_blksize;

	if (S_ISBLK(st->st_mode))
		ioctl(backing->fd, BLKPBSZGET, &block);
	if (block > BLOCK_MAX)
		block = BLOCK_MAX;
	return block < backing->align ? backing->align : block;
}

int64_t backing_size(const struct backing *backing)
{
	off_t size = lseek(backing->fd, 0, SEEK_END);

	return size < 0 ? -errno : size & -(off_t)backing->align;
}

static int size_check(const struct backing *backing, char *why)
{
	off_t exact = lseek(backing->fd, 0, SEEK_END);

	if (!exact)
		return refuse(why, backing->config->path, -EINVAL, "it is empty");
	if (backing_size(backing) != exact)
		return refuse(why, backing->config->path, -EINVAL,
		              "its size, %lld, is no multiple of %u: `truncate -s %%%u` makes it "
		              "one",
		              (long long)exact, backing->align, backing->align);
	return 0;
}

/* Returns whether they are granted: all, or none. */
static bool flags_add(int fd, int flags)
{
	int present = fcntl(fd, F_GETFL);

	return present >= 0 && !fcntl(fd, F_SETFL, present | flags);
}

/*
 * What makes reads and writes cheaper, where it is granted. The time of a read is noted only by
 * who does not own the file.
 *
 * tmpfs is memory: but for swap, and for a range that is being discarded, nothing waits there. All
 * the same io_uring hands each operation to a worker thread, but not with these two flags. They
 * stand for nothing else in tmpfs: it has no other way than its page cache, and no alignment.
 * Before Linux 6.6 it refuses both. A device's node tells the file system of /dev and not what it
 * stands for.
 */
static void hasten(struct backing *backing, const struct stat *st)
{
	struct statfs fs;

	flags_add(backing->fd, O_NOATIME);
	if (S_ISREG(st->st_mode) && !fstatfs(backing->fd, &fs) && fs.f_type == TMPFS_MAGIC)
		backing->at_once = flags_add(backing->fd, O_DIRECT | O_NONBLOCK);
}

int backing_open(struct backing *backing, const struct backing_config *config, char *why)
{
	struct stat st;
	int err;

	*backing = (struct backing){ .config = config, .align = BACKING_SECTOR, .mem_align = 1 };
	if (stat(config->path, &st))
		return refuse(why, config->path, -errno, "%s", strerror(errno));
	backing->fd = file_open(config, &st, why);
	if (backing->fd < 0)
		return backing->fd;

	err = lock(backing, why);
	if (!err && config->direct)
		err = align_find(backing, why);
	err = err ? err : size_check(backing, why);
	if (err) {
		close(backing->fd);
		return err;
	}
	backing->block = block_find(backing, &st);
	hasten(backing, &st);
	return 0;
}

void backing_close(struct backing *backing)
{
	close(backing->fd);
}
