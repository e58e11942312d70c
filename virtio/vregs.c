/*
 * The registers of a device. Knows what a driver may write and when; not where the registers lie.
 */
#include <stddef.h>
#include <string.h>

#include "virtio/vdev.h"
#include "virtio/vpci.h"
#include "virtio/vregs.h"

/* §4.1.4.3; little-endian, as this machine is. */
struct virtio_pci_common_cfg {
	uint32_t device_feature_select;
	uint32_t device_feature;
	uint32_t driver_feature_select;
	uint32_t driver_feature;
	uint16_t config_msix_vector;
	uint16_t num_queues;
	uint8_t device_status;
	uint8_t config_generation;
	uint16_t queue_select;
	uint16_t queue_size;
	uint16_t queue_msix_vector;
	uint16_t queue_enable;
	uint16_t queue_notify_off;
	uint64_t queue_desc;
	uint64_t queue_driver;
	uint64_t queue_device;
	uint16_t queue_notif_config_data;
	uint16_t queue_reset;
};

_Static_assert(sizeof(struct virtio_pci_common_cfg) == VREGS_COMMON_LEN, "§4.1.4.3");

#define REG(name) offsetof(struct virtio_pci_common_cfg, name)

#define VIRTIO_MSI_NO_VECTOR 0xffff

/* §2.1 */
#define STATUS_ACKNOWLEDGE 0x01
#define STATUS_DRIVER      0x02
#define STATUS_DRIVER_OK   0x04
#define STATUS_FEATURES_OK 0x08
#define STATUS_NEEDS_RESET 0x40
#define STATUS_FAILED      0x80

static uint64_t offered(const struct vdev *vdev)
{
	return vdev->kind->features | 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_F_RING_RESET |
	       1ull << VIRTIO_F_INDIRECT_DESC | 1ull << VIRTIO_F_EVENT_IDX;
}

static struct vdev_queue *selected(const struct vdev *vdev)
{
	return vdev->queue_select < vdev->kind->nqueues ? &vdev->queue[vdev->queue_select] : NULL;
}

/* Its doorbell stays until its BAR moves, as nobody listens: to take it down takes KVM long. */
void vregs_reset_queue(struct vdev *vdev, unsigned i)
{
	struct vdev_queue *queue = &vdev->queue[i];

	queue->queue_size = vdev->kind->queue_size;
	queue->queue_desc = queue->queue_driver = queue->queue_device = 0;
	queue->queue_enable = queue->queue_reset = false;
	queue->queue_msix_vector = VIRTIO_MSI_NO_VECTOR;
}

void vregs_reset(struct vdev *vdev)
{
	vdev->state = VDEV_IDLE;
	vdev->features = 0;
	vdev->device_feature_select = vdev->driver_feature_select = 0;
	vdev->device_status = 0;
	vdev->queue_select = 0;
	vdev->config_msix_vector = VIRTIO_MSI_NO_VECTOR;
	vdev->isr = 0;
	msix_clear(&vdev->msix);
	for (unsigned i = 0; i < vdev->kind->nqueues; i++)
		vregs_reset_queue(vdev, i);
}

/* Half of a feature set, or of an address, by its number: 0 or 1; there is nothing behind. */
static uint32_t half(uint64_t value, uint32_t which)
{
	return which < 2 ? (uint32_t)(value >> 32 * which) : 0;
}

static void set_half(uint64_t *value, uint32_t which, uint32_t to)
{
	if (which < 2)
		*value = (*value & ~(0xffffffffull << 32 * which)) | (uint64_t)to << 32 * which;
}

static struct virtio_pci_common_cfg common(const struct vdev *vdev)
{
	const struct vdev_queue *queue = selected(vdev);
	struct virtio_pci_common_cfg cfg = {
		.device_feature_select = vdev->device_feature_select,
		.device_feature = half(offered(vdev), vdev->device_feature_select),
		.driver_feature_select = vdev->driver_feature_select,
		.driver_feature = half(vdev->features, vdev->driver_feature_select),
		.config_msix_vector = vdev->config_msix_vector,
		.num_queues = (uint16_t)vdev->kind->nqueues,
		.device_status = vdev->device_status,
		.config_generation = vdev->config_generation,
		.queue_select = vdev->queue_select,
		.queue_msix_vector = VIRTIO_MSI_NO_VECTOR,
	};

	if (vdev->state == VDEV_BROKEN)
		cfg.device_status |= STATUS_NEEDS_RESET;
	if (queue) {
		cfg.queue_size = queue->queue_size;
		cfg.queue_msix_vector = queue->queue_msix_vector;
		cfg.queue_enable = queue->queue_enable;
		cfg.queue_notify_off = (uint16_t)queue->index;
		cfg.queue_desc = queue->queue_desc;
		cfg.queue_driver = queue->queue_driver;
		cfg.queue_device = queue->queue_device;
		cfg.queue_reset = queue->queue_reset;
	}
	return cfg;
}

/* What an access of @len bytes at @off finds in @size bytes at @from. */
static uint64_t bytes_read(const void *from, size_t size, uint64_t off, unsigned len)
{
	uint64_t value = 0;

	if (off < size)
		memcpy(&value, (const uint8_t *)from + off, len < size - off ? len : size - off);
	return value;
}

