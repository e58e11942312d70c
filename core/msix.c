/*
 * MSI-X. A vector that is masked is disconnected from KVM: its eventfd is then the pending bit, and
 * KVM delivers what is pending when it is connected again.
 */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "core/msix.h"

#define CAP_ID_MSIX    0x11
#define CONTROL        2 /* offset of the message control word */
#define CONTROL_ENABLE 0x8000
#define CONTROL_MASK   0x4000
#define VECTOR_MASK    1u
#define ENTRY_LEN      16

/* A table entry is the start of struct msix_vector, byte by byte. */
_Static_assert(offsetof(struct msix_vector, address) == 0 &&
                       offsetof(struct msix_vector, data) == 8 &&
                       offsetof(struct msix_vector, control) == 12,
               "MSI-X table entry (PCI 3.0 §6.8.2.6)");

int msix_init(struct msix *msix, struct irq_router *router, struct pci_device *device, unsigned n,
              uint32_t table, uint32_t pba)
{
	uint8_t cap[12] = { CAP_ID_MSIX };
	int err = 0;

	*msix = (struct msix){ .router = router, .device = device };
	msix->vector = calloc(n, sizeof(*msix->vector));
	if (!msix->vector)
		return -ENOMEM;
	while (!err && msix->n < n) {
		struct msix_vector *vector = &msix->vector[msix->n];

		vector->control = VECTOR_MASK;
		err = irq_init_msi(&vector->irq, router);
		if (!err)
			msix->n++;
	}

	/* Table size minus one; offsets with the BAR's number, 0, in the low three bits. */
	uint16_t size = (uint16_t)(n - 1);

	memcpy(cap + CONTROL, &size, sizeof(size));
	memcpy(cap + 4, &table, sizeof(table));
	memcpy(cap + 8, &pba, sizeof(pba));

	int at = err ? err : pci_add_capability(device, cap, sizeof(cap));

	if (at < 0) {
		msix_fini(msix);
		return at;
	}
	msix->cap = (unsigned)at;
	device->writable[msix->cap + CONTROL + 1] = (CONTROL_ENABLE | CONTROL_MASK) >> 8;
	return 0;
}

void msix_fini(struct msix *msix)
{
	for (unsigned i = 0; i < msix->n; i++)
		irq_fini(&msix->vector[i].irq);
	free(msix->vector);
	*msix = (struct msix){ 0 };
}

bool msix_enabled(const struct msix *msix)
{
	return msix->control & CONTROL_ENABLE;
}

/* Connect a vector when it may be delivered, as the table says; else disconnect it. */
static void vector_follow(struct msix *msix, struct msix_vector *vector)
{
	bool open = (msix->control & (CONTROL_ENABLE | CONTROL_MASK)) == CONTROL_ENABLE &&
	            !(vector->control & VECTOR_MASK);

	if (open)
		irq_connect_msi(&vector->irq, msix->router, vector->address, vector->data);
	else
		irq_disconnect(&vector->irq);
}

void msix_config_written(struct msix *msix)
{
	uint16_t control = pci_get16(msix->device, msix->cap + CONTROL);

	if (control == msix->control)
		return;
	msix->control = control;
	for (unsigned i = 0; i < msix->n; i++)
		vector_follow(msix, &msix->vector[i]);
}

/* Accesses are aligned and of 4 or 8 bytes; others have no meaning (PCI 3.0 §6.8.2). */
static bool entry_access(const struct msix *msix, uint64_t off, unsigned len)
{
	return (len == 4 || len == 8) && off % len == 0 && off / ENTRY_LEN < msix->n;
}

uint64_t msix_table_read(struct msix *msix, uint64_t off, unsigned len)
{
	uint64_t value = 0;

	if (entry_access(msix, off, len))
		memcpy(&value, (const uint8_t *)&msix->vector[off / ENTRY_LEN] + off % ENTRY_LEN,
		       len);
	return value;
}

void msix_table_write(struct msix *msix, uint64_t off, unsigned len, uint64_t value)
{
	if (!entry_access(msix, off, len))
		return;

	struct msix_vector *vector = &msix->vector[off / ENTRY_LEN];

	memcpy((uint8_t *)vector + off % ENTRY_LEN, &value, len);
	vector_follow(msix, vector);
}

uint64_t msix_pba_read(struct msix *msix, uint64_t off, unsigned len)
{
	uint64_t bits = 0;

	for (unsigned i = 0; i < 8 * len && 8 * off + i < msix->n; i++)
		if (irq_pending(&msix->vector[8 * off + i].irq))
			bits |= 1ull << i;
	return bits;
}

void msix_clear(struct msix *msix)
{
	for (unsigned i = 0; i < msix->n; i++)
		if (!msix->vector[i].irq.connected)
			irq_clear(&msix->vector[i].irq);
}

int msix_eventfd(const struct msix *msix, unsigned i)
{
	return msix->vector[i].irq.fd;
}
