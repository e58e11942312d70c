/*
 * The host probe: on this host, and on made-up ones (a directory with files of /proc and /sys in
 * it, a child with that as its root, io_uring forbidden).
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "io/probe.h"
#include "tests/forbid.h"

static uint64_t all_opcodes(void)
{
	uint64_t opcodes = 0;

	for (const struct ring_name *op = ring_opcodes; op->name; op++)
		opcodes |= 1ull << op->value;
	return opcodes;
}

static void this_host(void **state)
{
	struct probe probe;
	struct rlimit memlock;
	struct ring ring;

	(void)state;
	probe_host(&probe);
	assert_string_equal(probe.uname.sysname, "Linux");
	getrlimit(RLIMIT_MEMLOCK, &memlock);
	assert_int_equal(probe.memlock.rlim_cur, memlock.rlim_cur);
	assert_int_equal(probe.memlock.rlim_max, memlock.rlim_max);
	assert_int_equal(!probe.tap.error, !probe.tap.hint);
	assert_true(probe.huge.free <= probe.huge.total);

	assert_int_equal(probe.ring.error, ring_init(&ring, RING_ENTRIES));
	if (probe.ring.error) {
		assert_non_null(probe.ring.hint);
		return;
	}
	assert_null(probe.ring.hint);
	assert_int_equal(probe.ring.opcodes, all_opcodes());
	assert_int_equal(probe.ring.features, ring.uring.features);
	for (const struct ring_name *flag = ring_setup_flags; flag->name; flag++)
		assert_int_equal(probe.ring.setup & flag->value, ring.uring.flags & flag->value);
	assert_true(probe.ring.features & IORING_FEAT_NODROP);
	ring_fini(&ring);
}

/* A file @name below the directory @root, and the directories that it needs. */
static void make_file(const char *root, const char *name, const char *text)
{
	char path[256];
	FILE *file;

	snprintf(path, sizeof(path), "%s%s", root, name);
	for (char *slash = path + strlen(root) + 1; (slash = strchr(slash, '/')); slash++) {
		*slash = '\0';
		mkdir(path, 0755);
		*slash = '/';
	}
	file = fopen(path, "w");
	assert_non_null(file);
	fputs(text, file);
	fclose(file);
}

/* Probe in a child that has @root as its root, and gets @err (unless 0) from io_uring_setup(2). */
static struct probe probe_with(const char *root, int err)
{
	struct probe probe = { 0 };
	int fds[2];
	int status;
	pid_t pid;

