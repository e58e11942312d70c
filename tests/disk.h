/*
 * Tests: an empty disk image, in a directory of its own that is the current one, and a disk on it.
 */
#ifndef TESTS_DISK_H
#define TESTS_DISK_H

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/disk.h"

#define IMAGE_DIR "/tmp/kring-disk-XXXXXX"

/* Make a.img of @size bytes, in @dir. Returns 0 or -1. */
static inline int image_make(char dir[sizeof(IMAGE_DIR)], off_t size)
{
	int fd;

	strcpy(dir, IMAGE_DIR);
	if (!mkdtemp(dir) || chdir(dir))
		return -1;
	fd = open("a.img", O_CREAT | O_WRONLY, 0600);
	if (fd < 0 || ftruncate(fd, size))
		return -1;
	close(fd);
	return 0;
}

/* Remove it. Returns 0, or -1: there is more than that left. */
static inline int image_remove(const char *dir)
{
	return unlink("a.img") || chdir("/") || rmdir(dir) ? -1 : 0;
}

/* From here on the disk is @fd, which is closed. */
static inline void disk_becomes(struct disk *disk, int fd)
{
	assert_true(fd >= 0);
	assert_true(dup3(fd, disk->backing.fd, O_CLOEXEC) >= 0);
	close(fd);
}

#endif
