/*
 * Taps: their names on the command line, what is said when one cannot be had, and real ones in a
 * network namespace of the test's own.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "io/tap.h"
#include "tests/netns.h"

static const uint8_t mac[ETH_ALEN] = { 0x52, 0x54, 0, 0x12, 0x34, 0x56 };

/* The command line. */

static void words_are_understood(void **state)
{
	struct tap_config config;
	char why[TAP_WHY_MAX];

	(void)state;
	assert_int_equal(tap_parse(&config, "tap0", why), 0);
	assert_string_equal(config.name, "tap0");
	assert_int_equal(config.queues, 1);
	assert_int_equal(config.mtu, 0);
	assert_int_equal(config.mac[0] | config.mac[5], 0);

	assert_int_equal(
	        tap_parse(&config, "tap=a.b-c,mac=52:54:00:12:34:56,queues=16,mtu=65521", why), 0);
	assert_string_equal(config.name, "a.b-c");
	assert_memory_equal(config.mac, mac, ETH_ALEN);
	assert_int_equal(config.queues, 16);
	assert_int_equal(config.mtu, 65521);

	assert_int_equal(tap_parse(&config, "fifteen_letters,mtu=68", why), 0);
	assert_int_equal(config.mtu, 68);
}

static void bad_words_are_refused(void **state)
{
	static const struct {
		const char *text;
		const char *says;
	} cases[] = {
		{ "", "not a name" },
		{ "tap=", "not a name" },
		{ ",queues=2", "not a name" },
		{ "sixteen_letters_", "not a name" },
		{ "a/b", "not a name" },
		{ "a b", "not a name" },
		{ "..", "not a name" },
		{ "tap%d", "not a name" },
		{ "t,queues=0", "from 1 to 16" },
		{ "t,queues=17", "from 1 to 16" },
		{ "t,queues=", "from 1 to 16" },
		{ "t,queues=-1", "from 1 to 16" },
		{ "t,queues= 1", "from 1 to 16" },
		{ "t,queues=2x", "from 1 to 16" },
		{ "t,queues=18446744073709551617", "from 1 to 16" },
		{ "t,mtu=67", "from 68 to 65521" },
		{ "t,mtu=65522", "from 68 to 65521" },
		{ "t,mac=", "station" },
		{ "t,mac=52:54:00:12:34", "station" },
		{ "t,mac=52:54:00:12:34:56:78", "station" },
		{ "t,mac=52:54:00:12:34:5g", "station" },
		{ "t,mac=52:54:00:12:34:-1", "station" },
		{ "t,mac= 2:54:00:12:34:56", "station" },
		{ "t,mac=53:54:00:12:34:56", "station" },
		{ "t,mac=00:00:00:00:00:00", "station" },
		{ "t,mac=ff:ff:ff:ff:ff:ff", "station" },
		{ "t,speed=1", "unknown option 'speed=1'" },
		{ "t,", "unknown option ''" },
		{ "t,queues", "unknown option" },
	};
	struct tap_config config;
	char text[1024];

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char why[TAP_WHY_MAX] = "";

		assert_int_equal(tap_parse(&config, cases[i].text, why), -EINVAL);
		if (!strstr(why, cases[i].says))
			fail_msg("'%s' gives '%s'", cases[i].text, why);
	}

	for (size_t len = 1; len < sizeof(text); len++) {
		char why[TAP_WHY_MAX];

		memset(text, 'x', len);
		memcpy(text, "t,mac=", len < 6 ? len : 6);
		text[len] = '\0';
		tap_parse(&config, text, why);
		assert_true(strlen(why) < sizeof(why));
	}
}

/* Real ones. */

static void open_fails(const char *text, int err, const char *says)
{
	struct tap tap;
	struct tap_config config;
	char why[TAP_WHY_MAX] = "";

	assert_int_equal(tap_parse(&config, text, why), 0);
	assert_int_equal(tap_open(&tap, &config, why), err);
	if (!strstr(why, says))
		fail_msg("'%s' gives '%s'", text, why);
	assert_int_equal(tap.queues, 0);
}

