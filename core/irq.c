/*
 * Interrupts by irqfd. Knows lines and messages; nothing of who raises them or why.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "core/irq.h"

#define PIC_PINS    8
#define IOAPIC_PINS 24
#define MESSAGES    2048 /* below KVM_MAX_IRQ_ROUTES (4096) with the chips' */

static int irq_open(struct irq *irq, int vm_fd, unsigned gsi)
{
	*irq = (struct irq){ .vm_fd = vm_fd, .gsi = gsi };
	irq->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return irq->fd < 0 ? -errno : 0;
}

static int irqfd(struct irq *irq, unsigned flags, int eoi_fd)
{
	struct kvm_irqfd irqfd = {
		.fd = (uint32_t)irq->fd,
		.gsi = irq->gsi,
		.flags = flags,
		.resamplefd = (uint32_t)eoi_fd,
	};

	if (ioctl(irq->vm_fd, KVM_IRQFD, &irqfd) < 0)
		return -errno;
	irq->connected = !(flags & KVM_IRQFD_FLAG_DEASSIGN);
	return 0;
}

static int irq_init_line(struct irq *irq, int vm_fd, unsigned gsi, unsigned flags, int eoi_fd)
{
	int err = irq_open(irq, vm_fd, gsi);

	if (err)
		return err;
	err = irqfd(irq, flags, eoi_fd);
	if (err)
		irq_fini(irq);
	return err;
}

int irq_init(struct irq *irq, int vm_fd, unsigned gsi)
{
	return irq_init_line(irq, vm_fd, gsi, 0, 0);
}

int irq_init_level(struct irq *irq, int vm_fd, unsigned gsi, int eoi_fd)
{
	return irq_init_line(irq, vm_fd, gsi, KVM_IRQFD_FLAG_RESAMPLE, eoi_fd);
}

void irq_fini(struct irq *irq)
{
	if (irq->fd >= 0)
		close(irq->fd); /* KVM lets go of it */
	irq->fd = -1;
	irq->connected = false;
}

void irq_raise(const struct irq *irq)
{
	if (irq->fd >= 0)
		eventfd_write(irq->fd, 1);
}

static void route_chip(struct kvm_irq_routing *table, unsigned gsi, unsigned chip, unsigned pin)
{
	table->entries[table->nr++] = (struct kvm_irq_routing_entry){
		.gsi = gsi,
		.type = KVM_IRQ_ROUTING_IRQCHIP,
		.u.irqchip = { .irqchip = chip, .pin = pin },
	};
}

/* Setting a table replaces KVM's own: begin with the same (api.rst 4.26, 4.52). */
int irq_router_init(struct irq_router *router, int vm_fd)
{
	size_t entries = 2 * PIC_PINS + IOAPIC_PINS + MESSAGES;

	router->vm_fd = vm_fd;
	router->table =
	        calloc(1, sizeof(*router->table) + entries * sizeof(router->table->entries[0]));
	if (!router->table)
		return -ENOMEM;
	pthread_mutex_init(&router->lock, NULL);
	for (unsigned pin = 0; pin < PIC_PINS; pin++) {
		route_chip(router->table, pin, KVM_IRQCHIP_PIC_MASTER, pin);
		route_chip(router->table, PIC_PINS + pin, KVM_IRQCHIP_PIC_SLAVE, pin);
	}
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		route_chip(router->table, pin, KVM_IRQCHIP_IOAPIC, pin);
	return 0;
}

void irq_router_fini(struct irq_router *router)
{
	if (router->table)
		pthread_mutex_destroy(&router->lock);
	free(router->table);
	router->table = NULL;
}

/* A message's GSI follows from its place in the table. */
static struct kvm_irq_routing_entry *message_entry(struct irq_router *router, unsigned gsi)
{
	return &router->table->entries[2 * PIC_PINS + gsi];
}

int irq_init_msi(struct irq *irq, struct irq_router *router)
{
	struct kvm_irq_routing *table = router->table;
	unsigned gsi = table->nr - 2 * PIC_PINS;

	if (gsi >= IOAPIC_PINS + MESSAGES)
		return -ENOSPC;

	int err = irq_open(irq, router->vm_fd, gsi);

	if (err)
		return err;
	*message_entry(router, gsi) = (struct kvm_irq_routing_entry){
		.gsi = gsi,
		.type = KVM_IRQ_ROUTING_MSI,
		.u.msi.address_lo = 0xfee00000,
	};
	table->nr++;
	return 0;
}

int irq_connect_msi(struct irq *irq, struct irq_router *router, uint64_t address, uint32_t data)
{
	struct kvm_irq_routing_msi *msi = &message_entry(router, irq->gsi)->u.msi;
	int err = 0;

	pthread_mutex_lock(&router->lock);
	if (msi->data != data || msi->address_lo != (uint32_t)address ||
	    msi->address_hi != (uint32_t)(address >> 32)) {
		*msi = (struct kvm_irq_routing_msi){
			.address_lo = (uint32_t)address,
			.address_hi = (uint32_t)(address >> 32),
			.data = data,
		};
		if (ioctl(router->vm_fd, KVM_SET_GSI_ROUTING, router->table) < 0)
			err = -errno;
	}
	pthread_mutex_unlock(&router->lock);
	return err || irq->connected ? err : irqfd(irq, 0, 0);
}

void irq_disconnect(struct irq *irq)
{
	if (irq->connected)
		irqfd(irq, KVM_IRQFD_FLAG_DEASSIGN, 0);
}

bool irq_pending(const struct irq *irq)
{
	struct pollfd poll_fd = { .fd = irq->fd, .events = POLLIN };

	return !irq->connected && poll(&poll_fd, 1, 0) == 1;
}

void irq_clear(struct irq *irq)
{
	eventfd_t count;

	eventfd_read(irq->fd, &count);
}
