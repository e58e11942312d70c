/*
 * kring: from the command line to the command. main_boot.c and main_probe.c wire the rooms
 * together; the main_*.c files alone may include from every room.
 */
#include <stdio.h>

#include "core/main.h"
#include "core/stats.h"
#include "core/vm.h"

int main(int argc, char **argv)
{
	uint64_t exec_ns = stats_exec_time();
	struct options options;
	char why[WHY_MAX];

	if (options_parse(&options, argc, argv, why)) {
		fprintf(stderr, "kring: %s\n", why);
		return STATUS_USAGE;
	}

	switch (options.command) {
	case COMMAND_BOOT:
		return main_boot(&options, exec_ns);
	case COMMAND_PROBE:
		return main_probe(&options);
	case COMMAND_VERSION:
		puts("kring " KRING_VERSION);
		break;
	case COMMAND_HELP:
		break;
	}
	return STATUS_OK;
}
