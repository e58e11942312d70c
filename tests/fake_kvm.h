/*
 * KVM's side of eventfds and memory slots, for tests that have no KVM: this ioctl() takes libc's
 * place, notes who is connected to what, and refuses what KVM would refuse. What is not for KVM
 * goes on to the kernel.
 */
#ifndef TESTS_FAKE_KVM_H
#define TESTS_FAKE_KVM_H

#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/bus.h"

#define FAKE_KVM_FD   1000000 /* what tests give as vm_fd */
#define FAKE_KVM_ROOM 128

static struct {
	pthread_mutex_t lock;
	struct kvm_irqfd irqfd[FAKE_KVM_ROOM]; /* connected ones */
	unsigned nirqfds;
	struct kvm_ioeventfd ioeventfd[FAKE_KVM_ROOM];
	unsigned nioeventfds;
	struct kvm_irq_routing_entry route[4096];
	unsigned nroutes;
	unsigned routings;                            /* times that routes were set */
	struct kvm_userspace_memory_region memory[4]; /* by slot; no length: none */
	int fail;                                     /* errno of every call; 0: none */
} fake_kvm = { .lock = PTHREAD_MUTEX_INITIALIZER };

static inline int fake_irqfd(const struct kvm_irqfd *irqfd)
{
	unsigned i = 0;

	while (i < fake_kvm.nirqfds && fake_kvm.irqfd[i].fd != irqfd->fd)
		i++;
	if (irqfd->flags & KVM_IRQFD_FLAG_DEASSIGN) {
		if (i < fake_kvm.nirqfds)
			fake_kvm.irqfd[i] = fake_kvm.irqfd[--fake_kvm.nirqfds];
		return 0;
	}
	/* An entry of that number is of an eventfd that was closed. */
	fake_kvm.irqfd[i] = *irqfd;
	fake_kvm.nirqfds += i == fake_kvm.nirqfds;
	return 0;
}

static inline int fake_ioeventfd(const struct kvm_ioeventfd *bell)
{
	uint32_t space = bell->flags & KVM_IOEVENTFD_FLAG_PIO;
	unsigned i = 0;

	while (i < fake_kvm.nioeventfds &&
	       (fake_kvm.ioeventfd[i].addr != bell->addr || fake_kvm.ioeventfd[i].flags != space))
		i++;
	if (bell->flags & KVM_IOEVENTFD_FLAG_DEASSIGN) {
		if (i == fake_kvm.nioeventfds)
			return ENOENT;
		fake_kvm.ioeventfd[i] = fake_kvm.ioeventfd[--fake_kvm.nioeventfds];
		return 0;
	}
	if (i < fake_kvm.nioeventfds)
		return EEXIST;
	fake_kvm.ioeventfd[fake_kvm.nioeventfds++] = *bell;
	return 0;
}

static inline int fake_routing(const struct kvm_irq_routing *routing)
{
	for (unsigned i = 0; i < routing->nr; i++)
		fake_kvm.route[i] = routing->entries[i];
	fake_kvm.nroutes = routing->nr;
	fake_kvm.routings++;
	return 0;
}

static inline int fake_memory(const struct kvm_userspace_memory_region *region)
{
	struct kvm_userspace_memory_region *slot = &fake_kvm.memory[region->slot];

	if (!slot->memory_size == !region->memory_size)
		return EINVAL;
	*slot = *region;
	return 0;
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list args;
	int err;

	va_start(args, request);
	const void *arg = va_arg(args, const void *);
	va_end(args);

	pthread_mutex_lock(&fake_kvm.lock);
	if (fake_kvm.fail)
		err = fake_kvm.fail;
	else if (fd != FAKE_KVM_FD)
		err = syscall(SYS_ioctl, fd, request, arg) ? errno : 0;
	else if (request == KVM_IRQFD)
		err = fake_irqfd(arg);
	else if (request == KVM_IOEVENTFD)
		err = fake_ioeventfd(arg);
	else if (request == KVM_SET_GSI_ROUTING)
		err = fake_routing(arg);
	else if (request == KVM_SET_USER_MEMORY_REGION)
		err = fake_memory(arg);
	else
		err = ENOTTY;
	pthread_mutex_unlock(&fake_kvm.lock);

	errno = err;
	return err ? -1 : 0;
}

