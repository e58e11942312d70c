/*
 * Doorbells by ioeventfd. Knows no device.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "core/doorbell.h"

int doorbell_init(struct doorbell *bell, int vm_fd)
{
	*bell = (struct doorbell){ .vm_fd = vm_fd };
	bell->fd = eventfd(0, EFD_CLOEXEC);
	return bell->fd < 0 ? -errno : 0;
}

static int ioeventfd(const struct doorbell *bell, unsigned flags)
{
	if (bell->space == BUS_PORT)
		flags |= KVM_IOEVENTFD_FLAG_PIO;

	struct kvm_ioeventfd io = { .addr = bell->address, .fd = bell->fd, .flags = flags };

	return ioctl(bell->vm_fd, KVM_IOEVENTFD, &io) < 0 ? -errno : 0;
}

int doorbell_move(struct doorbell *bell, enum bus_space space, uint64_t address)
{
	int err = 0;

	if (bell->address == address && (bell->space == space || !address))
		return 0;
	if (bell->address)
		ioeventfd(bell, KVM_IOEVENTFD_FLAG_DEASSIGN);
	bell->space = space;
	bell->address = address;
	if (address)
		err = ioeventfd(bell, 0);
	if (err)
		bell->address = 0;
	return err;
}

void doorbell_fini(struct doorbell *bell)
{
	if (bell->fd >= 0)
		close(bell->fd);
	bell->fd = -1;
}
