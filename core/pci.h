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
#include "core/vm.h"

#define PCI_SLOTS       32
#define PCI_BARS        2
#define PCI_CONFIG_SIZE 256 /* conventional: nothing behind it */

/* Registers of the common header (PCI Local Bus 3.0 §6.1). */
#define PCI_VENDOR_ID           0x00
#define PCI_DEVICE_ID           0x02
#define PCI_COMMAND             0x04
#define PCI_COMMAND_IO          0x0001
#define PCI_COMMAND_MEMORY      0x0002
#define PCI_COMMAND_MASTER      0x0004
#define PCI_COMMAND_INTX_OFF    0x0400
#define PCI_STATUS              0x06
#define PCI_STATUS_INTERRUPT    0x0008
#define PCI_STATUS_CAPABILITIES 0x0010
#define PCI_REVISION_ID         0x08
#define PCI_SUBCLASS            0x0a
#define PCI_CLASS               0x0b
#define PCI_BAR0                0x10
#define PCI_BAR1                0x14
#define PCI_SUBSYSTEM_VENDOR_ID 0x2c
#define PCI_SUBSYSTEM_ID        0x2e
#define PCI_CAPABILITIES        0x34
#define PCI_INTERRUPT_LINE      0x3c
#define PCI_INTERRUPT_PIN       0x3d
#define PCI_HEADER_END          0x40 /* capabilities may lie from here on */

struct pci_config {
	uint16_t ports; /* CONFIG_ADDRESS, with CONFIG_DATA 4 behind it */
	uint64_t ecam;  /* where bus 0's 1 MiB of configuration space lies */
	uint64_t mmio;  /* the window for BARs of memory, below 4 GiB */
	uint64_t mmio_len;
	uint16_t io; /* and for those of ports */
	uint16_t io_len;
};

/* 32-bit memory below 4 GiB, or ports: where the guest may move it. */
struct pci_bar {
	enum bus_space space;
	uint32_t size; /* a power of two, of memory at least 4 KiB, at most 256 ports; 0: none */
	const struct bus_ops *ops; /* called on vCPU threads, by the bus with no lock held */
	void *dev;
	/* The BAR now answers at @base; 0: nowhere. Under pci's lock: must not call back. */
	void (*moved)(void *dev, uint64_t base);
	uint64_t base;
};

/* One function, number 0 of its slot, in its owner's storage. */
struct pci_device {
	uint8_t config[PCI_CONFIG_SIZE];
	uint8_t writable[PCI_CONFIG_SIZE]; /* bits that the guest may change */
	struct pci_bar bar[PCI_BARS];
	uint8_t last_cap;  /* offset of the last capability; 0: none */
	unsigned caps_end; /* what follows it; 0: nothing yet */
	/* The guest wrote @len bytes at @reg; config holds the result. Under pci's lock. */
	void (*written)(struct pci_device *device, unsigned reg, unsigned len);
	/*
	 * The guest reads there, and that exits: by ports, or after pci_unmap(). config may be
	 * brought up to date before. NULL, or as above.
	 */
	void (*reading)(struct pci_device *device, unsigned reg, unsigned len);
};

/* Where BARs lie, in a space. */
struct pci_window {
	struct pci *pci;
	enum bus_space space;
	uint64_t base;
	uint64_t len;
	uint64_t next; /* where the next BAR goes */
};

struct pci {
	pthread_mutex_t lock; /* guards what follows, and every device's config */
	uint8_t *map;         /* configuration space as the guest reads it; or NULL */
	size_t map_len;
	const struct vm *vm;
	_Atomic int map_slot; /* its memory slot there */
	uint32_t address;     /* CONFIG_ADDRESS (PCI 3.0 §3.2.2.3.2) */
	uint8_t reset_control;
	struct power *power;
	struct pci_window window[2]; /* by enum bus_space */
	struct pci_config at;
	struct pci_device bridge;
	struct pci_device *slot[PCI_SLOTS];
};

/* A bus with a host bridge in slot 0. @power hears of a write to the reset control register. */
void pci_init(struct pci *pci, const struct pci_config *at, struct power *power);
void pci_fini(struct pci *pci);

/*
 * Let the guest read the configuration space of @n devices without exits: it lies there as memory.
 * Before vm_add_chips(). Returns 0 or -errno; where KVM cannot, it does not.
 */
int pci_map(struct pci *pci, struct vm *vm, unsigned n);

/* From now on each read of configuration space exits, and so comes to reading(). Any thread. */
void pci_unmap(struct pci *pci);

/*
 * Put @device, its header and BARs' sizes filled in, into the next free slot and give its BARs
 * addresses. Returns the slot, or -ENOSPC when there is none or a window is full.
 */
int pci_add(struct pci *pci, struct pci_device *device);

/* Put configuration space and the windows for BARs on the bus. Returns 0 or bus_add's error. */
int pci_attach(struct pci *pci, struct bus *bus);

/* Little-endian fields of a device's configuration space, for its owner. */
void pci_set16(struct pci_device *device, unsigned reg, uint16_t value);
uint16_t pci_get16(const struct pci_device *device, unsigned reg);
void pci_set32(struct pci_device *device, unsigned reg, uint32_t value);
uint32_t pci_get32(const struct pci_device *device, unsigned reg);

/*
 * Append a capability (PCI 3.0 §6.7) of @len bytes, its ID in @body[0], its link filled in here.
 * Returns its offset, or -ENOSPC.
 */
int pci_add_capability(struct pci_device *device, const void *body, unsigned len);

#endif
