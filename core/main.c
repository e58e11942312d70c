/*
 * kring: from the command line to the command. main_boot.c and main_probe.c wire the rooms
 * together; the main_*.c files alone may include from every room.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "bench/bench.h"
#include "core/main.h"
#include "core/stats.h"
#include "core/vm.h"

int main_fail(const char *what, int err)
{
	fprintf(stderr, "kring: %s: %s\n", what, strerror(-err));
	return err;
}

/* A standard stream that is closed would become the number of the next file opened: KVM, a ring. */
static void open_closed_streams(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
}

int main(int argc, char **argv)
{
	uint64_t exec_ns = stats_exec_time();
	struct options options;
	char why[WHY_MAX];

	open_closed_streams();
	if (options_parse(&options, argc, argv, why)) {
		fprintf(stderr, "kring: %s\n", why);
		return STATUS_USAGE;
	}

	switch (options.command) {
	case COMMAND_BOOT:
		return main_boot(&options, exec_ns);
	case COMMAND_PROBE:
		return main_probe(&options);
	case COMMAND_BENCH_DISK:
	case COMMAND_BENCH_NET:
	case COMMAND_BENCH_PEER:
	case COMMAND_BENCH_EXITS:
	case COMMAND_BENCH_BOOT:
		return main_bench(&options);
	case COMMAND_VERSION:
		puts("kring " KRING_VERSION);
		break;
	case COMMAND_BENCH:
	case COMMAND_HELP:
		break;
	}
	return STATUS_OK;
}
