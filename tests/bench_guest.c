/*
 * The benchmark guest and `kring bench`, on this machine's KVM: every job, by every way it can go.
 *
 * This program is a kring, too: called as one it acts as one, for that is whom bench_run()
 * executes. Without a KVM, or a tap, what needs it is skipped and counted. QEMU runs the same
 * guest, by itself.
 */
#include <fcntl.h>
#include <limits.h>
#include <pty.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "bench/bench.h"
#include "bench/bench_json.h"
#include "bench/bench_net.h"
#include "bench/bench_run.h"
#include "core/main.h"
#include "core/stats.h"

#define SPAN (64 * 4096) /* of the disk, for what goes over all of it */
#define DISK (1 << 20)
#define WHERE_KVM_IS                                                                               \
	do {                                                                                       \
		if (access("/dev/kvm", R_OK | W_OK)) {                                             \
			print_message("skipped: no /dev/kvm\n");                                   \
			skip();                                                                    \
		}                                                                                  \
	} while (0)
#define WHERE_TAPS_ARE                                                                             \
	do {                                                                                       \
		if (access("/dev/net/tun", R_OK | W_OK) || geteuid()) {                            \
			print_message("skipped: no taps, or not root\n");                          \
			skip();                                                                    \
		}                                                                                  \
	} while (0)

extern const char bench_guest[];
extern const uint64_t bench_guest_len;

static char self[PATH_MAX];
static char tap[16]; /* two of these tests may run at a time */

/* A disk image; its path is good as long as this process lives. */
struct image {
	int fd;
	char path[64];
};

static void image_make(struct image *image)
{
	image->fd = memfd_create("disk", 0);
	assert_true(image->fd >= 0);
	assert_int_equal(ftruncate(image->fd, DISK), 0);
	snprintf(image->path, sizeof(image->path), "/proc/%d/fd/%d", (int)getpid(), image->fd);
}

/* Run the job @cmdline with the device "@option @value", and say what the guest said. */
static struct bench_run job(const char *cmdline, const char *option, const char *value)
{
	struct bench_run run = {
		.cmdline = cmdline,
		.memory_mib = 64,
		.args = { "--rng", "on", option, value },
		.expect_ns = 1000000000,
	};

	assert_int_equal(bench_run(&run), 0);
	if (run.status)
		print_message("%s: status %d: %s\n", cmdline, run.status, run.output);
	assert_int_equal(run.status, 0);
	return run;
}

static void expect_good(const struct bench_run *run, bool verified)
{
	const char *guest = run->guest;

	assert_non_null(guest);
	if (json_find(guest, "error"))
		print_message("%s: %s\n", run->cmdline, guest);
	assert_null(json_find(guest, "error"));
	assert_non_null(json_find(guest, "ops"));
	assert_true(json_number(guest, "served") > 0); /* ops is 0 where a host takes long naps */
	assert_true(json_number(guest, "served") >= json_number(guest, "ops"));
	assert_true(json_number(guest, "seconds") > 0);
	assert_non_null(json_find(guest, "errors"));
	assert_true(json_number(guest, "errors") == 0);
	assert_true(json_number(guest, "mismatches") == 0);
	if (verified)
		assert_true(json_number(guest, "verified") > 0);
}

static void boots(void **state)
{
	struct bench_run run;

	(void)state;
	WHERE_KVM_IS;
	run = job("job=boot", NULL, NULL);
	for (unsigned i = 0; i < 3; i++) {
		char path[32];

		snprintf(path, sizeof(path), "markers/%u/value", i);
		assert_true(json_number(run.timings, path) == i + 1);
	}
	assert_string_equal(run.output, "");
	bench_run_fini(&run);
}

/* bench/guest/disk.c, pattern() */
static uint64_t pattern(uint64_t offset, uint64_t seed)
{
	return (offset + seed) * 0x9e3779b97f4a7c15ull;
}

