/*
 * -T: a line every so many instructions: vCPU, address, symbol, bytes, registers. Knows ELF symbol
 * tables and KVM's guest debugging; not why anybody would want to wait for it.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/inspect.h"
#include "core/trace.h"

#define SYMBOLS_BYTES_MAX (256u << 20) /* a table larger than this is a lie */

struct trace_symbol {
	uint64_t addr;
	const char *name;
};

static int by_address(const void *a, const void *b)
{
	uint64_t x = ((const struct trace_symbol *)a)->addr;
	uint64_t y = ((const struct trace_symbol *)b)->addr;

	return x < y ? -1 : x > y;
}

/* A piece of a file in memory of its own, a NUL behind it; NULL when it is not wholly there. */
static void *piece_read(int fd, uint64_t offset, uint64_t len)
{
	char *buf = len && len < SYMBOLS_BYTES_MAX ? malloc(len + 1) : NULL;

	if (buf && pread(fd, buf, len, (off_t)offset) != (ssize_t)len) {
		free(buf);
		return NULL;
	}
	if (buf)
		buf[len] = '\0';
	return buf;
}

static void symbols_take(struct trace *trace, const Elf64_Sym *sym, size_t n, uint64_t names_len)
{
	trace->symbol = calloc(n, sizeof(*trace->symbol));
	if (!trace->symbol)
		return;
	for (size_t i = 0; i < n; i++) {
		unsigned type = ELF64_ST_TYPE(sym[i].st_info);

		if (sym[i].st_shndx == SHN_UNDEF || sym[i].st_name >= names_len ||
		    (type != STT_FUNC && type != STT_NOTYPE))
			continue;
		trace->symbol[trace->nsymbols++] = (struct trace_symbol){
			.addr = sym[i].st_value,
			.name = trace->names + sym[i].st_name,
		};
	}
	qsort(trace->symbol, trace->nsymbols, sizeof(*trace->symbol), by_address);
}

/* ELF gABI ch. 4: the section of type SHT_SYMTAB and, by its sh_link, the names. */
static void symbols_load(struct trace *trace, int fd)
{
	Elf64_Ehdr eh;

	if (pread(fd, &eh, sizeof(eh), 0) != sizeof(eh) || memcmp(eh.e_ident, ELFMAG, SELFMAG) ||
	    eh.e_ident[EI_CLASS] != ELFCLASS64 || eh.e_shentsize != sizeof(Elf64_Shdr))
		return;

	Elf64_Shdr *sh = piece_read(fd, eh.e_shoff, (uint64_t)eh.e_shnum * sizeof(*sh));

	for (unsigned i = 0; sh && i < eh.e_shnum; i++) {
		if (sh[i].sh_type != SHT_SYMTAB || sh[i].sh_link >= eh.e_shnum)
			continue;

		const Elf64_Shdr *names = &sh[sh[i].sh_link];
		Elf64_Sym *sym = piece_read(fd, sh[i].sh_offset, sh[i].sh_size);

		trace->names = piece_read(fd, names->sh_offset, names->sh_size);
		if (sym && trace->names)
			symbols_take(trace, sym, sh[i].sh_size / sizeof(*sym), names->sh_size);
		free(sym);
		break;
	}
	free(sh);
}

int trace_init(struct trace *trace, const struct mem *mem, uint64_t every, const char *kernel,
               FILE *out)
{
	int fd = open(kernel, O_RDONLY | O_CLOEXEC);

	*trace = (struct trace){ .mem = mem, .every = every, .out = out };
	if (fd < 0)
		return -errno;
	symbols_load(trace, fd);
	close(fd);
	return 0;
}

void trace_fini(struct trace *trace)
{
	free(trace->symbol);
	free(trace->names);
	*trace = (struct trace){ 0 };
}

int trace_arm(int vcpu_fd)
{
	struct kvm_guest_debug debug = { .control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP };

	return ioctl(vcpu_fd, KVM_SET_GUEST_DEBUG, &debug) < 0 ? -errno : 0;
}

/* The last symbol at or below @addr, unless that is more than 1 MiB away. */
static const struct trace_symbol *symbol_find(const struct trace *trace, uint64_t addr)
{
	size_t lo = 0, hi = trace->nsymbols;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (trace->symbol[mid].addr <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo && addr - trace->symbol[lo - 1].addr < 0x100000 ? &trace->symbol[lo - 1] : NULL;
}

void trace_step(struct trace *trace, unsigned id, int vcpu_fd)
{
	uint64_t seen = atomic_fetch_add(&trace->seen, 1) + 1;
	char where[INSPECT_MAX];
	struct kvm_regs r;

	trace_arm(vcpu_fd); /* POPF, IRET and SYSCALL may have cleared the trap flag that KVM set */
	if (seen % trace->every || ioctl(vcpu_fd, KVM_GET_REGS, &r) < 0)
		return;

	const struct trace_symbol *symbol = symbol_find(trace, r.rip);

	inspect_cpu(vcpu_fd, trace->mem, where, sizeof(where));
	flockfile(trace->out);
	fprintf(trace->out, "trace %llu cpu %u %s", (unsigned long long)seen, id, where);
	if (symbol)
		fprintf(trace->out, " <%s+%#llx>", symbol->name,
		        (unsigned long long)(r.rip - symbol->addr));
	fprintf(trace->out,
	        " rax %llx rbx %llx rcx %llx rdx %llx rsi %llx rdi %llx rbp %llx rsp %llx r8 %llx "
	        "r9 %llx r10 %llx r11 %llx r12 %llx r13 %llx r14 %llx r15 %llx rflags %llx\n",
	        r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8, r.r9, r.r10, r.r11,
	        r.r12, r.r13, r.r14, r.r15, r.rflags);
	funlockfile(trace->out);
}
