/* The boot loader: what it leaves in guest memory for each protocol, and what it says when it
 * can't. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "arch/x86/boot.h"
#include "arch/x86/layout.h"
#include "tests/arch_image.h"

#define GIB (1ull << 30)

static char dir[] = "/tmp/kring-arch_boot-XXXXXX";

/* The files of a test, and the guest they are loaded into. */
struct bench {
	char kernel[64];
	char initrd[64];
	struct boot_config config;
	struct mem mem;
	struct boot_entry entry;
	struct boot_error error;
};

static void put(const char *path, const void *data, size_t len)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, len), len);
	close(fd);
}

static void bench_init(struct bench *b, const void *kernel, size_t len)
{
	*b = (struct bench){ 0 };
	snprintf(b->kernel, sizeof(b->kernel), "%s/kernel", dir);
	snprintf(b->initrd, sizeof(b->initrd), "%s/initrd", dir);
	put(b->kernel, kernel, len);
	put(b->initrd, "initrd bytes", 12);
	b->config = (struct boot_config){
		.kernel = b->kernel,
		.initrd = b->initrd,
		.cmdline = "console=ttyS0",
		.cpus = 2,
		.rsdp = LAYOUT_ACPI,
	};
}

static void bench_bz(struct bench *b)
{
	struct bz_file file;

	bz_build(&file);
	bench_init(b, &file, sizeof(file));
}

static void bench_elf(struct bench *b)
{
	struct elf_file file;

	elf_build(&file);
	bench_init(b, &file, sizeof(file));
}

static int load(struct bench *b, uint64_t memory)
{
	mem_fini(&b->mem);
	assert_int_equal(mem_init(&b->mem, memory), 0);
	b->error.text[0] = '\0';
	return boot_load(&b->mem, &b->config, &b->entry, &b->error);
}

/* It failed with @err, naming @path and saying @why. */
static void assert_refused(struct bench *b, uint64_t memory, int err, const char *path,
                           const char *why)
{
	int got = load(b, memory);

	if (got != err || !strstr(b->error.text, path) || !strstr(b->error.text, why))
		fail_msg("%d \"%s\", expected %d ... %s ... %s", got, b->error.text, err, path,
		         why);
	assert_null(strchr(b->error.text, '\n'));
}

static const struct boot_params *zero_page(struct bench *b)
{
	return mem_host(&b->mem, LAYOUT_ZERO_PAGE, 4096);
}

static void bzimage_by_the_64_bit_entry(void **state)
{
	struct bench b;
	struct bz_file file;

	(void)state;
	bz_build(&file);
	bench_bz(&b);
	assert_int_equal(load(&b, 128 * MIB), 0);

	assert_int_equal(b.entry.mode, BOOT_LONG);
	assert_int_equal(b.entry.rip, 16 * MIB + 0x200);
	assert_int_equal(b.entry.rsi, LAYOUT_ZERO_PAGE);
	assert_int_equal(b.entry.rbx, 0);
	assert_memory_equal(mem_host(&b.mem, 16 * MIB, BZ_KERNEL), file.kernel, BZ_KERNEL);

	const struct boot_params *zp = zero_page(&b);

	assert_int_equal(zp->sentinel, 0);
	assert_memory_equal(&zp->hdr.header, "HdrS", 4);
	assert_int_equal(zp->hdr.kernel_info_offset, 0x1234);
	assert_int_equal(zp->hdr.type_of_loader, 0xff);
	assert_int_equal(zp->hdr.code32_start, 16 * MIB);
	assert_int_equal(zp->acpi_rsdp_addr, LAYOUT_ACPI);
	assert_int_equal(zp->hdr.cmd_line_ptr, LAYOUT_CMDLINE);
	assert_string_equal(mem_host(&b.mem, LAYOUT_CMDLINE, 14), "console=ttyS0");
	assert_int_equal(zp->hdr.ramdisk_image, 128 * MIB - 4096);
	assert_int_equal(zp->hdr.ramdisk_size, 12);
	assert_memory_equal(mem_host(&b.mem, 128 * MIB - 4096, 12), "initrd bytes", 12);

	/* A 64-bit code segment, data, and a busy TSS (SDM vol. 3, 3.4.5 and 7.2.3). */
	const uint64_t *gdt = mem_host(&b.mem, LAYOUT_GDT, BOOT_GDT_ENTRIES * 8);

	assert_int_equal(gdt[0], 0);
	assert_int_equal(gdt[BOOT_CS / 8] >> 40 & 0xff, 0x9b);
	assert_int_equal(gdt[BOOT_CS / 8] >> 53 & 3, 1); /* L, not D */
	assert_int_equal(gdt[BOOT_DS / 8] >> 40 & 0xff, 0x93);
	assert_int_equal(gdt[BOOT_TSS / 8] >> 40 & 0xff, 0x8b);
	assert_int_equal(gdt[BOOT_TSS / 8 + 1], 0);
	mem_fini(&b.mem);
}

