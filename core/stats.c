/*
 * What a VM did and when. Counters are relaxed atomics with one writer each: they cost a plain
 * increment. Knows names of KVM exits; no device.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "core/stats.h"

static const char *const phase_name[PHASE_N] = {
	[PHASE_KVM] = "kvm_ready",        [PHASE_MEMORY] = "memory_ready",
	[PHASE_KERNEL] = "kernel_loaded", [PHASE_RUN] = "first_run",
	[PHASE_SHUTDOWN] = "shutdown",
};

static const char *const reason_name[EXIT_REASONS] = {
	[KVM_EXIT_UNKNOWN] = "unknown",
	[KVM_EXIT_IO] = "io",
	[KVM_EXIT_DEBUG] = "debug",
	[KVM_EXIT_HLT] = "hlt",
	[KVM_EXIT_MMIO] = "mmio",
	[KVM_EXIT_SHUTDOWN] = "shutdown",
	[KVM_EXIT_FAIL_ENTRY] = "fail_entry",
	[KVM_EXIT_INTR] = "intr",
	[KVM_EXIT_INTERNAL_ERROR] = "internal_error",
	[KVM_EXIT_SYSTEM_EVENT] = "system_event",
	[EXIT_INTERRUPTED] = "interrupted",
};

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/*
 * The kernel does not keep the time of an exec. What has passed since is CPU time of this process;
 * a process that did other things before it executed kring would have more than an exec can take.
 */
uint64_t stats_exec_time(void)
{
	uint64_t now = clock_ns(CLOCK_MONOTONIC);
	uint64_t used = clock_ns(CLOCK_PROCESS_CPUTIME_ID);

	return used < 10000000 ? now - used : now;
}

int stats_init(struct stats *stats, uint64_t exec_ns, unsigned ncpus)
{
	*stats = (struct stats){ .exec_ns = exec_ns, .ncpus = ncpus };
	stats->exits = calloc(ncpus, sizeof(*stats->exits));
	return stats->exits ? 0 : -ENOMEM;
}

void stats_fini(struct stats *stats)
{
	for (unsigned i = 0; i < stats->ncpus; i++) {
		if (stats->exits)
			free(stats->exits[i].site);
		if (stats->kvm_stats_fd && stats->kvm_stats_fd[i] >= 0)
			close(stats->kvm_stats_fd[i]);
	}
	free(stats->exits);
	free(stats->kvm_stats_fd);
	*stats = (struct stats){ 0 };
}

int stats_detail(struct stats *stats, unsigned id, int vcpu_fd)
{
	if (!stats->kvm_stats_fd) {
		stats->kvm_stats_fd = malloc(stats->ncpus * sizeof(int));
		if (!stats->kvm_stats_fd)
			return -ENOMEM;
		memset(stats->kvm_stats_fd, -1, stats->ncpus * sizeof(int));
	}
	stats->exits[id].site = calloc(EXIT_SITES, sizeof(struct exit_site));
	if (!stats->exits[id].site)
		return -ENOMEM;
	stats->kvm_stats_fd[id] = ioctl(vcpu_fd, KVM_GET_STATS_FD, NULL); /* api.rst 4.133 */
	return 0;
}

/*
 * KVM's own counters of a vCPU: call @visit for each (api.rst 4.133: a header, descriptors with
 * names behind it, data).
 */
static void kvm_stats_visit(int fd, void (*visit)(void *arg, const char *name, uint64_t value),
                            void *arg)
{
	struct kvm_stats_header header;

	if (fd < 0 || pread(fd, &header, sizeof(header), 0) != sizeof(header))
		return;

	size_t size = sizeof(struct kvm_stats_desc) + header.name_size;
	struct kvm_stats_desc *desc = calloc(1, size + 1);

	for (uint32_t i = 0; desc && i < header.num_desc; i++) {
		uint64_t value;

		if (pread(fd, desc, size, header.desc_offset + (off_t)(i * size)) != (ssize_t)size)
			break;
		if ((desc->flags & KVM_STATS_TYPE_MASK) != KVM_STATS_TYPE_CUMULATIVE)
			continue;
		if (pread(fd, &value, sizeof(value), header.data_offset + desc->offset) ==
		    sizeof(value))
			visit(arg, desc->name, value);
	}
	free(desc);
}

