/* Figures out of counters, and both ways to show them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bench/bench_json.h"
#include "bench/bench_result.h"

static const char guest[] =
        "{\"job\": \"disk\", \"ops\": 1000, \"bytes\": 4096000, \"seconds\": 0.500, \"lat_us\": "
        "{\"mean\": 16.000, \"p50\": 15.000, \"p90\": 20.000, \"p99\": 30.000, \"p99.9\": 40.000, "
        "\"max\": 99.000}, \"errors\": 0, \"kicks\": 505, \"served\": 1010}";
static const char stats[] =
        "{\"cpu_us\": {\"io\": 2020, \"vcpus\": 10100, \"all\": 13130},\n\"ring\": {\"enters\": "
        "202, \"sqes\": 1212},\n"
        "\"devices\": [{\"name\": \"blk0\", \"interrupts\": 101, \"queues\": [{\"requests\": 9}]},"
        "{\"name\": \"rng\", \"interrupts\": 0, \"queues\": [{\"requests\": 9}]}],\n"
        "\"user_exits\": 404}";
static const char timings[] = "{\"kvm_exits\": 808}";

static void result(struct bench_result *to)
{
	bench_result(to, guest, stats, timings);
}

static void figures(void **state)
{
	struct bench_result r;

	(void)state;
	result(&r);
	assert_true(r.requests_per_s == 2000);
	assert_true(r.bytes_per_s == 8192000);
	assert_true(r.mean == 16 && r.p50 == 15 && r.p90 == 20 && r.p99 == 30);
	assert_true(r.p999 == 40 && r.max == 99);
	assert_true(r.io_cpu == 2);
	assert_true(r.host_cpu == 3);
	assert_true(r.vcpu_cpu == 10);
	assert_true(r.enters == 0.2);
	assert_true(r.sqes == 1.2);
	assert_true(r.kicks == 0.5);
	assert_true(r.interrupts == 0.1);
	assert_true(r.user_exits == 0.4);
	assert_true(r.kvm_exits == 0.8);
	assert_true(r.sqes_per_enter == 6);
}

/* Nothing is divided by what is not there. */
static void nothing_at_all(void **state)
{
	struct bench_result r;

	(void)state;
	bench_result(&r, "{}", "", "");
	assert_true(r.requests_per_s == 0);
	assert_true(r.host_cpu == 0);
	assert_true(r.sqes_per_enter == 0);
}

static char *shown(void (*show)(const struct bench_result *, FILE *), struct bench_result *r)
{
	char *text;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	show(r, out);
	fclose(out);
	return text;
}

static void text_of_requests(const struct bench_result *r, FILE *out)
{
	bench_result_text(r, "request", out);
}

static void text_of_frames(const struct bench_result *r, FILE *out)
{
	bench_result_text(r, "frame", out);
}

static void members(void **state)
{
	struct bench_result r;
	char line[4096];
	char *text;

	(void)state;
	result(&r);
	text = shown(bench_result_json, &r);
	snprintf(line, sizeof(line), "{\"bench\": \"disk\"%s, \"end\": 1}", text);
	free(text);
	assert_null(strchr(line, '\n'));
	assert_true(json_number(line, "requests_per_s") == 2000);
	assert_true(json_number(line, "lat_us/p99.9") == 40);
	assert_true(json_number(line, "per_request/io_cpu_us") == 2);
	assert_true(json_number(line, "per_request/user_exits") == 0.4);
	assert_true(json_number(line, "sqes_per_enter") == 6);
	assert_true(json_number(line, "end") == 1);
	assert_int_equal(json_length(line), strlen(line));
}

static void table(void **state)
{
	struct bench_result r;
	char *text;

	(void)state;
	result(&r);
	text = shown(text_of_requests, &r);
	assert_non_null(strstr(text, "requests a second                                2000\n"));
	assert_non_null(strstr(text, "latency us: mean                                   16\n"));
	assert_null(strstr(text, "errors"));
	assert_null(strstr(text, "compared"));
	free(text);

	r.errors = 3;
	r.verified = 10;
	r.mean = r.p50 = r.p90 = r.p99 = r.p999 = r.max = 0;
	text = shown(text_of_requests, &r);
	assert_non_null(strstr(text, "errors                                              3\n"));
	assert_non_null(strstr(text, "of them wrong                                       0\n"));
	assert_null(strstr(text, "latency"));
	free(text);

	text = shown(text_of_frames, &r);
	assert_non_null(strstr(text, "  frames a second  "));
	assert_null(strstr(text, "request"));
	free(text);
}

static void spreads(void **state)
{
	double odd[] = { 9, 1, 5 }, even[] = { 4, 1, 3, 2 }, one[] = { 7 };
	struct bench_spread s;

	(void)state;
	bench_spread(&s, odd, 3);
	assert_true(s.min == 1 && s.median == 5 && s.max == 9);
	bench_spread(&s, even, 4);
	assert_true(s.min == 1 && s.median == 2.5 && s.max == 4);
	bench_spread(&s, one, 1);
	assert_true(s.min == 7 && s.median == 7 && s.max == 7);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(figures), cmocka_unit_test(nothing_at_all),
		cmocka_unit_test(members), cmocka_unit_test(table),
		cmocka_unit_test(spreads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