static void image_expect(const struct image *image, uint64_t seed)
{
	for (uint64_t at = 0; at < SPAN; at += 8) {
		uint64_t word;

		assert_int_equal(pread(image->fd, &word, 8, (off_t)at), 8);
		assert_true(word == pattern(at, seed));
	}
}

/* Each processor is woken by its own timer, and sleeps in between. */
static void idles(void **state)
{
	struct bench_run run;
	double interrupts;

	(void)state;
	WHERE_KVM_IS;
	run = job("job=idle hz=50 time_ms=400", "--cpus", "2");
	interrupts = json_number(run.guest, "interrupts");
	assert_true(json_number(run.guest, "cpus") == 2);
	assert_true(interrupts >= 10 && interrupts <= 60); /* a busy host merges some */
	bench_run_fini(&run);
}

/* Written, read back by the guest, found in the image, and read again by every way. */
static void disk_ops(void **state)
{
	static const char *const ways[] = {
		"wait=poll",
		"wait=irq",
		"wait=poll indirect=0 event_idx=0",
		"wait=irq indirect=0",
		"wait=irq event_idx=0 queues=2",
		"wait=poll depth=1",
	};
	struct image image;
	char cmdline[256], disk[128];

	(void)state;
	WHERE_KVM_IS;
	image_make(&image);
	snprintf(disk, sizeof(disk), "%s,queues=2", image.path);
	for (unsigned i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		static const char *const ops[] = { "write", "randread", "read", "randwrite" };

		for (unsigned op = 0; op < sizeof(ops) / sizeof(ops[0]); op++) {
			bool ours = strstr(ways[i], "depth=");
			struct bench_run run;

			snprintf(cmdline, sizeof(cmdline),
			         "job=disk op=%s time_ms=60 span=%u seed=%u min_ops=64 "
			         "verify=1 %s %s",
			         ops[op], SPAN, i + 1, ways[i], ours ? "" : "depth=16");
			run = job(cmdline, "--disk", disk);
			expect_good(&run, true);
			assert_true(json_number(run.guest, "kicks") > 0);
			if (strstr(ways[i], "irq"))
				assert_true(json_number(run.guest, "interrupts") > 0);
			else
				assert_true(json_number(run.guest, "interrupts") == 0);
			bench_run_fini(&run);
			if (op == 0)
				image_expect(&image, i + 1);
		}
	}
	close(image.fd);
}

/* The exits to one address, of what --timings tells. */
static double exits_at(const char *timings, const char *address, const char *access)
{
	for (unsigned i = 0;; i++) {
		char path[64];
		const char *site;

		snprintf(path, sizeof(path), "user_exits_by_address/%u", i);
		site = json_find(timings, path);
		if (!site)
			return 0;
		if (!strncmp(json_find(site, "address") + 1, address, strlen(address)) &&
		    !strncmp(json_find(site, "access") + 1, access, strlen(access)))
			return json_number(site, "count");
	}
}

