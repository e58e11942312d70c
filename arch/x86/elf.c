/*
 * The ELF kernel: vmlinux and its like, entered as 64-bit Linux or by the PVH note. Sources: System
 * V gABI chapters 4 (ELF header, sections, notes) and 5 (program header), Xen docs/misc/pvh.pandoc.
 * Knows no files.
 */
#include <elf.h>
#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

#include "arch/x86/image.h"
#include "arch/x86/layout.h"

#define XEN_ELFNOTE_PHYS32_ENTRY 18 /* xen/include/public/elfnote.h */

/* What a bzImage's header would say of a kernel that has none. */
static const struct setup_header setup_header = {
	.boot_flag = 0xaa55,
	.header = 0x53726448, /* "HdrS" */
	.version = 0x020f,
	.loadflags = LOADED_HIGH,
	.initrd_addr_max = 0x7fffffff,
	.cmdline_size = 2047, /* COMMAND_LINE_SIZE and its NUL */
};

/* An address that is entered: among the bytes that come from the file, in reach of 32 bits. */
static bool is_entry(const struct image *image, uint64_t gpa)
{
	for (unsigned i = 0; i < image->n_segments; i++) {
		const struct image_segment *segment = &image->segment[i];

		if (gpa >= segment->gpa && gpa - segment->gpa < segment->filesz)
			return gpa <= UINT32_MAX;
	}
	return false;
}

static int load_add(struct image *image, const Elf64_Phdr *phdr, uint64_t file_size)
{
	unsigned n = image->n_segments;
	int err = image_has(image, file_size, phdr->p_offset, phdr->p_filesz);

	if (err)
		return err;
	if (phdr->p_filesz > phdr->p_memsz)
		return image_refuse(image, "segment %u is larger in the file than in memory", n);
	if (!phdr->p_memsz)
		return 0;
	if (n == IMAGE_SEGMENTS_MAX)
		return image_refuse(image, "more than %u segments", IMAGE_SEGMENTS_MAX);
	if (phdr->p_paddr < LAYOUT_HIGH_RAM)
		return image_refuse(image, "segment %u at %#" PRIx64 " lies below 1 MiB", n,
		                    phdr->p_paddr);
	if (phdr->p_paddr + phdr->p_memsz < phdr->p_paddr)
		return image_refuse(image, "segment %u at %#" PRIx64 " wraps around", n,
		                    phdr->p_paddr);
	for (unsigned i = 0; i < n; i++) {
		const struct image_segment *other = &image->segment[i];

		if (phdr->p_paddr < other->gpa + other->memsz &&
		    other->gpa < phdr->p_paddr + phdr->p_memsz)
			return image_refuse(image, "segment %u overlaps segment %u", n, i);
	}

	image->segment[image->n_segments++] = (struct image_segment){
		.offset = phdr->p_offset,
		.filesz = phdr->p_filesz,
		.gpa = phdr->p_paddr,
		.memsz = phdr->p_memsz,
	};
	return 0;
}

static int notes_add(struct image *image, const Elf64_Phdr *phdr, uint64_t file_size)
{
	int err = image_has(image, file_size, phdr->p_offset, phdr->p_filesz);

	if (err)
		return err;
	if (image->n_notes == IMAGE_NOTES_MAX)
		return image_refuse(image, "more than %u note segments", IMAGE_NOTES_MAX);
	if (phdr->p_filesz > IMAGE_NOTES_LEN)
		return image_refuse(image, "%" PRIu64 " bytes of notes, more than %u",
		                    phdr->p_filesz, IMAGE_NOTES_LEN);

	image->notes[image->n_notes++] = (struct image_notes){
		.offset = phdr->p_offset,
		.len = phdr->p_filesz,
		.align = phdr->p_align == 8 ? 8 : 4,
	};
	return 0;
}

/* Booting needs no section headers, but a file without the ones it names was cut off. */
static int sections_check(struct image *image, const Elf64_Ehdr *ehdr, uint64_t file_size)
{
	uint64_t len = (uint64_t)ehdr->e_shnum * sizeof(Elf64_Shdr);
	uint64_t phdrs_end = ehdr->e_phoff + (uint64_t)ehdr->e_phnum * sizeof(Elf64_Phdr);

	if (!ehdr->e_shoff || !ehdr->e_shnum)
		return 0;
	if (ehdr->e_shentsize != sizeof(Elf64_Shdr))
		return image_refuse(image, "section headers of %u bytes, not %zu",
		                    ehdr->e_shentsize, sizeof(Elf64_Shdr));

	int err = image_has(image, file_size, ehdr->e_shoff, len);

	if (err)
		return err;
	if (ehdr->e_shoff < sizeof(*ehdr) ||
	    (ehdr->e_shoff < phdrs_end && ehdr->e_phoff < ehdr->e_shoff + len))
		return image_refuse(image, "section headers overlap the other headers");
	return 0;
}

