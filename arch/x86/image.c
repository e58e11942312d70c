/*
 * What bzImage and ELF have in common: telling them apart, and refusing them. Knows no files.
 */
#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "arch/x86/image.h"

#define HDRS_OFFSET 0x202 /* Linux boot protocol, "The Real-Mode Kernel Header": header */

int image_refuse(struct image *image, const char *why, ...)
{
	va_list args;

	va_start(args, why);
	vsnprintf(image->refusal, sizeof(image->refusal), why, args);
	va_end(args);
	return -ENOEXEC;
}

int image_has(struct image *image, uint64_t file_size, uint64_t offset, uint64_t len)
{
	uint64_t end = offset + len;

	if (end < offset)
		return image_refuse(image,
		                    "its headers name %#" PRIx64 " bytes at %#" PRIx64
		                    ", beyond any file",
		                    len, offset);
	if (end > file_size)
		return image_refuse(
		        image, "truncated: has %" PRIu64 " bytes, its headers promise %" PRIu64,
		        file_size, end);
	return 0;
}

int image_parse(struct image *image, const uint8_t *head, size_t len, uint64_t file_size)
{
	*image = (struct image){ 0 };
	if (len >= SELFMAG && !memcmp(head, ELFMAG, SELFMAG))
		return elf_parse(image, head, len, file_size);
	if (len >= HDRS_OFFSET + 4 && !memcmp(head + HDRS_OFFSET, "HdrS", 4))
		return bzimage_parse(image, head, len, file_size);
	return image_refuse(image, "neither a bzImage nor an ELF");
}
