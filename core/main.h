/*
 * The commands of kring. Each prints what it has to say and returns the exit status.
 */
#ifndef CORE_MAIN_H
#define CORE_MAIN_H

#include <stdint.h>

#include "core/options.h"

#define KRING_VERSION "0.1"

/* @exec_ns: stats_exec_time() of this process. */
int main_boot(const struct options *options, uint64_t exec_ns);
int main_probe(const struct options *options);

/* Say that @what failed, and why; returns @err, a -errno. */
int main_fail(const char *what, int err);

#endif
