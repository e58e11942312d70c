/* ACPI: tables that hang together, read from guest memory as a guest does, and pass iasl. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "arch/x86/acpi.h"
#include "arch/x86/layout.h"

#define HEADER_LEN 36

static const uint8_t *guest(const struct mem *mem, gpa_t gpa, uint64_t len)
{
	const uint8_t *host = mem_host(mem, gpa, len);

	assert_non_null(host);
	assert_in_range(gpa, LAYOUT_ACPI, 0xeffff);
	assert_in_range(gpa + len, LAYOUT_ACPI, 0xf0000);
	return host;
}

static uint64_t get(const uint8_t *at, unsigned len)
{
	uint64_t value = 0;

	memcpy(&value, at, len);
	return value;
}

static uint8_t sum(const uint8_t *byte, size_t len)
{
	uint8_t total = 0;

	while (len--)
		total += *byte++;
	return total;
}

/* A table with a common header, checked. */
static const uint8_t *table(const struct mem *mem, gpa_t gpa, const char *signature)
{
	const uint8_t *at = guest(mem, gpa, HEADER_LEN);
	uint32_t len = (uint32_t)get(at + 4, 4);

	assert_memory_equal(at, signature, 4);
	assert_true(len >= HEADER_LEN);
	guest(mem, gpa, len);
	assert_int_equal(sum(at, len), 0);
	return at;
}

/* What the RSDP leads to. */
struct tables {
	struct mem mem;
	gpa_t rsdp;
	const uint8_t *xsdt, *fadt, *madt, *mcfg, *dsdt, *facs;
};

static void tables_init(struct tables *t, unsigned ncpus, bool legacy)
{
	assert_int_equal(mem_init(&t->mem, 2 << 20), 0);
	t->rsdp = acpi_write(&t->mem, ncpus, legacy);
	assert_int_equal(t->rsdp, LAYOUT_ACPI);

	const uint8_t *rsdp = guest(&t->mem, t->rsdp, 36);

	assert_memory_equal(rsdp, "RSD PTR ", 8);
	assert_int_equal(rsdp[15], 2);
	assert_int_equal(sum(rsdp, 20), 0);
	assert_int_equal(get(rsdp + 20, 4), 36);
	assert_int_equal(sum(rsdp, 36), 0);

	t->xsdt = table(&t->mem, get(rsdp + 24, 8), "XSDT");
	assert_int_equal(get(t->xsdt + 4, 4), HEADER_LEN + 3 * 8);
	t->fadt = table(&t->mem, get(t->xsdt + HEADER_LEN, 8), "FACP");
	t->madt = table(&t->mem, get(t->xsdt + HEADER_LEN + 8, 8), "APIC");
	t->mcfg = table(&t->mem, get(t->xsdt + HEADER_LEN + 16, 8), "MCFG");
	t->dsdt = table(&t->mem, get(t->fadt + 140, 8), "DSDT");
	assert_int_equal(get(t->fadt + 40, 4), get(t->fadt + 140, 8));

	gpa_t facs = get(t->fadt + 36, 4);

	assert_int_equal(facs % 64, 0);
	t->facs = guest(&t->mem, facs, 64);
	assert_memory_equal(t->facs, "FACS", 4);
	assert_int_equal(get(t->facs + 4, 4), 64);
}

/* What does not depend on the kind of hardware. */
static void fadt_common(const struct tables *t)
{
	assert_int_equal(get(t->fadt + 4, 4), 276);
	assert_int_equal(t->fadt[8], 6);
	assert_int_equal(get(t->fadt + 48, 4), 0);            /* SMI_CMD */
	assert_int_equal(get(t->fadt + 80, 8), 0);            /* no GPE */
	assert_int_equal(get(t->fadt + 109, 2) & 0x3e, 0x14); /* VGA, ASPM: none; 8042: not told */
	assert_memory_equal(t->fadt + 116, ((uint8_t[]){ 1, 8, 0, 1 }), 4);
	assert_int_equal(get(t->fadt + 120, 8), PORT_I8042 + 4);
	assert_int_equal(t->fadt[128], 0xfe);
}

static void fadt_reduced(void **state)
{
	struct tables t;

	(void)state;
	tables_init(&t, 1, false);
	fadt_common(&t);
	assert_int_equal(get(t.fadt + 56, 8), 0);
	assert_int_equal(get(t.fadt + 64, 8), 0);
	assert_int_equal(get(t.fadt + 72, 8), 0);
	assert_int_equal(get(t.fadt + 88, 4), 0);
	assert_int_equal(get(t.fadt + 112, 4), 0x100475);
	assert_memory_equal(t.fadt + 244, ((uint8_t[]){ 1, 8, 0, 1 }), 4);
	assert_int_equal(get(t.fadt + 248, 8), PORT_PM1_CNT + 1);
	assert_memory_equal(t.fadt + 256, ((uint8_t[]){ 1, 8, 0, 1 }), 4);
	assert_int_equal(get(t.fadt + 260, 8), PORT_PM1_EVT + 1);
	mem_fini(&t.mem);
}

