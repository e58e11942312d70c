/*
 * The PCI transport: where registers lie, and how interrupts leave. Knows no virtqueue, and of
 * registers only those that PCI adds.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "virtio/vdev.h"
#include "virtio/vpci.h"
#include "virtio/vregs.h"

#define VENDOR_ID      0x1af4
#define DEVICE_ID_BASE 0x1040 /* a modern device's (§4.1.2.1) */

/* BARs: registers, and ports to kick. */
enum { REGISTERS, PORTS };

/* Where things are among the registers. MSI-X has a page of its own (PCI 3.0 §6.8.2). */
#define BAR_COMMON 0x0000
#define BAR_ISR    0x0100
#define BAR_CONFIG 0x0200
#define BAR_NOTIFY 0x0400
#define BAR_TABLE  0x1000
#define BAR_PBA    0x1800
#define BAR_SIZE   0x2000

#define PORTS_SIZE 0x100

#define NOTIFY_STEP 4 /* queue_notify_off is the queue's number */

#define VECTORS_MAX (VDEV_QUEUES_MAX + 1)

_Static_assert(BAR_CONFIG + VDEV_CONFIG_MAX <= BAR_NOTIFY &&
                       BAR_NOTIFY + NOTIFY_STEP * VDEV_QUEUES_MAX <= BAR_TABLE &&
                       NOTIFY_STEP * VDEV_QUEUES_MAX <= PORTS_SIZE &&
                       BAR_TABLE + MSIX_TABLE_LEN(VECTORS_MAX) <= BAR_PBA && VECTORS_MAX <= 64,
               "BARs have room, and sets of vectors have");
_Static_assert(BAR_COMMON + VREGS_COMMON_LEN <= BAR_ISR, "likewise");

/* Capabilities (§4.1.4). */
#define PCI_CAP_ID_VNDR 0x09

enum cfg_type {
	VIRTIO_PCI_CAP_COMMON_CFG = 1,
	VIRTIO_PCI_CAP_NOTIFY_CFG,
	VIRTIO_PCI_CAP_ISR_CFG,
	VIRTIO_PCI_CAP_DEVICE_CFG,
	VIRTIO_PCI_CAP_PCI_CFG,
};

struct virtio_pci_cap {
	uint8_t cap_vndr;
	uint8_t cap_next;
	uint8_t cap_len;
	uint8_t cfg_type;
	uint8_t bar;
	uint8_t id;
	uint8_t padding[2];
	uint32_t offset;
	uint32_t length;
	uint32_t more; /* notify_off_multiplier or pci_cfg_data, where the type has one */
};

#define CAP_DATA offsetof(struct virtio_pci_cap, more)

/* Kicks. */

/*
 * A kick made an exit, @off bytes into the BAR of @space. Drivers take ports or memory, and not all
 * queues: so the doorbell is hung where it is rung first, and the next kicks there make none. Where
 * KVM has no room for it they go on to.
 */
static void kick_take(struct vdev *vdev, enum bus_space space, uint64_t off)
{
	uint64_t begin = space == BUS_PORT ? 0 : BAR_NOTIFY;
	uint64_t i = (off - begin) / NOTIFY_STEP;
	struct doorbell *bell;

	if (i >= vdev->kind->nqueues)
		return;
	bell = &vdev->queue[i].doorbell;
	if (vdev->base[space] && vdev->queue[i].queue_enable && !bell->address)
		doorbell_move(bell, space, vdev->base[space] + begin + NOTIFY_STEP * i);
	eventfd_write(bell->fd, 1);
}

/* The BAR of @space is at @base now, and no doorbell there any more. */
static void base_moved(struct vdev *vdev, enum bus_space space, uint64_t base)
{
	pthread_mutex_lock(&vdev->lock);
	vdev->base[space] = base;
	for (unsigned i = 0; i < vdev->kind->nqueues; i++)
		if (vdev->queue[i].doorbell.space == space)
			doorbell_move(&vdev->queue[i].doorbell, space, 0);
	pthread_mutex_unlock(&vdev->lock);
}

/* The processor tells KVM the port; an address in memory takes decoding an instruction on AMD. */
static void ports_write(void *dev, uint64_t off, unsigned len, uint64_t value)
{
	struct vdev *vdev = dev;

	(void)len;
	(void)value;
	pthread_mutex_lock(&vdev->lock);
	kick_take(vdev, BUS_PORT, off);
	pthread_mutex_unlock(&vdev->lock);
}

