/* Disk images: what -d says, and what is opened, locked, refused. */
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "io/backing.h"
#include "tests/forbid.h"

static int setup(void **state)
{
	char *dir = strdup("/tmp/kring-backing-XXXXXX");

	*state = dir;
	return mkdtemp(dir) && !chdir(dir) ? 0 : -1;
}

static int teardown(void **state)
{
	static const char *const files[] = { "a.img", "fifo", "dir" };

	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
		remove(files[i]);
	if (chdir("/") || rmdir(*state))
		return -1;
	free(*state);
	return 0;
}

static void make(const char *name, off_t size)
{
	int fd = open(name, O_CREAT | O_TRUNC | O_WRONLY, 0600);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, size), 0);
	close(fd);
}

/* The command line. */

static void words_and_their_defaults(void **state)
{
	struct backing_config config;
	char why[BACKING_WHY_MAX];

	(void)state;
	assert_int_equal(backing_parse(&config, "a.img", why), 0);
	assert_string_equal(config.path, "a.img");
	assert_string_equal(config.serial, "");
	assert_int_equal(config.queues, 1);
	assert_false(config.readonly || config.direct || config.sync);
	assert_true(config.discard);

	assert_int_equal(backing_parse(&config,
	                               "/x y/b=c.img,sync,serial=a=b c 45678901234567,queues=16,"
	                               "direct,discard=off,readonly",
	                               why),
	                 0);
	assert_string_equal(config.path, "/x y/b=c.img");
	assert_string_equal(config.serial, "a=b c 45678901234567");
	assert_int_equal(config.queues, 16);
	assert_true(config.readonly && config.direct && config.sync);
	assert_false(config.discard);

	/* The last one counts, and nothing is left of the others. */
	assert_int_equal(
	        backing_parse(&config, "a,serial=abc,discard=off,serial=x,discard=on", why), 0);
	assert_memory_equal(config.serial, "x\0\0\0", 4);
	assert_true(config.discard);
}

static void refuses_to_parse(const char *text, const char *reason)
{
	struct backing_config config;
	char why[BACKING_WHY_MAX] = "";

	assert_int_equal(backing_parse(&config, text, why), -EINVAL);
	if (!strstr(why, reason) || strchr(why, '\n'))
		fail_msg("'%s': %s", text, why);
}

static void other_words_are_refused(void **state)
{
	char path[2 * PATH_MAX];

	(void)state;
	refuses_to_parse("", "the path is missing");
	refuses_to_parse(",readonly", "the path is missing");
	refuses_to_parse("a.img,", "disk a.img: unknown option ''");
	refuses_to_parse("a.img,read", "unknown option 'read'");
	refuses_to_parse("a.img,readonly2", "unknown option 'readonly2'");
	refuses_to_parse("a.img,readonly=1", "unknown option 'readonly=1'");
	refuses_to_parse("a.img,discard=maybe", "unknown option 'discard=maybe'");
	refuses_to_parse("a.img,queues", "unknown option 'queues'");
	refuses_to_parse("a.img,queues=", "disk a.img: queues=: must be from 1 to 16");
	refuses_to_parse("a.img,queues=0", "must be from 1 to 16");
	refuses_to_parse("a.img,queues=17", "must be from 1 to 16");
	refuses_to_parse("a.img,queues=-1", "must be from 1 to 16");
	refuses_to_parse("a.img,queues= 1", "must be from 1 to 16");
	refuses_to_parse("a.img,queues=1x", "must be from 1 to 16");
	refuses_to_parse("a.img,queues=99999999999999999999", "must be from 1 to 16");
	refuses_to_parse("a.img,serial=123456789012345678901", "longer than 20 bytes");

	memset(path, 'x', sizeof(path));
	path[PATH_MAX] = '\0';
	refuses_to_parse(path, "the path is too long");
	path[PATH_MAX] = 'x';
	path[sizeof(path) - 1] = '\0';
	refuses_to_parse(path, "too long");
	path[PATH_MAX - 1] = ',';
	refuses_to_parse(path, "too long");
	path[1000] = ',';
	path[3000] = '\0';
	refuses_to_parse(path, "unknown option");
}

/* Opening. */

static int try_open(struct backing *backing, struct backing_config *config, const char *text,
                    char *why)
{
	assert_int_equal(backing_parse(config, text, why), 0);
	why[0] = '\0';
	return backing_open(backing, config, why);
}

static void refuses_to_open(const char *text, int err, const char *reason)
{
	struct backing_config config;
	struct backing backing;
	char why[BACKING_WHY_MAX];
	int fd = dup(0);

	close(fd);
	assert_int_equal(try_open(&backing, &config, text, why), err);
	if (strncmp(why, "disk ", 5) || !strstr(why, config.path) || !strstr(why, reason) ||
	    strchr(why, '\n'))
		fail_msg("'%s': %s", text, why);
	assert_int_equal(dup(0), fd); /* nothing is held */
	close(fd);
}