/* A tap that stays, as `ip tuntap add` makes it. */
static void make_tap(const char *name, int flags, int owner)
{
	struct ifreq ifr = { .ifr_flags = (short)(IFF_TAP | flags) };
	int fd = open("/dev/net/tun", O_RDWR);

	strcpy(ifr.ifr_name, name);
	assert_int_equal(ioctl(fd, TUNSETIFF, &ifr), 0);
	if (owner >= 0)
		assert_int_equal(ioctl(fd, TUNSETOWNER, owner), 0);
	assert_int_equal(ioctl(fd, TUNSETPERSIST, 1), 0);
	close(fd);
}

static void a_new_one_comes_up_and_goes(void **state)
{
	struct tap tap, other;

	(void)state;
	need_taps();
	open_tap(&tap, "t0,mtu=9000");
	assert_true(netns_flags("t0") & IFF_UP);
	assert_int_equal(tap_mtu(&tap), 9000);
	assert_int_equal(tap.queues, 1);
	assert_int_equal(tap.attached, 1);
	assert_true(tap.offloads & TUN_F_CSUM && tap.offloads & TUN_F_TSO6);
	assert_int_equal(tap.mac[0] & 3, 2);

	open_tap(&other, "t1,mac=52:54:00:12:34:56");
	assert_int_equal(tap_mtu(&other), 1500);
	assert_memory_equal(other.mac, mac, ETH_ALEN);
	tap_close(&other);
	tap_close(&tap);
	assert_int_equal(netns_flags("t0"), 0);
	assert_int_equal(netns_flags("t1"), 0);
}

static void one_that_was_there_stays(void **state)
{
	struct tap tap;

	(void)state;
	need_taps();
	make_tap("t2", 0, -1);
	open_tap(&tap, "t2,mtu=1400");
	assert_true(netns_flags("t2") & IFF_UP);
	open_fails("t2", -EBUSY, "network t2: a kring or another program uses it");
	open_fails("t2,queues=2", -EINVAL, "no tap of several queues");
	tap_close(&tap);
	assert_true(netns_flags("t2") & IFF_UP);
	assert_true(netns_remove("t2"));

	make_tap("t3", IFF_MULTI_QUEUE, -1);
	open_tap(&tap, "t3");
	tap_close(&tap);
	open_tap(&tap, "t3,queues=3");
	assert_int_equal(tap.queues, 3);
	assert_int_equal(tap.attached, 1);
	tap_close(&tap);
	assert_true(netns_remove("t3"));
}

static void what_is_no_tap_is_refused(void **state)
{
	(void)state;
	need_taps();
	open_fails("lo", -EINVAL, "network lo: it exists and is no tap");
}

static int without_capabilities(void (*test)(void))
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct none[2] = { { 0 } };
	int status;
	pid_t pid = fork();

	if (!pid) {
		if (syscall(SYS_capset, &head, none))
			_exit(1);
		test();
		_exit(0);
	}
	waitpid(pid, &status, 0);
	return status;
}

static void as_nobody(void)
{
	struct tap tap;

	open_fails("t5", -EPERM, "ip tuntap add mode tap user NAME dev t5");
	open_fails("t6", -EPERM, "it belongs to another user");
	open_tap(&tap, "t7");
	if (netns_flags("t7") & IFF_UP)
		_exit(2);
	open_fails("t8,mtu=1400", -EPERM, "its MTU cannot be 1400");
	tap_close(&tap);
}

static void permissions_are_explained(void **state)
{
	(void)state;
	need_taps();
	make_tap("t6", 0, 4711);
	make_tap("t7", 0, (int)getuid());
	make_tap("t8", 0, (int)getuid());
	assert_int_equal(without_capabilities(as_nobody), 0);
	assert_true(netns_remove("t6"));
	assert_true(netns_remove("t7"));
	assert_true(netns_remove("t8"));
}

static void put(uint8_t *frame, const char *to, uint8_t mark)
{
	memset(frame, 0, 64);
	memcpy(frame, to, ETH_ALEN);
	frame[12] = 0x88; /* an EtherType for experiments */
	frame[13] = 0xb5;
	frame[14] = mark;
}

