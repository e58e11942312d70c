/*
 * job=net: frames out, frames in, or one there and back. See main.c for the parameters.
 *
 * Frames of up to 1514 bytes are of an Ethernet type that no host takes up: what is measured ends
 * where the host's stack begins. Longer ones are TCP segments to be cut by whoever must.
 */
#include "bench/guest/virtio.h"

#define VIRTIO_NET_F_CSUM       0
#define VIRTIO_NET_F_GUEST_CSUM 1
#define VIRTIO_NET_F_MAC        5
#define VIRTIO_NET_F_GUEST_TSO4 7
#define VIRTIO_NET_F_HOST_TSO4  11
#define VIRTIO_NET_F_MRG_RXBUF  15

#define QUEUE_RX 0
#define QUEUE_TX 1

/* §5.1.6 */
struct virtio_net_hdr {
	uint8_t flags, gso_type;
	uint16_t hdr_len, gso_size, csum_start, csum_offset, num_buffers;
};

#define HDR_F_NEEDS_CSUM 1
#define HDR_GSO_TCPV4    1

#define ETHERNET_LEN  14
#define FRAME_MIN     60
#define FRAME_MAX     1514
#define TCP_LEN       (ETHERNET_LEN + 20 + 20)
#define SEGMENT       1448
#define SIZE_MAX_GSO  (ETHERNET_LEN + 65535)
#define RX_BUFFER     2048
#define RX_BUFFER_GSO 4096
#define SLOTS_MAX     1024
#define SEGS_MAX      16
#define LOST_SECONDS  1  /* an answer that has not come by then */
#define QUIET_SECONDS 10 /* without a packet: there is nobody */

/* Locally administered: who is behind the card, and who is behind the tap (bench/bench_net.c). */
static const uint8_t mac_guest[6] = { 0x02, 0x6b, 0x72, 0x62, 0x6e, 0x01 };
static const uint8_t mac_host[6] = { 0x02, 0x6b, 0x72, 0x62, 0x6e, 0x02 };

#define ETHERTYPE_HIGH 0x88 /* 0x88b5: for local experiments (IEEE 802, "Local Experimental") */
#define ETHERTYPE_LOW  0xb5

struct net {
	struct device device;
	struct queue queue[2];
	uint8_t *rx, *tx; /* buffers */
	uint32_t rx_step, tx_step;
	uint32_t size;
	bool interrupts, mergeable, verify;
	struct histogram *latency;
	uint64_t since[SLOTS_MAX]; /* tx, by slot */
	uint64_t packets, bytes, others, lost, verified, mismatches;
	uint64_t tx_served;
	unsigned rest;   /* rx: buffers of the packet at hand that are still to come, */
	bool ours;       /* which is for this job */
	uint32_t number; /* rr: of the request */
};

/* What follows the headers. */
static uint8_t filler(uint32_t at)
{
	return (uint8_t)(at * 7 + 1);
}

static void put16(uint8_t *at, unsigned value) /* big-endian */
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

/* IPv4 and TCP as far as a cut needs them (RFC 791, RFC 9293); checksums are the cutter's. */
static void tcp_write(uint8_t *frame, uint32_t size)
{
	uint8_t *ip = frame + ETHERNET_LEN;
	uint8_t *tcp = ip + 20;
	uint32_t sum = 0;

	memset(ip, 0, 40);
	ip[0] = 0x45;
	put16(ip + 2, size - ETHERNET_LEN);
	ip[8] = 64;
	ip[9] = 6;
	ip[12] = ip[16] = 192; /* 192.0.2.1 to 192.0.2.2 (RFC 5737) */
	ip[14] = ip[18] = 2;
	ip[15] = 1;
	ip[19] = 2;
	for (unsigned i = 0; i < 20; i += 2)
		sum += (uint32_t)(ip[i] << 8 | ip[i + 1]);
	sum = (sum & 0xffff) + (sum >> 16);
	put16(ip + 10, ~(sum + (sum >> 16)) & 0xffff);
	put16(tcp, 9);
	put16(tcp + 2, 9); /* discard */
	tcp[12] = 5 << 4;
	tcp[13] = 0x10; /* ACK */
	put16(frame + 12, 0x0800);
}