static void what_is_no_disk_is_refused(void **state)
{
	(void)state;
	refuses_to_open("a.img", -ENOENT, "No such file or directory");
	assert_int_equal(mkdir("dir", 0700), 0);
	refuses_to_open("dir", -EINVAL, "neither a file nor a block device");
	assert_int_equal(mkfifo("fifo", 0600), 0);
	refuses_to_open("fifo", -EINVAL, "neither a file nor a block device");
	refuses_to_open("/dev/null", -EINVAL, "neither a file nor a block device");
	refuses_to_open("/proc/version,direct,readonly", -EINVAL, "cannot do 'direct'");
	make("a.img", 0);
	refuses_to_open("a.img", -EINVAL, "it is empty");
	make("a.img", 511);
	refuses_to_open("a.img", -EINVAL, "its size, 511, is no multiple of 512");
	make("a.img", 1000000);
	refuses_to_open("a.img,readonly", -EINVAL, "`truncate -s %512`");
}

static void size_in_whole_sectors(void **state)
{
	struct backing_config config;
	struct backing backing;
	char why[BACKING_WHY_MAX];

	(void)state;
	make("a.img", 3 * 512);
	assert_int_equal(try_open(&backing, &config, "a.img", why), 0);
	assert_int_equal(backing_size(&backing), 3 * 512);
	assert_int_equal(truncate("a.img", 5 * 512 + 511), 0);
	assert_int_equal(backing_size(&backing), 5 * 512);
	assert_int_equal(truncate("a.img", 1), 0);
	assert_int_equal(backing_size(&backing), 0);
	assert_int_equal(truncate("a.img", (5ll << 40) + 512), 0);
	assert_int_equal(backing_size(&backing), (5ll << 40) + 512);
	assert_int_equal(backing.align, 512);
	assert_true(backing.block >= 512 && backing.block <= 4096);
	backing_close(&backing);
}

/* Its node may lie in tmpfs: that says nothing of what is behind it. */
static void a_device_is_not_where_its_node_lies(void **state)
{
	struct backing_config config;
	struct backing backing;
	char why[BACKING_WHY_MAX], path[32];
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	int number = control < 0 ? -1 : ioctl(control, LOOP_CTL_GET_FREE);
	int loop, image;

	(void)state;
	snprintf(path, sizeof(path), "/dev/loop%d", number);
	loop = open(path, O_RDWR | O_CLOEXEC);
	close(control);
	make("a.img", 1 << 20);
	image = open("a.img", O_RDWR | O_CLOEXEC);
	if (loop < 0 || ioctl(loop, LOOP_SET_FD, image)) {
		close(loop);
		close(image);
		skip(); /* not root, or no loop devices */
	}
	assert_int_equal(try_open(&backing, &config, path, why), 0);
	assert_false(backing.at_once);
	assert_int_equal(fcntl(backing.fd, F_GETFL) & (O_DIRECT | O_NONBLOCK), 0);
	backing_close(&backing);
	ioctl(loop, LOOP_CLR_FD);
	close(loop);
	close(image);
}

static void one_writer_or_many_readers(void **state)
{
	struct backing_config config[3];
	struct backing backing[3];
	char why[BACKING_WHY_MAX];

	(void)state;
	make("a.img", 1 << 20);
	assert_int_equal(try_open(&backing[0], &config[0], "a.img", why), 0);
	refuses_to_open("a.img", -EBUSY, "a kring or another program uses it");
	refuses_to_open("a.img,readonly", -EBUSY, "a kring or another program writes it");
	refuses_to_open("./a.img,direct,sync", -EBUSY, "uses it");
	backing_close(&backing[0]);

	assert_int_equal(try_open(&backing[0], &config[0], "a.img,readonly", why), 0);
	assert_int_equal(try_open(&backing[1], &config[1], "a.img,readonly", why), 0);
	refuses_to_open("a.img", -EBUSY, "only 'readonly' ones can be shared");
	backing_close(&backing[0]);
	refuses_to_open("a.img", -EBUSY, "uses it");
	backing_close(&backing[1]);
	assert_int_equal(try_open(&backing[2], &config[2], "a.img", why), 0);
	backing_close(&backing[2]);
}

