/*
 * Frames by packet sockets (packet(7)). They are those of bench/guest/net.c: the same addresses,
 * the same type, the same filling.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench/bench_net.h"
#include "core/main.h"

#define BATCH        64
#define TCP_LEN      (ETH_HLEN + 20 + 20)
#define SEGMENT      1448
#define FULL_NSEC    50000 /* until a full interface is tried again */
#define POLL_NSEC    2000000
#define WAIT_SECONDS 20
#define ETHERTYPE    0x88b5 /* for local experiments */

#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23
#endif

static const uint8_t mac_guest[ETH_ALEN] = { 0x02, 0x6b, 0x72, 0x62, 0x6e, 0x01 };
static const uint8_t mac_host[ETH_ALEN] = { 0x02, 0x6b, 0x72, 0x62, 0x6e, 0x02 };

static void nap(long ns)
{
	nanosleep(&(struct timespec){ .tv_nsec = ns }, NULL);
}

/* The interface's number, when it is up and kring holds the other end. */
static int interface_find(int fd, const char *name)
{
	struct ifreq ifr = { 0 };
	int index;

	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	if (ioctl(fd, SIOCGIFFLAGS, &ifr) || !(ifr.ifr_flags & IFF_UP) ||
	    !(ifr.ifr_flags & IFF_RUNNING))
		return 0;
	if (ioctl(fd, SIOCGIFINDEX, &ifr))
		return 0;
	index = ifr.ifr_ifindex;
	return index;
}

static int interface_wait(int fd, const char *name)
{
	for (unsigned i = 0; i < WAIT_SECONDS * (1000000000 / POLL_NSEC); i++) {
		int index = interface_find(fd, name);

		if (index)
			return index;
		nap(POLL_NSEC);
	}
	return 0;
}

static uint16_t sum16(const uint8_t *at, unsigned len)
{
	uint32_t sum = 0;

	for (unsigned i = 0; i < len; i += 2)
		sum += (uint32_t)(at[i] << 8 | at[i + 1]);
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)(sum + (sum >> 16));
}