static void frame_write(const struct net *net, uint8_t *buffer)
{
	struct virtio_net_hdr *hdr = (struct virtio_net_hdr *)buffer;
	uint8_t *frame = buffer + sizeof(*hdr);

	for (uint32_t i = ETHERNET_LEN; i < net->size; i++)
		frame[i] = filler(i);
	memcpy(frame, mac_host, 6);
	memcpy(frame + 6, mac_guest, 6);
	frame[12] = ETHERTYPE_HIGH;
	frame[13] = ETHERTYPE_LOW;
	if (net->size <= FRAME_MAX)
		return;
	tcp_write(frame, net->size);
	*hdr = (struct virtio_net_hdr){
		.flags = HDR_F_NEEDS_CSUM,
		.gso_type = HDR_GSO_TCPV4,
		.hdr_len = TCP_LEN,
		.gso_size = SEGMENT,
		.csum_start = ETHERNET_LEN + 20,
		.csum_offset = 16,
	};
}

/* The header and the frame, in @segs pieces: the header alone when there are several. */
static void tx_make(struct net *net, unsigned slots, unsigned segs)
{
	struct segment segment[SEGS_MAX];
	uint32_t whole = (uint32_t)sizeof(struct virtio_net_hdr) + net->size;
	uint32_t at = 0;

	net->tx_step = (whole + 63) & ~63u;
	net->tx = memory_take((uint64_t)net->tx_step * slots, 4096);
	for (unsigned i = 0; i < slots; i++)
		frame_write(net, net->tx + (uint64_t)i * net->tx_step);
	for (unsigned i = 0; i < segs; i++) {
		uint32_t len = segs == 1      ? whole
		               : i == 0       ? (uint32_t)sizeof(struct virtio_net_hdr)
		               : i < segs - 1 ? net->size / (segs - 1)
		                              : whole - at;

		segment[i] = (struct segment){ (uintptr_t)net->tx + at, net->tx_step, len, 0 };
		at += len;
	}
	queue_init(&net->queue[QUEUE_TX], &net->device, QUEUE_TX, slots, segment, segs);
}

static void rx_make(struct net *net)
{
	bool gso = net->device.features & FEATURE(VIRTIO_NET_F_GUEST_TSO4);
	unsigned slots = queue_room(&net->device, QUEUE_RX, 1);

	if (slots > SLOTS_MAX)
		slots = SLOTS_MAX;
	net->rx_step = !gso ? RX_BUFFER : net->mergeable ? RX_BUFFER_GSO : SIZE_MAX_GSO + 64;
	net->rx_step = (net->rx_step + 63) & ~63u;
	net->rx = memory_take((uint64_t)net->rx_step * slots, 4096);

	const struct segment segment = { (uintptr_t)net->rx, net->rx_step, net->rx_step,
		                         DESC_F_WRITE };

	queue_init(&net->queue[QUEUE_RX], &net->device, QUEUE_RX, slots, &segment, 1);
	for (unsigned i = 0; i < net->queue[QUEUE_RX].nslots; i++)
		queue_offer(&net->queue[QUEUE_RX], (uint16_t)i);
}

static void net_start(struct net *net)
{
	uint64_t features = FEATURE(VIRTIO_NET_F_MAC);
	unsigned depth = (unsigned)job_number("depth", job_is("op", "rr") ? 1 : 256);
	unsigned segs = (unsigned)job_number("segs", 1);

	net->size = (uint32_t)job_number("size", 64);
	net->interrupts = job_is("wait", "irq");
	net->verify = job_number("verify", 0);
	if (net->size < FRAME_MIN || net->size > SIZE_MAX_GSO)
		guest_fail("size is 60 to 65549 bytes, the Ethernet header among them");
	if (!depth || depth > SLOTS_MAX || !segs || segs > SEGS_MAX)
		guest_fail("depth is 1 to 1024, segs 1 to 16");
	if (net->size > FRAME_MAX)
		features |= FEATURE(VIRTIO_NET_F_CSUM) | FEATURE(VIRTIO_NET_F_HOST_TSO4) |
		            FEATURE(VIRTIO_NET_F_GUEST_CSUM) | FEATURE(VIRTIO_NET_F_GUEST_TSO4);
	if (job_number("mrg", 1))
		features |= FEATURE(VIRTIO_NET_F_MRG_RXBUF);

	device_need(&net->device, VIRTIO_ID_NET, 0);
	device_start(&net->device, features, net->interrupts);
	net->mergeable = net->device.features & FEATURE(VIRTIO_NET_F_MRG_RXBUF);
	if ((net->device.features & features & ~FEATURE(VIRTIO_NET_F_MRG_RXBUF)) !=
	    (features & ~FEATURE(VIRTIO_NET_F_MRG_RXBUF)))
		guest_fail("the device lacks the offloads that frames of that size need");
	rx_make(net);
	tx_make(net, depth, segs);
	device_ready(&net->device);
	queue_publish(&net->queue[QUEUE_RX]);
}

