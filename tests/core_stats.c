/* What --timings and half of --stats say, word for word, of a VM whose numbers are known. */
#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/stats.h"

#define CPUS 2

static void count(struct exit_stats *exits, unsigned reason, unsigned n)
{
	while (n--)
		exit_count(exits, reason);
}

static void count_site(struct exit_stats *exits, enum bus_space space, uint64_t addr, bool is_write,
                       unsigned n)
{
	while (n--)
		exit_count_site(exits, space, addr, is_write);
}

/* What stands in a stream that was opened over @text. */
static void text_is(FILE *out, char **text, const char *want)
{
	fclose(out);
	assert_string_equal(*text, want);
	free(*text);
}

/* Each has its own number, so none can take another's place. */
static void exits_have_names(void **state)
{
	static const unsigned reasons[] = {
		KVM_EXIT_UNKNOWN,      KVM_EXIT_IO,           KVM_EXIT_DEBUG,
		KVM_EXIT_HLT,          KVM_EXIT_MMIO,         KVM_EXIT_SHUTDOWN,
		KVM_EXIT_FAIL_ENTRY,   KVM_EXIT_INTR,         KVM_EXIT_INTERNAL_ERROR,
		KVM_EXIT_SYSTEM_EVENT, KVM_EXIT_X86_BUS_LOCK, EXIT_INTERRUPTED,
	};
	struct stats stats;
	char *text;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	(void)state;
	assert_int_equal(stats_init(&stats, 0, CPUS), 0);
	for (unsigned i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++)
		count(&stats.exits[i % CPUS], reasons[i], 10 + i);
	count(&stats.exits[0], KVM_EXIT_IO, 100); /* of several vCPUs the sum */
	count(&stats.exits[1], EXIT_REASONS, 1);  /* what no table has room for */
	assert_int_equal(stats_device_exits(&stats), 111 + 14);
	stats_print_exits(&stats, out);
	text_is(out, &text,
	        "\"user_exits\": 287,\n"
	        "  \"user_exits_by_reason\": {\"unknown\": 11, \"io\": 111, \"debug\": 12, "
	        "\"hlt\": 13, \"mmio\": 14, \"shutdown\": 15, \"fail_entry\": 16, \"intr\": 17, "
	        "\"internal_error\": 18, \"system_event\": 19, \"other\": 20, "
	        "\"interrupted\": 21}");
	stats_fini(&stats);
}

/* A file as KVM_GET_STATS_FD gives one (api.rst 4.133), of three counters and a gauge. */
static int kvm_stats(uint64_t exits, uint64_t halts)
{
	enum { NAME = 16, N = 4 };
	static const char names[N][NAME] = { "exits", "gauge", "halts", "nothing" };
	struct kvm_stats_header header = { .name_size = NAME, .num_desc = N };
	const uint64_t values[N] = { exits, 4711, halts, 0 };
	int fd = memfd_create("kvm", 0);

	assert_true(fd >= 0);
	header.desc_offset = sizeof(header) + NAME; /* behind the VM's own name */
	header.data_offset = header.desc_offset + N * (sizeof(struct kvm_stats_desc) + NAME);
	assert_int_equal(pwrite(fd, &header, sizeof(header), 0), sizeof(header));
	assert_int_equal(pwrite(fd, values, sizeof(values), header.data_offset), sizeof(values));
	for (unsigned i = 0; i < N; i++) {
		struct kvm_stats_desc desc = {
			.flags = i == 1 ? KVM_STATS_TYPE_INSTANT : KVM_STATS_TYPE_CUMULATIVE,
			.size = 1,
			.offset = 8 * i,
		};
		off_t at = header.desc_offset + (off_t)(i * (sizeof(desc) + NAME));

		assert_int_equal(pwrite(fd, &desc, sizeof(desc), at), sizeof(desc));
		assert_int_equal(pwrite(fd, names[i], NAME, at + (off_t)sizeof(desc)), NAME);
	}
	return fd;
}

