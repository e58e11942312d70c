/*
 * From a kernel file to a guest that is ready for its first instruction: all that a boot loader
 * writes into guest memory. Main thread, before the first vCPU runs.
 */
#ifndef ARCH_X86_BOOT_H
#define ARCH_X86_BOOT_H

#include <stdint.h>

#include "arch/x86/image.h"
#include "core/memory.h"

/* The GDT at LAYOUT_GDT, the same for all protocols but for what kind of code BOOT_CS is. */
#define BOOT_CS          0x10
#define BOOT_DS          0x18
#define BOOT_TSS         0x20 /* two entries in long mode; busy, for VMX wants one in TR */
#define BOOT_GDT_ENTRIES 6

struct boot_config {
	const char *kernel;
	const char *initrd; /* NULL: none */
	const char *cmdline;
	enum boot_protocol protocol;
	unsigned cpus; /* 1..CPUS_MAX */
	gpa_t rsdp;    /* 0: no ACPI */
};

enum boot_mode {
	BOOT_LONG,      /* 64-bit, paging by the tables at LAYOUT_PAGE_TABLES */
	BOOT_PROTECTED, /* 32-bit, flat, no paging */
};

/* The boot processor's registers; those that are not named start as zero, interrupts disabled. */
struct boot_entry {
	enum boot_mode mode;
	uint64_t rip;
	uint64_t rsp;
	uint64_t rsi; /* Linux: boot_params */
	uint64_t rbx; /* PVH: hvm_start_info */
};

struct boot_error {
	char text[1024]; /* one line: the file or flag, what is wrong, what to do */
};

/*
 * Load what @config names into @mem, which is zeroed, and write the command line, boot_params or
 * hvm_start_info, GDT, page tables and MP tables. ACPI tables are acpi.c's.
 * Returns 0 and @entry, or -errno and @error; @mem is then half written.
 */
int boot_load(const struct mem *mem, const struct boot_config *config, struct boot_entry *entry,
              struct boot_error *error);

#endif
