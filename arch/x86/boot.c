/*
 * The boot loader. Reads the files, once, straight into guest memory; decides where things go that
 * layout.h leaves open (the initrd), and writes what the protocols ask for. Knows nothing of KVM.
 *
 * The boot_params are the one account of what was placed where: Linux gets them as they are, a PVH
 * kernel gets them translated. Sources: Linux Documentation/arch/x86/boot.rst and zero-page.rst,
 * Xen docs/misc/pvh.pandoc and xen/include/public/arch-x86/hvm/start_info.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "arch/x86/boot.h"
#include "arch/x86/layout.h"
#include "arch/x86/mptable.h"

#define MIB               (UINT64_C(1) << 20)
#define PAGE              4096ull
#define E820_RAM          1
#define E820_RESERVED     2
#define LOADER_UNASSIGNED 0xff /* boot.rst, type_of_loader */
#define PTE_PRESENT_WRITE 0x03
#define PDE_PAGE          0x80
#define START_INFO_MAGIC  0x336ec578

static const char *const protocol_name[BOOT_PROTOCOLS] = {
	[BOOT_LINUX64] = "linux64",
	[BOOT_LINUX32] = "linux32",
	[BOOT_PVH] = "pvh",
};

static const uint64_t gdt[][BOOT_GDT_ENTRIES] = {
	[BOOT_LONG] = {
		[BOOT_CS / 8] = 0x00af9b000000ffff,
		[BOOT_DS / 8] = 0x00cf93000000ffff,
		[BOOT_TSS / 8] = 0x00008b0000000067,
	},
	[BOOT_PROTECTED] = {
		[BOOT_CS / 8] = 0x00cf9b000000ffff,
		[BOOT_DS / 8] = 0x00cf93000000ffff,
		[BOOT_TSS / 8] = 0x00008b0000000067,
	},
};

/* What lies at LAYOUT_START_INFO: start_info.h's structures, in a row. */
struct pvh_page {
	struct hvm_start_info {
		uint32_t magic;
		uint32_t version;
		uint32_t flags;
		uint32_t nr_modules;
		uint64_t modlist_paddr;
		uint64_t cmdline_paddr;
		uint64_t rsdp_paddr;
		uint64_t memmap_paddr;
		uint32_t memmap_entries;
		uint32_t reserved;
	} start_info;
	struct hvm_modlist_entry {
		uint64_t paddr;
		uint64_t size;
		uint64_t cmdline_paddr;
		uint64_t reserved;
	} module;
	struct hvm_memmap_table_entry {
		uint64_t addr;
		uint64_t size;
		uint32_t type; /* the numbers are e820's */
		uint32_t reserved;
	} memmap[6]; /* as many as e820_fill() makes */
};

struct file {
	const char *what; /* "kernel", "initrd" */
	const char *path;
	int fd;
	uint64_t size;
	struct boot_error *error;
};

__attribute__((format(printf, 3, 4))) static int fail(struct boot_error *error, int err,
                                                      const char *text, ...)
{
	va_list args;

	va_start(args, text);
	vsnprintf(error->text, sizeof(error->text), text, args);
	va_end(args);
	return err;
}

static int file_fail(const struct file *file, int err, const char *why)
{
	return fail(file->error, err, "%s %s: %s", file->what, file->path, why);
}

/* A file that is open has a size and is not empty. Without O_NONBLOCK a FIFO would wait here. */
static int file_open(struct file *file)
{
	struct stat st;
	int err = 0;

	file->fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (file->fd < 0)
		return file_fail(file, -errno, strerror(errno));
	if (fstat(file->fd, &st) < 0)
		err = file_fail(file, -errno, strerror(errno));
	else if (S_ISDIR(st.st_mode))
		err = file_fail(file, -EISDIR, "is a directory");
	else if (!S_ISREG(st.st_mode))
		err = file_fail(file, -EINVAL, "not a regular file");
	else if (!st.st_size)
		err = file_fail(file, -ENODATA, "is empty");
	if (err)
		close(file->fd);
	else
		file->size = (uint64_t)st.st_size;
	return err;
}