static void packets_pass_with_their_header(void **state)
{
	uint8_t packet[TAP_HDR_LEN + 64] = { 0 };
	uint8_t frame[64];
	struct tap tap;
	int fd;

	(void)state;
	need_taps();
	open_tap(&tap, "t0");
	fd = netns_socket("t0");

	put(frame, "\xff\xff\xff\xff\xff\xff", 1);
	assert_int_equal(send(fd, frame, sizeof(frame), 0), sizeof(frame));
	assert_int_equal(read(tap.fd[0], packet, sizeof(packet)), sizeof(packet));
	assert_memory_equal(packet + TAP_HDR_LEN, frame, sizeof(frame));
	assert_int_equal(read(tap.fd[0], packet, sizeof(packet)), -1);
	assert_int_equal(errno, EAGAIN);

	memset(packet, 0, TAP_HDR_LEN);
	put(packet + TAP_HDR_LEN, "\xff\xff\xff\xff\xff\xff", 2);
	assert_int_equal(write(tap.fd[0], packet, sizeof(packet)), sizeof(packet));
	assert_int_equal(recv(fd, frame, sizeof(frame), 0), sizeof(frame));
	assert_int_equal(frame[14], 2);
	close(fd);
	tap_close(&tap);
}

/* Send a frame to @to; whether it can be read from the tap. */
static bool passes(const struct tap *tap, int fd, const char *to)
{
	uint8_t packet[TAP_HDR_LEN + 64];
	uint8_t frame[64];

	put(frame, to, 0);
	assert_int_equal(send(fd, frame, sizeof(frame), 0), sizeof(frame));
	return read(tap->fd[0], packet, sizeof(packet)) == sizeof(packet);
}

static void filters_hold_packets_back(void **state)
{
	static const uint8_t only[2][ETH_ALEN] = { { 2, 0, 0, 0, 0, 1 }, { 3, 0, 0, 0, 0, 2 } };
	uint8_t many[TAP_FILTER_MAX][ETH_ALEN] = { { 0 } };
	struct tap tap;
	int fd;

	(void)state;
	need_taps();
	open_tap(&tap, "t0");
	fd = netns_socket("t0");

	assert_int_equal(tap_set_filter(&tap, only, 2, false), 0);
	assert_true(passes(&tap, fd, "\x02\0\0\0\0\x01"));
	assert_true(passes(&tap, fd, "\x03\0\0\0\0\x02"));
	assert_false(passes(&tap, fd, "\x02\0\0\0\0\x03"));
	assert_false(passes(&tap, fd, "\x03\0\0\0\0\x03"));
	assert_false(passes(&tap, fd, "\xff\xff\xff\xff\xff\xff"));

	assert_int_equal(tap_set_filter(&tap, only, 2, true), 0);
	assert_true(passes(&tap, fd, "\x03\0\0\0\0\x03"));
	assert_false(passes(&tap, fd, "\x02\0\0\0\0\x03"));

	/* More stations than the kernel compares with: all pass. */
	for (unsigned i = 0; i < TAP_FILTER_MAX; i++)
		memcpy(many[i], (uint8_t[]){ 2, 0, 0, 0, 1, (uint8_t)i }, ETH_ALEN);
	assert_int_equal(tap_set_filter(&tap, many, TAP_FILTER_MAX, false), 0);
	assert_true(passes(&tap, fd, "\x02\0\0\0\x01\x3f"));

	assert_int_equal(tap_set_filter(&tap, NULL, 0, false), 0);
	assert_true(passes(&tap, fd, "\x02\0\0\0\0\x03"));
	close(fd);
	tap_close(&tap);
}

static void a_filter_does_not_stay(void **state)
{
	static const uint8_t only[1][ETH_ALEN] = { { 2, 0, 0, 0, 0, 1 } };
	struct tap tap;
	int fd;

	(void)state;
	need_taps();
	make_tap("t2", 0, -1);
	open_tap(&tap, "t2");
	assert_int_equal(tap_set_filter(&tap, only, 1, false), 0);
	assert_int_equal(tap_set_offloads(&tap, TUN_F_CSUM | TUN_F_TSO4), 0);
	tap_close(&tap);
	open_tap(&tap, "t2");
	fd = netns_socket("t2");
	assert_true(passes(&tap, fd, "\x02\0\0\0\0\x03"));
	close(fd);
	tap_close(&tap);
	assert_true(netns_remove("t2"));
}

