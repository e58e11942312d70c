/* The bzImage parser: what the header says is planned, and every lie in it is refused by name. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/arch_image.h"

/* Parse the first @len bytes, of @file_size, from a buffer of its own: ASan sees its end. */
static int parse(struct image *image, const void *file, size_t len, uint64_t file_size)
{
	uint8_t *head = malloc(len + 1); /* one byte off: no parser may rely on alignment */

	memcpy(head + 1, file, len);

	int err = image_parse(image, head + 1, len, file_size);

	free(head);
	return err;
}

static void the_plan(void **state)
{
	struct bz_file file;
	struct image image;

	(void)state;
	bz_build(&file);
	assert_int_equal(parse(&image, &file, sizeof(file), sizeof(file)), 0);
	assert_string_equal(image.refusal, "");
	assert_int_equal(image.n_segments, 1);
	assert_int_equal(image.segment[0].offset, BZ_SETUP);
	assert_int_equal(image.segment[0].filesz, BZ_KERNEL);
	assert_int_equal(image.segment[0].gpa, 16 * MIB);
	assert_int_equal(image.segment[0].memsz, 4 * MIB);
	assert_int_equal(image.entry[BOOT_LINUX32], 16 * MIB);
	assert_int_equal(image.entry[BOOT_LINUX64], 16 * MIB + 0x200);
	assert_int_equal(image.entry[BOOT_PVH], 0);
	assert_int_equal(image.n_notes, 0);
}

/* Of the setup code only the header reaches boot_params (boot.rst, 32-bit boot protocol). */
static void only_the_header_is_copied(void **state)
{
	struct bz_file file;
	struct image image;
	const uint8_t *zero_page = (const uint8_t *)&image.zero_page;

	(void)state;
	bz_build(&file);
	assert_int_equal(parse(&image, &file, sizeof(file), sizeof(file)), 0);
	assert_memory_equal(zero_page + 0x1f1, file.setup + 0x1f1, 0x26c - 0x1f1);
	for (size_t i = 0; i < 0x1f1; i++)
		assert_int_equal(zero_page[i], 0);
	for (size_t i = 0x26c; i < sizeof(image.zero_page); i++)
		assert_int_equal(zero_page[i], 0);

	/* A header from the future is copied whole, as far as boot_params have room. */
	file.setup[0x201] = 0x290 - 0x202;
	assert_int_equal(parse(&image, &file, sizeof(file), sizeof(file)), 0);
	assert_int_equal(zero_page[0x28f], 0xff);
	assert_int_equal(zero_page[0x290], 0);
}

static void no_64_bit_entry(void **state)
{
	struct bz_file file;
	struct image image;

	(void)state;
	bz_build(&file);
	lie_tell(&file, &(struct lie)BZ_LIE(NULL, xloadflags, 0));
	assert_int_equal(parse(&image, &file, sizeof(file), sizeof(file)), 0);
	assert_int_equal(image.entry[BOOT_LINUX64], 0);
	assert_int_equal(image.entry[BOOT_LINUX32], 16 * MIB);
}

static void truncated_at_every_byte(void **state)
{
	struct bz_file file;
	struct image image;

	(void)state;
	bz_build(&file);
	for (size_t len = 0; len < sizeof(file); len++) {
		assert_int_equal(parse(&image, &file, len, len), -ENOEXEC);
		if (len < 0x206)
			assert_string_equal(image.refusal, "neither a bzImage nor an ELF");
		else if (len < 0x26c)
			assert_string_equal(image.refusal,
			                    "setup header ends at 0x26c, beyond the file");
		else
			assert_non_null(strstr(image.refusal, "truncated: has "));
	}
	assert_string_equal(image.refusal, "truncated: has 2047 bytes, its headers promise 2048");
	assert_int_equal(parse(&image, &file, sizeof(file), sizeof(file) + 1), 0);
}

