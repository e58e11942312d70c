/*
 * `kring bench`: what each of its commands gives to the guest and to kring, and what is printed.
 */
#include <errno.h>
#include <limits.h>
#include <net/if.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>

#include "bench/bench.h"
#include "bench/bench_json.h"
#include "bench/bench_net.h"
#include "bench/bench_plain.h"
#include "bench/bench_result.h"
#include "bench/bench_run.h"
#include "core/main.h"

#define MIB        (1ull << 20)
#define MEMORY_MIB 64           /* of the guest, and its buffers */
#define DATA_MAX   (1ull << 30) /* in flight: the guest's memory is below 3 GiB */
#define BOOT_NSEC  60000000000ull
#define BOOT_JOB   "job=boot"
#define GUEST_NAME "kring's own guest"

#define DISK_DEPTH 32
#define NET_DEPTH  256

#define N(value) (unsigned long long)(value)

static const char *const disk_ops[] = { "randread", "randwrite", "read", "write" };
static const char *const waits[] = { "poll", "irq" };
static const struct {
	const char *name;
	const char *noun;
	enum bench_peer peer;
	enum bench_plain_op plain;
} net_ops[] = {
	{ "tx", "frame", BENCH_PEER_NONE, BENCH_PLAIN_TX },
	{ "rx", "frame", BENCH_PEER_SEND, BENCH_PLAIN_RX },
	{ "rr", "round trip", BENCH_PEER_ECHO, BENCH_PLAIN_RR },
};

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

/* The beginning of every line for machines, brace open. */
static void json_head(const char *bench, const char *target)
{
	struct utsname host;

	uname(&host);
	printf("{\"bench\": \"%s\", \"target\": ", bench);
	json_string(target, stdout);
	printf(", \"kring\": \"" KRING_VERSION "\", \"kernel\": ");
	json_string(host.release, stdout);
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
		                  (int)json_length(error) - 2, error + 1); /* less the quotes */
	if (run->status)
		return run->status;
	if (!run->guest)
		return bench_fail(STATUS_FAILED, "%s: the guest ended without a result", what);
	return STATUS_OK;
}

/* What was told of a run. */
struct bench_told {
	const char *noun; /* what a request is called */
	const char *guest, *stats, *timings;
};

/* Print under @title, and judge. */
static int result_print(const struct options *options, const char *bench, const char *target,
                        const char *title, const struct bench_told *told)
{
	struct bench_result result;

	bench_result(&result, told->guest, told->stats, told->timings);
	if (options->json) {
		json_head(bench, target);
		bench_result_json(&result, stdout);
		printf(", \"guest\": %s}\n", told->guest);
	} else {
		printf("%s\n", title);
		bench_result_text(&result, told->noun, stdout);
	}
	if (result.errors > 0)
		return bench_fail(STATUS_FAILED, "%s %s: %.0f requests failed", bench, target,
		                  result.errors);
	if (result.mismatches > 0) /* a failure, whatever its speed */
		return bench_fail(STATUS_FAILED,
		                  "%s %s: %.0f of what was compared is wrong (to --verify what is "
		                  "read, write it with the same --verify and --bs before)",
		                  bench, target, result.mismatches);
	return STATUS_OK;
}

/* A bench of a device: run, print, judge. */
static int device_bench(const struct options *options, struct bench_run *run, const char *bench,
                        const char *target, const char *title, const char *noun)
{
	char what[512];
	int status;

	if (bench_run(run))
		return STATUS_FAILED;
	snprintf(what, sizeof(what), "%s %s", bench, target);
	status = run_status(run, what);
	if (!status)
		status = result_print(
		        options, bench, target, title,
		        &(struct bench_told){ noun, run->guest, run->stats, run->timings });
	bench_run_fini(run);
	return status;
}

/* PATH of PATH[,OPTION...]. */
static void path_of(const char *disk, char *path, size_t len)
{
	snprintf(path, len, "%.*s", (int)strcspn(disk, ","), disk);
}

/* What is wrong with the command line, or STATUS_OK. */
static int disk_refuse(const struct options *options, uint64_t depth)
{
	const char *op = disk_ops[options->op];

	if (!options->disks.n)
		return bench_fail(STATUS_USAGE, "disk: give a --disk PATH");
	if (strstr(op, "write") && !options->destroy)
		return bench_fail(STATUS_USAGE,
		                  "disk %s: --op %s overwrites it; if that is meant, say --destroy",
		                  options->disks.value[0], op);
	if (options->block_size % 512)
		return bench_fail(STATUS_USAGE, "disk: --bs %llu: must be a multiple of 512",
		                  N(options->block_size));
	if (options->block_size * depth > DATA_MAX)
		return bench_fail(STATUS_USAGE, "disk: --bs times --depth must be at most 1g");
	if (options->queues * options->disks.n > depth)
		return bench_fail(STATUS_USAGE, "disk: --depth must be at least --queues, of all "
		                                "disks together");
	return STATUS_OK;
}

