/*
 * Tests: a network namespace of this process's own, taps in it, and the host's end of them.
 */
#ifndef TESTS_NETNS_H
#define TESTS_NETNS_H

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/rtnetlink.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "io/tap.h"

static bool taps_allowed; /* root, and there is a tun device */

/* Before all tests of a program: what it does with networks stays inside. */
static inline int netns_setup(void **state)
{
	FILE *ipv6;

	(void)state;
	taps_allowed = !access("/dev/net/tun", R_OK | W_OK) && !unshare(CLONE_NEWNET);
	/* Else the kernel says something on each new interface, at times of its own. */
	ipv6 = taps_allowed ? fopen("/proc/sys/net/ipv6/conf/default/disable_ipv6", "we") : NULL;
	if (ipv6) {
		fputs("1", ipv6);
		fclose(ipv6);
	}
	return 0;
}

/* For a test that has to have taps. */
static inline void need_taps(void)
{
	if (taps_allowed)
		return;
	print_message("no taps here: this takes root and /dev/net/tun\n");
	skip();
}

/* Open what @text says, as -t does. */
static inline void open_tap(struct tap *tap, const char *text)
{
	struct tap_config config;
	char why[TAP_WHY_MAX] = "";

	assert_int_equal(tap_parse(&config, text, why), 0);
	if (tap_open(tap, &config, why))
		fail_msg("%s", why);
}

/* A socket that sends and receives whole frames at the interface @name; -1: there is none. */
static inline int netns_socket(const char *name)
{
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_ll at = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL) };
	struct ifreq ifr = { 0 };

	strcpy(ifr.ifr_name, name);
	if (!ioctl(fd, SIOCGIFINDEX, &ifr)) {
		at.sll_ifindex = ifr.ifr_ifindex;
		if (!bind(fd, (const struct sockaddr *)&at, sizeof(at)))
			return fd;
	}
	close(fd);
	return -1;
}

/* What a tap can offload (TUN_F_*), as this kernel answers when it is asked for one by one. */
static inline unsigned netns_offloads(void)
{
	static const unsigned candidates[] = { TUN_F_CSUM | TUN_F_TSO4, TUN_F_CSUM | TUN_F_TSO6,
		                               TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO_ECN,
		                               TUN_F_CSUM | TUN_F_UFO,
		                               TUN_F_CSUM | TUN_F_USO4 | TUN_F_USO6 };
	struct ifreq ifr = { .ifr_name = "asked", .ifr_flags = IFF_TAP | IFF_VNET_HDR };
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	unsigned flags = 0;

	assert_int_equal(ioctl(fd, TUNSETIFF, &ifr), 0);
	for (unsigned i = 0; i < sizeof(candidates) / sizeof(candidates[0]); i++)
		if (!ioctl(fd, TUNSETOFFLOAD, candidates[i]))
			flags |= candidates[i];
	close(fd);
	return flags;
}

/*
 * Send @len bytes of TCP to all in one packet, to be cut into segments of @segment on the way,
 * where nobody takes it whole.
 */
static inline void netns_send_tcp(const char *name, unsigned len, unsigned segment)
{
	enum { HEADERS = 14 + 20 + 20 };
	struct { /* virtio_net_hdr (<linux/virtio_net.h>) of a packet socket */
		uint8_t flags, gso_type;
		uint16_t hdr_len, gso_size, csum_start, csum_offset;
		uint8_t frame[HEADERS + 8000];
	} packet = { .flags = 1,
		     .gso_type = 1,
		     .hdr_len = HEADERS,
		     .gso_size = (uint16_t)segment,
		     .csum_start = 34,
		     .csum_offset = 16 };
	uint8_t *ip = packet.frame + 14, *tcp = ip + 20;
	const int one = 1;
	int fd = netns_socket(name);
	size_t all = offsetof(__typeof__(packet), frame) + HEADERS + len;

	assert_true(fd >= 0 && len <= 8000);
	memset(packet.frame, 0xff, ETH_ALEN);
	packet.frame[6] = 2;
	packet.frame[12] = 8;
	ip[0] = 0x45;
	ip[2] = (uint8_t)((20 + 20 + len) >> 8);
	ip[3] = (uint8_t)(20 + 20 + len);
	ip[8] = 64;
	ip[9] = 6;
	ip[12] = ip[16] = 10;
	tcp[0] = tcp[2] = 1;
	tcp[12] = 5 << 4;
	tcp[13] = 0x10;
	assert_int_equal(setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof(one)), 0);
	assert_int_equal(send(fd, &packet, all, 0), all);
	close(fd);
}

/* Send packets of @n UDP flows, one of each, to all. */
static inline void netns_send_flows(int fd, unsigned n)
{
	uint8_t frame[64] = { [12] = 8,  [14] = 0x45, [17] = 50, [23] = 17,
		              [26] = 10, [30] = 10,   [37] = 9,  [39] = 30 };

	memset(frame, 0xff, ETH_ALEN);
	for (unsigned flow = 0; flow < n; flow++) {
		frame[34] = (uint8_t)flow;
		assert_int_equal(send(fd, frame, sizeof(frame), 0), sizeof(frame));
	}
}

/* The interface's flags (IFF_*), 0: there is none. */
static inline int netns_flags(const char *name)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq ifr = { 0 };

	strcpy(ifr.ifr_name, name);
	if (ioctl(fd, SIOCGIFFLAGS, &ifr))
		ifr.ifr_flags = 0;
	close(fd);
	return ifr.ifr_flags;
}

/* Set the interface's flags. */
static inline void netns_set_flags(const char *name, int flags)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq ifr = { .ifr_flags = (short)flags };

	strcpy(ifr.ifr_name, name);
	ioctl(fd, SIOCSIFFLAGS, &ifr);
	close(fd);
}

/* Remove the interface, as `ip link delete` does. Whether that worked. */
static inline bool netns_remove(const char *name)
{
	struct {
		struct nlmsghdr head;
		struct ifinfomsg info;
		struct rtattr attr;
		char name[IFNAMSIZ];
	} request = {
		.head = { .nlmsg_len = sizeof(request),
		          .nlmsg_type = RTM_DELLINK,
		          .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK },
		.attr = { .rta_len = sizeof(struct rtattr) + IFNAMSIZ, .rta_type = IFLA_IFNAME },
	};
	struct {
		struct nlmsghdr head;
		struct nlmsgerr err;
		char rest[256];
	} answer = { .err.error = -1 };
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

	strcpy(request.name, name);
	if (send(fd, &request, sizeof(request), 0) != sizeof(request) ||
	    recv(fd, &answer, sizeof(answer), 0) < 0)
		answer.err.error = -1;
	close(fd);
	return !answer.err.error;
}

#endif
