/*
 * virtio 1.2 as a driver: where devices are and how they start. Sections are the specification's;
 * PCI's are those of the Local Bus Specification 3.0.
 */
#include "bench/guest/virtio.h"

#define VENDOR_ID      0x1af4
#define DEVICE_ID_BASE 0x1040 /* §4.1.2.1 */

/* PCI configuration space (§6.1, §6.7) of bus 0, by the ports. */
#define CONFIG_ADDRESS   0xcf8
#define CONFIG_DATA      0xcfc
#define CONFIG_ENABLE    0x80000000u
#define PCI_COMMAND      0x04
#define COMMAND_ON       0x0407 /* ports, memory, bus master, no INTx */
#define PCI_BAR0         0x10
#define BAR_IO           0x01
#define BAR_64           0x04
#define PCI_CAPABILITIES 0x34
#define PCI_CAP_VENDOR   0x09
#define PCI_CAP_MSIX     0x11
#define MSIX_ENABLE      0x80000000u
#define MSI_ADDRESS      0xfee00000u
#define BAR_WINDOW       0xd0000000u /* for BARs that no firmware has placed */

/* Transitional devices have IDs of their own (§4.1.2.1, Table in §5). */
static const struct {
	uint16_t device;
	uint8_t id;
} transitional[] = { { 0x1000, VIRTIO_ID_NET },
	             { 0x1001, VIRTIO_ID_BLK },
	             { 0x1005, VIRTIO_ID_RNG } };

enum { CAP_COMMON = 1, CAP_NOTIFY, CAP_ISR, CAP_DEVICE };

/* The common configuration (§4.1.4.3). */
enum {
	DEVICE_FEATURE_SELECT = 0x00,
	DEVICE_FEATURE = 0x04,
	DRIVER_FEATURE_SELECT = 0x08,
	DRIVER_FEATURE = 0x0c,
	CONFIG_MSIX_VECTOR = 0x10,
	DEVICE_STATUS = 0x14,
	QUEUE_SELECT = 0x16,
	QUEUE_SIZE = 0x18,
	QUEUE_MSIX_VECTOR = 0x1a,
	QUEUE_ENABLE = 0x1c,
	QUEUE_NOTIFY_OFF = 0x1e,
	QUEUE_DESC = 0x20,
	QUEUE_DRIVER = 0x28,
	QUEUE_DEVICE = 0x30,
};

#define NO_VECTOR 0xffff

/* MMIO registers (§4.2.2). */
enum {
	MMIO_MAGIC = 0x000,
	MMIO_VERSION = 0x004,
	MMIO_DEVICE_ID = 0x008,
	MMIO_DEVICE_FEATURES = 0x010,
	MMIO_DEVICE_FEATURES_SEL = 0x014,
	MMIO_DRIVER_FEATURES = 0x020,
	MMIO_DRIVER_FEATURES_SEL = 0x024,
	MMIO_QUEUE_SEL = 0x030,
	MMIO_QUEUE_NUM_MAX = 0x034,
	MMIO_QUEUE_NUM = 0x038,
	MMIO_QUEUE_READY = 0x044,
	MMIO_QUEUE_NOTIFY = 0x050,
	MMIO_INTERRUPT_STATUS = 0x060,
	MMIO_INTERRUPT_ACK = 0x064,
	MMIO_STATUS = 0x070,
	MMIO_QUEUE_DESC = 0x080,
	MMIO_QUEUE_DRIVER = 0x090,
	MMIO_QUEUE_DEVICE = 0x0a0,
	MMIO_CONFIG = 0x100,
};

#define MMIO_MAGIC_VALUE 0x74726976

/* Device status (§2.1). */
#define ACKNOWLEDGE 1
#define DRIVER      2
#define DRIVER_OK   4
#define FEATURES_OK 8

#define DESC_F_NEXT     1
#define DESC_F_INDIRECT 4