static int ehdr_check(struct image *image, const Elf64_Ehdr *ehdr)
{
	if (ehdr->e_ident[EI_CLASS] != ELFCLASS64 || ehdr->e_ident[EI_DATA] != ELFDATA2LSB ||
	    ehdr->e_machine != EM_X86_64)
		return image_refuse(image, "not an x86-64 ELF (class %u, data %u, machine %u)",
		                    ehdr->e_ident[EI_CLASS], ehdr->e_ident[EI_DATA],
		                    ehdr->e_machine);
	if (ehdr->e_ident[EI_VERSION] != EV_CURRENT || ehdr->e_version != EV_CURRENT)
		return image_refuse(image, "ELF version %u, not 1", ehdr->e_version);
	if (ehdr->e_type != ET_EXEC && ehdr->e_type != ET_DYN)
		return image_refuse(image, "ELF type %u, not an executable", ehdr->e_type);
	if (!ehdr->e_phnum)
		return image_refuse(image, "no program headers");
	if (ehdr->e_phentsize != sizeof(Elf64_Phdr))
		return image_refuse(image, "program headers of %u bytes, not %zu",
		                    ehdr->e_phentsize, sizeof(Elf64_Phdr));
	if (ehdr->e_phoff < sizeof(*ehdr))
		return image_refuse(image, "program headers overlap the ELF header");
	return 0;
}

int elf_parse(struct image *image, const uint8_t *head, size_t len, uint64_t file_size)
{
	Elf64_Ehdr ehdr;
	int err = image_has(image, file_size, 0, sizeof(ehdr));

	if (err)
		return err;
	memcpy(&ehdr, head, sizeof(ehdr));
	err = ehdr_check(image, &ehdr);
	if (err)
		return err;

	uint64_t phdrs = (uint64_t)ehdr.e_phnum * sizeof(Elf64_Phdr);

	err = image_has(image, file_size, ehdr.e_phoff, phdrs);
	if (err)
		return err;
	if (ehdr.e_phoff + phdrs > len)
		return image_refuse(image, "%u program headers end beyond the first %u bytes",
		                    ehdr.e_phnum, IMAGE_HEAD_LEN);

	for (unsigned i = 0; i < ehdr.e_phnum && !err; i++) {
		Elf64_Phdr phdr;

		memcpy(&phdr, head + ehdr.e_phoff + i * sizeof(phdr), sizeof(phdr));
		if (phdr.p_type == PT_LOAD)
			err = load_add(image, &phdr, file_size);
		else if (phdr.p_type == PT_NOTE)
			err = notes_add(image, &phdr, file_size);
		else if (phdr.p_type == PT_INTERP)
			err = image_refuse(image, "a user-space program, not a kernel");
	}
	if (!err)
		err = sections_check(image, &ehdr, file_size);
	if (err)
		return err;
	if (!image->n_segments)
		return image_refuse(image, "no segment to load");

	image->zero_page.hdr = setup_header;
	if (is_entry(image, ehdr.e_entry))
		image->entry[BOOT_LINUX64] = ehdr.e_entry;
	return 0;
}

int elf_parse_notes(struct image *image, const uint8_t *buf, size_t len, unsigned align)
{
	uint64_t mask = align - 1;
	uint64_t at = 0;

	while (at < len) {
		Elf64_Nhdr nhdr;

		if (len - at < sizeof(nhdr))
			return image_refuse(image, "a note ends beyond its segment");
		memcpy(&nhdr, buf + at, sizeof(nhdr));

		uint64_t name = at + sizeof(nhdr);
		uint64_t desc = (name + nhdr.n_namesz + mask) & ~mask;

		if (desc + nhdr.n_descsz > len)
			return image_refuse(image, "a note ends beyond its segment");
		at = (desc + nhdr.n_descsz + mask) & ~mask;
		if (nhdr.n_type != XEN_ELFNOTE_PHYS32_ENTRY || nhdr.n_namesz != 4 ||
		    memcmp(buf + name, "Xen", 4))
			continue;

		uint64_t entry = 0;

		if (nhdr.n_descsz != 4 && nhdr.n_descsz != 8)
			return image_refuse(image, "PVH entry of %u bytes", nhdr.n_descsz);
		memcpy(&entry, buf + desc, nhdr.n_descsz);
		if (!is_entry(image, entry))
			return image_refuse(image, "PVH entry %#" PRIx64 " lies in no segment",
			                    entry);
		image->entry[BOOT_PVH] = entry;
	}
	return 0;
}
