/*
 * Where things lie in the guest: memory, ports, interrupts. The one place for such numbers.
 */
#ifndef ARCH_X86_LAYOUT_H
#define ARCH_X86_LAYOUT_H

#include "core/memory.h"

/* Guest physical memory below 1 MiB, written before the first instruction. */
#define LAYOUT_GDT         0x00000500ull
#define LAYOUT_START_INFO  0x00006000ull /* PVH hvm_start_info, module list, memory map */
#define LAYOUT_ZERO_PAGE   0x00007000ull /* Linux boot_params */
#define LAYOUT_BOOT_STACK  0x00008ff0ull
#define LAYOUT_PAGE_TABLES 0x00009000ull /* PML4, PDPT, four page directories: 6 pages */
#define LAYOUT_CMDLINE     0x00020000ull
#define LAYOUT_CMDLINE_MAX 0x00010000ull
#define LAYOUT_EBDA        0x0009fc00ull /* the MP floating pointer; its table is in mptable.h */
#define LAYOUT_LOW_RAM_END LAYOUT_EBDA
#define LAYOUT_ACPI        0x000e0000ull /* RSDP first, all other tables behind it */
#define LAYOUT_ACPI_END    0x000f0000ull
#define LAYOUT_HIGH_RAM    0x00100000ull

/* The hole below 4 GiB (MEM_HOLE_START..MEM_HOLE_END). */
#define LAYOUT_PCI_MMIO     MEM_HOLE_START /* 32-bit BARs */
#define LAYOUT_PCI_MMIO_LEN 0x20000000ull
#define LAYOUT_ECAM         0xe0000000ull /* one bus */
#define LAYOUT_ECAM_LEN     0x00100000ull
#define LAYOUT_IOAPIC       0xfec00000ull
#define LAYOUT_LAPIC        0xfee00000ull
#define LAYOUT_IDENTITY_MAP 0xfffbc000ull /* KVM_SET_IDENTITY_MAP_ADDR, one page */
#define LAYOUT_TSS          0xfffbd000ull /* KVM_SET_TSS_ADDR, three pages */

/* Ports. */
#define PORT_I8042      0x0060 /* data; status and command at 0x64 */
#define PORT_RTC        0x0070
#define PORT_POST       0x0080
#define PORT_COM1       0x03f8
#define PORT_FW_DEBUG   0x0402
#define PORT_PM1_EVT    0x0600 /* status 16 bit, enable 16 bit */
#define PORT_PM1_CNT    0x0604
#define PORT_PM_TMR     0x0608
#define PORT_PCI_CONF   0x0cf8 /* address; data at 0xcfc */
#define PORT_MARKER     0x4b52 /* "KR": a byte written here is a mark in --timings */
#define PORT_PCI_IO     0xc000 /* I/O BARs */
#define PORT_PCI_IO_LEN 0x3000

/* ISA interrupts, equal to their GSIs. */
#define IRQ_COM1     4
#define IRQ_RTC      8
#define IRQ_SCI      9
/* PCI INTA..INTD are GSIs 16..19. */
#define IRQ_PCI_BASE 16
#define IRQ_PCI_N    4

#define CPUS_MAX 254

#endif