static uint64_t ports_read(void *dev, uint64_t off, unsigned len)
{
	(void)dev;
	(void)off;
	(void)len;
	return 0;
}

static void ports_moved(void *dev, uint64_t base)
{
	base_moved(dev, BUS_PORT, base);
}

/* Registers. */

static uint64_t registers_read(struct vdev *vdev, uint64_t off, unsigned len)
{
	if (off >= BAR_PBA)
		return msix_pba_read(&vdev->msix, off - BAR_PBA, len);
	if (off >= BAR_TABLE)
		return msix_table_read(&vdev->msix, off - BAR_TABLE, len);
	if (off >= BAR_NOTIFY)
		return 0;
	if (off >= BAR_CONFIG)
		return vregs_config_read(vdev, off - BAR_CONFIG, len);
	if (off >= BAR_ISR)
		return off == BAR_ISR ? atomic_exchange(&vdev->isr, 0) : 0;
	return vregs_common_read(vdev, off - BAR_COMMON, len);
}

static uint64_t bar_read(void *dev, uint64_t off, unsigned len)
{
	struct vdev *vdev = dev;

	pthread_mutex_lock(&vdev->lock);
	uint64_t value = registers_read(vdev, off, len);
	pthread_mutex_unlock(&vdev->lock);
	return value;
}

static void registers_write(struct vdev *vdev, uint64_t off, unsigned len, uint64_t value)
{
	if (off >= BAR_PBA)
		return;
	if (off >= BAR_TABLE)
		msix_table_write(&vdev->msix, off - BAR_TABLE, len, value);
	else if (off >= BAR_NOTIFY)
		kick_take(vdev, BUS_MMIO, off);
	else if (off >= BAR_CONFIG)
		vregs_config_write(vdev, off - BAR_CONFIG, len, value);
	else
		vregs_common_write(vdev, off - BAR_COMMON, len, value);
}

static void bar_write(void *dev, uint64_t off, unsigned len, uint64_t value)
{
	struct vdev *vdev = dev;

	pthread_mutex_lock(&vdev->lock);
	registers_write(vdev, off, len, value);
	pthread_mutex_unlock(&vdev->lock);
}

static void bar_moved(void *dev, uint64_t base)
{
	base_moved(dev, BUS_MMIO, base);
}

/* Configuration space. */

/*
 * The access window (§4.1.4.9): an access to its pci_cfg_data is one to a BAR. Returns which, or
 * NULL: it has no offset and length that a BAR can be accessed with.
 */
static const struct pci_bar *window_get(const struct vdev *vdev, uint32_t *off, uint32_t *len)
{
	struct virtio_pci_cap cap;

	memcpy(&cap, vdev->pci.config + vdev->window, sizeof(cap));
	*off = cap.offset;
	*len = cap.length;
	return cap.bar < PCI_BARS && (*len == 1 || *len == 2 || *len == 4) && *off % *len == 0 &&
	                       *off < vdev->pci.bar[cap.bar].size
	               ? &vdev->pci.bar[cap.bar]
	               : NULL;
}

static void pci_reading(struct pci_device *device, unsigned reg, unsigned len)
{
	struct vdev *vdev = container_of(device, struct vdev, pci);
	const struct pci_bar *bar;
	uint32_t bar_off, bar_len;

	(void)len;
	if (reg == vdev->window + CAP_DATA && (bar = window_get(vdev, &bar_off, &bar_len)))
		pci_set32(device, reg, (uint32_t)bar->ops->read(bar->dev, bar_off, bar_len));

	uint16_t status = pci_get16(device, PCI_STATUS) & (uint16_t)~PCI_STATUS_INTERRUPT;

	if (vdev->isr && !msix_enabled(&vdev->msix))
		status |= PCI_STATUS_INTERRUPT;
	pci_set16(device, PCI_STATUS, status);
}

