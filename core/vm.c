/*
 * The VM, by KVM's ioctls (Documentation/virt/kvm/api.rst; each call's section is named beside it).
 * Knows no device and no register.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "core/vm.h"

static const char *open_hint(int err)
{
	switch (err) {
	case ENOENT:
	case ENXIO:
	case ENODEV:
		return "; load kvm_intel or kvm_amd, and enable virtualization in the firmware";
	case EACCES:
	case EPERM:
		return "; join the group that owns it (often kvm), or run as root";
	default:
		return "";
	}
}

static int kvm_open(const char *dev, char why[WHY_MAX])
{
	int fd = open(dev, O_RDWR | O_CLOEXEC);

	if (fd < 0) {
		int err = errno;

		snprintf(why, WHY_MAX, "%s: %s%s", dev, strerror(err), open_hint(err));
		return -err;
	}

	int version = ioctl(fd, KVM_GET_API_VERSION, 0); /* 4.1 */

	if (version != KVM_API_VERSION) {
		if (version < 0)
			snprintf(why, WHY_MAX, "%s: not a KVM device; use /dev/kvm", dev);
		else
			snprintf(why, WHY_MAX, "%s: KVM API version %d; kring needs %d", dev,
			         version, KVM_API_VERSION);
		close(fd);
		return -ENOTTY;
	}
	return fd;
}

int vm_init(struct vm *vm, const char *dev, char why[WHY_MAX])
{
	const char *step = "KVM_CREATE_VM";
	int size, err;

	*vm = (struct vm){ .kvm_fd = -1, .fd = -1 };
	vm->kvm_fd = kvm_open(dev, why);
	if (vm->kvm_fd < 0)
		return vm->kvm_fd;

	do
		vm->fd = ioctl(vm->kvm_fd, KVM_CREATE_VM, 0); /* 4.2 */
	while (vm->fd < 0 && errno == EINTR);
	if (vm->fd < 0)
		goto fail;

	step = "KVM_GET_VCPU_MMAP_SIZE";
	size = ioctl(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0); /* 4.5 */
	if (size < 0)
		goto fail;
	vm->run_size = (size_t)size;
	return 0;

fail:
	err = -errno;
	snprintf(why, WHY_MAX, "%s: %s: %s; `kring probe` tells what this KVM can do", dev, step,
	         strerror(-err));
	vm_fini(vm);
	return err;
}

void vm_fini(struct vm *vm)
{
	if (vm->fd >= 0)
		close(vm->fd);
	if (vm->kvm_fd >= 0)
		close(vm->kvm_fd);
	*vm = (struct vm){ .kvm_fd = -1, .fd = -1 };
}

int vm_map(struct vm *vm, gpa_t gpa, void *host, uint64_t len, bool readonly)
{
	struct kvm_userspace_memory_region slot = {
		.slot = vm->nslots,
		.flags = readonly ? KVM_MEM_READONLY : 0,
		.guest_phys_addr = gpa,
		.memory_size = len,
		.userspace_addr = (uintptr_t)host,
	};

	if (ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0) /* 4.35 */
		return -errno;
	return (int)vm->nslots++;
}

void vm_unmap(const struct vm *vm, int slot)
{
	struct kvm_userspace_memory_region none = { .slot = (uint32_t)slot };

	ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &none);
}

int vm_defer_writes(struct vm *vm, enum bus_space space, uint64_t addr, uint32_t len)
{
	struct kvm_coalesced_mmio_zone zone = {
		.addr = addr,
		.size = len,
		.pio = space == BUS_PORT,
	};

	return ioctl(vm->fd, KVM_REGISTER_COALESCED_MMIO, &zone) < 0 ? -errno : 0;
}

static int add_chips(int fd, const struct vm_config *config, const char **step)
{
	uint64_t identity_map = config->identity_map;
	struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };

	*step = "KVM_SET_IDENTITY_MAP_ADDR";
	if (ioctl(fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map) < 0) /* 4.39 */
		return -errno;
	*step = "KVM_SET_TSS_ADDR";
	if (ioctl(fd, KVM_SET_TSS_ADDR, config->tss) < 0) /* 4.36 */
		return -errno;
	*step = "KVM_CREATE_IRQCHIP";
	if (ioctl(fd, KVM_CREATE_IRQCHIP, 0) < 0) /* 4.24 */
		return -errno;
	*step = "KVM_CREATE_PIT2";
	if (ioctl(fd, KVM_CREATE_PIT2, &pit) < 0) /* 4.71 */
		return -errno;
	return 0;
}

int vm_add_chips(struct vm *vm, const struct vm_config *config, char why[WHY_MAX])
{
	const char *step;
	int err = add_chips(vm->fd, config, &step);

	if (err)
		snprintf(why, WHY_MAX, "%s: %s; `kring probe` tells what this KVM can do", step,
		         strerror(-err));
	return err;
}
