/*
 * ACPI: the tables that tell the guest its processors, interrupts, ports and devices.
 *
 * Main thread, before the first vCPU runs.
 */
#ifndef ARCH_X86_ACPI_H
#define ARCH_X86_ACPI_H

#include <stdbool.h>

#include "core/memory.h"

/* SLP_TYP of soft off (S5) in the PM1a control register: \_S5 of dsdt.asl. */
#define ACPI_SLP_TYP_S5 5

/*
 * Write the tables at LAYOUT_ACPI for @ncpus processors (1..CPUS_MAX) whose APIC IDs are
 * 0..@ncpus-1. They speak of hardware-reduced ACPI; or, if @legacy, of ACPI's fixed hardware, which
 * lets the guest use the PIC and the PIT too, as it must without the IOAPIC. Returns the RSDP's
 * address, or 0 when the guest has no RAM there.
 */
gpa_t acpi_write(const struct mem *mem, unsigned ncpus, bool legacy);

#endif