/* snprintf into a string of its own, which the caller frees: a name cut short is another name. */
__attribute__((format(printf, 1, 2))) static char *text_of(const char *format, ...)
{
	va_list args;
	char *text;

	va_start(args, format);
	if (vasprintf(&text, format, args) < 0)
		abort();
	va_end(args);
	return text;
}

static int bench_disk(const struct options *options)
{
	const char *op = disk_ops[options->op];
	uint64_t depth = options->depth ? options->depth : DISK_DEPTH;
	char *job, *disk[OPTION_LIST_MAX], path[PATH_MAX], title[PATH_MAX + 256], queues[32] = "";
	struct bench_run run = {
		.memory_mib = MEMORY_MIB + 2 * depth * options->block_size / MIB,
		.args = { "--dev", options->dev, "--rng", "off" },
		.expect_ns = options->time,
		.title = "disk",
	};
	int status = disk_refuse(options, depth);

	if (status)
		return status;
	if (options->queues > 1)
		snprintf(queues, sizeof(queues), ",queues=%llu", N(options->queues));
	for (unsigned i = 0; i < options->disks.n; i++) {
		disk[i] = text_of("%s%s%s", options->disks.value[i], queues,
		                  strstr(op, "write") ? "" : ",readonly");
		run.args[4 + 2 * i] = "--disk";
		run.args[5 + 2 * i] = disk[i];
	}
	path_of(options->disks.value[0], path, sizeof(path));
	run.cmdline = job = text_of(
	        "job=disk op=%s bs=%llu depth=%llu disks=%u queues=%llu time_ms=%llu wait=%s "
	        "verify=%d %s",
	        op, N(options->block_size), N(depth), options->disks.n, N(options->queues),
	        N(options->time / 1000000), waits[options->wait], options->verify,
	        options->job ? options->job : "");
	snprintf(title, sizeof(title),
	         "disk %s%s: %s of %llu bytes, %llu in flight, %llu queue%s, %s", path,
	         options->disks.n > 1 ? " and others" : "", op, N(options->block_size), N(depth),
	         N(options->queues), options->queues > 1 ? "s" : "",
	         options->wait ? "by interrupt" : "polling");
	status = device_bench(options, &run, "disk", path, title, "request");
	free(job);
	for (unsigned i = 0; i < options->disks.n; i++)
		free(disk[i]);
	return status;
}

/* NAME of [tap=]NAME[,OPTION...]. */
static const char *tap_of(const char *net, char *name, size_t len)
{
	path_of(strncmp(net, "tap=", 4) ? net : net + 4, name, len);
	return name;
}

/* Without a guest. */
static int plain_net(const struct options *options, const char *name, const char *title)
{
	char guest[BENCH_PLAIN_MAX], stats[BENCH_PLAIN_MAX];

	if (bench_plain(net_ops[options->op].plain, options->nets.value[0],
	                (uint32_t)options->frame_size, options->time, guest, stats))
		return STATUS_FAILED;
	return result_print(options, "plain", name, title,
	                    &(struct bench_told){ net_ops[options->op].noun, guest, stats, "{}" });
}

/* With one. */
static int guest_net(const struct options *options, const char *name, const char *title)
{
	const char *op = net_ops[options->op].name;
	uint64_t depth = options->depth ? options->depth : NET_DEPTH;
	char *job =
	        text_of("job=net op=%s size=%llu depth=%llu time_ms=%llu wait=%s verify=%d %s", op,
	                N(options->frame_size), N(depth), N(options->time / 1000000),
	                waits[options->wait], options->verify, options->job ? options->job : "");
	struct bench_run run = {
		.cmdline = job,
		.memory_mib = 2 * MEMORY_MIB + 2 * depth * options->frame_size / MIB,
		.args = { "--dev", options->dev, "--rng", "off", "--net", options->nets.value[0] },
		.expect_ns = options->time,
		.title = "net",
	};

	int status = device_bench(options, &run, "net", name, title, net_ops[options->op].noun);

	free(job);
	return status;
}