/* Local and I/O APIC (SDM vol. 3 §10.8.5, §10.9; 82093AA §3). */
#define LAPIC_SVR       0xfee000f0
#define LAPIC_EOI       0xfee000b0
#define LAPIC_ICR       0xfee00300
#define LAPIC_LVT_TIMER 0xfee00320
#define LAPIC_COUNT     0xfee00380
#define LAPIC_DIVIDE    0xfee003e0
#define SVR_ON          0x1ff
#define TIMER_PERIODIC  0x20000
#define DIVIDE_BY_16    3
#define ICR_SELF        0x40000
#define PIC_MASTER_MASK 0x21
#define PIC_SLAVE_MASK  0xa1
#define IOAPIC          0xfec00000
#define IOAPIC_SECOND   0xfec10000 /* QEMU microvm: GSIs from 24 on */
#define IOAPIC_PINS     24

static uint32_t config_get(uint32_t address, unsigned reg)
{
	outl(CONFIG_ADDRESS, address | reg);
	return inl(CONFIG_DATA);
}

static void config_set(uint32_t address, unsigned reg, uint32_t value)
{
	outl(CONFIG_ADDRESS, address | reg);
	outl(CONFIG_DATA, value);
}

/* Where a BAR of memory lies; below 4 GiB, for that is what is mapped. */
static uint64_t bar_get(uint32_t address, unsigned bar)
{
	static uint32_t next = BAR_WINDOW;
	unsigned reg = PCI_BAR0 + 4 * bar;
	uint32_t low = config_get(address, reg);
	uint32_t high = low & BAR_64 ? config_get(address, reg + 4) : 0;

	uint32_t at = low & ~0xfu;

	if (at && !high)
		return at;
	config_set(address, reg, ~0u);

	uint32_t size = -(config_get(address, reg) & ~0xfu);

	next = (next + size - 1) & -size;
	config_set(address, reg, next);
	if (low & BAR_64)
		config_set(address, reg + 4, 0);
	next += size;
	return next - size;
}

/* A vendor's capability (§4.1.4): cfg_type, bar, offset. Ports are for kicks alone. */
static void cap_take(struct device *device, unsigned at, uint32_t first)
{
	unsigned type = first >> 24;

	if (type < CAP_COMMON || type > CAP_DEVICE)
		return;

	unsigned bar = config_get(device->address, at + 4) & 0xff;
	uint32_t low = config_get(device->address, PCI_BAR0 + 4 * bar);
	uint64_t where = config_get(device->address, at + 8);

	if (low & BAR_IO && type != CAP_NOTIFY)
		return;

	where += low & BAR_IO ? low & ~3u : bar_get(device->address, bar);
	if (type == CAP_COMMON && !device->common) {
		device->common = where;
	} else if (type == CAP_NOTIFY && !device->notify) {
		device->notify = where;
		device->notify_multiplier = config_get(device->address, at + 16);
		device->notify_by_port = low & BAR_IO;
	} else if (type == CAP_DEVICE && !device->config) {
		device->config = where;
	}
}

/* One vector, for all queues (§6.8.2). */
static void msix_take(struct device *device, unsigned at, uint32_t first)
{
	uint32_t table = config_get(device->address, at + 4);

	device->msix = bar_get(device->address, table & 7) + (table & ~7u);
	config_set(device->address, at, first | MSIX_ENABLE);
}

static void caps_walk(struct device *device, bool with_interrupts)
{
	unsigned at = config_get(device->address, PCI_CAPABILITIES) & 0xfc;

	for (unsigned n = 0; at && n < 48; n++) {
		uint32_t first = config_get(device->address, at);

		if ((first & 0xff) == PCI_CAP_VENDOR)
			cap_take(device, at, first);
		else if ((first & 0xff) == PCI_CAP_MSIX && with_interrupts)
			msix_take(device, at, first);
		at = first >> 8 & 0xfc;
	}
}

static unsigned pci_id(uint32_t ids)
{
	uint16_t id = (uint16_t)(ids >> 16);

	if ((uint16_t)ids != VENDOR_ID)
		return 0;
	for (size_t i = 0; i < sizeof(transitional) / sizeof(transitional[0]); i++)
		if (transitional[i].device == id)
			return transitional[i].id;
	return id > DEVICE_ID_BASE ? id - DEVICE_ID_BASE : 0;
}

