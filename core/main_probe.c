/*
 * `kring probe`: the facts of core/probe.c and io/probe.c as text or JSON, and a verdict.
 *
 * Each fact is printed by one call that knows both forms, so that neither can miss one.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/main.h"
#include "core/probe.h"
#include "io/probe.h"

struct report {
	bool json;
	const char *comma; /* before the next member */
};

static void report_key(struct report *report, const char *key)
{
	if (report->json)
		printf("%s\"%s\": ", report->comma, key);
	else
		printf("%-22s ", key);
	report->comma = ", ";
}

static void report_string(const char *text)
{
	putchar('"');
	for (; *text; text++) {
		if (*text == '"' || *text == '\\')
			putchar('\\');
		if ((unsigned char)*text >= ' ')
			putchar(*text);
	}
	putchar('"');
}

__attribute__((format(printf, 3, 4))) static void fact_text(struct report *report, const char *key,
                                                            const char *format, ...)
{
	char text[512];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	report_key(report, key);
	if (report->json)
		report_string(text);
	else
		puts(text);
}

static void fact_number(struct report *report, const char *key, double number)
{
	report_key(report, key);
	printf(report->json ? "%.10g" : "%.10g\n", number);
}

/* A list of words; @n of them, those for which @has says so. */
static void fact_words(struct report *report, const char *key, size_t n,
                       const char *(*word)(const void *arg, size_t i), const void *arg)
{
	const char *comma = "";

	report_key(report, key);
	if (report->json)
		putchar('[');
	for (size_t i = 0; i < n; i++) {
		const char *name = word(arg, i);

		if (!name)
			continue;
		if (report->json) {
			printf("%s\"%s\"", comma, name);
			comma = ", ";
		} else {
			printf("%s%s", comma, name);
			comma = " ";
		}
	}
	puts(report->json ? "]" : "");
}

static const char *cap_word(const void *arg, size_t i)
{
	return ((const struct kvm_probe *)arg)->cap[i] > 0 ? probe_caps[i] : NULL;
}

static const char *cpu_flag_word(const void *arg, size_t i)
{
	return ((const struct probe_cpu *)arg)->flags >> i & 1 ? probe_cpu_flags[i].name : NULL;
}

/* Bits of a mask that a table names. */
struct named_bits {
	const struct ring_name *table;
	uint64_t bits;
};

static const char *bit_word(const void *arg, size_t i)
{
	const struct named_bits *named = arg;

	return named->bits & named->table[i].value ? named->table[i].name : NULL;
}

static const char *opcode_word(const void *arg, size_t i)
{
	const struct named_bits *named = arg;

	return named->bits >> named->table[i].value & 1 ? named->table[i].name : NULL;
}

static size_t table_len(const struct ring_name *table)
{
	size_t n = 0;

	while (table[n].name)
		n++;
	return n;
}

static void fact_bits(struct report *report, const char *key, const struct ring_name *table,
                      uint64_t bits, const char *(*word)(const void *arg, size_t i))
{
	struct named_bits named = { table, bits };

	fact_words(report, key, table_len(table), word, &named);
}

static const char *ring0_verdict(const struct kvm_probe *kvm)
{
	if (kvm->ring0_ns == 0)
		return "none";
	return kvm->ring0_ns > PROBE_EMULATED_NS ? "emulated" : "hardware";
}

