/*
 * libFuzzer: whatever a kernel file says, the parsers neither crash nor accept a plan that leaves
 * the file, wraps around, overlaps itself or enters where nothing was loaded.
 *
 * The input is the file. Its last 8 bytes name the size of a larger one that it is the start of, so
 * that segments far behind the head are tried too.
 */
#include <stdlib.h>
#include <string.h>

#include "arch/x86/image.h"
#include "arch/x86/layout.h"

static void require(int truth)
{
	if (!truth)
		abort();
}

static void entry_check(const struct image *image, gpa_t entry)
{
	for (unsigned i = 0; i < image->n_segments; i++) {
		if (entry >= image->segment[i].gpa &&
		    entry - image->segment[i].gpa < image->segment[i].filesz)
			return;
	}
	require(!entry);
}

static void plan_check(const struct image *image, uint64_t file_size)
{
	require(image->n_segments >= 1 && image->n_segments <= IMAGE_SEGMENTS_MAX);
	for (unsigned i = 0; i < image->n_segments; i++) {
		const struct image_segment *a = &image->segment[i];

		require(a->offset <= file_size && a->filesz <= file_size - a->offset);
		require(a->memsz && a->filesz <= a->memsz);
		require(a->gpa >= LAYOUT_HIGH_RAM && a->gpa + a->memsz > a->gpa);
		for (unsigned j = 0; j < i; j++) {
			const struct image_segment *b = &image->segment[j];

			require(a->gpa + a->memsz <= b->gpa || b->gpa + b->memsz <= a->gpa);
		}
	}
	for (unsigned i = 0; i < BOOT_PROTOCOLS; i++)
		entry_check(image, image->entry[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct image image;
	uint64_t file_size = size;
	size_t len = size < IMAGE_HEAD_LEN ? size : IMAGE_HEAD_LEN;

	if (size > IMAGE_HEAD_LEN + sizeof(file_size)) {
		memcpy(&file_size, data + size - sizeof(file_size), sizeof(file_size));
		file_size = file_size < size ? size : file_size;
	}

	uint8_t *head = malloc(len ? len : 1); /* its own, so that ASan sees its end */

	require(head != NULL);
	memcpy(head, data, len);

	int err = image_parse(&image, head, len, file_size);

	require(!err == !image.refusal[0]);
	require(image.n_notes <= IMAGE_NOTES_MAX);
	if (!err) {
		plan_check(&image, file_size);
		for (unsigned i = 0; i < image.n_notes && !err; i++) {
			const struct image_notes *notes = &image.notes[i];

			require(notes->len <= IMAGE_NOTES_LEN);
			require(notes->offset <= file_size &&
			        notes->len <= file_size - notes->offset);
			if (notes->offset > size || notes->len > size - notes->offset)
				continue;

			uint8_t *buf = malloc(notes->len ? notes->len : 1);

			require(buf != NULL);
			memcpy(buf, data + notes->offset, notes->len);
			err = elf_parse_notes(&image, buf, notes->len, notes->align);
			free(buf);
		}
		plan_check(&image, file_size);
	}
	free(head);
	return 0;
}
