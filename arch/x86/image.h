/*
 * A kernel file read as a plan: what lies where in the file, where it goes, where to enter it.
 *
 * Pure functions over a buffer, callable from any thread: no file, no guest, nothing global. The
 * file is hostile. A plan that is accepted names only bytes that the file has, in segments that do
 * not overlap, above 1 MiB, with every entry inside one of them; whether the guest has memory there
 * is boot.c's question.
 */
#ifndef ARCH_X86_IMAGE_H
#define ARCH_X86_IMAGE_H

#include <asm/bootparam.h>
#include <stddef.h>
#include <stdint.h>

#include "core/memory.h"

enum boot_protocol {
	BOOT_AUTO,    /* the best that the image offers */
	BOOT_LINUX64, /* Linux boot protocol, 64-bit entry */
	BOOT_LINUX32, /* Linux boot protocol, 32-bit entry */
	BOOT_PVH,     /* Xen's x86/HVM direct boot ABI */
	BOOT_PROTOCOLS,
};

#define IMAGE_HEAD_LEN     4096 /* all headers lie in so many bytes */
#define IMAGE_SEGMENTS_MAX 32
#define IMAGE_NOTES_MAX    4
#define IMAGE_NOTES_LEN    IMAGE_HEAD_LEN /* of one note segment: one buffer does for both */

struct image_segment {
	uint64_t offset; /* in the file */
	uint64_t filesz;
	gpa_t gpa;
	uint64_t memsz; /* what the segment occupies, at least filesz; the rest is zero */
};

struct image_notes {
	uint64_t offset; /* in the file */
	uint64_t len;    /* at most IMAGE_NOTES_LEN */
	unsigned align;
};

struct image {
	struct image_segment segment[IMAGE_SEGMENTS_MAX];
	unsigned n_segments;
	gpa_t entry[BOOT_PROTOCOLS]; /* by protocol; 0: not offered */

	/* The setup header, a bzImage's own or one made up for an ELF; all else zero. */
	struct boot_params zero_page;

	/* ELF only: to be read and given to elf_parse_notes(). */
	struct image_notes notes[IMAGE_NOTES_MAX];
	unsigned n_notes;

	char refusal[128]; /* why a function below returned -ENOEXEC */
};

/*
 * Read the plan from @head, the first @len = min(@file_size, IMAGE_HEAD_LEN) bytes of a file of
 * @file_size bytes. Whether it is a bzImage or an ELF is told by its magic numbers. Returns 0, or
 * -ENOEXEC and image->refusal completes the sentence "kernel <path>: ...".
 */
int image_parse(struct image *image, const uint8_t *head, size_t len, uint64_t file_size);

/* The two halves of image_parse(): @image is zeroed, the magic is there. */
int bzimage_parse(struct image *image, const uint8_t *head, size_t len, uint64_t file_size);
int elf_parse(struct image *image, const uint8_t *head, size_t len, uint64_t file_size);

/*
 * Read on in one of image->notes: @buf holds its @len bytes, notes aligned to @align. Adds the PVH
 * entry when the notes have one. Returns as image_parse().
 */
int elf_parse_notes(struct image *image, const uint8_t *buf, size_t len, unsigned align);

/* For the parsers: write the refusal, return -ENOEXEC. */
__attribute__((format(printf, 2, 3))) int image_refuse(struct image *image, const char *why, ...);

/* For the parsers: 0 if the file has all of [@offset, @offset + @len), else refuse as truncated. */
int image_has(struct image *image, uint64_t file_size, uint64_t offset, uint64_t len);

#endif
