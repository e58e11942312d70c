/*
 * The MP tables, entry for entry as MultiProcessor Specification 1.4 chapter 4 has them. They say
 * what ACPI's MADT and DSDT say: KVM's one IOAPIC with every GSI on the pin of its number.
 */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "arch/x86/layout.h"
#include "arch/x86/mptable.h"

#define BDA_EBDA_SEGMENT 0x40e /* IBM PC BIOS data area */
#define SPEC_REV         4     /* 1.4 */
#define BUS_PCI          0     /* a PCI bus's id is its number */
#define BUS_ISA          1
#define ISA_IRQS         16
#define PCI_SLOTS        32
#define LAPIC_VERSION    0x14
#define IOAPIC_VERSION   0x11
#define ALL_APICS        0xff

enum entry_type { ENTRY_PROCESSOR, ENTRY_BUS, ENTRY_IOAPIC, ENTRY_IO_INT, ENTRY_LOCAL_INT };
enum int_type { INT_INT, INT_NMI, INT_SMI, INT_EXTINT };

/* INTI flags: polarity in bits 0-1, trigger mode in bits 2-3. */
#define FLAGS_CONFORM    0x0
#define FLAGS_LEVEL_HIGH 0xd

#define CPU_ENABLED   0x1
#define CPU_BOOTSTRAP 0x2
#define CPU_FPU_APIC  0x201 /* feature flags, as CPUID.1:EDX */
#define CPU_SIGNATURE 0x600 /* family 6 */
#define IOAPIC_USABLE 0x1

struct floating_pointer {
	char signature[4];
	uint32_t physical_address_pointer;
	uint8_t length; /* in paragraphs */
	uint8_t spec_rev;
	uint8_t checksum;
	uint8_t feature[5];
};

struct config_header {
	char signature[4];
	uint16_t base_table_length;
	uint8_t spec_rev;
	uint8_t checksum;
	char oem_id[8];
	char product_id[12];
	uint32_t oem_table_pointer;
	uint16_t oem_table_size;
	uint16_t entry_count;
	uint32_t local_apic_address;
	uint16_t extended_table_length;
	uint8_t extended_table_checksum;
	uint8_t reserved;
};

struct processor_entry {
	uint8_t entry_type;
	uint8_t local_apic_id;
	uint8_t local_apic_version;
	uint8_t cpu_flags;
	uint32_t cpu_signature;
	uint32_t feature_flags;
	uint32_t reserved[2];
};

struct bus_entry {
	uint8_t entry_type;
	uint8_t bus_id;
	char bus_type[6];
};

struct ioapic_entry {
	uint8_t entry_type;
	uint8_t id;
	uint8_t version;
	uint8_t flags;
	uint32_t address;
};

/* I/O and local interrupt assignments have one form. */
struct int_entry {
	uint8_t entry_type;
	uint8_t interrupt_type;
	uint16_t flags;
	uint8_t source_bus_id;
	uint8_t source_bus_irq; /* PCI: device in bits 2-6, pin in bits 0-1 */
	uint8_t destination_apic_id;
	uint8_t destination_intin;
};

static_assert(sizeof(struct floating_pointer) == 16, "MP 1.4 table 4-1");
static_assert(sizeof(struct config_header) == 44, "MP 1.4 table 4-2");
static_assert(sizeof(struct processor_entry) == 20, "MP 1.4 table 4-4");
static_assert(sizeof(struct bus_entry) == 8, "MP 1.4 table 4-7");
static_assert(sizeof(struct ioapic_entry) == 8, "MP 1.4 table 4-9");
static_assert(sizeof(struct int_entry) == 8, "MP 1.4 table 4-10");
static_assert(MPTABLE_CONFIG + sizeof(struct config_header) +
                              CPUS_MAX * sizeof(struct processor_entry) +
                              (5 + ISA_IRQS + 4 * PCI_SLOTS) * sizeof(struct int_entry) <=
                      MPTABLE_CONFIG_END,
              "the largest table fits");

/* A table that grows at its end; the header is written last. */
struct table {
	uint8_t *base;
	size_t len;
	uint16_t entries;
};

static void add(struct table *table, const void *entry, size_t len)
{
	memcpy(table->base + table->len, entry, len);
	table->len += len;
	table->entries++;
}

static uint8_t checksum(const void *table, size_t len)
{
	const uint8_t *p = table;
	uint8_t sum = 0;

	while (len--)
		sum += *p++;
	return -sum;
}

