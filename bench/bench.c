/*
 * `kring bench`: what each of its commands gives to the guest and to kring, and what is printed.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#include "bench/bench.h"
#include "bench/bench_json.h"
#include "bench/bench_result.h"
#include "bench/bench_run.h"
#include "core/main.h"

#define MIB        (1ull << 20)
#define MEMORY_MIB 64 /* of the guest, and its buffers */

static const char *const disk_ops[] = { "randread", "randwrite", "read", "write" };
static const char *const waits[] = { "poll", "irq" };

/* One line for the user; returns the exit status. */
__attribute__((format(printf, 2, 3))) static int bench_fail(int status, const char *format, ...)
{
	va_list args;

	fputs("kring: bench ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	return status;
}

static void json_string(const char *text, FILE *out)
{
	fputc('"', out);
	for (; *text; text++) {
		if (*text == '"' || *text == '\\')
			fputc('\\', out);
		if ((unsigned char)*text >= ' ')
			fputc(*text, out);
	}
	fputc('"', out);
}

/*
 * Whether the guest did its job; if not, say so of @what. Who failed has told why: kring on
 * standard error, the guest in its JSON.
 */
static int run_status(const struct bench_run *run, const char *what)
{
	const char *error = run->guest ? json_find(run->guest, "error") : NULL;

	if (error)
		return bench_fail(STATUS_FAILED, "%s: the guest: %.*s", what,
		                  (int)json_length(error), error);
	if (run->status)
		return run->status;
	if (!run->guest)
		return bench_fail(STATUS_FAILED, "%s: the guest ended without a result", what);
	return STATUS_OK;
}

static void result_print(const struct options *options, const struct bench_run *run,
                         const char *bench, const char *target, const char *what)
{
	struct bench_result result;
	struct utsname uname_now;

	bench_result(&result, run->guest, run->stats, run->timings, run->cpu_us);
	uname(&uname_now);
	if (!options->json) {
		printf("%s\n", what);
		bench_result_text(&result, stdout);
		return;
	}
	printf("{\"bench\": \"%s\", \"target\": ", bench);
	json_string(target, stdout);
	printf(", \"kring\": \"" KRING_VERSION "\", \"kernel\": ");
	json_string(uname_now.release, stdout);
	bench_result_json(&result, stdout);
	printf(", \"cpu_us\": %.0f, \"guest\": %s}\n", run->cpu_us, run->guest);
}

/* Wrong data is a failure, whatever its speed. */
static int result_status(const struct bench_run *run, const char *what)
{
	double errors = json_number(run->guest, "errors");
	double mismatches = json_number(run->guest, "mismatches");

	if (errors > 0)
		return bench_fail(STATUS_FAILED, "%s: %.0f requests failed", what, errors);
	if (mismatches > 0)
		return bench_fail(STATUS_FAILED, "%s: %.0f blocks are not what was written", what,
		                  mismatches);
	return STATUS_OK;
}

static int bench_finish(const struct options *options, struct bench_run *run, const char *bench,
                        const char *target, const char *title)
{
	char what[512];
	int status;

	snprintf(what, sizeof(what), "%s %s", bench, target);
	status = run_status(run, what);
	if (!status) {
		result_print(options, run, bench, target, title);
		status = result_status(run, what);
	}
	bench_run_fini(run);
	return status;
}

/* PATH of PATH[,OPTION...]. */
static void path_of(const char *disk, char *path, size_t len)
{
	snprintf(path, len, "%.*s", (int)strcspn(disk, ","), disk);
}

static int bench_disk(const struct options *options)
{
	const char *op = disk_ops[options->op];
	char job[1024], disk[512], path[256], title[512];
	struct bench_run run = {
		.job = job,
		.memory_mib = MEMORY_MIB + 2 * options->depth * options->block_size / MIB,
		.args = { "--dev", options->dev, "--rng", "off", "--disk", disk },
		.expect_ns = options->time,
		.title = title,
	};

	if (options->disks.n != 1)
		return bench_fail(STATUS_USAGE, "disk: give one --disk PATH");
	path_of(options->disks.value[0], path, sizeof(path));
	if (strstr(op, "write") && !options->destroy)
		return bench_fail(STATUS_USAGE,
		                  "disk %s: --op %s overwrites it; if that is meant, say --destroy",
		                  path, op);
	if (options->block_size % 512)
		return bench_fail(STATUS_USAGE, "disk: --bs %llu: must be a multiple of 512",
		                  (unsigned long long)options->block_size);
	if (options->queues > options->depth)
		return bench_fail(STATUS_USAGE, "disk: --depth must be at least --queues");

	snprintf(disk, sizeof(disk), "%s,queues=%llu%s", options->disks.value[0],
	         (unsigned long long)options->queues,
	         strstr(op, "write") || options->destroy ? "" : ",readonly");
	snprintf(job, sizeof(job),
	         "job=disk op=%s bs=%llu depth=%llu queues=%llu time_ms=%llu wait=%s verify=%d %s",
	         op, (unsigned long long)options->block_size, (unsigned long long)options->depth,
	         (unsigned long long)options->queues, (unsigned long long)options->time / 1000000,
	         waits[options->wait], options->verify, options->job ? options->job : "");
	snprintf(title, sizeof(title), "disk %s: %s of %llu bytes, %llu in flight, %s", path, op,
	         (unsigned long long)options->block_size, (unsigned long long)options->depth,
	         options->wait ? "by interrupt" : "polling");
	if (bench_run(&run))
		return STATUS_FAILED;
	return bench_finish(options, &run, "disk", path, title);
}

int main_bench(const struct options *options)
{
	switch (options->command) {
	case COMMAND_BENCH_DISK:
		return bench_disk(options);
	default:
		return STATUS_USAGE;
	}
}
