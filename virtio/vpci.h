/*
 * The PCI transport of a virtio device (virtio 1.2 §4.1): its function, its BAR, its interrupts. A
 * part of vdev.c, which alone calls this with vregs.c.
 */
#ifndef VIRTIO_VPCI_H
#define VIRTIO_VPCI_H

#include <stdint.h>

struct vdev;

/* Bits of the ISR status (§4.1.4.5). */
#define VPCI_ISR_QUEUE  0x1
#define VPCI_ISR_CONFIG 0x2

/* Main thread: make the device's PCI function and put it on the bus. Returns 0 or -errno. */
int vpci_init(struct vdev *vdev);
void vpci_fini(struct vdev *vdev);

/* The set of vectors that holds @vector alone; empty when there is none (VIRTIO_MSI_NO_VECTOR). */
uint64_t vpci_vector_bit(const struct vdev *vdev, uint16_t vector);

/* I/O thread: interrupt because of @isr, which belongs to the set @vectors when MSI-X is on. */
void vpci_interrupt(struct vdev *vdev, uint8_t isr, uint64_t vectors);

#endif
