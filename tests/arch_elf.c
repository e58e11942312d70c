/* The ELF parser: segments, notes and entries are planned; every lie is refused by name. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/arch_image.h"

/* Parse the first @len bytes, the notes too when they are in them. The buffers end where they do.
 */
static int parse(struct image *image, const void *file, size_t len, uint64_t file_size)
{
	uint8_t *head = malloc(len + 1); /* one byte off: no parser may rely on alignment */

	memcpy(head + 1, file, len);

	int err = image_parse(image, head + 1, len, file_size);

	free(head);
	for (unsigned i = 0; i < image->n_notes && !err; i++) {
		const struct image_notes *notes = &image->notes[i];
		uint8_t *buf = malloc(notes->len + 1);

		assert_true(notes->offset + notes->len <= len);
		memcpy(buf + 1, (const uint8_t *)file + notes->offset, notes->len);
		err = elf_parse_notes(image, buf + 1, notes->len, notes->align);
		free(buf);
	}
	return err;
}

static void the_plan(void **state)
{
	struct elf_file file;
	struct image image;

	(void)state;
	elf_build(&file);
	assert_int_equal(parse(&image, &file, sizeof(file), sizeof(file)), 0);
	assert_int_equal(image.n_segments, 2);
	assert_int_equal(image.segment[1].offset, offsetof(struct elf_file, data_bytes));
	assert_int_equal(image.segment[1].filesz, sizeof(file.data_bytes));
	assert_int_equal(image.segment[1].gpa, 17 * MIB);
	assert_int_equal(image.segment[1].memsz, MIB);
	assert_int_equal(image.entry[BOOT_LINUX64], 16 * MIB);
	assert_int_equal(image.entry[BOOT_LINUX32], 0);
	assert_int_equal(image.entry[BOOT_PVH], 16 * MIB + 0x20);

	/* What Linux checks of a header that a loader made up. */
	assert_int_equal(image.zero_page.hdr.boot_flag, 0xaa55);
	assert_memory_equal(&image.zero_page.hdr.header, "HdrS", 4);
	assert_int_equal(image.zero_page.hdr.version, 0x20f);
	assert_int_equal(image.zero_page.hdr.cmdline_size, 2047);
}

static void truncated_at_every_byte(void **state)
{
	struct elf_file file;
	struct image image;

	(void)state;
	elf_build(&file);
	for (size_t len = 0; len < sizeof(file); len++) {
		assert_int_equal(parse(&image, &file, len, len), -ENOEXEC);
		assert_non_null(strstr(image.refusal, len < SELFMAG ? "neither" : "truncated"));
	}
	assert_int_equal(parse(&image, &file, sizeof(file), sizeof(file) + 1), 0);
}

