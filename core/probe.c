/*
 * What this machine's KVM can do. Knows KVM's device and ioctls (sections of
 * Documentation/virt/kvm/ api.rst beside them); not what kring does with the answers.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "core/probe.h"

const char *const probe_caps[PROBE_CAPS] = {
	[KVM_CAP_IRQCHIP] = "IRQCHIP",
	[KVM_CAP_USER_MEMORY] = "USER_MEMORY",
	[KVM_CAP_SET_TSS_ADDR] = "SET_TSS_ADDR",
	[KVM_CAP_SET_IDENTITY_MAP_ADDR] = "SET_IDENTITY_MAP_ADDR",
	[KVM_CAP_EXT_CPUID] = "EXT_CPUID",
	[KVM_CAP_PIT2] = "PIT2",
	[KVM_CAP_IRQFD] = "IRQFD",
	[KVM_CAP_IOEVENTFD] = "IOEVENTFD",
	[KVM_CAP_IMMEDIATE_EXIT] = "IMMEDIATE_EXIT",
	[KVM_CAP_MP_STATE] = "MP_STATE",
	[KVM_CAP_SIGNAL_MSI] = "SIGNAL_MSI",
	[KVM_CAP_IRQ_ROUTING] = "IRQ_ROUTING",
	[KVM_CAP_NR_VCPUS] = "NR_VCPUS",
	[KVM_CAP_MAX_VCPUS] = "MAX_VCPUS",
	[KVM_CAP_MAX_VCPU_ID] = "MAX_VCPU_ID",
	[KVM_CAP_NR_MEMSLOTS] = "NR_MEMSLOTS",
	[KVM_CAP_TSC_DEADLINE_TIMER] = "TSC_DEADLINE_TIMER",
	[KVM_CAP_TSC_CONTROL] = "TSC_CONTROL",
	[KVM_CAP_GET_TSC_KHZ] = "GET_TSC_KHZ",
	[KVM_CAP_ADJUST_CLOCK] = "ADJUST_CLOCK",
	[KVM_CAP_KVMCLOCK_CTRL] = "KVMCLOCK_CTRL",
	[KVM_CAP_ASYNC_PF_INT] = "ASYNC_PF_INT",
	[KVM_CAP_STEAL_TIME] = "STEAL_TIME",
	[KVM_CAP_X2APIC_API] = "X2APIC_API",
	[KVM_CAP_SPLIT_IRQCHIP] = "SPLIT_IRQCHIP",
	[KVM_CAP_IRQFD_RESAMPLE] = "IRQFD_RESAMPLE",
	[KVM_CAP_IOEVENTFD_ANY_LENGTH] = "IOEVENTFD_ANY_LENGTH",
	[KVM_CAP_SYNC_REGS] = "SYNC_REGS",
	[KVM_CAP_SYNC_MMU] = "SYNC_MMU",
	[KVM_CAP_READONLY_MEM] = "READONLY_MEM",
	[KVM_CAP_COALESCED_PIO] = "COALESCED_PIO",
	[KVM_CAP_HALT_POLL] = "HALT_POLL",
	[KVM_CAP_X86_DISABLE_EXITS] = "X86_DISABLE_EXITS",
	[KVM_CAP_SET_GUEST_DEBUG] = "SET_GUEST_DEBUG",
	[KVM_CAP_BINARY_STATS_FD] = "BINARY_STATS_FD",
	[KVM_CAP_PMU_CAPABILITY] = "PMU_CAPABILITY",
	[KVM_CAP_VM_DISABLE_NX_HUGE_PAGES] = "VM_DISABLE_NX_HUGE_PAGES",
	[KVM_CAP_NESTED_STATE] = "NESTED_STATE",
	[KVM_CAP_EXIT_ON_EMULATION_FAILURE] = "EXIT_ON_EMULATION_FAILURE",
	[KVM_CAP_DIRTY_LOG_RING] = "DIRTY_LOG_RING",
};

/* kring does not run without. */
static const int caps_needed[] = {
	KVM_CAP_IRQCHIP,        KVM_CAP_USER_MEMORY,
	KVM_CAP_SET_TSS_ADDR,   KVM_CAP_SET_IDENTITY_MAP_ADDR,
	KVM_CAP_EXT_CPUID,      KVM_CAP_PIT2,
	KVM_CAP_IRQFD,          KVM_CAP_IOEVENTFD,
	KVM_CAP_IMMEDIATE_EXIT, KVM_CAP_MP_STATE,
	KVM_CAP_SIGNAL_MSI,     KVM_CAP_IRQ_ROUTING,
};

