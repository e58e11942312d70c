/*
 * PCI: one bus behind a host bridge, its configuration space by ports 0xcf8/0xcfc and by ECAM.
 *
 * pci_init, pci_add, pci_attach: main thread, before the first vCPU runs. Accesses come from vCPU
 * threads.
 */
#ifndef CORE_PCI_H
#define CORE_PCI_H

#include <pthread.h>
#include <stdint.h>

#include "core/bus.h"
#include "core/power.h"

#define PCI_SLOTS       32
#define PCI_CONFIG_SIZE 256 /* conventional: nothing behind it */

/* Registers of the common header (PCI Local Bus 3.0 §6.1). */
#define PCI_VENDOR_ID           0x00
#define PCI_DEVICE_ID           0x02
#define PCI_COMMAND             0x04
#define PCI_REVISION_ID         0x08
#define PCI_CLASS_PROG          0x09
#define PCI_SUBCLASS            0x0a
#define PCI_CLASS               0x0b
#define PCI_SUBSYSTEM_VENDOR_ID 0x2c
#define PCI_SUBSYSTEM_ID        0x2e

/* One function, number 0 of its slot, in its owner's storage. */
struct pci_device {
	uint8_t config[PCI_CONFIG_SIZE];
	uint8_t writable[PCI_CONFIG_SIZE]; /* bits that the guest may change */
};

struct pci {
	pthread_mutex_t lock; /* guards what follows, and every device's config */
	uint32_t address;     /* CONFIG_ADDRESS (PCI 3.0 §3.2.2.3.2) */
	uint8_t reset_control;
	struct power *power;
	struct pci_device bridge;
	struct pci_device *slot[PCI_SLOTS];
};

struct pci_config {
	uint16_t ports; /* CONFIG_ADDRESS, with CONFIG_DATA 4 behind it */
	uint64_t ecam;  /* where bus 0's 1 MiB of configuration space lies */
};

/* A bus with a host bridge in slot 0. @power hears of a write to the reset control register. */
void pci_init(struct pci *pci, struct power *power);
void pci_fini(struct pci *pci);

/* Returns 0, or -EBUSY when @slot is taken. */
int pci_add(struct pci *pci, struct pci_device *device, unsigned slot);

/* Put configuration space on the bus. Returns 0 or bus_add's error. */
int pci_attach(struct pci *pci, struct bus *bus, const struct pci_config *config);

/* Little-endian fields of a device's configuration space, for its owner. */
void pci_set16(struct pci_device *device, unsigned reg, uint16_t value);

#endif
