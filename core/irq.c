/*
 * Interrupts by irqfd. Knows nothing of who raises them or why.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "core/irq.h"

int irq_init(struct irq *irq, int vm_fd, unsigned gsi)
{
	irq->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (irq->fd < 0)
		return -errno;

	struct kvm_irqfd irqfd = { .fd = (uint32_t)irq->fd, .gsi = gsi };

	if (ioctl(vm_fd, KVM_IRQFD, &irqfd) < 0) {
		int err = -errno;

		irq_fini(irq);
		return err;
	}
	return 0;
}

void irq_fini(struct irq *irq)
{
	if (irq->fd >= 0)
		close(irq->fd);
	irq->fd = -1;
}

void irq_raise(const struct irq *irq)
{
	if (irq->fd >= 0)
		eventfd_write(irq->fd, 1);
}