static void lies(void **state)
{
	static const struct lie lies[] = {
		BZ_LIE("boot flag", boot_flag, 0xaa54),
		BZ_LIE("jump", jump, 0x6ae9),
		BZ_LIE("setup header ends at 0x301, beyond 0x290", jump, 0xffeb),
		BZ_LIE("setup header ends at 0x291, beyond 0x290", jump, 0x8feb),
		BZ_LIE(NULL, jump, 0x66eb),
		BZ_LIE("setup header ends at 0x267, too short for protocol 2.15", jump, 0x65eb),
		BZ_LIE("boot protocol 0.00 is too old", jump, 0x00eb),
		BZ_LIE("neither", header, 0x53726449),
		BZ_LIE("boot protocol 2.11 is too old", version, 0x20b),
		BZ_LIE(NULL, version, 0x20c),
		BZ_LIE(NULL, version, 0x2ff),
		BZ_LIE("zImage", loadflags, 0),
		BZ_LIE("headers promise 3584", setup_sects, 0),
		BZ_LIE("truncated", setup_sects, 2),
		BZ_LIE("truncated", setup_sects, 255),
		BZ_LIE("truncated", syssize, BZ_KERNEL / 16 + 1),
		BZ_LIE("truncated", syssize, 0xffffffff),
		BZ_LIE("payload ends at 0x300 of 0x2f0 bytes", syssize, 0x2f),
		BZ_LIE("payload", syssize, 0),
		BZ_LIE("payload", payload_offset, 0x201),
		BZ_LIE("payload", payload_offset, 0xffffff00),
		BZ_LIE("payload", payload_length, 0xffffffff),
		BZ_LIE("init_size", init_size, 0),
		BZ_LIE("init_size", init_size, BZ_KERNEL - 1),
		BZ_LIE(NULL, init_size, BZ_KERNEL),
		BZ_LIE("pref_address", init_size, 0xffffffff),
		BZ_LIE("kernel_alignment", kernel_alignment, 0),
		BZ_LIE("kernel_alignment", kernel_alignment, 0x300000),
		BZ_LIE("kernel_alignment", kernel_alignment, 0x80000000),
		BZ_LIE("kernel_alignment", pref_address, 16 * MIB + 1),
		BZ_LIE("between 1 MiB and 4 GiB", pref_address, 0),
		BZ_LIE("between 1 MiB and 4 GiB", pref_address, 0xffe00000),
		BZ_LIE("between 1 MiB and 4 GiB", pref_address, 0xffffffffffe00000),
		BZ_LIE(NULL, pref_address, 0xffa00000),
	};
	struct bz_file file;
	struct image image;

	(void)state;
	for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		bz_build(&file);
		lie_tell(&file, &lies[i]);
		int err = parse(&image, &file, sizeof(file), sizeof(file));

		if (err != (lies[i].refusal ? -ENOEXEC : 0) ||
		    (lies[i].refusal && !strstr(image.refusal, lies[i].refusal)))
			fail_msg("lie %zu (%s): %d, \"%s\"", i, lies[i].refusal, err,
			         image.refusal);
	}
}

static void kernel_without_room_for_its_64_bit_entry(void **state)
{
	struct bz_file file;
	struct image image;

	(void)state;
	bz_build(&file);
	lie_tell(&file, &(struct lie)BZ_LIE(NULL, payload_length, 0));
	lie_tell(&file, &(struct lie)BZ_LIE(NULL, syssize, 0x21));
	assert_int_equal(parse(&image, &file, sizeof(file), sizeof(file)), 0);
	lie_tell(&file, &(struct lie)BZ_LIE(NULL, syssize, 0x20));
	assert_int_equal(parse(&image, &file, sizeof(file), sizeof(file)), -ENOEXEC);
	assert_non_null(strstr(image.refusal, "64-bit entry"));
}

/* A signed kernel: the certificates that the EFI header names lie behind the kernel. */
static void truncated_signature(void **state)
{
	static const struct {
		uint16_t magic;
		size_t directories;
	} pe[] = { { 0x10b, 96 }, { 0x20b, 112 } };
	struct bz_file file;
	struct image image;

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		uint8_t *optional = file.setup + 0x80 + 24;

		bz_build(&file);
		memcpy(file.setup, "MZ", 2);
		memcpy(file.setup + 0x3c, &(uint32_t){ 0x80 }, 4);
		memcpy(file.setup + 0x80, "PE\0", 4);
		memcpy(optional, &pe[i].magic, 2);
		memcpy(optional + pe[i].directories - 4, &(uint32_t){ 5 }, 4);
		memcpy(optional + pe[i].directories + 32, (uint32_t[]){ sizeof(file), 100 }, 8);

		assert_int_equal(parse(&image, &file, sizeof(file), sizeof(file) + 100), 0);
		assert_int_equal(parse(&image, &file, sizeof(file), sizeof(file) + 99), -ENOEXEC);
		assert_string_equal(image.refusal,
		                    "truncated: has 2147 bytes, its headers promise 2148");

		/* Without a certificate table, or with the header out of sight, it is not EFI. */
		memcpy(optional + pe[i].directories - 4, &(uint32_t){ 4 }, 4);
		assert_int_equal(parse(&image, &file, sizeof(file), sizeof(file)), 0);
		memcpy(file.setup + 0x3c, &(uint32_t){ 0xfffffff0 }, 4);
		assert_int_equal(parse(&image, &file, sizeof(file), sizeof(file)), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_plan),
		cmocka_unit_test(only_the_header_is_copied),
		cmocka_unit_test(no_64_bit_entry),
		cmocka_unit_test(truncated_at_every_byte),
		cmocka_unit_test(lies),
		cmocka_unit_test(kernel_without_room_for_its_64_bit_entry),
		cmocka_unit_test(truncated_signature),
	};

	return cmocka_run_group_tests_name("arch_bzimage", tests, NULL, NULL);
}