const struct probe_cpu_flag probe_cpu_flags[PROBE_CPU_FLAGS] = {
	{ "vmx", 0x1, 0, PROBE_ECX, 5 },
	{ "x2apic", 0x1, 0, PROBE_ECX, 21 },
	{ "tsc_deadline", 0x1, 0, PROBE_ECX, 24 },
	{ "aes", 0x1, 0, PROBE_ECX, 25 },
	{ "xsave", 0x1, 0, PROBE_ECX, 26 },
	{ "cx16", 0x1, 0, PROBE_ECX, 13 },
	{ "pcid", 0x1, 0, PROBE_ECX, 17 },
	{ "mtrr", 0x1, 0, PROBE_EDX, 12 },
	{ "pat", 0x1, 0, PROBE_EDX, 16 },
	{ "arat", 0x6, 0, PROBE_EAX, 2 },
	{ "fsgsbase", 0x7, 0, PROBE_EBX, 0 },
	{ "tsc_adjust", 0x7, 0, PROBE_EBX, 1 },
	{ "avx2", 0x7, 0, PROBE_EBX, 5 },
	{ "smep", 0x7, 0, PROBE_EBX, 7 },
	{ "erms", 0x7, 0, PROBE_EBX, 9 },
	{ "invpcid", 0x7, 0, PROBE_EBX, 10 },
	{ "avx512f", 0x7, 0, PROBE_EBX, 16 },
	{ "smap", 0x7, 0, PROBE_EBX, 20 },
	{ "la57", 0x7, 0, PROBE_ECX, 16 },
	{ "fsrm", 0x7, 0, PROBE_EDX, 4 },
	{ "svm", 0x80000001, 0, PROBE_ECX, 2 },
	{ "pdpe1gb", 0x80000001, 0, PROBE_EDX, 26 },
	{ "rdtscp", 0x80000001, 0, PROBE_EDX, 27 },
	{ "invariant_tsc", 0x80000007, 0, PROBE_EDX, 8 },
	{ "kvm_clock", 0x40000001, 0, PROBE_EAX, 3 },
	{ "kvm_async_pf", 0x40000001, 0, PROBE_EAX, 14 },
	{ "kvm_steal_time", 0x40000001, 0, PROBE_EAX, 5 },
	{ "kvm_pv_eoi", 0x40000001, 0, PROBE_EAX, 6 },
	{ "kvm_pv_unhalt", 0x40000001, 0, PROBE_EAX, 7 },
	{ "kvm_poll_control", 0x40000001, 0, PROBE_EAX, 12 },
	{ "kvm_pv_ipi", 0x40000001, 0, PROBE_EAX, 11 },
	{ "kvm_clock_stable", 0x40000001, 0, PROBE_EAX, 24 },
};

const struct probe_param probe_params[PROBE_PARAMS] = {
	{
	        .path = "/sys/module/kvm/parameters/nx_huge_pages",
	        .bad = 'Y',
	        .hint = "guest code runs from small pages; if the CPU is not affected by iTLB "
	                "multihit, set kvm.nx_huge_pages=off",
	},
	{
	        .path = "/sys/module/kvm/parameters/tdp_mmu",
	        .bad = 'N',
	        .hint = "the vCPUs' page faults wait for each other; set kvm.tdp_mmu=Y",
	},
	{
	        .path = "/sys/module/kvm_intel/parameters/ept",
	        .bad = 'N',
	        .hint = "page tables are shadowed, which is slow; set kvm_intel.ept=Y",
	},
	{
	        .path = "/sys/module/kvm_amd/parameters/npt",
	        .bad = 'N',
	        .hint = "page tables are shadowed, which is slow; set kvm_amd.npt=Y",
	},
};

static void probe_caps_read(struct kvm_probe *probe, int kvm_fd)
{
	for (int i = 0; i < PROBE_CAPS; i++) {
		int value = probe_caps[i] ? ioctl(kvm_fd, KVM_CHECK_EXTENSION, i) : 0; /* 4.4 */

		probe->cap[i] = value > 0 ? value : 0;
	}
}

#define CPUID_MAX 256

union cpuid_room {
	struct kvm_cpuid2 cpuid;
	char room[sizeof(struct kvm_cpuid2) + CPUID_MAX * sizeof(struct kvm_cpuid_entry2)];
};

