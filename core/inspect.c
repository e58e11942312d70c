/*
 * Looking into a stopped vCPU through KVM. Knows no exit and no policy.
 */
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "core/inspect.h"

#define PAGE 0x1000ull

size_t inspect_bytes(int vcpu_fd, const struct mem *mem, uint64_t gva, uint8_t *buf, size_t n)
{
	size_t done = 0;

	while (done < n) {
		struct kvm_translation at = { .linear_address = gva + done };
		uint64_t left = PAGE - (at.linear_address & (PAGE - 1));
		uint64_t part = n - done < left ? n - done : left;

		if (ioctl(vcpu_fd, KVM_TRANSLATE, &at) < 0 || !at.valid) /* api.rst 4.15 */
			break;

		const void *host = mem_host(mem, at.physical_address, part);

		if (!host)
			break;
		memcpy(buf + done, host, part);
		done += part;
	}
	return done;
}

void inspect_cpu(int vcpu_fd, const struct mem *mem, char *text, size_t len)
{
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	uint8_t bytes[15]; /* the longest instruction */

	if (ioctl(vcpu_fd, KVM_GET_REGS, &regs) < 0 || ioctl(vcpu_fd, KVM_GET_SREGS, &sregs) < 0) {
		snprintf(text, len, "registers cannot be read");
		return;
	}

	uint64_t rip = regs.rip + (sregs.cs.l ? 0 : sregs.cs.base);
	size_t n = inspect_bytes(vcpu_fd, mem, rip, bytes, sizeof(bytes));
	int at = snprintf(text, len, "rip %#llx, %s", (unsigned long long)rip,
	                  n ? "bytes" : "where no memory is");

	for (size_t i = 0; i < n && at > 0 && (size_t)at < len; i++)
		at += snprintf(text + at, len - (size_t)at, " %02x", bytes[i]);
}