static void lies(void **state)
{
	static const struct lie lies[] = {
		ELF_LIE("neither", ehdr.e_ident[EI_MAG0], 0),
		ELF_LIE("not an x86-64 ELF", ehdr.e_ident[EI_CLASS], ELFCLASS32),
		ELF_LIE("not an x86-64 ELF", ehdr.e_ident[EI_DATA], ELFDATA2MSB),
		ELF_LIE("not an x86-64 ELF", ehdr.e_machine, EM_AARCH64),
		ELF_LIE("version", ehdr.e_ident[EI_VERSION], 0),
		ELF_LIE("version", ehdr.e_version, 2),
		ELF_LIE("not an executable", ehdr.e_type, ET_REL),
		ELF_LIE("not an executable", ehdr.e_type, ET_CORE),
		ELF_LIE(NULL, ehdr.e_type, ET_DYN),
		ELF_LIE("no program headers", ehdr.e_phnum, 0),
		ELF_LIE("no segment", ehdr.e_phoff, offsetof(struct elf_file, sections) - 168),
		ELF_LIE("truncated", ehdr.e_phnum, 0xffff),
		ELF_LIE("program headers of 32 bytes", ehdr.e_phentsize, 32),
		ELF_LIE("overlap the ELF header", ehdr.e_phoff, 63),
		ELF_LIE("beyond any file", ehdr.e_phoff, ~0ull),
		ELF_LIE("truncated", ehdr.e_phoff, sizeof(struct elf_file)),
		ELF_LIE("section headers of 40 bytes", ehdr.e_shentsize, 40),
		ELF_LIE("section headers overlap", ehdr.e_shoff, 64),
		ELF_LIE("section headers overlap", ehdr.e_shoff, 64 + 167),
		ELF_LIE("section headers overlap", ehdr.e_shoff, 1),
		ELF_LIE("truncated", ehdr.e_shnum, 3),
		ELF_LIE("beyond any file", ehdr.e_shoff, ~0ull),
		ELF_LIE(NULL, ehdr.e_shoff, 0),
		ELF_LIE("user-space program", text.p_type, PT_INTERP),
		ELF_LIE("truncated", text.p_offset, sizeof(struct elf_file) - 0x17f),
		ELF_LIE("beyond any file", text.p_offset, ~0ull),
		ELF_LIE("segment 0 is larger in the file", text.p_filesz, 0x181),
		ELF_LIE("truncated", text.p_filesz, 0x10000),
		ELF_LIE("beyond any file", text.p_filesz, ~0ull),
		ELF_LIE("segment 0 is larger in the file", text.p_memsz, 0),
		ELF_LIE("segment 0 at 0x1000000 wraps around", text.p_memsz, ~0ull),
		ELF_LIE("segment 0 at 0xfffff lies below 1 MiB", text.p_paddr, MIB - 1),
		ELF_LIE("segment 1 at 0 lies below 1 MiB", data.p_paddr, 0),
		ELF_LIE("segment 1 at 0xffffffffffff0000 wraps", data.p_paddr, -65536ull),
		ELF_LIE("segment 1 overlaps segment 0", data.p_paddr, 15 * MIB + 1),
		ELF_LIE("segment 1 overlaps segment 0", data.p_paddr, 16 * MIB + 0x17f),
		ELF_LIE("segment 1 overlaps segment 0", text.p_memsz, 64 * MIB),
		ELF_LIE(NULL, data.p_paddr, 15 * MIB),
		ELF_LIE(NULL, data.p_paddr, 16 * MIB + 0x180),
		ELF_LIE("truncated", note.p_filesz, 0x10000),
		ELF_LIE("truncated", note.p_offset, sizeof(struct elf_file)),
		ELF_LIE("a note ends beyond its segment", note.p_filesz, 23),
		ELF_LIE("a note ends beyond its segment", note.p_filesz, 11),
		ELF_LIE("a note ends beyond its segment", notes.nhdr.n_namesz, 0xffffffff),
		ELF_LIE("a note ends beyond its segment", notes.nhdr.n_descsz, 9),
		ELF_LIE("a note ends beyond its segment", notes.nhdr.n_descsz, 0xffffffff),
		ELF_LIE("PVH entry of 3 bytes", notes.nhdr.n_descsz, 3),
		ELF_LIE("PVH entry 0x1000180 lies in no", notes.desc[0], 16 * MIB + 0x180),
		ELF_LIE("PVH entry 0xffffff lies in no", notes.desc[0], 16 * MIB - 1),
		ELF_LIE("PVH entry 0 lies in no segment", notes.desc[0], 0),
		ELF_LIE("PVH entry 0x101000020 lies in no", notes.desc[1], 1),
	};
	struct elf_file file;
	struct image image;

	(void)state;
	for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		elf_build(&file);
		lie_tell(&file, &lies[i]);
		int err = parse(&image, &file, sizeof(file), sizeof(file));

		if (err != (lies[i].refusal ? -ENOEXEC : 0) ||
		    (lies[i].refusal && !strstr(image.refusal, lies[i].refusal)))
			fail_msg("lie %zu (%s): %d, \"%s\"", i, lies[i].refusal, err,
			         image.refusal);
	}
}

/* Tables that overlap without the program headers being in it. */
static void sections_in_the_elf_header(void **state)
{
	struct elf_file file;
	struct image image;

	(void)state;
	elf_build(&file);
	file.ehdr.e_shoff = sizeof(file.ehdr);
	file.ehdr.e_shnum = 1;
	file.ehdr.e_phoff = 2 * sizeof(file.ehdr);
	file.note.p_type = PT_NULL;
	memmove((uint8_t *)&file + 2 * sizeof(file.ehdr), &file.text, 3 * sizeof(file.text));
	assert_int_equal(parse(&image, &file, sizeof(file), sizeof(file)), 0);
	file.ehdr.e_shoff--;
	assert_int_equal(parse(&image, &file, sizeof(file), sizeof(file)), -ENOEXEC);
	assert_string_equal(image.refusal, "section headers overlap the other headers");
}

static void an_entry_outside_is_not_offered(void **state)
{
	static const uint64_t outside[] = { 0, 16 * MIB - 1, 16 * MIB + 0x180, 17 * MIB + 0x100,
		                            0xffffffff81000000 };
	struct elf_file file;
	struct image image;

	(void)state;
	for (size_t i = 0; i < sizeof(outside) / sizeof(outside[0]); i++) {
		elf_build(&file);
		file.ehdr.e_entry = outside[i];
		assert_int_equal(parse(&image, &file, sizeof(file), sizeof(file)), 0);
		assert_int_equal(image.entry[BOOT_LINUX64], 0);
		assert_int_equal(image.entry[BOOT_PVH], 16 * MIB + 0x20);
	}

	/* In a segment, but above what the boot page tables map. */
	elf_build(&file);
	file.text.p_paddr = file.ehdr.e_entry = 0x100000000;
	file.note.p_type = PT_NULL;
	assert_int_equal(parse(&image, &file, sizeof(file), sizeof(file)), 0);
	assert_int_equal(image.entry[BOOT_LINUX64], 0);
}

