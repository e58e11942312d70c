/*
 * The smallest kernel files that are whole, and how to make them lie. For tests.
 */
#ifndef TESTS_ARCH_IMAGE_H
#define TESTS_ARCH_IMAGE_H

#include <elf.h>
#include <string.h>

#include "arch/x86/image.h"

#define MIB (1ull << 20)

/* A field of the file, overwritten, and a part of the refusal that must follow; NULL: accepted. */
struct lie {
	const char *refusal;
	size_t offset;
	size_t width;
	uint64_t value;
};

static inline void lie_tell(void *file, const struct lie *lie)
{
	memcpy((uint8_t *)file + lie->offset, &lie->value, lie->width);
}

#define BZ_SETUP  1024
#define BZ_KERNEL 1024

struct bz_file {
	uint8_t setup[BZ_SETUP];
	uint8_t kernel[BZ_KERNEL];
};

#define BZ_LIE(why, field, v)                                                                      \
	{                                                                                          \
		.refusal = (why), .offset = offsetof(struct boot_params, hdr.field),               \
		.width = sizeof(((struct setup_header *)0)->field), .value = (v),                  \
	}

static inline void bz_build(struct bz_file *file)
{
	const struct setup_header hdr = {
		.setup_sects = BZ_SETUP / 512 - 1,
		.syssize = BZ_KERNEL / 16,
		.boot_flag = 0xaa55,
		.jump = 0x6aeb, /* to 0x26c */
		.header = 0x53726448,
		.version = 0x20f,
		.loadflags = LOADED_HIGH,
		.initrd_addr_max = 0x7fffffff,
		.kernel_alignment = 0x200000,
		.relocatable_kernel = 1,
		.xloadflags = XLF_KERNEL_64,
		.cmdline_size = 100,
		.payload_offset = 0x100,
		.payload_length = 0x200,
		.pref_address = 16 * MIB,
		.init_size = 4 * MIB,
		.kernel_info_offset = 0x1234,
	};

	memset(file->setup, 0xff, sizeof(file->setup));
	memcpy(file->setup + offsetof(struct boot_params, hdr), &hdr, sizeof(hdr));
	memset(file->kernel, 'K', sizeof(file->kernel));
}

struct elf_file {
	Elf64_Ehdr ehdr;
	Elf64_Phdr text;
	Elf64_Phdr data;
	Elf64_Phdr note;
	struct {
		Elf64_Nhdr nhdr;
		char name[4];
		uint32_t desc[2];
	} notes;
	uint8_t text_bytes[0x180];
	uint8_t data_bytes[0x100];
	Elf64_Shdr sections[2];
};

#define ELF_LIE(why, field, v)                                                                     \
	{                                                                                          \
		.refusal = (why), .offset = offsetof(struct elf_file, field),                      \
		.width = sizeof(((struct elf_file *)0)->field), .value = (v),                      \
	}

static inline void elf_build(struct elf_file *file)
{
	*file = (struct elf_file){
		.ehdr = {
			.e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB,
				     EV_CURRENT },
			.e_type = ET_EXEC,
			.e_machine = EM_X86_64,
			.e_version = EV_CURRENT,
			.e_entry = 16 * MIB,
			.e_phoff = offsetof(struct elf_file, text),
			.e_shoff = offsetof(struct elf_file, sections),
			.e_ehsize = sizeof(Elf64_Ehdr),
			.e_phentsize = sizeof(Elf64_Phdr),
			.e_phnum = 3,
			.e_shentsize = sizeof(Elf64_Shdr),
			.e_shnum = 2,
		},
		.text = {
			.p_type = PT_LOAD,
			.p_offset = offsetof(struct elf_file, text_bytes),
			.p_paddr = 16 * MIB,
			.p_filesz = sizeof(file->text_bytes),
			.p_memsz = sizeof(file->text_bytes),
		},
		.data = {
			.p_type = PT_LOAD,
			.p_offset = offsetof(struct elf_file, data_bytes),
			.p_paddr = 17 * MIB,
			.p_filesz = sizeof(file->data_bytes),
			.p_memsz = MIB,
		},
		.note = {
			.p_type = PT_NOTE,
			.p_offset = offsetof(struct elf_file, notes),
			.p_filesz = sizeof(file->notes),
			.p_align = 4,
		},
		.notes = {
			.nhdr = { .n_namesz = 4, .n_descsz = 8, .n_type = 18 },
			.name = "Xen",
			.desc = { 16 * MIB + 0x20 },
		},
	};
	memset(file->text_bytes, 'T', sizeof(file->text_bytes));
	memset(file->data_bytes, 'D', sizeof(file->data_bytes));
}

#endif
