/*
 * The figures. One table has them in their order, for both forms.
 */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench_json.h"
#include "bench/bench_result.h"

#define FIELD(name) offsetof(struct bench_result, name)

static const struct row {
	const char *group; /* in JSON, the object it is in; NULL: none */
	const char *key;
	const char *label; /* for people */
	double scale;      /* for people */
	size_t field;
} rows[] = {
	{ NULL, "requests_per_s", "requests a second", 1, FIELD(requests_per_s) },
	{ NULL, "bytes_per_s", "MB a second", 1e-6, FIELD(bytes_per_s) },
	{ NULL, "errors", "errors", 1, FIELD(errors) },
	{ NULL, "verified", "compared", 1, FIELD(verified) },
	{ NULL, "mismatches", "of them wrong", 1, FIELD(mismatches) },
	{ "lat_us", "mean", "latency us: mean", 1, FIELD(mean) },
	{ "lat_us", "p50", "  50 % below", 1, FIELD(p50) },
	{ "lat_us", "p90", "  90 % below", 1, FIELD(p90) },
	{ "lat_us", "p99", "  99 % below", 1, FIELD(p99) },
	{ "lat_us", "p99.9", "  99.9 % below", 1, FIELD(p999) },
	{ "lat_us", "max", "  longest", 1, FIELD(max) },
	{ "per_request", "host_cpu_us", "a request: CPU us of the host's side", 1,
	  FIELD(host_cpu) },
	{ "per_request", "io_cpu_us", "  of it, of the I/O thread", 1, FIELD(io_cpu) },
	{ "per_request", "vcpu_cpu_us", "  CPU us of the vCPU", 1, FIELD(vcpu_cpu) },
	{ "per_request", "enters", "  io_uring_enter calls", 1, FIELD(enters) },
	{ "per_request", "sqes", "  SQEs", 1, FIELD(sqes) },
	{ "per_request", "kicks", "  kicks", 1, FIELD(kicks) },
	{ "per_request", "interrupts", "  interrupts", 1, FIELD(interrupts) },
	{ "per_request", "kvm_exits", "  exits", 1, FIELD(kvm_exits) },
	{ "per_request", "user_exits", "  exits to kring", 1, FIELD(user_exits) },
	{ NULL, "sqes_per_enter", "SQEs an io_uring_enter call", 1, FIELD(sqes_per_enter) },
};

#define ROWS (sizeof(rows) / sizeof(rows[0]))

static double ratio(double a, double b)
{
	return b > 0 ? a / b : 0;
}

void bench_result(struct bench_result *result, const char *guest, const char *stats,
                  const char *timings)
{
	double seconds = json_number(guest, "seconds");
	double served = json_number(guest, "served");
	double vcpus = json_number(stats, "cpu_us/vcpus");

	*result = (struct bench_result){
		.requests_per_s = ratio(json_number(guest, "ops"), seconds),
		.bytes_per_s = ratio(json_number(guest, "bytes"), seconds),
		.errors = json_number(guest, "errors"),
		.verified = json_number(guest, "verified"),
		.mismatches = json_number(guest, "mismatches"),
		.mean = json_number(guest, "lat_us/mean"),
		.p50 = json_number(guest, "lat_us/p50"),
		.p90 = json_number(guest, "lat_us/p90"),
		.p99 = json_number(guest, "lat_us/p99"),
		.p999 = json_number(guest, "lat_us/p99.9"),
		.max = json_number(guest, "lat_us/max"),
		.io_cpu = ratio(json_number(stats, "cpu_us/io"), served),
		.host_cpu = ratio(json_number(stats, "cpu_us/all") - vcpus, served),
		.vcpu_cpu = ratio(vcpus, served),
		.enters = ratio(json_number(stats, "ring/enters"), served),
		.sqes = ratio(json_number(stats, "ring/sqes"), served),
		.kicks = ratio(json_number(guest, "kicks"), served),
		.interrupts = ratio(json_sum(stats, "devices", "interrupts"), served),
		.kvm_exits = ratio(json_number(timings, "kvm_exits"), served),
		.user_exits = ratio(json_number(stats, "user_exits"), served),
		.sqes_per_enter =
		        ratio(json_number(stats, "ring/sqes"), json_number(stats, "ring/enters")),
	};
}

static double value_of(const struct bench_result *result, const struct row *row)
{
	return *(const double *)(const void *)((const char *)result + row->field);
}

/* Whether there is anything to say: a disk has no frames, a plain loop no vCPU. */
static bool is_told(const struct bench_result *result, const struct row *row)
{
	size_t field = row->field;

	if (field == FIELD(mismatches))
		return result->verified > 0;
	return value_of(result, row) != 0 || !(field == FIELD(errors) || field == FIELD(verified) ||
	                                       (field >= FIELD(mean) && field <= FIELD(max)) ||
	                                       (field >= FIELD(vcpu_cpu) && result->enters == 0));
}

/* @label with @noun in place of "request". */
static void label_make(char *text, size_t len, const char *label, const char *noun)
{
	static const char word[] = "request";
	const char *at = strstr(label, word);

	if (at)
		snprintf(text, len, "%.*s%s%s", (int)(at - label), label, noun, at + strlen(word));
	else
		snprintf(text, len, "%s", label);
}

void bench_result_text(const struct bench_result *result, const char *noun, FILE *out)
{
	for (size_t i = 0; i < ROWS; i++) {
		double value = value_of(result, &rows[i]) * rows[i].scale;
		char label[64];

		if (!is_told(result, &rows[i]))
			continue;
		label_make(label, sizeof(label), rows[i].label, noun);
		fprintf(out, value >= 100 ? "  %-40s %12.0f\n" : "  %-40s %12.3g\n", label, value);
	}
}

static bool same_group(const char *a, const char *b)
{
	return a == b || (a && b && !strcmp(a, b));
}

void bench_result_json(const struct bench_result *result, FILE *out)
{
	const char *group = NULL;

	for (size_t i = 0; i < ROWS; i++) {
		const struct row *row = &rows[i];

		if (!same_group(group, row->group)) {
			if (group)
				fputc('}', out);
			if (row->group)
				fprintf(out, ", \"%s\": {", row->group);
		}
		fprintf(out, "%s\"%s\": %.9g",
		        row->group && !same_group(group, row->group) ? "" : ", ", row->key,
		        value_of(result, row));
		group = row->group;
	}
	if (group)
		fputc('}', out);
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

void bench_spread(struct bench_spread *spread, double *value, size_t n)
{
	qsort(value, n, sizeof(*value), by_value);
	*spread = (struct bench_spread){
		.min = value[0],
		.median = n % 2 ? value[n / 2] : (value[n / 2 - 1] + value[n / 2]) / 2,
		.max = value[n - 1],
	};
}