/* All that is counted, of work that is known: the guest counts it, too. */
static void work_is_counted(void **state)
{
	static const char *const reasons[] = { "io",           "mmio",        "hlt", "shutdown",
		                               "system_event", "interrupted", "intr" };
	struct image image;
	char disk[128];

	(void)state;
	WHERE_KVM_IS;
	image_make(&image);
	snprintf(disk, sizeof(disk), "%s,queues=2", image.path);
	for (unsigned write = 0; write < 2; write++) {
		double served, in_queues = 0, exits = 0;
		struct bench_run run =
		        job(write ? "job=disk op=randwrite bs=8k depth=8 queues=2 time_ms=20 "
		                    "min_ops=500 wait=irq"
		                  : "job=disk op=randread bs=8k depth=8 queues=2 time_ms=20 "
		                    "min_ops=500 wait=irq",
		            "--disk", disk);

		expect_good(&run, false);
		served = json_number(run.guest, "served");
		for (unsigned i = 0; i < 2; i++) {
			char path[64];
			const char *queue;
			double requests;

			snprintf(path, sizeof(path), "devices/0/queues/%u", i);
			queue = json_find(run.stats, path);
			assert_non_null(queue);
			requests = json_number(queue, "requests");
			assert_true(requests > 0);
			assert_true(json_number(queue, "kicks") <= requests);
			assert_true(json_number(queue, "bytes_read") ==
			            (write ? 0 : 8192 * requests));
			assert_true(json_number(queue, "bytes_written") ==
			            (write ? 8192 * requests : 0));
			in_queues += requests;
		}
		assert_true(in_queues == served);
		assert_true(json_sum(run.stats, "devices/0/queues", "kicks") <=
		            json_number(run.guest, "kicks"));

		assert_true(json_number(run.stats, "devices/0/interrupts") >=
		            json_number(run.guest, "interrupts"));
		assert_true(json_number(run.stats, "ring/sqes") >= served);
		assert_true(json_number(run.stats, "ring/cqes") >= served);
		assert_non_null(json_find(run.stats, "devices/1/queues/0/requests"));
		assert_true(json_number(run.stats, "devices/1/queues/0/requests") == 0);

		for (unsigned i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++) {
			char path[64];

			snprintf(path, sizeof(path), "user_exits_by_reason/%s", reasons[i]);
			exits += json_number(run.stats, path);
		}
		assert_true(json_number(run.stats, "user_exits") == exits);
		assert_true(json_number(run.timings, "user_exits") == exits);
		assert_true(json_number(run.stats, "user_exits_by_reason/mmio") > 0);
		/* Each byte of what it says is an exit, and a newline behind it. */
		assert_true(exits_at(run.timings, "0x3f8", "write") > strlen(run.guest));
		assert_true(json_number(run.stats, "user_exits_by_reason/io") >
		            exits_at(run.timings, "0x3f8", "write"));
		bench_run_fini(&run);
	}
	close(image.fd);
}

/*
 * An image in a file that lies with this program, and in the page cache. Whether such a file is
 * read at once, without a thread of the kernel's: those of tmpfs are not.
 */
static bool image_cached(struct image *image)
{
	char path[PATH_MAX + 8], block[4096] = { 0 };
	struct iovec iov = { block, sizeof(block) };

	snprintf(path, sizeof(path), "%s-XXXXXX", self);
	image->fd = mkostemp(path, O_CLOEXEC);
	assert_true(image->fd >= 0);
	unlink(path);
	snprintf(image->path, sizeof(image->path), "/proc/%d/fd/%d", (int)getpid(), image->fd);
	for (unsigned at = 0; at < DISK; at += sizeof(block))
		assert_int_equal(pwrite(image->fd, block, sizeof(block), at), sizeof(block));
	return preadv2(image->fd, &iov, 1, 0, RWF_NOWAIT) == sizeof(block);
}

/*
 * System calls a request: two for one (its kick, and it), and two for 32. They are counted, so it
 * does not matter how busy the host is; what polling saves depends on that, and it is off.
 */
static void calls_are_few(void **state)
{
	static const struct {
		const char *cmdline;
		double most;
	} cases[] = {
		{ "job=disk op=randread depth=1 time_ms=20 min_ops=4000 wait=irq", 2.05 },
		{ "job=disk op=randread depth=32 time_ms=20 min_ops=20000 wait=irq", 0.08 },
	};
	struct image image;
	bool cached;

	(void)state;
	WHERE_KVM_IS;
	cached = image_cached(&image);
	for (unsigned i = 0; cached && i < sizeof(cases) / sizeof(cases[0]); i++) {
		double enters, served;
		struct bench_run run = {
			.cmdline = cases[i].cmdline,
			.memory_mib = 64,
			.args = { "--rng", "off", "--poll", "0", "--disk", image.path },
			.expect_ns = 1000000000,
		};

		assert_int_equal(bench_run(&run), 0);
		assert_int_equal(run.status, 0);
		expect_good(&run, false);
		enters = json_number(run.stats, "ring/enters");
		served = json_number(run.guest, "served");
		print_message("%s: %.4f calls each\n", cases[i].cmdline, enters / served);
		assert_true(enters > 0 && enters <= cases[i].most * served);
		assert_true(json_number(run.stats, "ring/sqes") >= served);
		assert_true(json_number(run.stats, "devices/0/queues/0/kicks") > 0);
		bench_run_fini(&run);
	}
	close(image.fd);
	if (!cached) {
		print_message("skipped: this file system's files are not read at once\n");
		skip();
	}
}