static void net_idle(struct net *net)
{
	bool ready = false;

	if (!net->interrupts) {
		__asm__ volatile("pause");
		return;
	}
	for (unsigned q = 0; q < 2; q++)
		ready |= queue_interrupts_on(&net->queue[q]);
	if (!ready)
		interrupt_wait();
	device_acknowledge(&net->device);
	for (unsigned q = 0; q < 2; q++)
		queue_interrupts_off(&net->queue[q]);
}

static void frame_check(struct net *net, const uint8_t *frame, uint32_t from, uint32_t len)
{
	net->verified++;
	for (uint32_t i = from; i < len; i++)
		if (frame[i] != filler(i)) {
			net->mismatches++;
			return;
		}
}

static bool is_ours(const uint8_t *frame)
{
	return !memcmp(frame, mac_guest, 6) && !memcmp(frame + 6, mac_host, 6);
}

/* One buffer that came in. Returns its frame, if one begins there that is for this job. */
static const uint8_t *buffer_take(struct net *net, unsigned slot, uint32_t written)
{
	const struct virtio_net_hdr *hdr = (const void *)(net->rx + (uint64_t)slot * net->rx_step);
	const uint8_t *frame = (const uint8_t *)(hdr + 1);

	if (net->rest) {
		net->rest--;
		net->bytes += net->ours ? written : 0;
		return NULL;
	}
	if (net->mergeable)
		net->rest = hdr->num_buffers - 1u;
	net->ours = is_ours(frame);
	if (!net->ours) {
		net->others++;
		return NULL;
	}
	net->bytes += written - sizeof(*hdr);
	return frame;
}

/* All that has come in; buffers go back at once. Returns whether something had. */
static bool rx_serve(struct net *net)
{
	struct queue *queue = &net->queue[QUEUE_RX];
	uint32_t written;
	bool any = false;
	int slot;

	while ((slot = queue_take(queue, &written)) >= 0) {
		const uint8_t *frame = buffer_take(net, (unsigned)slot, written);

		any = true;
		if (frame)
			net->packets++;
		if (frame && net->verify && net->size <= FRAME_MAX)
			frame_check(net, frame, ETHERNET_LEN, net->size);
		queue_offer(queue, (uint16_t)slot);
	}
	if (any && !net->interrupts)
		queue_interrupts_off(queue);
	queue_publish(queue);
	return any;
}

static uint64_t job_rx(struct net *net, uint64_t ticks)
{
	uint64_t quiet = rdtsc() + QUIET_SECONDS * clock_hz();
	uint64_t start, now;

	while (!net->packets) {
		if (!rx_serve(net) && !net->packets)
			net_idle(net);
		if (rdtsc() > quiet)
			guest_fail("no packet comes in");
	}
	net->packets = net->bytes = 0;
	start = rdtsc();
	do {
		if (!rx_serve(net))
			net_idle(net);
		now = rdtsc();
	} while (now - start < ticks);
	return now - start;
}

/* Take back what was sent, and send as much again. */
static bool tx_serve(struct net *net, uint64_t now, bool again)
{
	struct queue *queue = &net->queue[QUEUE_TX];
	uint32_t written;
	bool any = false;
	int slot;

	while ((slot = queue_take(queue, &written)) >= 0) {
		any = true;
		net->tx_served++;
		histogram_add(net->latency, now - net->since[slot]);
		if (!again)
			continue;
		net->since[slot] = now;
		queue_offer(queue, (uint16_t)slot);
	}
	if (any && !net->interrupts)
		queue_interrupts_off(queue);
	queue_publish(queue);
	return any;
}