/* Walk the tables as the processor would: the first 4 GiB map to themselves, nothing else does. */
static void identity_map(void **state)
{
	struct bench b;

	(void)state;
	bench_bz(&b);
	assert_int_equal(load(&b, 128 * MIB), 0);
	for (uint64_t va = 0; va < 8 * GIB; va += 2 * MIB) {
		gpa_t table = LAYOUT_PAGE_TABLES;
		uint64_t entry = 0;

		for (unsigned shift = 39; shift >= 21; shift -= 9) {
			entry = ((uint64_t *)mem_host(&b.mem, table, 4096))[va >> shift & 511];
			table = entry & 0x000ffffffffff000;
			if (!(entry & 1))
				break;
			assert_int_equal(entry & 0x83, shift == 21 ? 0x83 : 0x03);
			assert_true(shift == 21 || table > LAYOUT_PAGE_TABLES);
		}
		if (va < 4 * GIB)
			assert_int_equal(table, va);
		else
			assert_int_equal(entry & 1, 0);
	}
	mem_fini(&b.mem);
}

static void bzimage_by_the_32_bit_entry(void **state)
{
	struct bench b;

	(void)state;
	bench_bz(&b);
	b.config.protocol = BOOT_LINUX32;
	b.config.initrd = NULL;
	assert_int_equal(load(&b, 128 * MIB), 0);
	assert_int_equal(b.entry.mode, BOOT_PROTECTED);
	assert_int_equal(b.entry.rip, 16 * MIB);
	assert_int_equal(b.entry.rsi, LAYOUT_ZERO_PAGE);
	assert_int_equal(b.entry.rbx, 0);
	assert_int_equal(zero_page(&b)->hdr.ramdisk_image, 0);
	assert_int_equal(zero_page(&b)->hdr.ramdisk_size, 0);

	const uint64_t *gdt = mem_host(&b.mem, LAYOUT_GDT, BOOT_GDT_ENTRIES * 8);

	assert_int_equal(gdt[BOOT_CS / 8] >> 53 & 3, 2); /* D, not L */
	mem_fini(&b.mem);
}