/* A lock ends with its process, however that does. */
static void a_killed_writer_leaves_no_lock(void **state)
{
	struct backing_config config;
	struct backing backing;
	char why[BACKING_WHY_MAX];
	int status, fds[2];
	pid_t pid;
	char byte;

	(void)state;
	make("a.img", 1 << 20);
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	pid = fork();
	if (!pid) {
		if (try_open(&backing, &config, "a.img", why) || write(fds[1], "x", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	assert_int_equal(read(fds[0], &byte, 1), 1);
	refuses_to_open("a.img", -EBUSY, "uses it");
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(try_open(&backing, &config, "a.img", why), 0);
	backing_close(&backing);
	close(fds[0]);
	close(fds[1]);
}

static void readonly_does_not_need_the_right_to_write(void **state)
{
	struct backing_config config;
	struct backing backing;
	char why[BACKING_WHY_MAX];

	(void)state;
	make("a.img", 4096);
	assert_int_equal(chmod("a.img", 0400), 0);
	if (geteuid())
		refuses_to_open("a.img", -EACCES, "Permission denied");
	assert_int_equal(try_open(&backing, &config, "a.img,readonly", why), 0);
	assert_int_equal(fcntl(backing.fd, F_GETFL) & O_ACCMODE, O_RDONLY);
	backing_close(&backing);
}

static void direct_finds_its_alignment(void **state)
{
	struct backing_config config;
	struct backing backing;
	char why[BACKING_WHY_MAX];
	int err;

	(void)state;
	make("a.img", 1 << 20);
	err = try_open(&backing, &config, "a.img,direct", why);
	if (err == -EINVAL)
		skip(); /* a file system without */
	assert_int_equal(err, 0);
	assert_true(fcntl(backing.fd, F_GETFL) & O_DIRECT);
	assert_true(backing.align >= 512 && backing.align <= BACKING_ALIGN_MAX);
	assert_int_equal(backing.align & (backing.align - 1), 0);
	assert_true(backing.block >= backing.align);

	uint8_t *buf = aligned_alloc(BACKING_ALIGN_MAX, 2 * BACKING_ALIGN_MAX);

	assert_int_equal(pwrite(backing.fd, buf + backing.mem_align, backing.align, backing.align),
	                 backing.align);
	free(buf);
	backing_close(&backing);
}

/* Runs @child where the system call @nr fails with @err; it returns 0 when all is well. */
static void without(int nr, int err, int (*child)(void))
{
	int status;
	pid_t pid = fork();

	if (!pid)
		_exit(forbid(nr, err) ? 99 : child());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static int lock_both_ways(void)
{
	struct backing_config config[3];
	struct backing backing[3];
	char why[BACKING_WHY_MAX];

	if (try_open(&backing[0], &config[0], "a.img", why))
		return 1;
	if (try_open(&backing[1], &config[1], "a.img,readonly", why) != -EBUSY)
		return 2;
	backing_close(&backing[0]);
	if (try_open(&backing[0], &config[0], "a.img,readonly", why))
		return 3;
	if (try_open(&backing[1], &config[1], "a.img,readonly", why))
		return 4;
	return try_open(&backing[2], &config[2], "a.img", why) == -EBUSY ? 0 : 5;
}

static void file_systems_without_record_locks(void **state)
{
	(void)state;
	make("a.img", 4096);
	without(SYS_fcntl, EINVAL, lock_both_ways);
}

static int align_by_trying(void)
{
	struct backing_config config;
	struct backing backing;
	char why[BACKING_WHY_MAX];

	if (try_open(&backing, &config, "a.img,direct", why))
		return 1;
	if (backing.align < 512 || backing.align > 4096 || backing.mem_align != backing.align)
		return 2;

	uint8_t *buf = aligned_alloc(4096, 8192);

	return pwrite(backing.fd, buf + backing.align, backing.align, backing.align) ==
	                       backing.align
	               ? 0
	               : 3;
}

static void kernels_that_do_not_tell_the_alignment(void **state)
{
	int fd;

	(void)state;
	make("a.img", 1 << 20);
	fd = open("a.img", O_RDONLY | O_DIRECT);
	if (fd < 0)
		skip();
	close(fd);
	without(SYS_statx, ENOSYS, align_by_trying);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(words_and_their_defaults),
		cmocka_unit_test(other_words_are_refused),
		cmocka_unit_test_setup_teardown(what_is_no_disk_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(size_in_whole_sectors, setup, teardown),
		cmocka_unit_test_setup_teardown(a_device_is_not_where_its_node_lies, setup,
		                                teardown),
		cmocka_unit_test_setup_teardown(one_writer_or_many_readers, setup, teardown),
		cmocka_unit_test_setup_teardown(a_killed_writer_leaves_no_lock, setup, teardown),
		cmocka_unit_test_setup_teardown(readonly_does_not_need_the_right_to_write, setup,
		                                teardown),
		cmocka_unit_test_setup_teardown(direct_finds_its_alignment, setup, teardown),
		cmocka_unit_test_setup_teardown(file_systems_without_record_locks, setup, teardown),
		cmocka_unit_test_setup_teardown(kernels_that_do_not_tell_the_alignment, setup,
		                                teardown),
	};

	alarm(60);
	return cmocka_run_group_tests_name("io/backing", tests, NULL, NULL);
}
