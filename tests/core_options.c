/* The command line: gokvm's flags, long names, and one clear line for everything else. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "core/options.h"
#include "core/vm.h"

static char why[WHY_MAX];

/* Parse "boot -m 1G ..." (words by single blanks). */
static int parse(struct options *options, const char *line)
{
	static char words[512];
	char *argv[32] = { (char *)"kring" };
	int argc = 1;

	strcpy(words, line);
	for (char *word = strtok(words, " "); word; word = strtok(NULL, " "))
		argv[argc++] = word;
	why[0] = '\0';
	return options_parse(options, argc, argv, why);
}

static void defaults_are_gokvms(void **state)
{
	struct options o;

	(void)state;
	assert_int_equal(parse(&o, "boot"), 0);
	assert_int_equal(o.command, COMMAND_BOOT);
	assert_string_equal(o.kernel, "./bzImage");
	assert_string_equal(o.dev, "/dev/kvm");
	assert_null(o.initrd);
	assert_int_equal(o.memory, 1ull << 30);
	assert_int_equal(o.cpus, 1);
	assert_int_equal(o.rng, 1);
	assert_int_equal(o.trace, 0);
}

static void short_and_long(void **state)
{
	struct options o;

	(void)state;
	assert_int_equal(parse(&o, "boot -D /dev/x -k a -i b -m 512m -c 4 -p quiet -T 100"), 0);
	assert_string_equal(o.dev, "/dev/x");
	assert_string_equal(o.kernel, "a");
	assert_string_equal(o.initrd, "b");
	assert_int_equal(o.memory, 512 << 20);
	assert_int_equal(o.cpus, 4);
	assert_string_equal(o.cmdline, "quiet");
	assert_int_equal(o.trace, 100);

	assert_int_equal(parse(&o, "boot --kernel a --memory=2 --cpus 254 --protocol pvh "
	                           "--timeout 1.5 --timings - --reboot restart --console none"),
	                 0);
	assert_int_equal(o.memory, 2ull << 30);
	assert_int_equal(o.cpus, 254);
	assert_int_equal(o.protocol, 3);
	assert_int_equal(o.timeout, 1500000000);
	assert_string_equal(o.timings, "-");
	assert_int_equal(o.restart, 1);
	assert_string_equal(o.console, "none");

	assert_int_equal(parse(&o, "probe --json"), 0);
	assert_true(o.json);
}

static void sizes(void **state)
{
	static const struct {
		const char *text;
		char unit;
		int err;
		uint64_t bytes;
	} cases[] = {
		{ "1", 'g', 0, 1ull << 30 },
		{ "1K", 'g', 0, 1024 },
		{ "3k", 0, 0, 3072 },
		{ "0x10m", 'g', 0, 16 << 20 },
		{ "7", 0, 0, 7 },
		{ "010", 0, 0, 8 },
		{ "", 'g', -EINVAL, 0 },
		{ "g", 'g', -EINVAL, 0 },
		{ "-1", 'g', -EINVAL, 0 },
		{ " 1", 'g', -EINVAL, 0 },
		{ "1gb", 'g', -EINVAL, 0 },
		{ "1t", 'g', -EINVAL, 0 },
		{ "1.5g", 'g', -EINVAL, 0 },
		{ "99999999999999999999", 0, -ERANGE, 0 },
		{ "17179869184g", 0, -ERANGE, 0 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint64_t bytes = 0;

		assert_int_equal(options_size(cases[i].text, cases[i].unit, &bytes), cases[i].err);
		assert_true(bytes == cases[i].bytes);
	}
}

static void one_clear_line(void **state)
{
	static const char *const lines[][2] = {
		{ "", "say what to do" },
		{ "run", "unknown command 'run'" },
		{ "boot -x", "unknown option -x" },
		{ "boot --foo", "unknown option --foo" },
		{ "boot -m", "--memory needs a value" },
		{ "boot --kernel", "--kernel needs a value" },
		{ "boot -m 0", "--memory 0: must be from" },
		{ "boot -m x", "--memory 'x': not a size" },
		{ "boot -c 0", "--cpus 0: must be from 1 to 254" },
		{ "boot -c 255", "--cpus 255: must be from 1 to 254" },
		{ "boot -c 2 --cpus 3", "--cpus is given twice" },
		{ "boot -k a extra", "'extra' is not an option" },
		{ "boot --protocol grub", "not one of auto|linux64|linux32|pvh" },
		{ "boot --timeout 0", "--timeout '0': not a number of seconds" },
		{ "boot --timeout nan", "--timeout 'nan'" },
		{ "boot --json", "unknown option --json" },
		{ "probe -k x", "unknown option -k" },
		{ "bench", "say what to bench" },
		{ "bench ram", "say what to bench" },
		{ "bench disk -x", "unknown option -x; see kring bench disk --help" },
		{ "bench disk --bs 1", "--bs 1: must be from 512 to 4194304" },
		{ "bench disk --op tx", "not one of randread|randwrite|read|write" },
		{ "bench net --size 20", "--size 20: must be from 60 to 65549" },
		{ "bench net --op read", "not one of tx|rx|rr" },
		{ "bench boot -n 0", "--runs 0: must be from 1 to 1000" },
		{ "bench exits -k x", "unknown option -k" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		struct options o;

		assert_int_equal(parse(&o, lines[i][0]), -EINVAL);
		assert_non_null(strstr(why, lines[i][1]));
		assert_null(strchr(why, '\n'));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(defaults_are_gokvms),
		cmocka_unit_test(short_and_long),
		cmocka_unit_test(sizes),
		cmocka_unit_test(one_clear_line),
	};

	return cmocka_run_group_tests_name("core_options", tests, NULL, NULL);
}