static void report_kvm(struct report *report, const struct kvm_probe *kvm, const char *dev)
{
	if (kvm->error)
		fact_text(report, "kvm", "%s: %s: %s", dev, kvm->step, strerror(-kvm->error));
	else
		fact_text(report, "kvm", "%s", dev);
	fact_text(report, "ring0", "%s", ring0_verdict(kvm));
	if (kvm->error && !kvm->api_version)
		return;
	fact_number(report, "ring0_ns", kvm->ring0_ns);
	fact_number(report, "kvm_api", kvm->api_version);
	fact_words(report, "kvm_capabilities", PROBE_CAPS, cap_word, kvm);
	for (size_t i = 0; i < PROBE_CAPS; i++) /* those that are more than yes or no */
		if (kvm->cap[i] > 1) {
			char key[64];

			snprintf(key, sizeof(key), "kvm_%s", probe_caps[i]);
			fact_number(report, key, kvm->cap[i]);
		}
	fact_text(report, "cpu", "%s family %u model %u stepping %u %s", kvm->cpu.vendor,
	          kvm->cpu.family, kvm->cpu.model, kvm->cpu.stepping, kvm->cpu.brand);
	fact_words(report, "cpu_flags", PROBE_CPU_FLAGS, cpu_flag_word, &kvm->cpu);
}

static void report_host(struct report *report, const struct probe *host)
{
	fact_text(report, "kernel", "%s", host->uname.release);
	fact_text(report, "io_uring", "%s",
	          host->ring.error ? ring_explain(host->ring.error) : "yes");
	fact_bits(report, "io_uring_setup", ring_setup_flags, host->ring.setup, bit_word);
	fact_bits(report, "io_uring_features", probe_features, host->ring.features, bit_word);
	fact_bits(report, "io_uring_opcodes", ring_opcodes, host->ring.opcodes, opcode_word);
	fact_text(report, "tap", "%s", host->tap.error ? strerror(-host->tap.error) : "yes");
	fact_bits(report, "tap_features", probe_tap_flags, host->tap.flags, bit_word);
	if (host->memlock.rlim_cur == RLIM_INFINITY)
		fact_text(report, "memlock", "unlimited");
	else
		fact_text(report, "memlock", "%lluk",
		          (unsigned long long)host->memlock.rlim_cur >> 10);
	fact_text(report, "huge_pages", "%s", *host->huge.enabled ? host->huge.enabled : "none");
	fact_number(report, "huge_pages_reserved", (double)host->huge.total);
	fact_number(report, "huge_pages_free", (double)host->huge.free);
}

#define HINTS_MAX 8

struct hints {
	const char *text[HINTS_MAX];
	size_t n;
};

static void hint_add(struct hints *hints, const char *text)
{
	if (text && hints->n < HINTS_MAX)
		hints->text[hints->n++] = text;
}

static const char *hint_word(const void *arg, size_t i)
{
	return ((const struct hints *)arg)->text[i];
}

/* What keeps a guest from running comes first and decides; the rest is advice. */
int main_probe(const struct options *options)
{
	struct report report = { .json = options->json, .comma = "" };
	struct kvm_probe kvm = { 0 };
	struct probe host;
	struct hints fix = { 0 }, advice = { 0 };

	probe_kvm(&kvm, options->dev);
	probe_host(&host);

	hint_add(&fix, kvm.hint);
	hint_add(&fix, host.ring.hint);
	for (size_t i = 0; i < PROBE_PARAMS; i++)
		if (kvm.param[i] && kvm.param[i] == probe_params[i].bad)
			hint_add(&advice, probe_params[i].hint);
	hint_add(&advice, host.tap.hint);
	hint_add(&advice, host.huge.hint);

	if (report.json)
		putchar('{');
	report_kvm(&report, &kvm, options->dev);
	report_host(&report, &host);
	if (report.json) {
		fact_words(&report, "fix", fix.n, hint_word, &fix);
		fact_words(&report, "advice", advice.n, hint_word, &advice);
		printf(", \"ready\": %s}\n", fix.n ? "false" : "true");
	} else {
		for (size_t i = 0; i < advice.n; i++)
			printf("advice: %s\n", advice.text[i]);
		for (size_t i = 0; i < fix.n; i++)
			printf("fix: %s\n", fix.text[i]);
		if (!fix.n)
			puts("ready");
	}
	return fix.n ? STATUS_FAILED : STATUS_OK;
}