static void elf_by_pvh(void **state)
{
	static const struct {
		uint64_t addr;
		uint64_t end;
		uint32_t type;
	} map[] = {
		{ 0, LAYOUT_LOW_RAM_END, 1 },
		{ LAYOUT_EBDA, MIB, 2 },
		{ MIB, 3 * GIB, 1 },
		{ LAYOUT_ECAM, LAYOUT_ECAM + LAYOUT_ECAM_LEN, 2 },
		{ LAYOUT_IDENTITY_MAP, LAYOUT_TSS + 3 * 4096, 2 },
		{ 4 * GIB, 7 * GIB, 1 },
	};
	struct bench b;

	(void)state;
	bench_elf(&b);
	assert_int_equal(load(&b, 6 * GIB), 0);
	assert_int_equal(b.entry.mode, BOOT_PROTECTED);
	assert_int_equal(b.entry.rip, 16 * MIB + 0x20);
	assert_int_equal(b.entry.rsi, 0);
	assert_int_equal(b.entry.rbx, LAYOUT_START_INFO);

	/* Offsets as in Xen's start_info.h. */
	const uint8_t *info = mem_host(&b.mem, LAYOUT_START_INFO, 56);
	uint32_t word[4];
	uint64_t quad[4];

	memcpy(word, info, 16);
	assert_int_equal(word[0], 0x336ec578);
	assert_int_equal(word[1], 1);
	assert_int_equal(word[2], 0);
	assert_int_equal(word[3], 1);
	memcpy(quad, info + 16, 32);
	assert_string_equal(mem_host(&b.mem, quad[1], 14), "console=ttyS0");
	assert_int_equal(quad[2], LAYOUT_ACPI);

	const uint64_t *module = mem_host(&b.mem, quad[0], 32);

	/* 2 GiB is as high as a kernel that says nothing takes it. */
	assert_int_equal(module[0], 2 * GIB - 4096);
	assert_int_equal(module[1], 12);
	assert_int_equal(module[2], 0);
	assert_memory_equal(mem_host(&b.mem, module[0], 12), "initrd bytes", 12);

	memcpy(word, info + 48, 4);
	assert_int_equal(word[0], sizeof(map) / sizeof(map[0]));
	for (unsigned i = 0; i < word[0]; i++) {
		const uint64_t *entry = mem_host(&b.mem, quad[3] + 24 * i, 24);

		assert_int_equal(entry[0], map[i].addr);
		assert_int_equal(entry[1], map[i].end - map[i].addr);
		assert_int_equal(entry[2], map[i].type);
	}
	mem_fini(&b.mem);
}

static void elf_by_the_64_bit_entry(void **state)
{
	struct bench b;

	(void)state;
	bench_elf(&b);
	b.config.protocol = BOOT_LINUX64;
	assert_int_equal(load(&b, 128 * MIB), 0);
	assert_int_equal(b.entry.mode, BOOT_LONG);
	assert_int_equal(b.entry.rip, 16 * MIB);
	assert_int_equal(b.entry.rsi, LAYOUT_ZERO_PAGE);
	assert_int_equal(zero_page(&b)->hdr.boot_flag, 0xaa55);
	assert_int_equal(zero_page(&b)->hdr.type_of_loader, 0xff);
	assert_int_equal(zero_page(&b)->e820_entries, 5);
	assert_int_equal(zero_page(&b)->e820_table[2].addr, MIB);
	assert_int_equal(zero_page(&b)->e820_table[2].size, 127 * MIB);

	const uint8_t *data = mem_host(&b.mem, 17 * MIB, MIB);

	assert_int_equal(data[0xff], 'D');
	assert_int_equal(data[0x100], 0);
	mem_fini(&b.mem);
}

static void automatic_choice(void **state)
{
	struct bench b;
	struct elf_file elf;
	struct bz_file bz;

	(void)state;
	elf_build(&elf);
	elf.note.p_type = PT_NULL;
	bench_init(&b, &elf, sizeof(elf));
	assert_int_equal(load(&b, 128 * MIB), 0);
	assert_int_equal(b.entry.rip, 16 * MIB);
	assert_int_equal(b.entry.mode, BOOT_LONG);

	b.config.protocol = BOOT_PVH;
	assert_refused(&b, 128 * MIB, -EINVAL, b.kernel, "has no pvh entry");

	elf.ehdr.e_entry = 0;
	put(b.kernel, &elf, sizeof(elf));
	b.config.protocol = BOOT_AUTO;
	assert_refused(&b, 128 * MIB, -ENOEXEC, b.kernel, "no entry");
	b.config.protocol = BOOT_LINUX64;
	assert_refused(&b, 128 * MIB, -EINVAL, b.kernel, "has no linux64 entry");

	bz_build(&bz);
	lie_tell(&bz, &(struct lie)BZ_LIE(NULL, xloadflags, 0));
	put(b.kernel, &bz, sizeof(bz));
	b.config.protocol = BOOT_AUTO;
	assert_int_equal(load(&b, 128 * MIB), 0);
	assert_int_equal(b.entry.mode, BOOT_PROTECTED);
	b.config.protocol = BOOT_LINUX64;
	assert_refused(&b, 128 * MIB, -EINVAL, b.kernel, "has no linux64 entry");
	mem_fini(&b.mem);
}

