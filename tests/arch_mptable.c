/* The MP tables, read as a guest reads them: MultiProcessor Specification 1.4, chapter 4. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "arch/x86/layout.h"
#include "arch/x86/mptable.h"

static uint32_t get(const uint8_t *p, size_t len)
{
	uint32_t value = 0;

	memcpy(&value, p, len);
	return value;
}

static uint8_t sum(const uint8_t *p, size_t len)
{
	uint8_t total = 0;

	while (len--)
		total += *p++;
	return total;
}

/* The configuration table, found by way of the EBDA as operating systems do. */
static const uint8_t *find(const struct mem *mem)
{
	const uint8_t *segment = mem_host(mem, 0x40e, 2);
	const uint8_t *pointer = mem_host(mem, get(segment, 2) << 4, 16);

	assert_non_null(pointer);
	assert_memory_equal(pointer, "_MP_", 4);
	assert_int_equal(pointer[8], 1); /* paragraphs */
	assert_int_equal(pointer[9], 4); /* 1.4 */
	assert_int_equal(sum(pointer, 16), 0);
	assert_int_equal(pointer[11], 0); /* no default configuration: there is a table */
	assert_int_equal(pointer[12], 0); /* virtual wire mode */

	const uint8_t *table = mem_host(mem, get(pointer + 4, 4), 44);

	assert_memory_equal(table, "PCMP", 4);
	assert_int_equal(table[6], 4);
	assert_int_equal(sum(table, get(table + 4, 2)), 0);
	assert_int_equal(get(table + 36, 4), LAYOUT_LAPIC);
	return table;
}

/* One walk over the table; every entry is checked, none is of a kind that is not known here. */
static void walk(unsigned cpus)
{
	struct mem mem;
	unsigned processors = 0;
	unsigned entries = 0;
	unsigned last_type = 0;
	bool isa[16] = { false };
	bool pci[32][4] = { { false } };
	bool local[2] = { false };

	assert_int_equal(mem_init(&mem, 2 << 20), 0);
	mptable_write(&mem, cpus);

	const uint8_t *table = find(&mem);
	const uint8_t *end = table + get(table + 4, 2);
	const uint8_t *p = table + 44;

	while (p < end) {
		const uint8_t *e = p;

		assert_in_range(e[0], last_type, 4);
		last_type = e[0];
		entries++;
		p += e[0] == 0 ? 20 : 8;
		switch (e[0]) {
		case 0:
			assert_int_equal(e[1], processors);
			assert_int_equal(e[3], processors ? 1 : 3);
			processors++;
			break;
		case 1:
			assert_memory_equal(e + 2, e[1] == 0 ? "PCI   " : "ISA   ", 6);
			assert_in_range(e[1], 0, 1);
			break;
		case 2:
			assert_int_equal(e[1], cpus); /* no processor's id */
			assert_int_equal(e[3], 1);
			assert_int_equal(get(e + 4, 4), LAYOUT_IOAPIC);
			break;
		case 3:
			assert_int_equal(e[1], 0);
			assert_int_equal(e[6], cpus);
			if (e[4] == 1) {
				assert_in_range(e[5], 0, 15);
				assert_int_equal(e[7], e[5]);
				assert_int_equal(get(e + 2, 2), e[5] == IRQ_SCI ? 0xd : 0);
				assert_false(isa[e[5]]);
				isa[e[5]] = true;
			} else {
				unsigned slot = e[5] >> 2;
				unsigned pin = e[5] & 3;

				assert_int_equal(e[4], 0);
				assert_in_range(slot, 1, 31);
				assert_int_equal(e[7], 16 + (slot + pin) % 4);
				assert_false(pci[slot][pin]);
				pci[slot][pin] = true;
			}
			break;
		default:
			assert_int_equal(e[1], e[7] ? 1 : 3); /* LINT0 ExtINT, LINT1 NMI */
			assert_in_range(e[7], 0, 1);
			local[e[7]] = true;
		}
	}
	assert_ptr_equal(p, end);
	assert_int_equal(entries, get(table + 34, 2));
	assert_int_equal(processors, cpus);
	for (unsigned i = 0; i < 16; i++)
		assert_true(isa[i]);
	for (unsigned i = 0; i < 31 * 4; i++)
		assert_true(pci[1 + i / 4][i % 4]);
	assert_true(local[0] && local[1]);
	mem_fini(&mem);
}

static void every_entry(void **state)
{
	(void)state;
	walk(1);
	walk(2);
	walk(CPUS_MAX);
}

/* Nothing but what is said: the rest of low memory stays as it was. */
static void stays_in_its_place(void **state)
{
	struct mem mem;

	(void)state;
	assert_int_equal(mem_init(&mem, 2 << 20), 0);
	memset(mem.low.host, 0xa5, mem.low.len);
	mptable_write(&mem, CPUS_MAX);

	gpa_t end = MPTABLE_CONFIG + get(find(&mem) + 4, 2);

	assert_true(end <= MPTABLE_CONFIG_END);
	for (gpa_t gpa = 0; gpa < mem.low.len; gpa++) {
		if ((gpa & ~1ull) == 0x40e || (gpa & ~15ull) == LAYOUT_EBDA ||
		    (gpa >= MPTABLE_CONFIG && gpa < end))
			continue;
		if (mem.low.host[gpa] != 0xa5)
			fail_msg("written at %#llx", (unsigned long long)gpa);
	}
	mem_fini(&mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_entry),
		cmocka_unit_test(stays_in_its_place),
	};

	return cmocka_run_group_tests_name("arch_mptable", tests, NULL, NULL);
}