static bool pci_find(struct device *device, unsigned id, unsigned nth)
{
	for (uint32_t slot = 0; slot < 32; slot++) {
		uint32_t address = CONFIG_ENABLE | slot << 11;

		if (pci_id(config_get(address, 0)) != id || nth--)
			continue;
		device->address = address;
		return true;
	}
	return false;
}

/* virtio_mmio.device=SIZE@BASE:IRQ (kernel-parameters.txt) */
static bool mmio_find(struct device *device, unsigned id, unsigned nth)
{
	const char *word;

	for (unsigned i = 0; (word = job_value("virtio_mmio.device", i)); i++) {
		number_parse(&word);
		word += *word == '@';

		uint64_t base = number_parse(&word);

		word += *word == ':';
		device->gsi = (unsigned)number_parse(&word);
		if (mmio_get32(base + MMIO_MAGIC) != MMIO_MAGIC_VALUE ||
		    mmio_get32(base + MMIO_DEVICE_ID) != id || nth--)
			continue;
		if (mmio_get32(base + MMIO_VERSION) != 2)
			guest_fail("a legacy virtio-mmio device: QEMU needs -global "
			           "virtio-mmio.force-legacy=false");
		device->mmio = true;
		device->common = base;
		device->config = base + MMIO_CONFIG;
		return true;
	}
	return false;
}

bool device_find(struct device *device, unsigned id, unsigned nth)
{
	*device = (struct device){ .id = id };
	return mmio_find(device, id, nth) || pci_find(device, id, nth);
}

void device_need(struct device *device, unsigned id, unsigned nth)
{
	if (!device_find(device, id, (unsigned)job_number("dev", 0) + nth))
		guest_fail(
		        "the device that the job needs is not there, on PCI bus 0 or virtio_mmio");
}

static void status_set(struct device *device, uint8_t status)
{
	if (device->mmio)
		mmio_set32(device->common + MMIO_STATUS, status);
	else
		mmio_set8(device->common + DEVICE_STATUS, status);
}

static uint8_t status_get(struct device *device)
{
	return device->mmio ? (uint8_t)mmio_get32(device->common + MMIO_STATUS)
	                    : mmio_get8(device->common + DEVICE_STATUS);
}

static uint32_t features_get(struct device *device, uint32_t half)
{
	mmio_set32(device->common +
	                   (device->mmio ? MMIO_DEVICE_FEATURES_SEL : DEVICE_FEATURE_SELECT),
	           half);
	return mmio_get32(device->common + (device->mmio ? MMIO_DEVICE_FEATURES : DEVICE_FEATURE));
}

static void features_set(struct device *device, uint32_t half, uint32_t value)
{
	mmio_set32(device->common +
	                   (device->mmio ? MMIO_DRIVER_FEATURES_SEL : DRIVER_FEATURE_SELECT),
	           half);
	mmio_set32(device->common + (device->mmio ? MMIO_DRIVER_FEATURES : DRIVER_FEATURE), value);
}

static void ioapic_route(unsigned gsi)
{
	uint64_t base = gsi < IOAPIC_PINS ? IOAPIC : IOAPIC_SECOND;
	uint32_t pin = gsi % IOAPIC_PINS;

	mmio_set32(base, 0x11 + 2 * pin);
	mmio_set32(base + 0x10, 0);
	mmio_set32(base, 0x10 + 2 * pin);
	mmio_set32(base + 0x10, VECTOR_DEVICE); /* edge, high, fixed, to APIC 0 */
}

static void interrupts_start(struct device *device)
{
	lapic_start();
	if (device->mmio) {
		ioapic_route(device->gsi);
		return;
	}
	if (!device->msix)
		guest_fail("the device has no MSI-X: say wait=poll");
	mmio_set32(device->msix, MSI_ADDRESS);
	mmio_set32(device->msix + 4, 0);
	mmio_set32(device->msix + 8, VECTOR_DEVICE);
	mmio_set32(device->msix + 12, 0);
}

