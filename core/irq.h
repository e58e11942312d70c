/*
 * An interrupt that leaves through irqfd: one write(2) to an eventfd and KVM injects it.
 *
 * irq_init/irq_fini: main thread. irq_raise: any thread.
 */
#ifndef CORE_IRQ_H
#define CORE_IRQ_H

struct irq {
	int fd; /* eventfd; -1: not connected, raising does nothing */
};

/*
 * Connect an edge-triggered interrupt to @gsi of the VM @vm_fd (KVM_IRQFD, Documentation/virt/kvm/
 * api.rst 4.75). Returns 0 or -errno.
 */
int irq_init(struct irq *irq, int vm_fd, unsigned gsi);
void irq_fini(struct irq *irq);

void irq_raise(const struct irq *irq);

#endif