static void notes_of_others_are_skipped(void **state)
{
	struct elf_file file;
	struct image image;

	(void)state;
	elf_build(&file);
	memcpy(file.notes.name, "GNU", 4);
	assert_int_equal(parse(&image, &file, sizeof(file), sizeof(file)), 0);
	assert_int_equal(image.entry[BOOT_PVH], 0);

	elf_build(&file);
	file.notes.nhdr.n_type = 17;
	assert_int_equal(parse(&image, &file, sizeof(file), sizeof(file)), 0);
	assert_int_equal(image.entry[BOOT_PVH], 0);
}

/* Name and descriptor are padded to the segment's alignment, the last one need not be. */
static void notes_by_alignment(void **state)
{
	static const struct {
		unsigned align;
		size_t pvh; /* where the second note begins */
	} cases[] = { { 4, 12 + 8 + 4 }, { 8, 12 + 12 + 8 } };
	struct elf_file file;
	struct image image;

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		uint8_t *notes = file.text_bytes;
		Elf64_Nhdr nhdr = { .n_namesz = 5, .n_descsz = 1, .n_type = 18 };

		elf_build(&file);
		memset(notes, 0, 64);
		memcpy(notes, &nhdr, sizeof(nhdr));
		memcpy(notes + sizeof(nhdr), "Xen.", 5);
		nhdr = (Elf64_Nhdr){ .n_namesz = 4, .n_descsz = 4, .n_type = 18 };
		memcpy(notes + cases[i].pvh, &nhdr, sizeof(nhdr));
		memcpy(notes + cases[i].pvh + 12, "Xen", 4);
		memcpy(notes + cases[i].pvh + 16, &(uint32_t){ 17 * MIB + 3 }, 4);

		file.note.p_offset = offsetof(struct elf_file, text_bytes);
		file.note.p_filesz = cases[i].pvh + 20;
		file.note.p_align = cases[i].align;
		assert_int_equal(parse(&image, &file, sizeof(file), sizeof(file)), 0);
		assert_int_equal(image.entry[BOOT_PVH], 17 * MIB + 3);
	}
}

/* Program headers by the hundred: what does not fit is refused, what is empty does not count. */
static void many_program_headers(void **state)
{
	struct {
		Elf64_Ehdr ehdr;
		Elf64_Phdr phdr[73];
	} file;
	struct elf_file model;
	struct image image;

	(void)state;
	elf_build(&model);
	file.ehdr = model.ehdr;
	file.ehdr.e_shoff = 0;
	for (unsigned i = 0; i < 73; i++)
		file.phdr[i] = (Elf64_Phdr){
			.p_type = PT_LOAD,
			.p_paddr = (16 + i) * MIB,
			.p_filesz = i < IMAGE_SEGMENTS_MAX ? 1 : 0,
			.p_memsz = i < IMAGE_SEGMENTS_MAX ? MIB : 0,
		};

	file.ehdr.e_phnum = 72; /* 4096 bytes, with the ELF header */
	assert_int_equal(parse(&image, &file, IMAGE_HEAD_LEN, sizeof(file)), 0);
	assert_int_equal(image.n_segments, IMAGE_SEGMENTS_MAX);

	file.ehdr.e_phnum = 73;
	assert_int_equal(parse(&image, &file, IMAGE_HEAD_LEN, sizeof(file)), -ENOEXEC);
	assert_string_equal(image.refusal, "73 program headers end beyond the first 4096 bytes");

	file.ehdr.e_phnum = 72;
	file.phdr[71].p_memsz = 1;
	assert_int_equal(parse(&image, &file, IMAGE_HEAD_LEN, sizeof(file)), -ENOEXEC);
	assert_string_equal(image.refusal, "more than 32 segments");

	for (unsigned i = 67; i < 72; i++)
		file.phdr[i] = (Elf64_Phdr){ .p_type = PT_NOTE };
	assert_int_equal(parse(&image, &file, IMAGE_HEAD_LEN, sizeof(file)), -ENOEXEC);
	assert_string_equal(image.refusal, "more than 4 note segments");

	file.phdr[67] = (Elf64_Phdr){ .p_type = PT_NOTE, .p_filesz = IMAGE_NOTES_LEN + 1 };
	assert_int_equal(parse(&image, &file, IMAGE_HEAD_LEN, sizeof(file) + 4096), -ENOEXEC);
	assert_string_equal(image.refusal, "4097 bytes of notes, more than 4096");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_plan),
		cmocka_unit_test(truncated_at_every_byte),
		cmocka_unit_test(lies),
		cmocka_unit_test(sections_in_the_elf_header),
		cmocka_unit_test(an_entry_outside_is_not_offered),
		cmocka_unit_test(notes_of_others_are_skipped),
		cmocka_unit_test(notes_by_alignment),
		cmocka_unit_test(many_program_headers),
	};

	return cmocka_run_group_tests_name("arch_elf", tests, NULL, NULL);
}