static int file_read(const struct file *file, void *buf, uint64_t len, uint64_t offset)
{
	for (uint64_t done = 0; done < len;) {
		ssize_t n =
		        pread(file->fd, (uint8_t *)buf + done, len - done, (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return file_fail(file, -errno, strerror(errno));
		if (!n)
			return file_fail(file, -ENODATA, "became shorter while it was read");
		done += (uint64_t)n;
	}
	return 0;
}

static int image_read(const struct file *file, struct image *image)
{
	uint8_t buf[IMAGE_HEAD_LEN];
	size_t len = file->size < IMAGE_HEAD_LEN ? file->size : IMAGE_HEAD_LEN;
	int err = file_read(file, buf, len, 0);

	if (err)
		return err;
	err = image_parse(image, buf, len, file->size);
	for (unsigned i = 0; i < image->n_notes && !err; i++) {
		const struct image_notes *notes = &image->notes[i];

		err = file_read(file, buf, notes->len, notes->offset);
		if (err)
			return err;
		err = elf_parse_notes(image, buf, notes->len, notes->align);
	}
	return err ? file_fail(file, err, image->refusal) : 0;
}

/* What the user asked for, or the first of what the image offers. Negative: an error. */
static int protocol_choose(const struct file *file, const struct image *image,
                           enum boot_protocol wanted)
{
	static const enum boot_protocol order[] = { BOOT_PVH, BOOT_LINUX64, BOOT_LINUX32 };

	if (wanted != BOOT_AUTO) {
		if (image->entry[wanted])
			return wanted;
		return fail(file->error, -EINVAL,
		            "kernel %s: has no %s entry; choose another --protocol", file->path,
		            protocol_name[wanted]);
	}
	for (unsigned i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
		if (image->entry[order[i]])
			return order[i];
	}
	return file_fail(file, -ENOEXEC, "no entry lies in its segments, and it has no PVH note");
}

static int segments_load(const struct file *file, const struct image *image, const struct mem *mem)
{
	uint64_t have = mem->low.len + mem->high.len;

	for (unsigned i = 0; i < image->n_segments; i++) {
		const struct image_segment *segment = &image->segment[i];
		uint64_t end = segment->gpa + segment->memsz;
		void *host = mem_host(mem, segment->gpa, segment->memsz);

		if (!host && end <= MEM_HOLE_START)
			return fail(file->error, -ENOMEM,
			            "kernel %s: needs %" PRIu64 " MiB of guest memory, has %" PRIu64
			            "; raise --memory",
			            file->path, (end + MIB - 1) / MIB, have / MIB);
		if (!host)
			return fail(file->error, -ENOEXEC,
			            "kernel %s: segment %u at %#" PRIx64
			            " lies outside guest memory",
			            file->path, i, segment->gpa);

		int err = file_read(file, host, segment->filesz, segment->offset);

		if (err)
			return err;
	}
	return 0;
}

static uint64_t page_up(uint64_t n)
{
	return (n + PAGE - 1) & -PAGE;
}

/* Returns the protocol to enter by, or -errno. */
static int kernel_load(const struct mem *mem, const struct boot_config *config, struct image *image,
                       struct boot_error *error)
{
	struct file file = { .what = "kernel", .path = config->kernel, .error = error };
	int err = file_open(&file);
	int protocol = BOOT_AUTO;

	if (err)
		return err;
	err = image_read(&file, image);
	if (!err) {
		protocol = protocol_choose(&file, image, config->protocol);
		err = protocol < 0 ? protocol : segments_load(&file, image, mem);
	}
	close(file.fd);
	return err ? err : protocol;
}

/* As high as the kernel and memory allow: kernels allocate from below (boot.rst, ramdisk_image). */
static int initrd_load(const struct mem *mem, const char *path, struct image *image,
                       struct boot_error *error)
{
	struct setup_header *hdr = &image->zero_page.hdr;
	struct file file = { .what = "initrd", .path = path, .error = error };
	gpa_t bottom = 0;
	gpa_t top = hdr->initrd_addr_max + 1ull;
	int err = file_open(&file);

	if (err)
		return err;
	for (unsigned i = 0; i < image->n_segments; i++) {
		gpa_t end = image->segment[i].gpa + image->segment[i].memsz;

		if (end > bottom)
			bottom = page_up(end);
	}
	if (top > mem->low.len)
		top = mem->low.len;
	top &= -PAGE;

	uint64_t room = top > bottom ? top - bottom : 0;
	uint64_t len = page_up(file.size);

	if (len > room) {
		err = fail(error, -ENOMEM,
		           "initrd %s: needs %" PRIu64 " KiB behind the kernel, %" PRIu64
		           " KiB are free; raise --memory",
		           path, len / 1024, room / 1024);
	} else {
		hdr->ramdisk_image = (uint32_t)(top - len);
		hdr->ramdisk_size = (uint32_t)file.size;
		err = file_read(&file, mem_host(mem, top - len, file.size), file.size, 0);
	}
	close(file.fd);
	return err;
}

static int cmdline_write(const struct mem *mem, const char *cmdline, struct image *image,
                         struct boot_error *error)
{
	struct setup_header *hdr = &image->zero_page.hdr;
	size_t len = strlen(cmdline);
	size_t max = hdr->cmdline_size;

	if (max > LAYOUT_CMDLINE_MAX - 1)
		max = LAYOUT_CMDLINE_MAX - 1;
	if (len > max)
		return fail(error, -E2BIG,
		            "command line: has %zu characters, this kernel takes %zu; shorten "
		            "--cmdline or --append",
		            len, max);
	memcpy(mem_host(mem, LAYOUT_CMDLINE, len + 1), cmdline, len + 1);
	hdr->cmd_line_ptr = LAYOUT_CMDLINE;
	return 0;
}

static void e820_add(struct boot_params *zp, gpa_t addr, gpa_t end, uint32_t type)
{
	zp->e820_table[zp->e820_entries++] = (struct boot_e820_entry){
		.addr = addr,
		.size = end - addr,
		.type = type,
	};
}

static void e820_fill(struct boot_params *zp, const struct mem *mem)
{
	e820_add(zp, 0, LAYOUT_LOW_RAM_END, E820_RAM);
	e820_add(zp, LAYOUT_EBDA, LAYOUT_HIGH_RAM, E820_RESERVED);
	e820_add(zp, LAYOUT_HIGH_RAM, mem->low.len, E820_RAM);
	e820_add(zp, LAYOUT_ECAM, LAYOUT_ECAM + LAYOUT_ECAM_LEN, E820_RESERVED);
	e820_add(zp, LAYOUT_IDENTITY_MAP, LAYOUT_TSS + 3 * PAGE, E820_RESERVED);
	if (mem->high.len)
		e820_add(zp, mem->high.gpa, mem->high.gpa + mem->high.len, E820_RAM);
}

/* SDM vol. 3 §4.5: the first 4 GiB, each address its own, in pages of 2 MiB. */
static void page_tables_write(const struct mem *mem)
{
	uint64_t(*table)[512] = mem_host(mem, LAYOUT_PAGE_TABLES, 6 * PAGE);

	table[0][0] = (LAYOUT_PAGE_TABLES + PAGE) | PTE_PRESENT_WRITE;
	for (unsigned i = 0; i < 4; i++)
		table[1][i] = (LAYOUT_PAGE_TABLES + (2 + i) * PAGE) | PTE_PRESENT_WRITE;
	for (unsigned i = 0; i < 4 * 512; i++)
		table[2 + i / 512][i % 512] = (i * 2 * MIB) | PTE_PRESENT_WRITE | PDE_PAGE;
}

static void start_info_write(const struct mem *mem, const struct boot_params *zp)
{
	const struct setup_header *hdr = &zp->hdr;
	struct pvh_page *page = mem_host(mem, LAYOUT_START_INFO, sizeof(*page));

	page->start_info = (struct hvm_start_info){
		.magic = START_INFO_MAGIC,
		.version = 1,
		.nr_modules = hdr->ramdisk_size ? 1 : 0,
		.modlist_paddr = LAYOUT_START_INFO + offsetof(struct pvh_page, module),
		.cmdline_paddr = hdr->cmd_line_ptr,
		.rsdp_paddr = zp->acpi_rsdp_addr,
		.memmap_paddr = LAYOUT_START_INFO + offsetof(struct pvh_page, memmap),
		.memmap_entries = zp->e820_entries,
	};
	page->module = (struct hvm_modlist_entry){
		.paddr = hdr->ramdisk_image,
		.size = hdr->ramdisk_size,
	};
	for (unsigned i = 0; i < zp->e820_entries; i++)
		page->memmap[i] = (struct hvm_memmap_table_entry){
			.addr = zp->e820_table[i].addr,
			.size = zp->e820_table[i].size,
			.type = zp->e820_table[i].type,
		};
}

int boot_load(const struct mem *mem, const struct boot_config *config, struct boot_entry *entry,
              struct boot_error *error)
{
	struct image image = { 0 };
	struct boot_params *zp = &image.zero_page;
	int protocol = kernel_load(mem, config, &image, error);

	if (protocol < 0)
		return protocol;

	/* The kernel lies above 1 MiB and fits, so all below 1 MiB is there too. */
	int err = cmdline_write(mem, config->cmdline, &image, error);

	if (!err && config->initrd)
		err = initrd_load(mem, config->initrd, &image, error);
	if (err)
		return err;

	zp->hdr.type_of_loader = LOADER_UNASSIGNED;
	zp->hdr.code32_start = (uint32_t)image.segment[0].gpa;
	zp->acpi_rsdp_addr = config->rsdp;
	e820_fill(zp, mem);
	mptable_write(mem, config->cpus);

	*entry = (struct boot_entry){
		.mode = protocol == BOOT_LINUX64 ? BOOT_LONG : BOOT_PROTECTED,
		.rip = image.entry[protocol],
		.rsp = LAYOUT_BOOT_STACK,
	};
	if (protocol == BOOT_PVH) {
		start_info_write(mem, zp);
		entry->rbx = LAYOUT_START_INFO;
	} else {
		memcpy(mem_host(mem, LAYOUT_ZERO_PAGE, sizeof(*zp)), zp, sizeof(*zp));
		entry->rsi = LAYOUT_ZERO_PAGE;
	}
	if (entry->mode == BOOT_LONG)
		page_tables_write(mem);
	memcpy(mem_host(mem, LAYOUT_GDT, sizeof(gdt[0])), gdt[entry->mode], sizeof(gdt[0]));
	return 0;
}