static void add_processors(struct table *table, unsigned cpus)
{
	for (unsigned i = 0; i < cpus; i++) {
		struct processor_entry entry = {
			.entry_type = ENTRY_PROCESSOR,
			.local_apic_id = (uint8_t)i,
			.local_apic_version = LAPIC_VERSION,
			.cpu_flags = i ? CPU_ENABLED : CPU_ENABLED | CPU_BOOTSTRAP,
			.cpu_signature = CPU_SIGNATURE,
			.feature_flags = CPU_FPU_APIC,
		};

		add(table, &entry, sizeof(entry));
	}
}

static void add_ints(struct table *table, uint8_t ioapic_id)
{
	static const struct int_entry local[] = {
		[0] = {
			.entry_type = ENTRY_LOCAL_INT,
			.interrupt_type = INT_EXTINT,
			.source_bus_id = BUS_ISA,
			.destination_intin = 0, /* LINT0 of the boot processor */
		},
		[1] = {
			.entry_type = ENTRY_LOCAL_INT,
			.interrupt_type = INT_NMI,
			.source_bus_id = BUS_ISA,
			.destination_apic_id = ALL_APICS,
			.destination_intin = 1,
		},
	};
	struct int_entry entry = {
		.entry_type = ENTRY_IO_INT,
		.interrupt_type = INT_INT,
		.source_bus_id = BUS_ISA,
		.destination_apic_id = ioapic_id,
	};

	for (uint8_t irq = 0; irq < ISA_IRQS; irq++) {
		entry.flags = irq == IRQ_SCI ? FLAGS_LEVEL_HIGH : FLAGS_CONFORM;
		entry.source_bus_irq = irq;
		entry.destination_intin = irq;
		add(table, &entry, sizeof(entry));
	}

	entry.flags = FLAGS_CONFORM;
	entry.source_bus_id = BUS_PCI;
	for (unsigned slot = 1; slot < PCI_SLOTS; slot++) {
		for (unsigned pin = 0; pin < IRQ_PCI_N; pin++) {
			entry.source_bus_irq = (uint8_t)(slot << 2 | pin);
			entry.destination_intin = IRQ_PCI_BASE + (slot + pin) % IRQ_PCI_N;
			add(table, &entry, sizeof(entry));
		}
	}

	for (unsigned i = 0; i < sizeof(local) / sizeof(local[0]); i++)
		add(table, &local[i], sizeof(local[i]));
}

static void config_write(const struct mem *mem, unsigned cpus)
{
	static const struct bus_entry pci = { ENTRY_BUS, BUS_PCI, { "PCI   " } };
	static const struct bus_entry isa = { ENTRY_BUS, BUS_ISA, { "ISA   " } };
	struct table table = {
		.base = mem_host(mem, MPTABLE_CONFIG, MPTABLE_CONFIG_END - MPTABLE_CONFIG),
		.len = sizeof(struct config_header),
	};
	struct ioapic_entry ioapic = {
		.entry_type = ENTRY_IOAPIC,
		.id = (uint8_t)cpus, /* the first that no local APIC has */
		.version = IOAPIC_VERSION,
		.flags = IOAPIC_USABLE,
		.address = LAYOUT_IOAPIC,
	};

	add_processors(&table, cpus);
	add(&table, &pci, sizeof(pci));
	add(&table, &isa, sizeof(isa));
	add(&table, &ioapic, sizeof(ioapic));
	add_ints(&table, ioapic.id);

	struct config_header *header = (struct config_header *)table.base;

	*header = (struct config_header){
		.signature = { "PCMP" },
		.base_table_length = (uint16_t)table.len,
		.spec_rev = SPEC_REV,
		.oem_id = { "KRING   " },
		.product_id = { "MICROVM     " },
		.entry_count = table.entries,
		.local_apic_address = LAYOUT_LAPIC,
	};
	header->checksum = checksum(header, table.len);
}

void mptable_write(const struct mem *mem, unsigned cpus)
{
	struct floating_pointer *pointer = mem_host(mem, LAYOUT_EBDA, sizeof(*pointer));
	uint16_t *ebda_segment = mem_host(mem, BDA_EBDA_SEGMENT, sizeof(*ebda_segment));

	assert(cpus >= 1 && cpus <= CPUS_MAX);
	config_write(mem, cpus);
	*pointer = (struct floating_pointer){
		.signature = { "_MP_" },
		.physical_address_pointer = MPTABLE_CONFIG,
		.length = sizeof(*pointer) / 16,
		.spec_rev = SPEC_REV,
	};
	pointer->checksum = checksum(pointer, sizeof(*pointer));
	*ebda_segment = LAYOUT_EBDA >> 4;
}