/* What is not what was written is found. */
static void wrong_data(void **state)
{
	struct image image;
	struct bench_run run;

	(void)state;
	WHERE_KVM_IS;
	image_make(&image);
	run = job("job=disk op=read time_ms=20 span=64k verify=1", "--disk", image.path);
	assert_true(json_number(run.guest, "mismatches") > 0);
	assert_true(json_number(run.guest, "mismatches") == json_number(run.guest, "verified"));
	bench_run_fini(&run);
	close(image.fd);
}

static void mistakes(void **state)
{
	static const char *const cmdlines[] = {
		"job=none",
		"",
		"job=disk op=sing",
		"job=disk op=read bs=100",
		"job=disk op=read queues=2",
		"job=disk op=read depth=1025",
		"job=disk op=read bs=2m",
		"job=disk op=read dev=1",
		"job=net op=tx",
	};
	struct image image;

	(void)state;
	WHERE_KVM_IS;
	image_make(&image);
	for (unsigned i = 0; i < sizeof(cmdlines) / sizeof(cmdlines[0]); i++) {
		struct bench_run run = job(cmdlines[i], "--disk", image.path);

		assert_non_null(run.guest);
		assert_non_null(json_find(run.guest, "error"));
		bench_run_fini(&run);
	}
	close(image.fd);
}

static struct bench_run net_job(const char *cmdline, enum bench_peer kind, uint32_t size,
                                unsigned time_ms)
{
	char timed[256];
	pid_t peer = 0;

	snprintf(timed, sizeof(timed), "%s time_ms=%u", cmdline, time_ms);
	if (kind != BENCH_PEER_NONE)
		peer = bench_peer_start(kind, tap, size);
	assert_true(peer >= 0);

	struct bench_run run = job(timed, "--net", tap);

	if (peer)
		bench_peer_stop(peer);
	return run;
}

static void net_ops(void **state)
{
	static const struct {
		const char *cmdline;
		enum bench_peer peer;
		uint32_t size;
		bool verified;
	} cases[] = {
		{ "job=net op=tx size=64", BENCH_PEER_NONE, 64, false },
		{ "job=net op=tx size=1514 wait=irq segs=3", BENCH_PEER_NONE, 1514, false },
		{ "job=net op=tx size=1514 segs=3 indirect=0 event_idx=0", BENCH_PEER_NONE, 1514,
		  false },
		{ "job=net op=tx size=65549 depth=32", BENCH_PEER_NONE, 65549, false },
		{ "job=net op=rx size=64 verify=1", BENCH_PEER_SEND, 64, true },
		{ "job=net op=rx size=1514 verify=1 wait=irq mrg=0", BENCH_PEER_SEND, 1514, true },
		{ "job=net op=rx size=40000", BENCH_PEER_SEND, 40000, false },
		{ "job=net op=rr size=64 verify=1", BENCH_PEER_ECHO, 64, true },
		{ "job=net op=rr size=1514 verify=1 wait=irq", BENCH_PEER_ECHO, 1514, true },
	};

	(void)state;
	WHERE_KVM_IS;
	WHERE_TAPS_ARE;
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct bench_run run = net_job(cases[i].cmdline, cases[i].peer, cases[i].size, 60);

		if (!json_number(run.guest, "served")) { /* a host that had other things to do */
			bench_run_fini(&run);
			run = net_job(cases[i].cmdline, cases[i].peer, cases[i].size, 4000);
		}
		expect_good(&run, cases[i].verified);
		/* What the host sent before the guest took long frames comes in cut. */
		assert_true(json_number(run.guest, "bytes") >=
		            json_number(run.guest, "ops") *
		                    (cases[i].size > 1514 ? 60 : cases[i].size));
		bench_run_fini(&run);
	}
}

