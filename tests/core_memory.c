/* Guest memory: the one gate lets through what is RAM, and nothing else. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "core/memory.h"

#define GIB (1ull << 30)

static void one_region(void **state)
{
	struct mem mem;

	(void)state;
	assert_int_equal(mem_init(&mem, 128 << 20), 0);
	uint8_t *base = mem_host(&mem, 0, 1);

	assert_non_null(base);
	assert_int_equal((uintptr_t)base & 0x1fffff, 0);
	assert_ptr_equal(mem_host(&mem, 0x1234, 1), base + 0x1234);
	assert_ptr_equal(mem_host(&mem, 0, 128 << 20), base);
	assert_ptr_equal(mem_host(&mem, (128 << 20) - 1, 1), base + (128 << 20) - 1);
	base[(128 << 20) - 1] = 1;

	assert_null(mem_host(&mem, 0, 0));
	assert_null(mem_host(&mem, 0, (128 << 20) + 1));
	assert_null(mem_host(&mem, 128 << 20, 1));
	assert_null(mem_host(&mem, (128 << 20) - 1, 2));
	assert_null(mem_host(&mem, MEM_HOLE_END, 1));
	assert_null(mem_host(&mem, ~0ull, 1));
	assert_null(mem_host(&mem, ~0ull, 2));
	assert_null(mem_host(&mem, 1, ~0ull));
	mem_fini(&mem);
	assert_null(mem_host(&mem, 0, 1));
}

static void around_the_hole(void **state)
{
	struct mem mem;

	(void)state;
	assert_int_equal(mem_init(&mem, 6 * GIB), 0);
	assert_int_equal(mem.low.len, 3 * GIB);
	assert_int_equal(mem.high.len, 3 * GIB);
	assert_non_null(mem_host(&mem, 3 * GIB - 1, 1));
	assert_null(mem_host(&mem, 3 * GIB - 1, 2));
	assert_null(mem_host(&mem, 3 * GIB, 1));
	assert_null(mem_host(&mem, 4 * GIB - 1, 2));
	assert_ptr_equal(mem_host(&mem, 4 * GIB, 4096), mem.high.host);
	assert_non_null(mem_host(&mem, 7 * GIB - 1, 1));
	assert_null(mem_host(&mem, 7 * GIB, 1));
	assert_null(mem_host(&mem, 0, 6 * GIB));
	mem_fini(&mem);
}

static void exactly_to_the_hole(void **state)
{
	struct mem mem;

	(void)state;
	assert_int_equal(mem_init(&mem, 3 * GIB), 0);
	assert_int_equal(mem.high.len, 0);
	assert_null(mem_host(&mem, 4 * GIB, 1));
	mem_fini(&mem);
}

static void refused_sizes(void **state)
{
	struct mem mem;

	(void)state;
	assert_int_equal(mem_init(&mem, 0), -EINVAL);
	assert_int_equal(mem_init(&mem, 4097), -EINVAL);
	assert_int_equal(mem_init(&mem, 1ull << 60), -EINVAL);
	assert_int_equal(mem_init(&mem, 1ull << 51), -ENOMEM);
	assert_null(mem_host(&mem, 0, 1));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_region),
		cmocka_unit_test(around_the_hole),
		cmocka_unit_test(exactly_to_the_hole),
		cmocka_unit_test(refused_sizes),
	};

	return cmocka_run_group_tests_name("core_memory", tests, NULL, NULL);
}