static void command_follow(struct vdev *vdev)
{
	uint16_t command = pci_get16(&vdev->pci, PCI_COMMAND);
	bool mastering = command & PCI_COMMAND_MASTER;
	bool intx_off = command & PCI_COMMAND_INTX_OFF;

	pthread_mutex_lock(&vdev->lock);
	msix_config_written(&vdev->msix);
	/* Linux stops a device thus before kexec: whoever comes next must reset it. */
	if (vdev->mastering && !mastering && vdev->state == VDEV_LIVE) {
		vdev->state = VDEV_BROKEN;
		vdev_wake(vdev);
	}
	vdev->mastering = mastering;
	if (vdev->isr && !msix_enabled(&vdev->msix)) /* the status register shows it from now on */
		pci_unmap(vdev->world->pci);
	if (vdev->intx_off && !intx_off)
		vdev_wake(vdev);
	vdev->intx_off = intx_off;
	pthread_mutex_unlock(&vdev->lock);
}

static void pci_written(struct pci_device *device, unsigned reg, unsigned len)
{
	struct vdev *vdev = container_of(device, struct vdev, pci);
	const struct pci_bar *bar;
	uint32_t bar_off, bar_len;

	if (reg + len > vdev->window && reg < vdev->window + sizeof(struct virtio_pci_cap))
		pci_unmap(vdev->world->pci);
	if (reg == vdev->window + CAP_DATA && (bar = window_get(vdev, &bar_off, &bar_len)))
		bar->ops->write(bar->dev, bar_off, bar_len, pci_get32(device, reg));
	command_follow(vdev);
}

/* Interrupts. */

uint64_t vpci_vector_bit(const struct vdev *vdev, uint16_t vector)
{
	return vector < vdev->msix.n ? 1ull << vector : 0;
}

static void deliver(struct vdev *vdev, int fd)
{
	vdev->interrupts++;
	ring_signal(vdev->world->ring, fd);
}

static void intx_raise(struct vdev *vdev);

/* The guest says that it has served the line: it stays up while there is a reason. */
static void intx_ended(struct io_watch *watch)
{
	intx_raise(container_of(watch, struct vdev, eoi));
}

static int intx_open(struct vdev *vdev)
{
	int fd = eventfd(0, EFD_CLOEXEC);
	int err = fd < 0 ? -errno : 0;

	err = err ? err : irq_init_level(&vdev->intx, vdev->world->vm_fd, vdev->intx.gsi, fd);
	if (!err)
		ring_watch(vdev->world->ring, &vdev->eoi, fd, intx_ended);
	else if (fd >= 0)
		close(fd);
	return err;
}

static void intx_raise(struct vdev *vdev)
{
	int err = 0;

	if (!vdev->isr || vdev->intx_off || msix_enabled(&vdev->msix))
		return;
	if (vdev->intx.fd < 0)
		err = intx_open(vdev);
	if (err)
		vdev_broken(vdev, "interrupt line", err);
	else
		deliver(vdev, vdev->intx.fd);
}

void vpci_interrupt(struct vdev *vdev, uint8_t isr, uint64_t vectors)
{
	vdev->isr |= isr;
	if (!msix_enabled(&vdev->msix)) {
		if (vdev->isr) /* as its status register then shows */
			pci_unmap(vdev->world->pci);
		intx_raise(vdev);
		return;
	}
	for (; vectors; vectors &= vectors - 1)
		deliver(vdev, msix_eventfd(&vdev->msix, (unsigned)__builtin_ctzll(vectors)));
}

/* The function. */

static int cap_add(struct vdev *vdev, enum cfg_type type, uint8_t bar, uint32_t offset,
                   uint32_t length, uint32_t more)
{
	bool has_more = type == VIRTIO_PCI_CAP_NOTIFY_CFG || type == VIRTIO_PCI_CAP_PCI_CFG;
	const struct virtio_pci_cap cap = {
		.cap_vndr = PCI_CAP_ID_VNDR,
		.cap_len = has_more ? sizeof(cap) : CAP_DATA,
		.cfg_type = type,
		.bar = bar,
		.offset = offset,
		.length = length,
		.more = more,
	};

	return pci_add_capability(&vdev->pci, &cap, cap.cap_len);
}