static void probe_cpu_leaf(struct probe_cpu *cpu, const struct kvm_cpuid_entry2 *leaf)
{
	const uint32_t reg[] = {
		[PROBE_EAX] = leaf->eax,
		[PROBE_EBX] = leaf->ebx,
		[PROBE_ECX] = leaf->ecx,
		[PROBE_EDX] = leaf->edx,
	};

	switch (leaf->function) {
	case 0x0:
		memcpy(cpu->vendor, (uint32_t[]){ leaf->ebx, leaf->edx, leaf->ecx }, 12);
		break;
	case 0x1: /* SDM 2A, CPUID, "Version Information" */
		cpu->stepping = leaf->eax & 0xf;
		cpu->model = (leaf->eax >> 4 & 0xf) | (leaf->eax >> 12 & 0xf0);
		cpu->family = leaf->eax >> 8 & 0xf;
		if (cpu->family == 0xf)
			cpu->family += leaf->eax >> 20 & 0xff;
		break;
	case 0x80000002 ... 0x80000004:
		memcpy(cpu->brand + (leaf->function - 0x80000002) * 16, reg, 16);
		break;
	}

	for (unsigned i = 0; i < PROBE_CPU_FLAGS; i++) {
		const struct probe_cpu_flag *flag = &probe_cpu_flags[i];

		if (leaf->function == flag->function && leaf->index == flag->index)
			cpu->flags |= (reg[flag->reg] >> flag->bit & 1) << i;
	}
}

static int probe_cpu_read(struct probe_cpu *cpu, int kvm_fd)
{
	union cpuid_room own = { .cpuid.nent = CPUID_MAX };

	if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, &own.cpuid) < 0) /* 4.46 */
		return -errno;
	for (unsigned i = 0; i < own.cpuid.nent; i++)
		probe_cpu_leaf(cpu, &own.cpuid.entries[i]);
	return 0;
}

static void probe_params_read(struct kvm_probe *probe)
{
	for (unsigned i = 0; i < PROBE_PARAMS; i++) {
		int fd = open(probe_params[i].path, O_RDONLY | O_CLOEXEC);

		if (fd < 0)
			continue;
		if (read(fd, &probe->param[i], 1) != 1)
			probe->param[i] = 0;
		close(fd);
	}
}

/* Guest code: DEC ECX; JNZ back to it; HLT. */
static const uint8_t loop_code[] = { 0x49, 0x75, 0xfd, 0xf4 };

enum {
	LOOP_INSTRUCTIONS = 2,
	LOOP_COUNT_MIN = 1000,
	LOOP_COUNT_MAX = 1000000,
	LOOP_RUNS = 3,
	LOOP_NS_MIN = 1000000, /* long enough to make the way in and out of the guest negligible */
	LOOP_GPA = 0x1000,
};

struct loop {
	int vm_fd;
	int vcpu_fd;
	struct kvm_run *run;
	size_t run_size;
	uint8_t *code;
	size_t code_size;
};

static void loop_fini(struct loop *loop)
{
	if (loop->run != MAP_FAILED)
		munmap(loop->run, loop->run_size);
	if (loop->vcpu_fd >= 0)
		close(loop->vcpu_fd);
	if (loop->vm_fd >= 0)
		close(loop->vm_fd);
	if (loop->code != MAP_FAILED)
		munmap(loop->code, loop->code_size);
}

/* Flat 32-bit protected mode: some processors run real mode by emulation. */
static int loop_set_mode(int vcpu_fd)
{
	struct kvm_sregs sregs;

	if (ioctl(vcpu_fd, KVM_GET_SREGS, &sregs) < 0) /* 4.13 */
		return -errno;

	struct kvm_segment flat = {
		.selector = 8,
		.limit = 0xffffffff,
		.type = 3,
		.present = 1,
		.s = 1,
		.db = 1,
		.g = 1,
	};

	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = flat;
	sregs.cs = flat;
	sregs.cs.type = 11;
	sregs.cr0 |= 1;
	return ioctl(vcpu_fd, KVM_SET_SREGS, &sregs) < 0 ? -errno : 0; /* 4.14 */
}

static int loop_init(struct loop *loop, int kvm_fd)
{
	int size = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0); /* 4.5 */

	*loop = (struct loop){
		.vm_fd = -1,
		.vcpu_fd = -1,
		.run = MAP_FAILED,
		.run_size = size > 0 ? (size_t)size : 0,
		.code_size = (size_t)sysconf(_SC_PAGESIZE),
	};

	loop->code = mmap(NULL, loop->code_size, PROT_READ | PROT_WRITE,
	                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (loop->code == MAP_FAILED)
		return -errno;
	memcpy(loop->code, loop_code, sizeof(loop_code));

	loop->vm_fd = ioctl(kvm_fd, KVM_CREATE_VM, 0); /* 4.2 */
	if (loop->vm_fd < 0)
		return -errno;

	struct kvm_userspace_memory_region slot = {
		.guest_phys_addr = LOOP_GPA,
		.memory_size = loop->code_size,
		.userspace_addr = (uintptr_t)loop->code,
	};

	if (ioctl(loop->vm_fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0) /* 4.35 */
		return -errno;
	loop->vcpu_fd = ioctl(loop->vm_fd, KVM_CREATE_VCPU, 0); /* 4.7 */
	if (loop->vcpu_fd < 0)
		return -errno;
	loop->run =
	        mmap(NULL, loop->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, loop->vcpu_fd, 0);
	if (loop->run == MAP_FAILED)
		return -errno;
	return loop_set_mode(loop->vcpu_fd);
}

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ll + now.tv_nsec;
}