static void exits(void **state)
{
	struct bench_run run;

	(void)state;
	WHERE_KVM_IS;
	run = job("job=exits time_ms=200", NULL, NULL);
	for (unsigned i = 0; i < 8; i++) {
		char path[32];

		snprintf(path, sizeof(path), "ways/%u/n", i);
		assert_true(json_number(run.guest, path) > 0);
		snprintf(path, sizeof(path), "ways/%u/lat_us/p50", i);
		assert_true(json_number(run.guest, path) > 0);
	}
	bench_run_fini(&run);
}

/* The standard output of a shell's @command, and its exit status. */
static char *shell(const char *command, int *status)
{
	size_t room = 65536, n;
	char *text = malloc(room + 1);
	FILE *pipe = popen(command, "r");

	assert_non_null(text);
	assert_non_null(pipe);
	n = fread(text, 1, room, pipe);
	text[n] = '\0';
	*status = WEXITSTATUS(pclose(pipe));
	return text;
}

/* The guest's ELF, as a file for who can open it by /proc. */
static int guest_open(void)
{
	int guest = memfd_create("guest", 0);

	assert_true(guest >= 0);
	assert_int_equal(write(guest, bench_guest, bench_guest_len), bench_guest_len);
	return guest;
}

static char *kring(int *status, const char *format, ...)
{
	char command[2 * PATH_MAX], *end = command + snprintf(command, PATH_MAX, "%s ", self);
	va_list args;

	va_start(args, format);
	vsnprintf(end, PATH_MAX, format, args);
	va_end(args);
	return shell(command, status);
}

/* Several at once: each gets what is its own. */
static void several_disks(void **state)
{
	enum { DISKS = 3 };
	struct image image[DISKS];
	char command[1024] = "bench disk --op randwrite --destroy --verify --json --time 0.1 "
	                     "--queues 2 --depth 24 --wait irq";
	char *text;
	int status;

	(void)state;
	WHERE_KVM_IS;
	for (unsigned i = 0; i < DISKS; i++) {
		size_t len = strlen(command);

		image_make(&image[i]);
		snprintf(command + len, sizeof(command) - len, " -d %s", image[i].path);
	}
	text = kring(&status, "%s", command);
	assert_int_equal(status, STATUS_OK);
	assert_true(json_number(text, "guest/disks") == DISKS);
	assert_true(json_number(text, "verified") > 0);
	free(text);
	for (unsigned i = 0; i < DISKS; i++) {
		uint64_t word = 0, at = 0;

		for (; !word; at += 8) /* the first that was written */
			assert_int_equal(pread(image[i].fd, &word, 8, (off_t)at), 8);
		assert_true(word == pattern(at - 8 + ((uint64_t)i << 48), 1));
		close(image[i].fd);
	}
}