void device_start(struct device *device, uint64_t wanted, bool with_interrupts)
{
	uint64_t offered;

	if (!device->mmio) {
		caps_walk(device, with_interrupts);
		if (!device->common || !device->notify)
			guest_fail("a legacy virtio-pci device: QEMU needs disable-legacy=on");
		config_set(device->address, PCI_COMMAND, COMMAND_ON);
	}
	status_set(device, 0);
	while (status_get(device))
		;
	status_set(device, ACKNOWLEDGE | DRIVER);

	wanted |= FEATURE(VIRTIO_F_VERSION_1);
	if (job_number("indirect", 1))
		wanted |= FEATURE(VIRTIO_F_INDIRECT_DESC);
	if (job_number("event_idx", 1))
		wanted |= FEATURE(VIRTIO_F_EVENT_IDX);
	offered = features_get(device, 0) | (uint64_t)features_get(device, 1) << 32;
	device->features = offered & wanted;
	features_set(device, 0, (uint32_t)device->features);
	features_set(device, 1, (uint32_t)(device->features >> 32));
	status_set(device, ACKNOWLEDGE | DRIVER | FEATURES_OK);
	if (!(device->features & FEATURE(VIRTIO_F_VERSION_1)) ||
	    !(status_get(device) & FEATURES_OK))
		guest_fail("the device does not take the features that it has offered");

	if (with_interrupts)
		interrupts_start(device);
	if (!device->mmio)
		mmio_set16(device->common + CONFIG_MSIX_VECTOR, NO_VECTOR);
}

