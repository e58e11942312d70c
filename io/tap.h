/*
 * A tap: a network interface of the host, the other end of which is kring's. What the host sends
 * through the interface is read from the tap, one packet a read; a packet that is written to it the
 * host receives. Before each packet lies a header of TAP_HDR_LEN bytes, as virtio 1.2 §5.1.6 has
 * it, with which packets of up to 64 KiB go through whole and without checksums.
 *
 * tap_parse: any thread. The rest: main thread. Packets are moved by whom the tap is for, with
 * O_NONBLOCK file descriptors, one a queue.
 */
#ifndef IO_TAP_H
#define IO_TAP_H

#include <linux/if.h>
#include <linux/if_ether.h>
#include <linux/if_tun.h>
#include <stdbool.h>
#include <stdint.h>

#define TAP_HDR_LEN    12
#define TAP_QUEUES_MAX 16
#define TAP_MTU_MIN    68    /* what IPv4 needs, */
#define TAP_MTU_MAX    65521 /* and what a tap can have */
#define TAP_FILTER_MAX 64
#define TAP_WHY_MAX    256 /* room for one line of error */

/* Since Linux 6.2; there are both or none. */
#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

struct tap_config {
	char name[IFNAMSIZ];
	uint8_t mac[ETH_ALEN]; /* of the one behind the tap; zeroes: not given */
	unsigned queues;
	unsigned mtu; /* 0: not given */
};

struct tap {
	char name[IFNAMSIZ];
	unsigned queues;
	unsigned attached;     /* the first so many queues get packets */
	unsigned offloads;     /* TUN_F_*: what the host can do */
	uint8_t mac[ETH_ALEN]; /* of the one behind the tap: as configured, or made up */
	bool mtu_given;        /* by the configuration */
	int fd[TAP_QUEUES_MAX];
};

/*
 * Parse [tap=]NAME[,mac=M][,queues=N][,mtu=N].
 * Returns 0, or -EINVAL and @why (TAP_WHY_MAX bytes) holds one line.
 */
int tap_parse(struct tap_config *config, const char *text, char *why);

/*
 * Open the tap that @config says, or make it: then it goes when it is closed. It is brought up, if
 * kring may. Only its first queue is attached, and nothing is offloaded or filtered.
 * Returns 0, or -errno, nothing is held and @why (TAP_WHY_MAX bytes) holds one line.
 */
int tap_open(struct tap *tap, const struct tap_config *config, char *why);
void tap_close(struct tap *tap);

/* The interface's MTU, now; where there is no interface any more, the largest. */
unsigned tap_mtu(const struct tap *tap);

/*
 * Which packets may be read that only look like one: without checksum, longer than the MTU. @flags
 * are TUN_F_*. Returns 0 or -errno.
 */
int tap_set_offloads(const struct tap *tap, unsigned flags);

/* Spread the host's packets over the first @n queues, 1 or more. Returns 0 or -errno. */
int tap_set_queues(struct tap *tap, unsigned n);

/*
 * Let only packets to these @n (at most TAP_FILTER_MAX) addresses be read and, if @allmulti, those
 * to groups; 0: all packets. It may let others pass. Returns 0 or -errno.
 */
int tap_set_filter(const struct tap *tap, const uint8_t (*addr)[ETH_ALEN], unsigned n,
                   bool allmulti);

#endif