static void commands(void **state)
{
	struct image image;
	char *text;
	int status;

	(void)state;
	WHERE_KVM_IS;
	image_make(&image);
	text = kring(&status, "bench disk -d %s --time 0.1 --json", image.path);
	assert_int_equal(status, STATUS_OK);
	assert_true(json_number(text, "requests_per_s") > 0);
	assert_true(json_number(text, "per_request/enters") > 0);
	assert_true(json_number(text, "per_request/kvm_exits") > 0);
	assert_true(json_number(text, "guest/ops") > 0);
	assert_true(strchr(text, '\n') == text + strlen(text) - 1);
	free(text);

	text = kring(&status, "bench disk -d %s --op write --time 0.1 2>&1", image.path);
	assert_int_equal(status, STATUS_USAGE);
	assert_non_null(strstr(text, "say --destroy"));
	free(text);
	text = kring(&status, "bench disk -d %s --op write --time 0.1 --destroy --verify 2>&1",
	             image.path);
	assert_int_equal(status, STATUS_OK);
	assert_non_null(strstr(text, "requests a second"));
	free(text);
	text = kring(&status, "bench disk -d %s --op read --time 0.1 --verify --job seed=2 2>&1",
	             image.path);
	assert_int_equal(status, STATUS_FAILED);
	assert_non_null(strstr(text, "of what was compared is wrong"));
	free(text);
	text = kring(&status, "bench disk -d /nowhere 2>&1");
	assert_int_equal(status, STATUS_FAILED);
	assert_non_null(strstr(text, "/nowhere"));
	free(text);

	text = kring(&status, "bench boot -n 2 -m 64m --json");
	assert_int_equal(status, STATUS_OK);
	assert_true(json_number(text, "kernels/0/marked_us/median") > 0);
	assert_true(json_number(text, "kernels/0/exited_us/max") > 0);
	free(text);
	text = kring(&status, "bench boot -n 1 -k /nowhere 2>&1");
	assert_int_equal(status, STATUS_FAILED);
	free(text);
	text = kring(&status, "bench exits --time 0.05 2>&1 >/dev/full");
	assert_int_equal(status, STATUS_FAILED);
	assert_non_null(strstr(text, "standard output"));
	free(text);
	text = kring(&status, "bench exits --time 0.1");
	assert_int_equal(status, STATUS_OK);
	assert_non_null(strstr(text, "interrupt"));
	free(text);
	close(image.fd);
}

/* What the command @line, with a terminal for its standard error, writes there. */
static char *on_terminal(const char *line, int *status)
{
	char *text = calloc(1, 65536);
	size_t n = 0;
	int terminal;
	pid_t pid = forkpty(&terminal, NULL, NULL, NULL);

	assert_true(pid >= 0);
	if (!pid) {
		execl("/bin/sh", "sh", "-c", line, (char *)NULL);
		_exit(127);
	}
	assert_non_null(text);
	for (;;) {
		ssize_t got = read(terminal, text + n, 65535 - n);

		if (got <= 0) /* EIO: all of the other end is closed */
			break;
		n += (size_t)got;
	}
	waitpid(pid, status, 0);
	close(terminal);
	return text;
}

/* Each second a terminal is told how far it is, in one line that goes in the end. */
static void progress_is_shown_on_a_terminal(void **state)
{
	char command[PATH_MAX + 64], *text;
	int status;

	(void)state;
	WHERE_KVM_IS;
	snprintf(command, sizeof(command), "exec '%s' bench exits --time 1.5 --json >/dev/null",
	         self);
	text = on_terminal(command, &status);
	assert_int_equal(status, 0);
	assert_non_null(strstr(text, "\r\033[Kexits: "));
	assert_non_null(strstr(text, " of 2 s"));
	assert_true(strlen(text) >= 4);
	assert_string_equal(text + strlen(text) - 4, "\r\033[K");
	free(text);

	snprintf(command, sizeof(command), "bench exits --time 1.5 --json 2>&1 >/dev/null");
	text = kring(&status, "%s", command);
	assert_int_equal(status, STATUS_OK);
	assert_string_equal(text, ""); /* what is no terminal is not told */
	free(text);
}

/* The frames, with a guest and without. */
static void net_commands(void **state)
{
	static const char *const ops[] = { "tx", "rx", "rr" };
	char *text, op[16];
	int status;

	(void)state;
	WHERE_KVM_IS;
	WHERE_TAPS_ARE;
	for (unsigned i = 0; i < 6; i++) {
		text = kring(&status,
		             "bench net -t tap=%s --op %s --size 1000 --time 0.1 --json %s", tap,
		             ops[i / 2], i % 2 ? "--plain" : "");
		assert_int_equal(status, STATUS_OK);
		assert_true(json_number(text, "bytes_per_s") >
		            json_number(text, "requests_per_s") * 999); /* in nine digits */
		assert_true(json_number(text, "per_request/io_cpu_us") > 0);
		snprintf(op, sizeof(op), "\"op\": \"%s\"", ops[i / 2]);
		assert_non_null(strstr(text, op));
		free(text);
	}
	text = kring(&status, "bench net -t %s --op rr --size 2000 2>&1", tap);
	assert_int_equal(status, STATUS_USAGE);
	free(text);

	/* The host's end alone, and the guest alone. */
	text = kring(&status,
	             "bench peer -t %s --op rr --time 3 & %s boot -t %s -k /proc/%d/fd/%d "
	             "-p 'job=net op=rr time_ms=100 verify=1'; wait",
	             tap, self, tap, (int)getpid(), guest_open());
	assert_int_equal(status, STATUS_OK);
	expect_good(&(struct bench_run){ .guest = strchr(text, '{'), .cmdline = "peer" }, true);
	free(text);
}

