/*
 * Runs a kring whose kernel is the embedded guest. All that goes between the two goes by file
 * descriptors: nothing is left behind, whatever happens to either.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench/bench_run.h"
#include "core/main.h"

#define SLACK_NSEC  30000000000ull
#define OUTPUT_MAX  (1 << 20)
#define PROGRESS_MS 1000

/* guest.S */
extern const char bench_guest[];
extern const uint64_t bench_guest_len;

/* What is open during a run. */
struct pipes {
	int guest, stats, timings; /* memfds */
	int out[2];                /* the guest's serial line */
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int guest_open(void)
{
	int fd = memfd_create("guest", MFD_ALLOW_SEALING);

	if (fd >= 0 && (write(fd, bench_guest, bench_guest_len) != (ssize_t)bench_guest_len ||
	                fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW))) {
		close(fd);
		return -1;
	}
	return fd;
}

static void pipes_close(struct pipes *pipes)
{
	int *all[] = { &pipes->guest, &pipes->stats, &pipes->timings, &pipes->out[0],
		       &pipes->out[1] };

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		if (*all[i] >= 0)
			close(*all[i]);
}

static int pipes_open(struct pipes *pipes)
{
	*pipes = (struct pipes){ -1, -1, -1, { -1, -1 } };
	pipes->guest = guest_open();
	pipes->stats = memfd_create("stats", 0);
	pipes->timings = memfd_create("timings", 0);
	if (pipes->guest < 0 || pipes->stats < 0 || pipes->timings < 0 || pipe(pipes->out)) {
		int err = -errno;

		pipes_close(pipes);
		return err;
	}
	return 0;
}

/* In the child. */
__attribute__((noreturn)) static void child_exec(const struct bench_run *run,
                                                 const struct pipes *pipes)
{
	enum { FIXED = 16 };
	const char *argv[FIXED + BENCH_ARGS_MAX + 1];
	char guest[32], stats[32], timings[32], memory[32], timeout[32];
	int null = open("/dev/null", O_RDONLY);
	unsigned n = 0;

	snprintf(guest, sizeof(guest), "/proc/self/fd/%d", pipes->guest);
	snprintf(stats, sizeof(stats), "/proc/self/fd/%d", pipes->stats);
	snprintf(timings, sizeof(timings), "/proc/self/fd/%d", pipes->timings);
	snprintf(memory, sizeof(memory), "%llum", (unsigned long long)run->memory_mib);
	snprintf(timeout, sizeof(timeout), "%g", (double)(run->expect_ns + SLACK_NSEC) / 1e9);

	argv[n++] = "kring";
	argv[n++] = "boot";
	argv[n++] = "-k";
	argv[n++] = run->kernel ? run->kernel : guest;
	argv[n++] = "-m";
	argv[n++] = memory;
	argv[n++] = "--stats";
	argv[n++] = stats;
	argv[n++] = "--timings";
	argv[n++] = timings;
	argv[n++] = "--timeout";
	argv[n++] = timeout;
	if (run->cmdline) {
		argv[n++] = "-p";
		argv[n++] = run->cmdline;
	}
	for (unsigned i = 0; i < BENCH_ARGS_MAX && run->args[i]; i++)
		argv[n++] = run->args[i];
	argv[n] = NULL;

	prctl(PR_SET_PDEATHSIG, SIGTERM);
	dup2(null, STDIN_FILENO);
	dup2(pipes->out[1], STDOUT_FILENO);
	close(pipes->out[0]);
	close(pipes->out[1]);
	execv("/proc/self/exe", (char *const *)argv);
	main_fail("/proc/self/exe", -errno);
	_exit(STATUS_FAILED);
}

static void progress(const struct bench_run *run, uint64_t started)
{
	if (run->title && isatty(STDERR_FILENO))
		fprintf(stderr, "\r\033[K%s: %.0f of %.0f s", run->title,
		        (double)(now_ns() - started) / 1e9, (double)run->expect_ns / 1e9);
}

static void progress_end(const struct bench_run *run)
{
	if (run->title && isatty(STDERR_FILENO))
		fputs("\r\033[K", stderr);
}

/* All that comes from @fd, with a zero behind it; what is more than enough is dropped. */
static void output_take(struct bench_run *run, int fd, uint64_t started)
{
	struct pollfd in = { .fd = fd, .events = POLLIN };
	size_t n = 0;

	for (;;) {
		char rest[4096];
		bool room = n < OUTPUT_MAX;
		ssize_t got;

		if (!poll(&in, 1, PROGRESS_MS)) {
			progress(run, started);
			continue;
		}
		got = read(fd, room ? run->output + n : rest, room ? OUTPUT_MAX - n : sizeof(rest));
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		n += room ? (size_t)got : 0;
	}
	run->output[n] = '\0';
	progress_end(run);
}

/* The whole file, as a string. */
static char *file_take(int fd)
{
	struct stat st;
	char *text;
	ssize_t n;

	if (fstat(fd, &st))
		return NULL;
	text = malloc((size_t)st.st_size + 1);
	if (!text)
		return NULL;
	n = pread(fd, text, (size_t)st.st_size, 0);
	text[n > 0 ? n : 0] = '\0';
	return text;
}

/* The last line that is an object; firmware may have written before it. */
static char *line_find(char *output)
{
	char *found = NULL;
	char *save;

	for (char *line = strtok_r(output, "\r\n", &save); line;
	     line = strtok_r(NULL, "\r\n", &save))
		if (*line == '{')
			found = line;
	return found;
}

static void child_wait(struct bench_run *run, pid_t pid)
{
	int status = 0;

	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	run->status = WIFEXITED(status) ? WEXITSTATUS(status) : STATUS_SIGNAL + WTERMSIG(status);
}

int bench_run(struct bench_run *run)
{
	uint64_t started = now_ns();
	struct pipes pipes;
	int err = pipes_open(&pipes);
	pid_t pid;

	run->output = run->guest = run->stats = run->timings = NULL;
	if (err)
		return main_fail("bench: memfd", err);
	run->output = malloc(OUTPUT_MAX + 1);
	pid = run->output ? fork() : -1;
	if (pid < 0) {
		err = -errno;
		pipes_close(&pipes);
		free(run->output);
		return main_fail("bench: fork", err);
	}
	if (!pid)
		child_exec(run, &pipes);

	close(pipes.out[1]);
	pipes.out[1] = -1;
	output_take(run, pipes.out[0], started);
	child_wait(run, pid);
	run->wall_us = (double)(now_ns() - started) / 1e3;
	run->guest = line_find(run->output);
	run->stats = file_take(pipes.stats);
	run->timings = file_take(pipes.timings);
	pipes_close(&pipes);
	if (!run->stats || !run->timings) {
		bench_run_fini(run);
		return main_fail("bench", -ENOMEM);
	}
	return 0;
}

void bench_run_fini(struct bench_run *run)
{
	free(run->output);
	free(run->stats);
	free(run->timings);
}