static void fadt_legacy(void **state)
{
	struct tables t;

	(void)state;
	tables_init(&t, 1, true);
	fadt_common(&t);
	assert_int_equal(get(t.fadt + 46, 2), IRQ_SCI);
	assert_int_equal(get(t.fadt + 56, 4), PORT_PM1_EVT);
	assert_int_equal(get(t.fadt + 64, 4), PORT_PM1_CNT);
	assert_int_equal(get(t.fadt + 76, 4), PORT_PM_TMR);
	assert_memory_equal(t.fadt + 88, ((uint8_t[]){ 4, 2, 0, 4 }), 4);
	assert_int_equal(get(t.fadt + 112, 4), 0x575);
	assert_int_equal(get(t.fadt + 248, 8), 0);
	mem_fini(&t.mem);
}

static void madt(void **state)
{
	static const unsigned counts[] = { 1, 2, 5, CPUS_MAX };

	(void)state;
	for (size_t i = 0; i < sizeof(counts) / sizeof(*counts); i++) {
		unsigned cpus = 0, others = 0;
		const uint8_t *at, *end;
		struct tables t;

		tables_init(&t, counts[i], i % 2);
		assert_int_equal(get(t.madt + 36, 4), LAYOUT_LAPIC);
		end = t.madt + get(t.madt + 4, 4);
		for (at = t.madt + 44; at < end; at += at[1]) {
			assert_true(at[1] >= 2 && at + at[1] <= end);
			switch (at[0]) {
			case 0:
				assert_int_equal(at[1], 8);
				assert_int_equal(at[2], cpus);
				assert_int_equal(at[3], cpus);
				assert_int_equal(get(at + 4, 4), 1);
				cpus++;
				break;
			case 1:
				assert_int_equal(get(at + 4, 4), LAYOUT_IOAPIC);
				assert_int_equal(get(at + 8, 4), 0);
				others |= 1;
				break;
			case 2: /* the SCI alone; the PIT stays on pin 0 */
				assert_int_equal(at[3], IRQ_SCI);
				assert_int_equal(get(at + 4, 4), IRQ_SCI);
				assert_int_equal(get(at + 8, 2), 0xd);
				others |= 2;
				break;
			case 4:
				assert_int_equal(at[2], 0xff);
				assert_int_equal(at[5], 1);
				others |= 4;
				break;
			default:
				fail();
			}
		}
		assert_ptr_equal(at, end);
		assert_int_equal(cpus, counts[i]);
		assert_int_equal(others, 7);
		mem_fini(&t.mem);
	}
}

static void mcfg(void **state)
{
	struct tables t;

	(void)state;
	tables_init(&t, 1, false);
	assert_int_equal(get(t.mcfg + 4, 4), 60);
	assert_int_equal(get(t.mcfg + 44, 8), LAYOUT_ECAM);
	assert_int_equal(get(t.mcfg + 52, 4), 1); /* segment 1, buses 0..0 */
	mem_fini(&t.mem);
}

/* How often the DSDT holds @bytes. */
static unsigned count(const struct tables *t, const void *bytes, size_t len)
{
	const uint8_t *at = t->dsdt;
	const uint8_t *end = at + get(at + 4, 4);
	unsigned n = 0;

	while ((at = memmem(at, (size_t)(end - at), bytes, len))) {
		at++;
		n++;
	}
	return n;
}

/* Small resource descriptors (ACPI 6.5 §6.4.2.5, §6.4.2.1) */
static unsigned count_io(const struct tables *t, uint16_t port, uint8_t len)
{
	uint8_t io[8] = { 0x47, 1, 0, 0, 0, 0, 1, len };

	memcpy(io + 2, &port, 2);
	memcpy(io + 4, &port, 2);
	return count(t, io, sizeof(io));
}

static unsigned count_irq(const struct tables *t, unsigned irq)
{
	uint16_t mask = (uint16_t)(1 << irq);
	uint8_t descriptor[3] = { 0x22 };

	memcpy(descriptor + 1, &mask, 2);
	return count(t, descriptor, sizeof(descriptor));
}

