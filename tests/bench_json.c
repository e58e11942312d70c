/* Finding values in JSON that is well-formed, and surviving what is not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "bench/bench_json.h"

static const char text[] =
        "{\n  \"ring\": {\"enters\": 7, \"sqes\": 1.5e3},\n"
        "  \"a \\\"}] quoted\": \"},{\\\\\", \"flag\": true,\n"
        "  \"devices\": [\n"
        "    {\"name\": \"blk0\", \"n\": 2, \"queues\": [{\"k\": 3}, {\"k\": 4}]},\n"
        "    {\"name\": \"rng\", \"n\": 40, \"queues\": []}],\n"
        "  \"lat\": {\"p99\": 2, \"p99.9\": 3.25}, \"last\": -1}\n";

static void numbers_by_path(void **state)
{
	static const struct {
		const char *path;
		double value;
	} cases[] = {
		{ "ring/enters", 7 },
		{ "ring/sqes", 1500 },
		{ "devices/0/queues/1/k", 4 },
		{ "devices/1/n", 40 },
		{ "lat/p99", 2 },
		{ "lat/p99.9", 3.25 },
		{ "last", -1 },
		{ "ring/enter", 0 },
		{ "ring/enters/more", 0 },
		{ "devices/2/n", 0 },
		{ "nothing", 0 },
		{ "devices/0/queues/2/k", 0 },
		{ "devices/1/queues/0", 0 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		assert_true(json_number(text, cases[i].path) == cases[i].value);
	assert_true(json_sum(text, "devices", "n") == 42);
	assert_true(json_sum(text, "devices/0/queues", "k") == 7);
	assert_true(json_sum(text, "nothing", "k") == 0);
	assert_true(json_sum(text, "ring", "k") == 0);
}

static void values_by_path(void **state)
{
	const char *name = json_find(text, "devices/1/name");
	const char *queues = json_find(text, "devices/0/queues");
	const char *flag = json_find(text, "flag");

	(void)state;
	assert_int_equal(json_length(name), strlen("\"rng\""));
	assert_memory_equal(name, "\"rng\"", 5);
	assert_int_equal(json_length(queues), strlen("[{\"k\": 3}, {\"k\": 4}]"));
	assert_int_equal(json_length(flag), 4);
	assert_int_equal(json_length(json_find(text, "")), strlen(text) - 1);
	assert_null(json_find(text, "name"));
}

/* A line that was cut off anywhere ends the search, and no read goes beyond it. */
static void cut_off(void **state)
{
	static const char *const paths[] = { "ring/sqes", "devices/1/n", "lat/p99.9", "last", "x" };

	(void)state;
	for (size_t len = 0; len < sizeof(text); len++) {
		char *cut = test_malloc(len + 1);

		memcpy(cut, text, len);
		cut[len] = '\0';
		for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
			const char *found = json_find(cut, paths[i]);

			if (found)
				assert_true(json_length(found) <= len);
			json_sum(cut, "devices", "n");
		}
		test_free(cut);
	}
	assert_null(json_find("", "a"));
	assert_null(json_find("}", "a"));
	assert_null(json_find("[", "0"));
	assert_null(json_find("{\"a\"", "a"));
	assert_null(json_find("{\"a\" 1}", "a"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(numbers_by_path),
		cmocka_unit_test(values_by_path),
		cmocka_unit_test(cut_off),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