/* Send packets of 64 UDP flows; how many of them queue @i has got. */
static unsigned flows_at(const struct tap *tap, int fd, unsigned i)
{
	uint8_t packet[TAP_HDR_LEN + 64];
	unsigned n = 0;

	netns_send_flows(fd, 64);
	while (read(tap->fd[i], packet, sizeof(packet)) > 0)
		n++;
	assert_int_equal(errno, EAGAIN);
	for (unsigned other = 0; other < tap->queues; other++)
		while (read(tap->fd[other], packet, sizeof(packet)) > 0)
			;
	return n;
}

static void queues_come_and_go(void **state)
{
	struct tap tap;
	int fd;

	(void)state;
	need_taps();
	open_tap(&tap, "t0,queues=4");
	fd = netns_socket("t0");
	assert_int_equal(tap.attached, 1);
	assert_int_equal(flows_at(&tap, fd, 0), 64);
	assert_int_equal(flows_at(&tap, fd, 1), 0);
	assert_int_equal(tap_set_queues(&tap, 3), 0);
	for (unsigned i = 0; i < 3; i++)
		assert_in_range(flows_at(&tap, fd, i), 1, 63);
	assert_int_equal(flows_at(&tap, fd, 3), 0);
	assert_int_equal(tap_set_queues(&tap, 4), 0);
	assert_in_range(flows_at(&tap, fd, 3), 1, 63);
	assert_int_equal(tap_set_queues(&tap, 2), 0);
	assert_in_range(flows_at(&tap, fd, 1), 1, 63);
	assert_int_equal(flows_at(&tap, fd, 2), 0);
	assert_int_equal(tap_set_offloads(&tap, tap.offloads), 0);
	close(fd);
	tap_close(&tap);
	assert_int_equal(netns_flags("t0"), 0);
}

static void offloads_are_those_the_host_has(void **state)
{
	struct tap tap;

	(void)state;
	need_taps();
	open_tap(&tap, "t0");
	assert_int_equal(tap.offloads, netns_offloads());
	assert_int_equal(tap_set_offloads(&tap, tap.offloads), 0);
	assert_int_equal(tap_set_offloads(&tap, 0), 0);
	assert_int_equal(tap_set_offloads(&tap, 0x8000), -EINVAL);
	assert_int_equal(tap_set_offloads(&tap, TUN_F_TSO4), -EINVAL);
	tap_close(&tap);
}

static void one_that_went_away_says_so(void **state)
{
	struct tap tap;
	uint8_t byte;

	(void)state;
	need_taps();
	open_tap(&tap, "t0");
	assert_true(netns_remove("t0"));
	assert_int_equal(read(tap.fd[0], &byte, 1), -1);
	assert_int_equal(errno, EBADFD);
	assert_int_equal(tap_mtu(&tap), TAP_MTU_MAX);
	assert_true(tap_set_offloads(&tap, 0) < 0);
	assert_true(tap_set_filter(&tap, NULL, 0, false) < 0);
	tap_close(&tap);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(words_are_understood),
		cmocka_unit_test(bad_words_are_refused),
		cmocka_unit_test(a_new_one_comes_up_and_goes),
		cmocka_unit_test(one_that_was_there_stays),
		cmocka_unit_test(what_is_no_tap_is_refused),
		cmocka_unit_test(permissions_are_explained),
		cmocka_unit_test(packets_pass_with_their_header),
		cmocka_unit_test(filters_hold_packets_back),
		cmocka_unit_test(a_filter_does_not_stay),
		cmocka_unit_test(queues_come_and_go),
		cmocka_unit_test(offloads_are_those_the_host_has),
		cmocka_unit_test(one_that_went_away_says_so),
	};

	return cmocka_run_group_tests(tests, netns_setup, NULL);
}