static int bench_net(const struct options *options)
{
	enum bench_peer peer = net_ops[options->op].peer;
	char name[64], title[512];
	pid_t pid = 0;
	int status;

	if (options->nets.n != 1)
		return bench_fail(STATUS_USAGE, "net: give one --net tap=NAME");
	if (peer == BENCH_PEER_ECHO && options->frame_size > BENCH_FRAME_MAX)
		return bench_fail(STATUS_USAGE, "net: --op rr takes frames of at most 1514 bytes");
	if (options->plain && (options->verify || options->wait || options->depth || options->job))
		return bench_fail(STATUS_USAGE, "net: with --plain there is no guest: leave out "
		                                "--verify, --wait, --depth and --job");
	if (options->verify && peer == BENCH_PEER_NONE)
		return bench_fail(STATUS_USAGE,
		                  "net: --op tx has nothing to --verify; rx and rr do");
	tap_of(options->nets.value[0], name, sizeof(name));
	snprintf(title, sizeof(title), "net %s: %s, frames of %llu bytes, %s", name,
	         net_ops[options->op].name, N(options->frame_size),
	         options->plain  ? "a plain loop and no guest"
	         : options->wait ? "by interrupt"
	                         : "polling");
	if (peer != BENCH_PEER_NONE) {
		pid = bench_peer_start(peer, name, (uint32_t)options->frame_size);
		if (pid < 0)
			return STATUS_FAILED;
	}
	status = options->plain ? plain_net(options, name, title) : guest_net(options, name, title);
	if (pid)
		bench_peer_stop(pid);
	return status;
}

static int bench_peer(const struct options *options)
{
	const struct timespec moment = { .tv_nsec = 10000000 };
	bool was_there = false;
	char name[64];
	pid_t pid;

	if (options->nets.n != 1)
		return bench_fail(STATUS_USAGE, "peer: give one --net NAME");
	tap_of(options->nets.value[0], name, sizeof(name));
	pid = bench_peer_start(options->op ? BENCH_PEER_ECHO : BENCH_PEER_SEND, name,
	                       (uint32_t)options->frame_size);
	if (pid < 0)
		return STATUS_FAILED;
	for (uint64_t left = options->time / (uint64_t)moment.tv_nsec + 1; left; left--) {
		if (waitpid(pid, NULL, WNOHANG) == pid)
			return STATUS_FAILED; /* it has said why */
		was_there |= if_nametoindex(name);
		nanosleep(&moment, NULL);
	}
	bench_peer_stop(pid);
	if (!was_there)
		return bench_fail(STATUS_FAILED, "peer %s: there was no such interface", name);
	return STATUS_OK;
}

static void exits_text(const char *guest)
{
	printf("exits: us each%15s %10s %10s %12s\n", "least", "50 %", "99 %", "times");
	for (unsigned i = 0;; i++) {
		char path[32];
		const char *way, *name;

		snprintf(path, sizeof(path), "ways/%u", i);
		way = json_find(guest, path);
		name = way ? json_find(way, "way") : NULL;
		if (!name)
			return;
		printf("  %-16.*s %10.3f %10.3f %10.3f %12.0f\n", (int)json_length(name) - 2,
		       name + 1, json_number(way, "least_us"), json_number(way, "lat_us/p50"),
		       json_number(way, "lat_us/p99"), json_number(way, "n"));
	}
}

static int bench_exits(const struct options *options)
{
	char job[64];
	struct bench_run run = {
		.cmdline = job,
		.memory_mib = MEMORY_MIB,
		.args = { "--dev", options->dev },
		.expect_ns = options->time,
		.title = "exits",
	};
	int status;

	snprintf(job, sizeof(job), "job=exits time_ms=%llu", N(options->time / 1000000));
	if (bench_run(&run))
		return STATUS_FAILED;
	status = run_status(&run, "exits");
	if (!status && options->json) {
		json_head("exits", "kvm");
		printf(", \"guest\": %s}\n", run.guest);
	} else if (!status) {
		exits_text(run.guest);
	}
	bench_run_fini(&run);
	return status;
}

/* What is told of a boot. */
static const struct {
	const char *key;
	const char *path; /* in --timings; NULL: the process as its parent sees it */
	const char *label;
} boot_rows[] = {
	{ "first_run_us", "phases_us/first_run", "to the first KVM_RUN, us" },
	{ "marked_us", "markers/0/us", "to the guest's first mark, us" },
	{ "shutdown_us", "phases_us/shutdown", "to the guest's end, us" },
	{ "exited_us", NULL, "to the end of the process, us" },
	{ "kvm_exits", "kvm_exits", "exits" },
	{ "user_exits", "user_exits", "exits to kring" },
};