static void all_is_told(void **state)
{
	static const struct bus_ops ops = { 0 };
	struct bus bus = { 0 };
	struct stats stats;
	char *text;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	(void)state;
	bus_add(&bus, BUS_PORT, &(struct bus_range){ 0x3f8, 8, "uart", &ops, NULL });
	bus_add(&bus, BUS_MMIO, &(struct bus_range){ 0xe0000000, 4096, "ecam", &ops, NULL });
	assert_int_equal(stats_init(&stats, 0, CPUS), 0);
	for (unsigned i = 0; i < CPUS; i++) {
		assert_int_equal(stats_detail(&stats, i, -1), 0);
		stats.kvm_stats_fd[i] = kvm_stats(1000 * (i + 1), i);
	}
	for (unsigned i = 0; i < PHASE_N; i++)
		stats.phase_us[i] = 100 + i;

	count(&stats.exits[0], KVM_EXIT_IO, 3);
	stats_mark(&stats, 7);
	count(&stats.exits[1], KVM_EXIT_MMIO, 4);
	stats_mark(&stats, 255);
	assert_true(stats.mark[1].us >= stats.mark[0].us);
	stats.mark[0].us = 11;
	stats.mark[1].us = 22;

	/* By address, direction and space, the most frequent first. */
	count_site(&stats.exits[0], BUS_PORT, 0x3f8, true, 2);
	count_site(&stats.exits[1], BUS_PORT, 0x3f8, true, 3);
	count_site(&stats.exits[0], BUS_PORT, 0x3f8, false, 1);
	count_site(&stats.exits[1], BUS_MMIO, 0x3f8, true, 4);
	count_site(&stats.exits[1], BUS_MMIO, 0xe0000010, false, 6);

	stats_print(&stats, &bus, out);
	text_is(out, &text,
	        "{\n"
	        "  \"phases_us\": {\"kvm_ready\": 100, \"memory_ready\": 101, "
	        "\"kernel_loaded\": 102, \"first_run\": 103, \"shutdown\": 104},\n"
	        "  \"markers\": [\n"
	        "    {\"value\": 7, \"us\": 11, \"user_exits\": 3, \"kvm_exits\": 3000},\n"
	        "    {\"value\": 255, \"us\": 22, \"user_exits\": 7, \"kvm_exits\": 3000}],\n"
	        "  \"user_exits\": 7,\n"
	        "  \"user_exits_by_reason\": {\"io\": 3, \"mmio\": 4},\n"
	        "  \"user_exits_by_address\": [\n"
	        "    {\"count\": 6, \"space\": \"mmio\", \"address\": \"0xe0000010\", "
	        "\"access\": \"read\", \"device\": \"ecam\"},\n"
	        "    {\"count\": 5, \"space\": \"port\", \"address\": \"0x3f8\", "
	        "\"access\": \"write\", \"device\": \"uart\"},\n"
	        "    {\"count\": 4, \"space\": \"mmio\", \"address\": \"0x3f8\", "
	        "\"access\": \"write\", \"device\": \"none\"},\n"
	        "    {\"count\": 1, \"space\": \"port\", \"address\": \"0x3f8\", "
	        "\"access\": \"read\", \"device\": \"uart\"}],\n"
	        "  \"kvm_exits\": 3000,\n"
	        "  \"kvm_counters\": [\n"
	        "    {\"exits\": 1000},\n"
	        "    {\"exits\": 2000, \"halts\": 1}]\n"
	        "}\n");
	stats_fini(&stats);
}

static void more_marks_than_there_is_room_for(void **state)
{
	struct stats stats;

	(void)state;
	assert_int_equal(stats_init(&stats, stats_exec_time(), 1), 0);
	for (unsigned i = 0; i < MARKS_MAX + 3; i++)
		stats_mark(&stats, (uint8_t)i);
	assert_int_equal(stats.mark[MARKS_MAX - 1].value, MARKS_MAX - 1);
	assert_int_equal(stats.nmarks, MARKS_MAX + 3); /* which lies behind them */
	stats_fini(&stats);
}

#define BUSY_NSEC 20000000

static void *be_busy(void *exits)
{
	do
		exit_count_cpu(exits);
	while (((struct exit_stats *)exits)->cpu_ns < BUSY_NSEC);
	return NULL;
}

/* In microseconds: of this thread, of the vCPUs, and of the process, vCPUs and others together. */
static void cpu_time_is_told(void **state)
{
	unsigned long long io, vcpus, all;
	struct stats stats;
	pthread_t thread;
	char *text;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	(void)state;
	assert_int_equal(stats_init(&stats, 0, CPUS), 0);
	assert_int_equal(pthread_create(&thread, NULL, be_busy, &stats.exits[0]), 0);
	pthread_join(thread, NULL);
	stats.exits[0].cpu_ns = 5000999;
	stats.exits[1].cpu_ns = 2000001;
	stats_print_cpu(&stats, out);
	fclose(out);
	assert_int_equal(sscanf(text, "\"cpu_us\": {\"io\": %llu, \"vcpus\": %llu, \"all\": %llu}",
	                        &io, &vcpus, &all),
	                 3);
	assert_int_equal(vcpus, 7001);
	assert_true(all >= io + BUSY_NSEC / 1000 / 2);
	free(text);
	stats_fini(&stats);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(exits_have_names),
		cmocka_unit_test(all_is_told),
		cmocka_unit_test(more_marks_than_there_is_room_for),
		cmocka_unit_test(cpu_time_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
