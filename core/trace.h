/*
 * -T: single-step the guest and print a line every so many instructions.
 *
 * trace_init, trace_fini: main thread. trace_arm: main thread, per vCPU, before it runs.
 * trace_step: the vCPU's own thread.
 */
#ifndef CORE_TRACE_H
#define CORE_TRACE_H

#include <stdint.h>
#include <stdio.h>

#include "core/memory.h"

struct trace_symbol;

struct trace {
	const struct mem *mem;
	uint64_t every; /* instructions between two lines */
	FILE *out;
	_Atomic uint64_t seen;
	struct trace_symbol *symbol; /* ascending addresses */
	size_t nsymbols;
	char *names;
};

/*
 * Trace to @out, a line every @every instructions. Symbols come from @kernel when it is an ELF that
 * has a symbol table (ELF gABI ch. 4); without one lines carry addresses alone.
 * Returns 0 or -errno.
 */
int trace_init(struct trace *trace, const struct mem *mem, uint64_t every, const char *kernel,
               FILE *out);
void trace_fini(struct trace *trace);

/*
 * Make KVM return after each instruction of this vCPU, whose registers have been set
 * (api.rst 4.87). Returns 0 or -errno.
 */
int trace_arm(int vcpu_fd);

/* One instruction was executed. */
void trace_step(struct trace *trace, unsigned id, int vcpu_fd);

#endif