static void add_exits(void *arg, const char *name, uint64_t value)
{
	if (!strcmp(name, "exits"))
		*(uint64_t *)arg += value;
}

static uint64_t kvm_exits(const struct stats *stats)
{
	uint64_t sum = 0;

	for (unsigned i = 0; stats->kvm_stats_fd && i < stats->ncpus; i++)
		kvm_stats_visit(stats->kvm_stats_fd[i], add_exits, &sum);
	return sum;
}

static uint64_t user_exits(const struct stats *stats, unsigned reason)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < stats->ncpus; i++)
		sum += atomic_load_explicit(&stats->exits[i].reason[reason], memory_order_relaxed);
	return sum;
}

uint64_t stats_device_exits(const struct stats *stats)
{
	return user_exits(stats, KVM_EXIT_IO) + user_exits(stats, KVM_EXIT_MMIO);
}

static uint64_t all_user_exits(const struct stats *stats)
{
	uint64_t sum = 0;

	for (unsigned reason = 0; reason < EXIT_REASONS; reason++)
		sum += user_exits(stats, reason);
	return sum;
}

static uint64_t now_us(const struct stats *stats)
{
	return (clock_ns(CLOCK_MONOTONIC) - stats->exec_ns) / 1000;
}

void stats_phase(struct stats *stats, enum phase phase)
{
	stats->phase_us[phase] = now_us(stats);
}

void stats_mark(struct stats *stats, uint8_t value)
{
	unsigned at = atomic_fetch_add(&stats->nmarks, 1);

	if (at >= MARKS_MAX)
		return;
	stats->mark[at] = (struct mark){
		.us = now_us(stats),
		.user_exits = all_user_exits(stats),
		.kvm_exits = kvm_exits(stats),
		.value = value,
	};
}

void exit_count(struct exit_stats *exits, unsigned reason)
{
	_Atomic uint64_t *counter = &exits->reason[reason < EXIT_REASONS ? reason : 0];

	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1,
	                      memory_order_relaxed);
}

static void site_add(struct exit_stats *exits, const struct exit_site *add)
{
	unsigned at = (unsigned)(add->addr * 0x9e3779b97f4a7c15ull >> 56);

	for (unsigned tries = 0; tries < EXIT_SITES; tries++, at++) {
		struct exit_site *site = &exits->site[at % EXIT_SITES];

		if (!site->count) {
			*site = *add;
			return;
		}
		if (site->addr == add->addr && site->space == add->space &&
		    site->is_write == add->is_write) {
			site->count += add->count;
			return;
		}
	}
	exits->other_sites += add->count;
}

void exit_count_site(struct exit_stats *exits, enum bus_space space, uint64_t addr, bool is_write)
{
	if (exits->site)
		site_add(exits, &(struct exit_site){ addr, 1, (uint8_t)space, is_write });
}

static int by_count(const void *a, const void *b)
{
	uint32_t x = ((const struct exit_site *)a)->count;
	uint32_t y = ((const struct exit_site *)b)->count;

	return x < y ? 1 : x > y ? -1 : 0;
}

/* The addresses that caused the most exits, of all vCPUs together. */
static void print_sites(const struct stats *stats, const struct bus *bus, FILE *out)
{
	struct exit_stats all = { .site = calloc(EXIT_SITES, sizeof(struct exit_site)) };
	const char *comma = "";

	if (!all.site)
		return;
	for (unsigned cpu = 0; cpu < stats->ncpus && stats->exits[cpu].site; cpu++)
		for (unsigned i = 0; i < EXIT_SITES; i++)
			if (stats->exits[cpu].site[i].count)
				site_add(&all, &stats->exits[cpu].site[i]);
	qsort(all.site, EXIT_SITES, sizeof(*all.site), by_count);

	for (unsigned i = 0; i < 32 && all.site[i].count; i++) {
		const struct exit_site *site = &all.site[i];
		const struct bus_range *range = bus_find(bus, site->space, site->addr, 1);

		fprintf(out,
		        "%s\n    {\"count\": %u, \"space\": \"%s\", \"address\": \"%#llx\", "
		        "\"access\": \"%s\", \"device\": \"%s\"}",
		        comma, site->count, site->space == BUS_PORT ? "port" : "mmio",
		        (unsigned long long)site->addr, site->is_write ? "write" : "read",
		        range ? range->name : "none");
		comma = ",";
	}
	free(all.site);
}