static void kernel_larger_than_memory(void **state)
{
	struct bench b;
	struct elf_file elf;

	(void)state;
	bench_bz(&b);
	b.config.initrd = NULL;
	assert_int_equal(load(&b, 20 * MIB), 0);
	assert_refused(&b, 20 * MIB - 4096, -ENOMEM, b.kernel,
	               "needs 20 MiB of guest memory, has 19; raise --memory");
	assert_refused(&b, 4096, -ENOMEM, b.kernel, "needs 20 MiB of guest memory, has 0");

	bench_elf(&b);
	assert_refused(&b, 17 * MIB, -ENOMEM, b.kernel, "needs 18 MiB of guest memory, has 17");

	/* What more memory would not mend: the hole below 4 GiB. */
	elf_build(&elf);
	elf.data.p_paddr = 3 * GIB - MIB / 2;
	put(b.kernel, &elf, sizeof(elf));
	assert_refused(&b, 6 * GIB, -ENOEXEC, b.kernel, "segment 1 at 0xbff80000 lies outside");
	mem_fini(&b.mem);
}

static void initrd_that_just_fits(void **state)
{
	struct bench b;

	(void)state;
	bench_bz(&b);
	assert_int_equal(truncate(b.initrd, 4 * MIB), 0);
	assert_int_equal(load(&b, 24 * MIB), 0);
	assert_int_equal(zero_page(&b)->hdr.ramdisk_image, 20 * MIB);

	assert_refused(&b, 24 * MIB - 4096, -ENOMEM, b.initrd,
	               "needs 4096 KiB behind the kernel, 4092 KiB are free");
	assert_int_equal(truncate(b.initrd, 4 * MIB + 1), 0);
	assert_refused(&b, 24 * MIB, -ENOMEM, b.initrd,
	               "needs 4100 KiB behind the kernel, 4096 KiB are free");
	assert_int_equal(truncate(b.initrd, 1ll << 40), 0);
	assert_refused(&b, 24 * MIB, -ENOMEM, b.initrd, "4096 KiB are free");
	mem_fini(&b.mem);
}

static void initrd_limit_of_the_kernel(void **state)
{
	struct bench b;
	struct bz_file file;

	(void)state;
	bz_build(&file);
	lie_tell(&file, &(struct lie)BZ_LIE(NULL, initrd_addr_max, 32 * MIB - 1));
	bench_init(&b, &file, sizeof(file));
	assert_int_equal(load(&b, 128 * MIB), 0);
	assert_int_equal(zero_page(&b)->hdr.ramdisk_image, 32 * MIB - 4096);

	lie_tell(&file, &(struct lie)BZ_LIE(NULL, initrd_addr_max, 0));
	put(b.kernel, &file, sizeof(file));
	assert_refused(&b, 128 * MIB, -ENOMEM, b.initrd, "0 KiB are free");

	lie_tell(&file, &(struct lie)BZ_LIE(NULL, initrd_addr_max, 0xffffffff));
	put(b.kernel, &file, sizeof(file));
	assert_int_equal(load(&b, 6 * GIB), 0);
	assert_int_equal(zero_page(&b)->hdr.ramdisk_image, 3 * GIB - 4096);
	mem_fini(&b.mem);
}

static void cmdline_limit(void **state)
{
	struct bench b;
	struct bz_file file;
	static char text[LAYOUT_CMDLINE_MAX + 1];

	(void)state;
	bench_bz(&b); /* takes 100 */
	memset(text, 'x', sizeof(text) - 1);
	b.config.cmdline = text + sizeof(text) - 1 - 100;
	assert_int_equal(load(&b, 128 * MIB), 0);
	assert_string_equal(mem_host(&b.mem, LAYOUT_CMDLINE, 101), b.config.cmdline);
	b.config.cmdline--;
	assert_refused(&b, 128 * MIB, -E2BIG, "command line",
	               "101 characters, this kernel takes 100");

	/* A kernel that promises to take more than there is room for. */
	bz_build(&file);
	lie_tell(&file, &(struct lie)BZ_LIE(NULL, cmdline_size, 0xffffffff));
	put(b.kernel, &file, sizeof(file));
	b.config.cmdline = text + 1;
	assert_int_equal(load(&b, 128 * MIB), 0);
	b.config.cmdline = text;
	assert_refused(&b, 128 * MIB, -E2BIG, "command line", "takes 65535");

	bench_elf(&b);
	b.config.cmdline = text + sizeof(text) - 1 - 2048;
	assert_refused(&b, 128 * MIB, -E2BIG, "command line", "takes 2047");
	mem_fini(&b.mem);
}