uint64_t vregs_common_read(const struct vdev *vdev, uint64_t off, unsigned len)
{
	struct virtio_pci_common_cfg cfg = common(vdev);

	return bytes_read(&cfg, sizeof(cfg), off, len);
}

/* §3.1.1, §2.1: bits are only ever added; 0 resets. */
static void status_write(struct vdev *vdev, uint8_t value)
{
	if (!value && vdev->state == VDEV_IDLE) {
		vregs_reset(vdev);
		return;
	}
	if (!value) {
		vdev->state = VDEV_RESETTING;
		vdev_wake(vdev);
		return;
	}

	vdev->device_status |= value & (STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FAILED);
	if (value & STATUS_FEATURES_OK && !(vdev->features & ~offered(vdev)) &&
	    vdev->features >> VIRTIO_F_VERSION_1 & 1)
		vdev->device_status |= STATUS_FEATURES_OK;
	if (value & STATUS_DRIVER_OK && vdev->device_status & STATUS_FEATURES_OK &&
	    vdev->state == VDEV_IDLE) {
		vdev->device_status |= STATUS_DRIVER_OK;
		vdev->state = VDEV_LIVE;
		vdev_wake(vdev);
	}
}

static uint16_t vector_valid(const struct vdev *vdev, uint16_t vector)
{
	return vector < vdev->msix.n ? vector : VIRTIO_MSI_NO_VECTOR;
}

static void queue_write(struct vdev *vdev, struct vdev_queue *queue, unsigned reg, uint32_t value)
{
	switch (reg) {
	case REG(queue_msix_vector):
		queue->queue_msix_vector = vector_valid(vdev, (uint16_t)value);
		return;
	case REG(queue_reset):
		if (value == 1 && queue->queue_enable &&
		    vdev->features >> VIRTIO_F_RING_RESET & 1) {
			queue->queue_reset = true;
			vdev_wake(vdev);
		}
		return;
	}

	if (queue->queue_enable)
		return;
	switch (reg) {
	case REG(queue_size):
		if (value && !(value & (value - 1)) && value <= vdev->kind->queue_size)
			queue->queue_size = (uint16_t)value;
		break;
	case REG(queue_desc):
	case REG(queue_desc) + 4:
		set_half(&queue->queue_desc, reg != REG(queue_desc), value);
		break;
	case REG(queue_driver):
	case REG(queue_driver) + 4:
		set_half(&queue->queue_driver, reg != REG(queue_driver), value);
		break;
	case REG(queue_device):
	case REG(queue_device) + 4:
		set_half(&queue->queue_device, reg != REG(queue_device), value);
		break;
	case REG(queue_enable):
		queue->queue_enable = value == 1;
		if (queue->queue_enable && vdev->state == VDEV_LIVE)
			vdev_wake(vdev);
		break;
	}
}

void vregs_common_write(struct vdev *vdev, uint64_t off, unsigned len, uint64_t value)
{
	/* Registers that may be written, and how wide: others have no meaning (§4.1.3.1). */
	static const uint8_t width[sizeof(struct virtio_pci_common_cfg)] = {
		[REG(device_feature_select)] = 4,
		[REG(driver_feature_select)] = 4,
		[REG(driver_feature)] = 4,
		[REG(config_msix_vector)] = 2,
		[REG(device_status)] = 1,
		[REG(queue_select)] = 2,
		[REG(queue_size)] = 2,
		[REG(queue_msix_vector)] = 2,
		[REG(queue_enable)] = 2,
		[REG(queue_desc)] = 4,
		[REG(queue_desc) + 4] = 4,
		[REG(queue_driver)] = 4,
		[REG(queue_driver) + 4] = 4,
		[REG(queue_device)] = 4,
		[REG(queue_device) + 4] = 4,
		[REG(queue_reset)] = 2,
	};

	if (off >= sizeof(width) || len != width[off] || vdev->state == VDEV_RESETTING)
		return;
	switch (off) {
	case REG(device_feature_select):
		vdev->device_feature_select = (uint32_t)value;
		break;
	case REG(driver_feature_select):
		vdev->driver_feature_select = (uint32_t)value;
		break;
	case REG(driver_feature):
		if (!(vdev->device_status & STATUS_FEATURES_OK))
			set_half(&vdev->features, vdev->driver_feature_select, (uint32_t)value);
		break;
	case REG(config_msix_vector):
		vdev->config_msix_vector = vector_valid(vdev, (uint16_t)value);
		break;
	case REG(device_status):
		status_write(vdev, (uint8_t)value);
		break;
	case REG(queue_select):
		vdev->queue_select = (uint16_t)value;
		break;
	default:
		if (selected(vdev))
			queue_write(vdev, selected(vdev), (unsigned)off, (uint32_t)value);
	}
}

uint64_t vregs_config_read(const struct vdev *vdev, uint64_t off, unsigned len)
{
	return bytes_read(vdev->config, vdev->kind->config_len, off, len);
}

/* Byte by byte: the I/O thread may look at one without the lock. */
void vregs_config_write(struct vdev *vdev, uint64_t off, unsigned len, uint64_t value)
{
	for (; len && off < vdev->kind->config_len; len--, off++, value >>= 8)
		if (vdev->kind->config_writable >> off & 1)
			__atomic_store_n(&vdev->config[off], (uint8_t)value, __ATOMIC_RELAXED);
}