/* Go @count times round. Returns nanoseconds or -errno. */
static int64_t loop_run(struct loop *loop, unsigned count)
{
	struct kvm_regs regs = { .rip = LOOP_GPA, .rcx = count, .rflags = 2 };
	int64_t start;
	int err;

	if (ioctl(loop->vcpu_fd, KVM_SET_REGS, &regs) < 0) /* 4.12 */
		return -errno;
	start = now_ns();
	do
		err = ioctl(loop->vcpu_fd, KVM_RUN, 0); /* 4.10 */
	while (err < 0 && (errno == EINTR || errno == EAGAIN));
	if (err < 0)
		return -errno;
	return loop->run->exit_reason == KVM_EXIT_HLT ? now_ns() - start : -EIO;
}

/* The best of several runs: what disturbs one only makes it longer. */
static int64_t loop_best(struct loop *loop, unsigned count)
{
	int64_t best = loop_run(loop, count);

	for (int i = 1; i < LOOP_RUNS && best >= 0; i++) {
		int64_t ns = loop_run(loop, count);

		if (ns < best)
			best = ns;
	}
	return best;
}

int probe_kvm_speed(int kvm_fd, double *ns)
{
	unsigned count = LOOP_COUNT_MIN;
	struct loop loop;
	int64_t best = loop_init(&loop, kvm_fd);

	if (!best)
		best = loop_best(&loop, count);
	while (best >= 0 && best < LOOP_NS_MIN && count < LOOP_COUNT_MAX) {
		count *= 4;
		best = loop_best(&loop, count);
	}
	loop_fini(&loop);
	if (best < 0)
		return (int)best;
	*ns = (double)best / count / LOOP_INSTRUCTIONS;
	return 0;
}

/* Fill @probe from an open device. Returns 0, or -errno of probe->step. */
static int probe_device(struct kvm_probe *probe, int kvm_fd)
{
	int value, err;

	probe->step = "KVM_GET_API_VERSION";
	value = ioctl(kvm_fd, KVM_GET_API_VERSION, 0); /* 4.1 */
	if (value < 0)
		return -errno;
	probe->api_version = value;
	if (value != KVM_API_VERSION)
		return -EPROTO;

	probe->step = "KVM_GET_VCPU_MMAP_SIZE";
	value = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (value < 0)
		return -errno;
	probe->run_size = value;

	probe_caps_read(probe, kvm_fd);

	probe->step = "KVM_GET_SUPPORTED_CPUID";
	err = probe_cpu_read(&probe->cpu, kvm_fd);
	if (err)
		return err;

	probe->step = "running a VM";
	return probe_kvm_speed(kvm_fd, &probe->ring0_ns);
}

static const char *error_hint(int err)
{
	switch (err) {
	case -ENOENT:
	case -ENXIO:
	case -ENODEV:
		return "enable virtualization in the firmware (in a VM: nested virtualization; in "
		       "a container: pass the device in) and load kvm_intel or kvm_amd";
	case -EACCES:
	case -EPERM:
		return "join the group that owns the device (often kvm) and log in again, or run "
		       "as root";
	case -EBUSY:
		return "another hypervisor holds the processor's virtualization: unload it";
	case -EPROTO:
		return "kring speaks KVM API version 12 only: use another host kernel";
	case -ENOTTY:
	case -EISDIR:
	case -EINVAL:
		return "this is not a KVM device: use /dev/kvm";
	default:
		return "the host's kernel log (dmesg) may say why";
	}
}

static const char *probe_hint(const struct kvm_probe *probe)
{
	if (probe->error)
		return error_hint(probe->error);
	for (size_t i = 0; i < sizeof(caps_needed) / sizeof(*caps_needed); i++)
		if (!probe->cap[caps_needed[i]])
			return "this KVM lacks a capability that kring needs: use a host with "
			       "Linux 5.10 or later";
	if (probe->ring0_ns > PROBE_EMULATED_NS)
		return "this KVM emulates guest kernel mode, too slowly for a Linux and not all of "
		       "it: use a host with hardware virtualization, or the nested lab";
	return NULL;
}

void probe_kvm(struct kvm_probe *probe, const char *dev)
{
	*probe = (struct kvm_probe){ .step = "open" };

	int fd = open(dev, O_RDWR | O_CLOEXEC);

	probe->error = fd < 0 ? -errno : probe_device(probe, fd);
	probe->hint = probe_hint(probe);
	probe_params_read(probe);
	if (fd >= 0)
		close(fd);
}