struct kvm_print {
	FILE *out;
	const char *comma;
};

static void print_counter(void *arg, const char *name, uint64_t value)
{
	struct kvm_print *print = arg;

	if (!value)
		return;
	fprintf(print->out, "%s\"%s\": %llu", print->comma, name, (unsigned long long)value);
	print->comma = ", ";
}

void exit_count_cpu(struct exit_stats *exits)
{
	exits->cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

void stats_print_cpu(const struct stats *stats, FILE *out)
{
	uint64_t vcpus = 0;

	for (unsigned i = 0; i < stats->ncpus; i++)
		vcpus += stats->exits[i].cpu_ns;
	fprintf(out, "\"cpu_us\": {\"io\": %llu, \"vcpus\": %llu, \"all\": %llu}",
	        (unsigned long long)clock_ns(CLOCK_THREAD_CPUTIME_ID) / 1000,
	        (unsigned long long)vcpus / 1000,
	        (unsigned long long)clock_ns(CLOCK_PROCESS_CPUTIME_ID) / 1000);
}

void stats_print_exits(const struct stats *stats, FILE *out)
{
	const char *comma = "";

	fprintf(out, "\"user_exits\": %llu,\n  \"user_exits_by_reason\": {",
	        (unsigned long long)all_user_exits(stats));
	for (unsigned reason = 0; reason < EXIT_REASONS; reason++) {
		uint64_t n = user_exits(stats, reason);

		if (!n)
			continue;
		fprintf(out, "%s\"%s\": %llu", comma,
		        reason_name[reason] ? reason_name[reason] : "other", (unsigned long long)n);
		comma = ", ";
	}

	fprintf(out, "}");
}

void stats_print(const struct stats *stats, const struct bus *bus, FILE *out)
{
	unsigned nmarks = stats->nmarks < MARKS_MAX ? stats->nmarks : MARKS_MAX;

	fprintf(out, "{\n  \"phases_us\": {");
	for (unsigned i = 0; i < PHASE_N; i++)
		fprintf(out, "%s\"%s\": %llu", i ? ", " : "", phase_name[i],
		        (unsigned long long)stats->phase_us[i]);

	fprintf(out, "},\n  \"markers\": [");
	for (unsigned i = 0; i < nmarks; i++) {
		const struct mark *mark = &stats->mark[i];

		fprintf(out,
		        "%s\n    {\"value\": %u, \"us\": %llu, \"user_exits\": %llu, "
		        "\"kvm_exits\": %llu}",
		        i ? "," : "", mark->value, (unsigned long long)mark->us,
		        (unsigned long long)mark->user_exits, (unsigned long long)mark->kvm_exits);
	}

	fprintf(out, "],\n  ");
	stats_print_exits(stats, out);
	fprintf(out, ",\n  \"user_exits_by_address\": [");
	print_sites(stats, bus, out);

	fprintf(out, "],\n  \"kvm_exits\": %llu,\n  \"kvm_counters\": [",
	        (unsigned long long)kvm_exits(stats));
	for (unsigned i = 0; stats->kvm_stats_fd && i < stats->ncpus; i++) {
		struct kvm_print print = { .out = out, .comma = "" };

		fprintf(out, "%s\n    {", i ? "," : "");
		kvm_stats_visit(stats->kvm_stats_fd[i], print_counter, &print);
		fprintf(out, "}");
	}
	fprintf(out, "]\n}\n");
}