/* The VM is gone. */
static inline void fake_kvm_reset(void)
{
	pthread_mutex_lock(&fake_kvm.lock);
	fake_kvm.nirqfds = fake_kvm.nioeventfds = fake_kvm.nroutes = fake_kvm.routings = 0;
	memset(fake_kvm.memory, 0, sizeof(fake_kvm.memory));
	fake_kvm.fail = 0;
	pthread_mutex_unlock(&fake_kvm.lock);
}

/* Where the guest reads [@addr, @addr + @len) without an exit; NULL: nowhere. */
static inline const void *fake_kvm_memory(uint64_t addr, unsigned len)
{
	const void *host = NULL;

	pthread_mutex_lock(&fake_kvm.lock);
	for (unsigned i = 0; i < sizeof(fake_kvm.memory) / sizeof(fake_kvm.memory[0]); i++) {
		const struct kvm_userspace_memory_region *slot = &fake_kvm.memory[i];

		if (addr >= slot->guest_phys_addr && len <= slot->memory_size &&
		    addr - slot->guest_phys_addr <= slot->memory_size - len)
			host = (const char *)(uintptr_t)slot->userspace_addr +
			       (addr - slot->guest_phys_addr);
	}
	pthread_mutex_unlock(&fake_kvm.lock);
	return host;
}

/* The guest writes to @addr of @space: whether a doorbell is there, which then rang. */
static inline bool fake_kvm_write(enum bus_space space, uint64_t addr)
{
	uint32_t flags = space == BUS_PORT ? KVM_IOEVENTFD_FLAG_PIO : 0;
	bool found = false;

	pthread_mutex_lock(&fake_kvm.lock);
	for (unsigned i = 0; i < fake_kvm.nioeventfds && !found; i++)
		if (fake_kvm.ioeventfd[i].addr == addr && fake_kvm.ioeventfd[i].flags == flags) {
			eventfd_write(fake_kvm.ioeventfd[i].fd, 1);
			found = true;
		}
	pthread_mutex_unlock(&fake_kvm.lock);
	return found;
}

/* The connected irqfd of @gsi; NULL: none. */
static inline const struct kvm_irqfd *fake_kvm_irqfd(unsigned gsi)
{
	for (unsigned i = 0; i < fake_kvm.nirqfds; i++)
		if (fake_kvm.irqfd[i].gsi == gsi)
			return &fake_kvm.irqfd[i];
	return NULL;
}

/* Take what was raised at @gsi since the last time: how often. */
static inline unsigned fake_kvm_take(unsigned gsi)
{
	eventfd_t count = 0;

	pthread_mutex_lock(&fake_kvm.lock);
	const struct kvm_irqfd *irqfd = fake_kvm_irqfd(gsi);

	if (irqfd && eventfd_read((int)irqfd->fd, &count))
		count = 0;
	pthread_mutex_unlock(&fake_kvm.lock);
	return (unsigned)count;
}

/* The same for the message @data. */
static inline unsigned fake_kvm_take_msi(uint32_t data)
{
	unsigned count = 0;

	for (unsigned i = 0; i < fake_kvm.nroutes; i++)
		if (fake_kvm.route[i].type == KVM_IRQ_ROUTING_MSI &&
		    fake_kvm.route[i].u.msi.data == data)
			count += fake_kvm_take(fake_kvm.route[i].gsi);
	return count;
}

/* The guest's EOI of the level-triggered @gsi. */
static inline void fake_kvm_eoi(unsigned gsi)
{
	const struct kvm_irqfd *irqfd = fake_kvm_irqfd(gsi);

	if (irqfd && irqfd->flags & KVM_IRQFD_FLAG_RESAMPLE)
		eventfd_write((int)irqfd->resamplefd, 1);
}

#endif
