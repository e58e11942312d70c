/*
 * The registers of a virtio device (virtio 1.2 §4.1.4.3, §4.1.4.6): common configuration and device
 * configuration, and what writing them begins. A part of vdev.c, which alone calls this with
 * vpci.c.
 *
 * Any thread, under vdev->lock.
 */
#ifndef VIRTIO_VREGS_H
#define VIRTIO_VREGS_H

#include <stdint.h>

#define VREGS_COMMON_LEN 64 /* bytes of common configuration */

struct vdev;

/*
 * Accesses of @len bytes at @off of either. Reads may be of any shape, and give zeroes behind the
 * end; writes are of one whole register, others are ignored (§4.1.3.1).
 */
uint64_t vregs_common_read(const struct vdev *vdev, uint64_t off, unsigned len);
void vregs_common_write(struct vdev *vdev, uint64_t off, unsigned len, uint64_t value);
uint64_t vregs_config_read(const struct vdev *vdev, uint64_t off, unsigned len);
void vregs_config_write(struct vdev *vdev, uint64_t off, unsigned len, uint64_t value);

/* The device has been reset: its registers and its state are as in the beginning. */
void vregs_reset(struct vdev *vdev);

/* @queue has been reset. */
void vregs_reset_queue(struct vdev *vdev, unsigned queue);

#endif