static void put16(uint8_t *at, unsigned value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

/* IPv4 and TCP as far as a cut needs them (RFC 791, RFC 9293). */
static void tcp_write(struct bench_frame *frame, uint32_t size)
{
	static const uint8_t addresses[] = { 192, 0, 2, 2, 192, 0, 2, 1 }; /* RFC 5737 */
	uint8_t *ip = frame->bytes + ETH_HLEN;
	uint8_t *tcp = ip + 20;

	memset(ip, 0, 40);
	ip[0] = 0x45;
	put16(ip + 2, size - ETH_HLEN);
	ip[8] = 64;
	ip[9] = IPPROTO_TCP;
	memcpy(ip + 12, addresses, sizeof(addresses));
	put16(ip + 10, ~sum16(ip, 20) & 0xffffu);
	put16(tcp, 9); /* discard */
	put16(tcp + 2, 9);
	tcp[12] = 5 << 4;
	tcp[13] = 0x10; /* ACK */
	put16(frame->bytes + 12, ETH_P_IP);
	frame->hdr =
	        (struct virtio_net_hdr_mrg_rxbuf){ .hdr = {
		                                           .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
		                                           .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
		                                           .hdr_len = TCP_LEN,
		                                           .gso_size = SEGMENT,
		                                           .csum_start = ETH_HLEN + 20,
		                                           .csum_offset = 16,
		                                   } };
}

void bench_frame_write(struct bench_frame *frame, uint32_t size, bool to_host)
{
	*frame = (struct bench_frame){ 0 };
	for (uint32_t i = ETH_HLEN; i < size; i++)
		frame->bytes[i] = (uint8_t)(i * 7 + 1);
	memcpy(frame->bytes, to_host ? mac_host : mac_guest, ETH_ALEN);
	memcpy(frame->bytes + ETH_ALEN, to_host ? mac_guest : mac_host, ETH_ALEN);
	put16(frame->bytes + 12, ETHERTYPE);
	if (size > BENCH_FRAME_MAX)
		tcp_write(frame, size);
}

bool bench_frame_is_in(const struct bench_frame *frame)
{
	return !memcmp(frame->bytes, mac_guest, ETH_ALEN);
}

/* For ever; an interface that goes away is the end. */
static void send_all(int fd, uint32_t size)
{
	static struct bench_frame frame;
	/* A packet socket's header has no num_buffers, which is the last of a tap's. */
	const size_t skip = sizeof(frame.hdr) - sizeof(struct virtio_net_hdr);
	struct iovec iov = { (uint8_t *)&frame + skip, sizeof(frame.hdr) - skip + size };
	struct mmsghdr batch[BATCH];

	bench_frame_write(&frame, size, false);
	memmove((uint8_t *)&frame + skip, &frame, sizeof(frame.hdr) - skip);
	memset(batch, 0, sizeof(batch));
	for (unsigned i = 0; i < BATCH; i++)
		batch[i].msg_hdr = (struct msghdr){ .msg_iov = &iov, .msg_iovlen = 1 };
	for (;;) {
		if (sendmmsg(fd, batch, BATCH, 0) >= 0 || errno == EINTR)
			continue;
		if (errno != ENOBUFS && errno != EAGAIN)
			return;
		nap(FULL_NSEC);
	}
}

static void echo_all(int fd)
{
	static uint8_t bytes[BENCH_FRAME_LONG];

	for (;;) {
		ssize_t n = recv(fd, bytes, sizeof(bytes), 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return;
		if (n < ETH_HLEN || memcmp(bytes, mac_host, ETH_ALEN))
			continue;
		memcpy(bytes, mac_guest, ETH_ALEN);
		memcpy(bytes + ETH_ALEN, mac_host, ETH_ALEN);
		if (send(fd, bytes, (size_t)n, 0) < 0 && errno != ENOBUFS)
			return;
	}
}

/* In the child. Without the socket there is nothing to do; the guest will say that nobody came. */
__attribute__((noreturn)) static void peer_run(enum bench_peer peer, int fd, const char *name,
                                               uint32_t size)
{
	struct sockaddr_ll at = { .sll_family = AF_PACKET };
	int on = 1;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	at.sll_protocol = peer == BENCH_PEER_ECHO ? htons(ETHERTYPE) : 0;
	at.sll_ifindex = interface_wait(fd, name);
	if (!at.sll_ifindex) {
		fprintf(stderr, "kring: bench net %s: no such interface, or it is not up\n", name);
		_exit(STATUS_FAILED);
	}
	if (peer == BENCH_PEER_SEND)
		setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on));
	else
		setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof(on));
	if (bind(fd, (struct sockaddr *)&at, sizeof(at))) {
		main_fail(name, -errno);
		_exit(STATUS_FAILED);
	}
	if (peer == BENCH_PEER_SEND)
		send_all(fd, size);
	else
		echo_all(fd);
	_exit(STATUS_OK);
}

pid_t bench_peer_start(enum bench_peer peer, const char *name, uint32_t size)
{
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
	pid_t pid;

	if (fd < 0) {
		int err = -errno;

		fprintf(stderr,
		        "kring: bench net %s: packet socket: %s; frames from this side need "
		        "CAP_NET_RAW (or root)\n",
		        name, strerror(-err));
		return err;
	}
	pid = fork();
	if (!pid)
		peer_run(peer, fd, name, size);
	close(fd);
	return pid < 0 ? main_fail("bench: fork", -errno) : pid;
}

double bench_peer_stop(pid_t pid)
{
	struct rusage usage = { 0 };

	kill(pid, SIGKILL);
	while (wait4(pid, NULL, 0, &usage) < 0 && errno == EINTR)
		;
	return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1e6 +
	       (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}