static void files_that_cannot_be_read(void **state)
{
	struct bench b;
	char path[64];

	(void)state;
	bench_bz(&b);
	snprintf(path, sizeof(path), "%s/fifo", dir);
	assert_int_equal(mkfifo(path, 0600), 0);
	for (int i = 0; i < 2; i++) {
		const char **file = i ? &b.config.initrd : &b.config.kernel;
		const char *good = *file;

		*file = "/nonexistent/file";
		assert_refused(&b, 128 * MIB, -ENOENT, *file, "No such file or directory");
		*file = dir;
		assert_refused(&b, 128 * MIB, -EISDIR, *file, "is a directory");
		*file = "/dev/null";
		assert_refused(&b, 128 * MIB, -EINVAL, *file, "not a regular file");
		*file = path;
		assert_refused(&b, 128 * MIB, -EINVAL, *file, "not a regular file");
		assert_int_equal(truncate(good, 0), 0);
		*file = good;
		assert_refused(&b, 128 * MIB, -ENODATA, *file, "is empty");
		assert_non_null(strstr(b.error.text, i ? "initrd " : "kernel "));
		bench_bz(&b);
	}

	put(b.kernel, "#!/bin/sh\n", 10);
	assert_refused(&b, 128 * MIB, -ENOEXEC, b.kernel, "neither a bzImage nor an ELF");
	mem_fini(&b.mem);
}

/* sysfs files tell a size of one page and end earlier: to a reader, a file that shrank. */
static void file_that_shrinks(void **state)
{
	static const char path[] = "/sys/devices/system/cpu/online";
	struct bench b;

	(void)state;
	if (access(path, R_OK))
		skip();
	bench_bz(&b);
	b.config.initrd = path;
	assert_refused(&b, 128 * MIB, -ENODATA, path, "became shorter while it was read");
	mem_fini(&b.mem);
}

static void no_descriptor_is_left(void **state)
{
	struct bench b;
	int before = dup(0);

	(void)state;
	close(before);
	bench_bz(&b);
	assert_int_equal(load(&b, 128 * MIB), 0);
	assert_refused(&b, 17 * MIB, -ENOMEM, b.kernel, "needs");
	assert_int_equal(truncate(b.initrd, GIB), 0);
	assert_refused(&b, 128 * MIB, -ENOMEM, b.initrd, "needs");
	b.config.initrd = dir;
	assert_refused(&b, 128 * MIB, -EISDIR, dir, "is a directory");
	assert_int_equal(truncate(b.kernel, 2000), 0);
	assert_refused(&b, 128 * MIB, -ENOEXEC, b.kernel, "truncated");

	int after = dup(0);

	close(after);
	assert_int_equal(before, after);
	mem_fini(&b.mem);
}

static int make_dir(void **state)
{
	(void)state;
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	static const char *const names[] = { "kernel", "initrd", "fifo" };
	char path[64];

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		unlink(path);
	}
	return rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bzimage_by_the_64_bit_entry),
		cmocka_unit_test(identity_map),
		cmocka_unit_test(bzimage_by_the_32_bit_entry),
		cmocka_unit_test(elf_by_pvh),
		cmocka_unit_test(elf_by_the_64_bit_entry),
		cmocka_unit_test(automatic_choice),
		cmocka_unit_test(kernel_larger_than_memory),
		cmocka_unit_test(initrd_that_just_fits),
		cmocka_unit_test(initrd_limit_of_the_kernel),
		cmocka_unit_test(cmdline_limit),
		cmocka_unit_test(files_that_cannot_be_read),
		cmocka_unit_test(file_that_shrinks),
		cmocka_unit_test(no_descriptor_is_left),
	};

	return cmocka_run_group_tests_name("arch_boot", tests, make_dir, remove_dir);
}
