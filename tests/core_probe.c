/* probe: the facts about KVM, and a hint for each way in which it can be missing. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/probe.h"

static unsigned open_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned n = 0;

	assert_non_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static void refused(const char *dev, int error, const char *step, const char *hint)
{
	unsigned fds = open_fds();
	struct kvm_probe probe;

	memset(&probe, 0xa5, sizeof(probe));
	probe_kvm(&probe, dev);
	assert_int_equal(probe.error, error);
	assert_string_equal(probe.step, step);
	assert_non_null(strstr(probe.hint, hint));
	assert_int_equal(probe.api_version, 0);
	assert_int_equal(probe.cap[KVM_CAP_IRQCHIP], 0);
	assert_string_equal(probe.cpu.vendor, "");
	assert_true(probe.ring0_ns == 0);
	assert_int_equal(open_fds(), fds);
}

static void missing(void **state)
{
	(void)state;
	refused("/nonexistent", -ENOENT, "open", "load kvm_intel or kvm_amd");
}

static void not_kvm(void **state)
{
	(void)state;
	refused("/dev/null", -ENOTTY, "KVM_GET_API_VERSION", "not a KVM device");
	refused("/tmp", -EISDIR, "open", "not a KVM device");
}

static void forbidden(void **state)
{
	char path[] = "/tmp/kring-probe-XXXXXX";
	int fd = mkstemp(path);
	uid_t user = geteuid();

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(fchmod(fd, 0), 0);
	close(fd);
	if (user == 0)
		assert_int_equal(seteuid(65534), 0);
	refused(path, -EACCES, "open", "group");
	if (user == 0)
		assert_int_equal(seteuid(0), 0);
	unlink(path);
}

static void names(void **state)
{
	(void)state;
	assert_string_equal(probe_caps[KVM_CAP_IRQFD], "IRQFD");
	assert_null(probe_caps[KVM_CAP_PPC_PAPR]);
	for (unsigned i = 0; i < PROBE_CPU_FLAGS; i++) {
		assert_non_null(probe_cpu_flags[i].name);
		for (unsigned j = 0; j < i; j++)
			assert_string_not_equal(probe_cpu_flags[i].name, probe_cpu_flags[j].name);
	}
	for (unsigned i = 0; i < PROBE_PARAMS; i++)
		assert_non_null(strstr(probe_params[i].path, "/parameters/"));
}

static void this_machine(void **state)
{
	unsigned fds = open_fds();
	struct kvm_probe probe;

	(void)state;
	if (access("/dev/kvm", R_OK | W_OK))
		skip();
	probe_kvm(&probe, "/dev/kvm");
	assert_int_equal(open_fds(), fds);
	assert_int_equal(probe.error, 0);
	assert_int_equal(probe.api_version, KVM_API_VERSION);
	assert_true(probe.run_size >= (int)sizeof(struct kvm_run));
	assert_true(probe.cap[KVM_CAP_MAX_VCPUS] >= 1);
	assert_int_equal(probe.cap[KVM_CAP_PPC_PAPR], 0);
	assert_int_equal(strlen(probe.cpu.vendor), 12);
	assert_true(probe.cpu.family >= 5);
	assert_true(probe.ring0_ns > 0);
	assert_int_equal(probe.ring0_ns > PROBE_EMULATED_NS, probe.hint != NULL);
}

static void speed_of_no_kvm(void **state)
{
	int fd = open("/dev/null", O_RDWR);
	double ns = 0;

	(void)state;
	assert_int_equal(probe_kvm_speed(fd, &ns), -ENOTTY);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(missing),      cmocka_unit_test(not_kvm),
		cmocka_unit_test(forbidden),    cmocka_unit_test(names),
		cmocka_unit_test(this_machine), cmocka_unit_test(speed_of_no_kvm),
	};

	return cmocka_run_group_tests_name("core/probe", tests, NULL, NULL);
}
