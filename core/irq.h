/*
 * Interrupts that leave through irqfd: one write(2) to an eventfd and KVM injects it
 * (Documentation/virt/kvm/api.rst 4.75).
 *
 * irq_raise: any thread. All others: the main thread before vCPUs run, or under the owner's lock.
 */
#ifndef CORE_IRQ_H
#define CORE_IRQ_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct irq {
	int fd; /* eventfd; -1: none, raising does nothing */
	int vm_fd;
	unsigned gsi;
	bool connected; /* KVM listens; while it does not, the eventfd remembers a raise */
};

/* An edge-triggered interrupt at @gsi of the VM @vm_fd, connected. Returns 0 or -errno. */
int irq_init(struct irq *irq, int vm_fd, unsigned gsi);
void irq_fini(struct irq *irq);

/*
 * A level-triggered interrupt: the line stays up from irq_raise() until the guest's EOI, upon which
 * KVM writes the eventfd @eoi_fd; whose reason is still there then raises again. Returns 0 or
 * -errno.
 */
int irq_init_level(struct irq *irq, int vm_fd, unsigned gsi, int eoi_fd);

void irq_raise(const struct irq *irq);

/* MSI: where writes of a device go. One table for the VM, GSIs from 24 on. */
struct irq_router {
	pthread_mutex_t lock;
	int vm_fd;
	struct kvm_irq_routing *table; /* KVM's default for the chips, then the messages */
};

/* Returns 0 or -ENOMEM. KVM hears of it when the first message is routed. */
int irq_router_init(struct irq_router *router, int vm_fd);
void irq_router_fini(struct irq_router *router);

/* An interrupt with a GSI of its own, not connected. Returns 0 or -errno. */
int irq_init_msi(struct irq *irq, struct irq_router *router);

/*
 * Let it be delivered as the message @data to @address, now and for a raise that came while it was
 * not connected. Returns 0 or -errno.
 */
int irq_connect_msi(struct irq *irq, struct irq_router *router, uint64_t address, uint32_t data);

/* Keep back what is raised from now on; irq_pending() tells whether something was. */
void irq_disconnect(struct irq *irq);
bool irq_pending(const struct irq *irq);

/* Forget a raise that was kept back. */
void irq_clear(struct irq *irq);

#endif
