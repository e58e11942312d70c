/*
 * MSI-X (PCI 3.0 §6.8.2): a device's vectors, their table and their pending bits, behind irqfds.
 *
 * msix_init, msix_fini: main thread. msix_enabled, msix_eventfd: any thread. The rest runs on vCPU
 * threads, under the device's lock; msix_config_written under pci's, too.
 */
#ifndef CORE_MSIX_H
#define CORE_MSIX_H

#include "core/irq.h"
#include "core/pci.h"

#define MSIX_VECTORS_MAX  256 /* of one device */
#define MSIX_TABLE_LEN(n) ((n)*16u)
#define MSIX_PBA_LEN(n)   (((n) + 63u) / 64u * 8u)

struct msix_vector {
	uint64_t address;
	uint32_t data;
	uint32_t control;
	struct irq irq;
};

struct msix {
	struct irq_router *router;
	struct pci_device *device;
	unsigned cap;             /* offset of the capability */
	_Atomic uint16_t control; /* its control word, as last written */
	unsigned n;
	struct msix_vector *vector;
};

/*
 * Give @device, before pci_add(), @n vectors whose table and pending bits lie at @table and @pba in
 * BAR 0 (multiples of 8). Returns 0 or -errno.
 */
int msix_init(struct msix *msix, struct irq_router *router, struct pci_device *device, unsigned n,
              uint32_t table, uint32_t pba);
void msix_fini(struct msix *msix);

bool msix_enabled(const struct msix *msix);

/* The guest wrote configuration space: perhaps the capability's control word. */
void msix_config_written(struct msix *msix);

/* Accesses to the two structures, @off from their start. */
uint64_t msix_table_read(struct msix *msix, uint64_t off, unsigned len);
void msix_table_write(struct msix *msix, uint64_t off, unsigned len, uint64_t value);
uint64_t msix_pba_read(struct msix *msix, uint64_t off, unsigned len);

/* The device was reset: nothing is pending. */
void msix_clear(struct msix *msix);

/* Raising vector @i is writing this eventfd. */
int msix_eventfd(const struct msix *msix, unsigned i);

#endif