static uint64_t job_tx(struct net *net, uint64_t ticks)
{
	struct queue *queue = &net->queue[QUEUE_TX];
	uint64_t start = rdtsc(), now = start;

	for (unsigned i = 0; i < queue->nslots; i++) {
		net->since[i] = now;
		queue_offer(queue, (uint16_t)i);
	}
	queue_publish(queue);
	do {
		now = rdtsc();
		if (!tx_serve(net, now, true))
			net_idle(net);
	} while (now - start < ticks);

	uint64_t took = rdtsc() - start, deadline = now + QUIET_SECONDS * clock_hz();

	net->packets = net->tx_served;
	net->bytes = net->packets * net->size;
	while (net->tx_served < net->packets + queue->nslots) {
		now = rdtsc();
		if (!tx_serve(net, now, false))
			net_idle(net);
		if (now > deadline)
			guest_fail("frames are not sent");
	}
	return took;
}

/* Whether the answer to request net->number is there. */
static bool answer_come(struct net *net)
{
	struct queue *queue = &net->queue[QUEUE_RX];
	uint32_t written;
	bool come = false;
	int slot;

	while ((slot = queue_take(queue, &written)) >= 0) {
		const uint8_t *frame = buffer_take(net, (unsigned)slot, written);

		if (frame && !memcmp(frame + ETHERNET_LEN, &net->number, 4)) {
			come = true;
			if (net->verify)
				frame_check(net, frame, ETHERNET_LEN + 4, net->size);
		}
		queue_offer(queue, (uint16_t)slot);
	}
	queue_publish(queue);
	return come;
}

static uint64_t request_send(struct net *net)
{
	struct queue *queue = &net->queue[QUEUE_TX];
	uint64_t now = rdtsc();

	net->number++;
	memcpy(net->tx + sizeof(struct virtio_net_hdr) + ETHERNET_LEN, &net->number, 4);
	queue_offer(queue, 0);
	queue_publish(queue);
	return now;
}

static uint64_t job_rr(struct net *net, uint64_t ticks)
{
	struct queue *queue = &net->queue[QUEUE_TX];
	uint64_t start = rdtsc(), last = start, now = start, sent;
	uint32_t written;

	while (now - start < ticks) {
		sent = request_send(net);
		while (!answer_come(net)) {
			net_idle(net);
			if (rdtsc() - sent > LOST_SECONDS * clock_hz())
				break;
		}
		now = rdtsc();
		while (queue_take(queue, &written) < 0) /* it has been sent long ago */
			if (rdtsc() - now > QUIET_SECONDS * clock_hz())
				guest_fail("frames are not sent");
		if (now - sent > LOST_SECONDS * clock_hz()) {
			if (net->packets)
				net->lost++;
			else if (now - last > QUIET_SECONDS * clock_hz())
				guest_fail("no answer comes");
			else
				start = now; /* nobody is there yet */
			continue;
		}
		histogram_add(net->latency, now - sent);
		net->packets++;
	}
	net->bytes = net->packets * net->size;
	return now - start;
}

void net_job(void)
{
	struct net *net = memory_take(sizeof(*net), 64);
	uint64_t ticks = job_number("time_ms", 1000 * job_number("time", 5)) * clock_hz() / 1000;
	uint64_t took;

	net->latency = memory_take(sizeof(*net->latency), 64);
	net_start(net);
	if (job_is("op", "rx"))
		took = job_rx(net, ticks);
	else if (job_is("op", "tx"))
		took = job_tx(net, ticks);
	else if (job_is("op", "rr"))
		took = job_rr(net, ticks);
	else
		guest_fail("op is tx, rx or rr");

	out_text("\n{\"job\": \"net\"");
	member_text("op", job_value("op", 0));
	member_text("wait", net->interrupts ? "irq" : "poll");
	member_number("size", net->size);
	member_number("depth", net->queue[QUEUE_TX].nslots);
	member_flag("mergeable", net->mergeable);
	member_number("ops", net->packets);
	member_number("bytes", net->bytes);
	member_fixed("seconds", clock_ns(took) / 1000000);
	histogram_print(net->latency);
	member_number("errors", net->lost);
	member_number("others", net->others);
	device_print(&net->device, net->queue, 2);
	if (net->verify) {
		member_number("verified", net->verified);
		member_number("mismatches", net->mismatches);
	}
	member_number("served", net->packets);
}