	assert_int_equal(pipe(fds), 0);
	pid = fork();
	if (!pid) {
		if (chroot(root) || chdir("/"))
			_exit(2);
		if (err && forbid(SYS_io_uring_setup, err))
			_exit(3);
		probe_host(&probe);
		_exit(write(fds[1], &probe, sizeof(probe)) != sizeof(probe));
	}
	close(fds[1]);
	/* The hints point to constants, which are the same in this process. */
	if (read(fds[0], &probe, sizeof(probe)) != sizeof(probe))
		probe.uname.sysname[0] = '\0';
	close(fds[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 2) {
		print_message("skipped: only root may chroot(2)\n");
		skip();
	}
	assert_string_equal(probe.uname.sysname, "Linux");
	return probe;
}

static int setup(void **state)
{
	static const char template[] = "/tmp/kring-probe-XXXXXX";

	*state = strdup(template);
	return mkdtemp(*state) ? 0 : -1;
}

static int teardown(void **state)
{
	char command[64];

	snprintf(command, sizeof(command), "rm -r %s", (char *)*state);
	free(*state);
	return system(command);
}

static void a_bare_host(void **state)
{
	struct probe probe = probe_with(*state, ENOSYS);

	assert_int_equal(probe.ring.error, -ENOSYS);
	assert_int_equal(probe.ring.disabled, -1);
	assert_int_equal(probe.ring.opcodes, 0);
	assert_int_equal(probe.ring.setup, 0);
	assert_non_null(strstr(probe.ring.hint, "Linux 5.10"));
	assert_int_equal(probe.tap.error, -ENOENT);
	assert_non_null(strstr(probe.tap.hint, "modprobe tun"));
	assert_string_equal(probe.huge.enabled, "");
	assert_string_equal(probe.huge.shmem, "");
	assert_int_equal(probe.huge.total, 0);
	assert_non_null(strstr(probe.huge.hint, "CONFIG_TRANSPARENT_HUGEPAGE"));
}

static void io_uring_is_switched_off(void **state)
{
	struct probe probe;

	make_file(*state, "/proc/sys/kernel/io_uring_disabled", "2\n");
	probe = probe_with(*state, EPERM);
	assert_int_equal(probe.ring.error, -EPERM);
	assert_int_equal(probe.ring.disabled, 2);
	assert_non_null(strstr(probe.ring.hint, "sysctl kernel.io_uring_disabled=0"));

	make_file(*state, "/proc/sys/kernel/io_uring_disabled", "1\n");
	probe = probe_with(*state, EPERM);
	assert_int_equal(probe.ring.disabled, 1);
	assert_non_null(strstr(probe.ring.hint, "kernel.io_uring_group"));

	make_file(*state, "/proc/sys/kernel/io_uring_disabled", "0\n");
	probe = probe_with(*state, EPERM);
	assert_int_equal(probe.ring.disabled, 0);
	assert_non_null(strstr(probe.ring.hint, "seccomp"));
}

static void huge_pages(void **state)
{
	struct probe probe;

	make_file(*state, "/sys/kernel/mm/transparent_hugepage/enabled",
	          "always [madvise] never\n");
	make_file(*state, "/sys/kernel/mm/transparent_hugepage/shmem_enabled",
	          "always within_size advise [never] deny force\n");
	make_file(*state, "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "512\n");
	make_file(*state, "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "500\n");
	probe = probe_with(*state, 0);
	assert_string_equal(probe.huge.enabled, "madvise");
	assert_string_equal(probe.huge.shmem, "never");
	assert_int_equal(probe.huge.total, 512);
	assert_int_equal(probe.huge.free, 500);
	assert_null(probe.huge.hint);

	make_file(*state, "/sys/kernel/mm/transparent_hugepage/enabled",
	          "always madvise [never]\n");
	make_file(*state, "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "many\n");
	probe = probe_with(*state, 0);
	assert_string_equal(probe.huge.enabled, "never");
	assert_non_null(strstr(probe.huge.hint, "echo madvise"));
	assert_int_equal(probe.huge.total, 0);

	/* A word of any length, or none at all. */
	make_file(*state, "/sys/kernel/mm/transparent_hugepage/enabled",
	          "[a-choice-of-more-than-fifteen-letters]\n");
	make_file(*state, "/sys/kernel/mm/transparent_hugepage/shmem_enabled", "[]\n");
	probe = probe_with(*state, 0);
	assert_string_equal(probe.huge.enabled, "a-choice-of-mor");
	assert_string_equal(probe.huge.shmem, "");
}

static void tap_that_is_none(void **state)
{
	struct probe probe;

	make_file(*state, "/dev/net/tun", "");
	probe = probe_with(*state, 0);
	assert_int_equal(probe.tap.error, -ENOTTY);
	assert_int_equal(probe.tap.flags, 0);
	assert_non_null(strstr(probe.tap.hint, "10, 200"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(this_host),
		cmocka_unit_test_setup_teardown(a_bare_host, setup, teardown),
		cmocka_unit_test_setup_teardown(io_uring_is_switched_off, setup, teardown),
		cmocka_unit_test_setup_teardown(huge_pages, setup, teardown),
		cmocka_unit_test_setup_teardown(tap_that_is_none, setup, teardown),
	};

	alarm(60);
	return cmocka_run_group_tests_name("io/probe", tests, NULL, NULL);
}