/* The same file under another monitor, with and without its firmware's help; no KVM is needed. */
static void under_qemu(void **state)
{
	static const char *const machines[][2] = {
		{ "microvm,acpi=off -global virtio-mmio.force-legacy=false",
		  "-device virtio-blk-device,drive=d -device virtio-rng-device" },
		{ "q35", "-device virtio-blk-pci,drive=d -device virtio-rng-pci" },
	};
	static const char *const jobs[] = { "job=disk op=randwrite wait=poll",
		                            "job=disk op=write wait=irq" };
	struct image image;
	int guest = guest_open();

	(void)state;
	if (system("qemu-system-x86_64 --version >/dev/null 2>&1")) {
		print_message("skipped: no qemu-system-x86_64\n");
		skip();
	}
	image_make(&image);
	for (unsigned i = 0; i < 2; i++)
		for (unsigned j = 0; j < 2; j++) {
			char command[1024], *text, *line;
			int status;

			snprintf(command, sizeof(command),
			         "timeout 120 qemu-system-x86_64 -accel tcg -m 64 -nodefaults "
			         "-no-reboot "
			         "-display none -serial stdio -kernel /proc/%d/fd/%d -M %s %s "
			         "-append '%s span=256k verify=1 time_ms=60' "
			         "-drive file=%s,format=raw,if=none,id=d,file.locking=off",
			         (int)getpid(), guest, machines[i][0], machines[i][1], jobs[j],
			         image.path);
			text = shell(command, &status);
			assert_int_equal(status, 0);
			line = strstr(text, "{\"job\"");
			if (!line)
				print_message("%s: %s\n", command, text);
			assert_non_null(line);
			expect_good(&(struct bench_run){ .guest = line, .cmdline = jobs[j] }, true);
			assert_non_null(strstr(line, i ? "\"pci\"" : "\"mmio\""));
			free(text);
		}
	close(guest);
	close(image.fd);
}

/* As core/main.c, which is in no library. */

int main_fail(const char *what, int err)
{
	fprintf(stderr, "kring: %s: %s\n", what, strerror(-err));
	return err;
}

static int act_as_kring(int argc, char **argv)
{
	uint64_t exec_ns = stats_exec_time();
	struct options options;
	char why[512];

	if (options_parse(&options, argc, argv, why)) {
		fprintf(stderr, "kring: %s\n", why);
		return STATUS_USAGE;
	}
	return options.command == COMMAND_BOOT ? main_boot(&options, exec_ns)
	                                       : main_bench(&options);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(boots),
		cmocka_unit_test(idles),
		cmocka_unit_test(disk_ops),
		cmocka_unit_test(several_disks),
		cmocka_unit_test(wrong_data),
		cmocka_unit_test(work_is_counted),
		cmocka_unit_test(calls_are_few),
		cmocka_unit_test(mistakes),
		cmocka_unit_test(net_ops),
		cmocka_unit_test(exits),
		cmocka_unit_test(commands),
		cmocka_unit_test(net_commands),
		cmocka_unit_test(progress_is_shown_on_a_terminal),
		cmocka_unit_test(under_qemu),
	};

	if (argc > 1)
		return act_as_kring(argc, argv);
	if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		return 1;
	snprintf(tap, sizeof(tap), "kb%d", (int)getpid());
	return cmocka_run_group_tests(tests, NULL, NULL);
}