static int caps_add(struct vdev *vdev)
{
	unsigned nqueues = vdev->kind->nqueues;
	uint32_t kicks = NOTIFY_STEP * nqueues;
	int at = cap_add(vdev, VIRTIO_PCI_CAP_COMMON_CFG, REGISTERS, BAR_COMMON, VREGS_COMMON_LEN,
	                 0);

	/* The better way first (§4.1.4.1). */
	if (at >= 0)
		at = cap_add(vdev, VIRTIO_PCI_CAP_NOTIFY_CFG, PORTS, 0, kicks, NOTIFY_STEP);
	if (at >= 0)
		at = cap_add(vdev, VIRTIO_PCI_CAP_NOTIFY_CFG, REGISTERS, BAR_NOTIFY, kicks,
		             NOTIFY_STEP);
	if (at >= 0)
		at = cap_add(vdev, VIRTIO_PCI_CAP_ISR_CFG, REGISTERS, BAR_ISR, 1, 0);
	if (at >= 0 && vdev->kind->config_len)
		at = cap_add(vdev, VIRTIO_PCI_CAP_DEVICE_CFG, REGISTERS, BAR_CONFIG,
		             vdev->kind->config_len, 0);
	if (at >= 0)
		at = cap_add(vdev, VIRTIO_PCI_CAP_PCI_CFG, REGISTERS, 0, 0, 0);
	if (at < 0)
		return at;

	uint8_t *window = vdev->pci.writable + at;

	vdev->window = (unsigned)at;
	window[offsetof(struct virtio_pci_cap, bar)] = 0xff;
	memset(window + offsetof(struct virtio_pci_cap, offset), 0xff,
	       sizeof(struct virtio_pci_cap) - offsetof(struct virtio_pci_cap, offset));
	return msix_init(&vdev->msix, vdev->world->router, &vdev->pci, nqueues + 1, BAR_TABLE,
	                 BAR_PBA);
}

static void header_fill(struct vdev *vdev)
{
	struct pci_device *pci = &vdev->pci;
	uint16_t id = DEVICE_ID_BASE + vdev->kind->device_id;

	pci_set16(pci, PCI_VENDOR_ID, VENDOR_ID);
	pci_set16(pci, PCI_DEVICE_ID, id);
	pci_set32(pci, PCI_REVISION_ID, vdev->kind->class_code << 8 | 1);
	pci_set16(pci, PCI_SUBSYSTEM_VENDOR_ID, VENDOR_ID);
	pci_set16(pci, PCI_SUBSYSTEM_ID, id);
	pci->config[PCI_INTERRUPT_PIN] = 1;
	pci->writable[PCI_INTERRUPT_LINE] = 0xff;
	pci->writable[PCI_COMMAND] = PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
	pci->writable[PCI_COMMAND + 1] = PCI_COMMAND_INTX_OFF >> 8;
}

int vpci_init(struct vdev *vdev)
{
	static const struct bus_ops bar_ops = { .read = bar_read, .write = bar_write };
	static const struct bus_ops ports_ops = { .read = ports_read, .write = ports_write };
	const struct vdev_world *world = vdev->world;
	int err = 0;

	vdev->intx.fd = -1;
	for (unsigned i = 0; i < vdev->kind->nqueues; i++)
		vdev->queue[i].doorbell.fd = -1;

	header_fill(vdev);
	vdev->pci.bar[REGISTERS] = (struct pci_bar){
		.space = BUS_MMIO,
		.size = BAR_SIZE,
		.ops = &bar_ops,
		.dev = vdev,
		.moved = bar_moved,
	};
	vdev->pci.bar[PORTS] = (struct pci_bar){
		.space = BUS_PORT,
		.size = PORTS_SIZE,
		.ops = &ports_ops,
		.dev = vdev,
		.moved = ports_moved,
	};
	vdev->pci.reading = pci_reading;
	vdev->pci.written = pci_written;
	err = caps_add(vdev);
	for (unsigned i = 0; !err && i < vdev->kind->nqueues; i++)
		err = doorbell_init(&vdev->queue[i].doorbell, world->vm_fd);
	if (err)
		goto fail;
	vregs_reset(vdev);

	int slot = pci_add(world->pci, &vdev->pci);

	if (slot >= 0) {
		vdev->intx.gsi = world->intx_gsi + (unsigned)slot % world->intx_n;
		return 0;
	}
	err = slot;
fail:
	vpci_fini(vdev);
	return err;
}

void vpci_fini(struct vdev *vdev)
{
	for (unsigned i = 0; i < vdev->kind->nqueues; i++)
		doorbell_fini(&vdev->queue[i].doorbell);
	if (vdev->intx.fd >= 0) {
		ring_unwatch(&vdev->eoi);
		close(vdev->eoi.fd);
		irq_fini(&vdev->intx);
	}
	msix_fini(&vdev->msix);
}