/* dsdt.asl cannot include layout.h: the numbers in it are compared here. */
static void dsdt_agrees_with_layout(void **state)
{
	const uint32_t window[] = { LAYOUT_PCI_MMIO, LAYOUT_PCI_MMIO + LAYOUT_PCI_MMIO_LEN - 1, 0,
		                    LAYOUT_PCI_MMIO_LEN };
	const uint16_t ports[] = { PORT_PCI_IO, PORT_PCI_IO + PORT_PCI_IO_LEN - 1, 0,
		                   PORT_PCI_IO_LEN };
	const uint32_t ecam[] = { LAYOUT_ECAM, LAYOUT_ECAM_LEN };
	const uint8_t s5[] = { '_', 'S', '5', '_', 0x12, 8, 4, 0x0a, ACPI_SLP_TYP_S5 };
	struct tables t;

	(void)state;
	tables_init(&t, 1, false);
	assert_int_equal(count(&t, window, sizeof(window)), 1);
	assert_int_equal(count(&t, ports, sizeof(ports)), 1);
	assert_int_equal(count(&t, ecam, sizeof(ecam)), 1);
	assert_int_equal(count_io(&t, PORT_PCI_CONF, 8), 1);
	assert_int_equal(count_io(&t, PORT_COM1, 8), 1);
	assert_int_equal(count_io(&t, PORT_RTC, 2), 1);
	assert_int_equal(count_irq(&t, IRQ_COM1), 1);
	assert_int_equal(count_irq(&t, IRQ_RTC), 1);
	assert_int_equal(count(&t, s5, sizeof(s5)), 1);
	mem_fini(&t.mem);
}

static void pci_routing(void **state)
{
	struct tables t;

	(void)state;
	tables_init(&t, 1, false);
	for (unsigned slot = 1; slot < 32; slot++) {
		for (unsigned pin = 0; pin < 4; pin++) {
			/* Package (4) { DWord address, pin, Zero, Byte GSI }; 0 and 1 are opcodes.
			 */
			uint8_t entry[16] = { 4, 0x0c, 0xff, 0xff, (uint8_t)slot, 0 };
			unsigned n = 6;

			if (pin > 1)
				entry[n++] = 0x0a;
			entry[n++] = (uint8_t)pin;
			entry[n++] = 0;
			entry[n++] = 0x0a;
			entry[n++] = (uint8_t)(IRQ_PCI_BASE + (slot + pin) % IRQ_PCI_N);
			assert_int_equal(count(&t, entry, n), 1);
		}
	}
	mem_fini(&t.mem);
}

static void no_room(void **state)
{
	struct mem mem;

	(void)state;
	assert_int_equal(mem_init(&mem, LAYOUT_ACPI), 0);
	assert_int_equal(acpi_write(&mem, 1, false), 0);
	mem_fini(&mem);
}

/* iasl takes each table apart, and compiles what it found once more, without a remark. */
static void disassemble(const char *dir, const char *name, const uint8_t *at)
{
	char path[64], command[512];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s.dat", dir, name);
	file = fopen(path, "w");
	assert_non_null(file);
	assert_int_equal(fwrite(at, 1, get(at + 4, 4), file), get(at + 4, 4));
	assert_int_equal(fclose(file), 0);

	snprintf(command, sizeof(command),
	         "cd %s && { iasl -d %s.dat && iasl %s.dsl; } >log 2>&1 && "
	         "grep -q ' 0 Errors, 0 Warnings, 0 Remarks' log && "
	         "! grep -E 'Error |Warning |Invalid|Unknown' log",
	         dir, name, name);
	assert_int_equal(system(command), 0);
}

static void iasl(void **state)
{
	char dir[] = "/tmp/kring-acpi-XXXXXX";
	char command[sizeof(dir) + 16];
	struct tables t;

	(void)state;
	if (system("command -v iasl >/dev/null"))
		skip();
	assert_non_null(mkdtemp(dir));
	for (int legacy = 0; legacy < 2; legacy++) {
		tables_init(&t, 3, legacy);
		disassemble(dir, "xsdt", t.xsdt);
		disassemble(dir, "facp", t.fadt);
		disassemble(dir, "apic", t.madt);
		disassemble(dir, "mcfg", t.mcfg);
		disassemble(dir, "facs", t.facs);
		disassemble(dir, "dsdt", t.dsdt);
		mem_fini(&t.mem);
	}
	snprintf(command, sizeof(command), "rm -r %s", dir);
	assert_int_equal(system(command), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fadt_reduced),
		cmocka_unit_test(fadt_legacy),
		cmocka_unit_test(madt),
		cmocka_unit_test(mcfg),
		cmocka_unit_test(dsdt_agrees_with_layout),
		cmocka_unit_test(pci_routing),
		cmocka_unit_test(no_room),
		cmocka_unit_test(iasl),
	};

	return cmocka_run_group_tests_name("arch/acpi", tests, NULL, NULL);
}