#define BOOT_ROWS (sizeof(boot_rows) / sizeof(boot_rows[0]))

/* The values of one kernel: [row * runs + run]. */
struct boots {
	const char *kernel; /* NULL: the guest of bench/guest */
	double *value;
};

static int boot_once(const struct options *options, struct boots *boots, unsigned run_no)
{
	struct bench_run run = {
		.kernel = boots->kernel,
		.cmdline = boots->kernel ? NULL : BOOT_JOB,
		.memory_mib = options->memory / MIB,
		.args = { "--dev", options->dev },
		.expect_ns = BOOT_NSEC,
		.title = "boot",
	};
	const char *name = boots->kernel ? boots->kernel : GUEST_NAME;
	unsigned n = 2;
	int status = STATUS_OK;

	if (options->initrd) {
		run.args[n++] = "--initrd";
		run.args[n++] = options->initrd;
	}
	if (options->append) {
		run.args[n++] = "--append";
		run.args[n++] = options->append;
	}
	if (bench_run(&run))
		return STATUS_FAILED;
	if (run.status)
		status = bench_fail(run.status, "boot %s: run %u ended with %d", name, run_no + 1,
		                    run.status);
	for (unsigned row = 0; row < BOOT_ROWS; row++)
		boots->value[row * options->runs + run_no] =
		        boot_rows[row].path ? json_number(run.timings, boot_rows[row].path)
		                            : run.wall_us;
	bench_run_fini(&run);
	return status;
}

static void boots_print(const struct options *options, const struct boots *boots, bool first)
{
	if (options->json) {
		printf("%s{\"kernel\": ", first ? "" : ", ");
		json_string(boots->kernel ? boots->kernel : GUEST_NAME, stdout);
	} else {
		printf("boot %s: %llu run%s%22s %10s %10s\n",
		       boots->kernel ? boots->kernel : GUEST_NAME, N(options->runs),
		       options->runs > 1 ? "s" : "", "least", "median", "most");
	}
	for (unsigned row = 0; row < BOOT_ROWS; row++) {
		struct bench_spread spread;

		bench_spread(&spread, boots->value + row * options->runs, options->runs);
		printf(options->json ? ", \"%s\": {\"min\": %.0f, \"median\": %.0f, \"max\": %.0f}"
		                     : "  %-36s %10.0f %10.0f %10.0f\n",
		       options->json ? boot_rows[row].key : boot_rows[row].label, spread.min,
		       spread.median, spread.max);
	}
	if (options->json)
		putchar('}');
}

/* One after the other and again, so that what disturbs the host disturbs all kernels alike. */
static int bench_boot(const struct options *options)
{
	unsigned n = options->kernels.n ? options->kernels.n : 1;
	struct boots boots[OPTION_LIST_MAX] = { 0 };
	double *values = calloc(n * BOOT_ROWS * options->runs, sizeof(*values));
	int status = values ? STATUS_OK : STATUS_FAILED;

	for (unsigned i = 0; !status && i < n; i++) {
		boots[i].kernel = options->kernels.n ? options->kernels.value[i] : NULL;
		boots[i].value = values + i * BOOT_ROWS * options->runs;
	}
	for (unsigned run = 0; !status && run < options->runs; run++)
		for (unsigned i = 0; !status && i < n; i++)
			status = boot_once(options, &boots[i], run);
	if (!status && options->json) {
		json_head("boot", "kernels");
		printf(", \"runs\": %llu, \"kernels\": [", N(options->runs));
	}
	for (unsigned i = 0; !status && i < n; i++)
		boots_print(options, &boots[i], i == 0);
	if (!status && options->json)
		puts("]}");
	free(values);
	return status;
}

static int bench_command(const struct options *options)
{
	switch (options->command) {
	case COMMAND_BENCH_DISK:
		return bench_disk(options);
	case COMMAND_BENCH_NET:
		return bench_net(options);
	case COMMAND_BENCH_PEER:
		return bench_peer(options);
	case COMMAND_BENCH_EXITS:
		return bench_exits(options);
	case COMMAND_BENCH_BOOT:
		return bench_boot(options);
	default:
		return STATUS_USAGE;
	}
}

int main_bench(const struct options *options)
{
	int status = bench_command(options);

	if (fflush(stdout) && !status)
		return bench_fail(STATUS_FAILED, "standard output: %s", strerror(errno));
	return status;
}