void device_ready(struct device *device)
{
	status_set(device, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
}

uint16_t device_config16(const struct device *device, unsigned at)
{
	return mmio_get16(device->config + at);
}

uint32_t device_config32(const struct device *device, unsigned at)
{
	return mmio_get32(device->config + at);
}

uint64_t device_config64(const struct device *device, unsigned at)
{
	return device_config32(device, at) | (uint64_t)device_config32(device, at + 4) << 32;
}

static unsigned queue_select(struct device *device, uint16_t index)
{
	if (device->mmio) {
		mmio_set32(device->common + MMIO_QUEUE_SEL, index);
		return mmio_get32(device->common + MMIO_QUEUE_NUM_MAX);
	}
	mmio_set16(device->common + QUEUE_SELECT, index);
	return mmio_get16(device->common + QUEUE_SIZE);
}

static bool is_indirect(const struct device *device, unsigned segments)
{
	return device->features & FEATURE(VIRTIO_F_INDIRECT_DESC) && segments > 1;
}

unsigned queue_room(struct device *device, uint16_t index, unsigned segments)
{
	unsigned size = queue_select(device, index);

	return is_indirect(device, segments) ? size : size / segments;
}

static void areas_set(struct device *device, unsigned reg, const volatile void *area)
{
	uint64_t at = (uintptr_t)area;

	mmio_set32(device->common + reg, (uint32_t)at);
	mmio_set32(device->common + reg + 4, (uint32_t)(at >> 32));
}

static void queue_enable(struct queue *queue)
{
	struct device *device = queue->device;
	uint64_t at = device->common;

	areas_set(device, device->mmio ? MMIO_QUEUE_DESC : QUEUE_DESC, queue->desc);
	areas_set(device, device->mmio ? MMIO_QUEUE_DRIVER : QUEUE_DRIVER, queue->avail);
	areas_set(device, device->mmio ? MMIO_QUEUE_DEVICE : QUEUE_DEVICE, queue->used);
	if (device->mmio) {
		queue->doorbell = at + MMIO_QUEUE_NOTIFY;
		mmio_set32(at + MMIO_QUEUE_NUM, queue->size);
		mmio_set32(at + MMIO_QUEUE_READY, 1);
		return;
	}
	queue->doorbell = device->notify +
	                  (uint64_t)mmio_get16(at + QUEUE_NOTIFY_OFF) * device->notify_multiplier;
	mmio_set16(at + QUEUE_SIZE, queue->size);
	mmio_set16(at + QUEUE_MSIX_VECTOR, device->msix ? 0 : NO_VECTOR);
	mmio_set16(at + QUEUE_ENABLE, 1);
}

/* The chain of @slot in @desc, whose entries are numbered from @first on. */
static void chain_write(struct desc *desc, unsigned first, unsigned slot,
                        const struct segment *segment, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		desc[i] = (struct desc){
			.addr = segment[i].base + slot * segment[i].step,
			.len = segment[i].len,
			.flags = (uint16_t)(segment[i].flags | (i + 1 < n ? DESC_F_NEXT : 0)),
			.next = (uint16_t)(i + 1 < n ? first + i + 1 : 0),
		};
}

void queue_init(struct queue *queue, struct device *device, uint16_t index, unsigned nslots,
                const struct segment *segment, unsigned n)
{
	unsigned room = queue_room(device, index, n);
	bool indirect = is_indirect(device, n);

	if (!room)
		guest_fail("the device does not have as many queues, or its queue is too short");
	if (!nslots || nslots > room)
		nslots = room;
	*queue = (struct queue){
		.device = device,
		.index = index,
		.nslots = (uint16_t)nslots,
		.size = (uint16_t)queue_select(device, index),
		.event_idx = device->features & FEATURE(VIRTIO_F_EVENT_IDX),
	};
	queue->desc = memory_take(16ull * queue->size, 4096);
	queue->avail = memory_take(6 + 2ull * queue->size, 4096);
	queue->used = memory_take(6 + 8ull * queue->size, 4096);
	queue->head = memory_take(2ull * nslots, 64);
	queue->slot = memory_take(2ull * queue->size, 64);
	for (unsigned slot = 0; slot < nslots; slot++) {
		unsigned head = indirect ? slot : slot * n;
		struct desc *desc = queue->desc + head;

		queue->head[slot] = (uint16_t)head;
		queue->slot[head] = (uint16_t)slot;
		if (indirect) {
			uint32_t len = n * (uint32_t)sizeof(*desc);
			struct desc *chain = memory_take(len, 16);

			*desc = (struct desc){ (uintptr_t)chain, len, DESC_F_INDIRECT, 0 };
			chain_write(chain, 0, slot, segment, n);
		} else {
			chain_write(desc, head, slot, segment, n);
		}
	}
	queue_interrupts_off(queue);
	queue_enable(queue);
}

void interrupt_wait(void)
{
	uint64_t before = interrupts;

	ring0(ring0_halt, 0, 0, 0);
	if (interrupts != before)
		lapic_end();
}

/* A line that stays up makes no further edge. */
void device_acknowledge(struct device *device)
{
	if (device->mmio)
		mmio_set32(device->common + MMIO_INTERRUPT_ACK,
		           mmio_get32(device->common + MMIO_INTERRUPT_STATUS));
}

void lapic_start(void)
{
	outb(PIC_MASTER_MASK, 0xff); /* firmware has left the timer running */
	outb(PIC_SLAVE_MASK, 0xff);
	mmio_set32(LAPIC_SVR, SVR_ON);
}

void lapic_end(void)
{
	mmio_set32(LAPIC_EOI, 0);
}

void lapic_interrupt_self(void)
{
	lapic_command(ICR_SELF | VECTOR_DEVICE);
}

void lapic_command(uint32_t icr)
{
	mmio_set32(LAPIC_ICR, icr);
}

/* SDM vol. 3 §11.5.4 */
void lapic_timer(uint32_t count)
{
	mmio_set32(LAPIC_DIVIDE, DIVIDE_BY_16);
	mmio_set32(LAPIC_LVT_TIMER, TIMER_PERIODIC | VECTOR_DEVICE);
	mmio_set32(LAPIC_COUNT, count);
}

void device_print(const struct device *device, const struct queue *queue, unsigned n)
{
	uint64_t kicks = 0;

	for (unsigned i = 0; i < n; i++)
		kicks += queue[i].kicks;
	member_text("transport", device->mmio ? "mmio" : "pci");
	member_flag("indirect", device->features & FEATURE(VIRTIO_F_INDIRECT_DESC));
	member_flag("event_idx", device->features & FEATURE(VIRTIO_F_EVENT_IDX));
	member_number("queue_size", queue->size);
	member_number("kicks", kicks);
	member_number("interrupts", interrupts);
}
