/*
 * The MP tables: processors and interrupt lines for a guest without ACPI. Main thread, before the
 * first vCPU runs.
 */
#ifndef ARCH_X86_MPTABLE_H
#define ARCH_X86_MPTABLE_H

#include "core/memory.h"

/* 254 processors do not fit behind the floating pointer in the EBDA: the table is in the BIOS ROM.
 */
#define MPTABLE_CONFIG     0x000f0000ull
#define MPTABLE_CONFIG_END 0x00100000ull

/*
 * Write the MP floating pointer structure to LAYOUT_EBDA, the configuration table for @cpus
 * processors (1..CPUS_MAX, local APIC ids from 0) to MPTABLE_CONFIG, and the EBDA's segment to the
 * BIOS data area. @mem reaches beyond 1 MiB. Source: MultiProcessor Specification 1.4, chapter 4.
 */
void mptable_write(const struct mem *mem, unsigned cpus);

#endif
