/*
 * CPUID, MSRs and first registers. Section numbers are the Intel SDM's (volume 2A, CPUID) and the
 * AMD APM's (volume 3, appendix E). Knows neither the kernel image nor who runs the vCPU.
 *
 * KVM's own reset state is right for all that is not set here: LINT0 of the boot processor passes
 * the PIC's interrupts, the FPU is as after FINIT, the TSCs agree.
 */
#include <cpuid.h>
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "arch/x86/boot.h"
#include "arch/x86/cpu.h"
#include "arch/x86/layout.h"

#define BIT(n) (1u << (n))

/* Leaf 1 */
#define ECX_MONITOR      BIT(3)
#define ECX_VMX          BIT(5)
#define ECX_PDCM         BIT(15)
#define ECX_X2APIC       BIT(21)
#define ECX_TSC_DEADLINE BIT(24)
#define ECX_HYPERVISOR   BIT(31)
#define EDX_HTT          BIT(28)

/* Leaf 7 */
#define EBX_SGX    BIT(2)
#define ECX_SGX_LC BIT(30)

/* Leaf 0x80000001 */
#define ECX_CMP_LEGACY BIT(1)
#define ECX_SVM        BIT(2)

/* Leaf 0xb, ECX: type of a level */
#define LEVEL_SMT  (1u << 8)
#define LEVEL_CORE (2u << 8)

#define MSR_IA32_MISC_ENABLE        0x1a0
#define MISC_ENABLE_FAST_STRING     BIT(0)
#define MISC_ENABLE_BTS_UNAVAILABLE BIT(11)
#define MISC_ENABLE_PEBS_UNAVAIL    BIT(12)
#define MSR_MTRR_DEF_TYPE           0x2ff
#define MTRR_ENABLE                 BIT(11)
#define MTRR_WRITE_BACK             6

#define CR0_PE   BIT(0)
#define CR0_ET   BIT(4)
#define CR0_PG   BIT(31)
#define CR4_PAE  BIT(5)
#define EFER_LME BIT(8)
#define EFER_LMA BIT(10)

#define APIC_BASE_BSP    BIT(8)
#define APIC_BASE_ENABLE BIT(11)

/* Bits of an APIC ID that number @ncpus processors. */
static unsigned apic_id_bits(unsigned ncpus)
{
	return ncpus > 1 ? 32 - (unsigned)__builtin_clz(ncpus - 1) : 0;
}

static bool is_amd(const struct kvm_cpuid2 *cpuid)
{
	const struct kvm_cpuid_entry2 *leaf = cpuid->entries;

	return cpuid->nent && leaf->function == 0 &&
	       (!memcmp(&leaf->ebx, "Auth", 4) || !memcmp(&leaf->ebx, "Hygo", 4));
}

/* EAX of a cache leaf: the last level is everybody's, what is nearer belongs to a core alone. */
static uint32_t cache_shared(uint32_t eax, unsigned ncpus)
{
	unsigned level = eax >> 5 & 7;
	unsigned sharing = level < 3 ? 1 : ncpus;

	return (eax & ~(0xfffu << 14)) | (sharing - 1) << 14;
}

static void cpuid_leaf(struct kvm_cpuid_entry2 *leaf, unsigned ncpus, bool amd, bool tsc_deadline)
{
	bool is_cache = leaf->eax & 0x1f;             /* type, of a cache leaf */
	uint32_t cores = ncpus < 64 ? ncpus - 1 : 63; /* less one, in 6 bits */

	switch (leaf->function) {
	case 0x1: /* no nested virtualization; no MONITOR, which never sleeps in a guest */
		leaf->ebx = (leaf->ebx & 0xff00ffff) | ncpus << 16;
		leaf->ecx &= ~(ECX_MONITOR | ECX_VMX | ECX_PDCM | ECX_X2APIC);
		/* Linux saves and restores the IOAPIC around x2APIC: 192 exits, good IPIs for SMP.
		 */
		leaf->ecx |= ncpus > 1 ? ECX_X2APIC : 0;
		leaf->ecx |= ECX_HYPERVISOR | (tsc_deadline ? ECX_TSC_DEADLINE : 0);
		leaf->edx = (leaf->edx & ~EDX_HTT) | (ncpus > 1 ? EDX_HTT : 0);
		break;
	case 0x4:
		if (is_cache)
			leaf->eax = (cache_shared(leaf->eax, ncpus) & 0x03ffffff) | cores << 26;
		break;
	case 0x7: /* SGX without memory for enclaves is an error in the guest's log */
		if (leaf->index == 0) {
			leaf->ebx &= ~EBX_SGX;
			leaf->ecx &= ~ECX_SGX_LC;
		}
		break;
	case 0xa: /* performance counters: dozens of exits to set up, a load at every entry */
		leaf->eax = leaf->ebx = leaf->ecx = leaf->edx = 0;
		break;
	case 0x80000001:
		leaf->ecx &= ~(ECX_SVM | ECX_CMP_LEGACY);
		leaf->ecx |= amd && ncpus > 1 ? ECX_CMP_LEGACY : 0;
		break;
	case 0x80000008:
		if (amd)
			leaf->ecx = apic_id_bits(ncpus) << 12 | (ncpus - 1);
		break;
	case 0x8000001d:
		if (is_cache)
			leaf->eax = cache_shared(leaf->eax, ncpus);
		break;
	case 0x8000001e: /* one thread a core, one node; the rest is cpu_cpuid_vcpu()'s */
		leaf->ecx = leaf->edx = 0;
		break;
	}
}

void cpu_cpuid_vm(struct kvm_cpuid2 *cpuid, unsigned ncpus, bool tsc_deadline)
{
	bool amd = is_amd(cpuid);
	unsigned n = 0;

	/* The host's topology (leaves 0xb and 0x1f) goes; an absent 0x1f makes leaf 0xb count. */
	for (unsigned i = 0; i < cpuid->nent; i++) {
		struct kvm_cpuid_entry2 leaf = cpuid->entries[i];

		if (leaf.function == 0xb || leaf.function == 0x1f)
			continue;
		cpuid_leaf(&leaf, ncpus, amd, tsc_deadline);
		cpuid->entries[n++] = leaf;
	}

	cpuid->entries[n++] = (struct kvm_cpuid_entry2){
		.function = 0xb,
		.index = 0,
		.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
		.ebx = 1,
		.ecx = LEVEL_SMT | 0,
	};
	cpuid->entries[n++] = (struct kvm_cpuid_entry2){
		.function = 0xb,
		.index = 1,
		.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
		.eax = apic_id_bits(ncpus),
		.ebx = ncpus,
		.ecx = LEVEL_CORE | 1,
	};
	cpuid->nent = n;
}

void cpu_cpuid_vcpu(struct kvm_cpuid2 *cpuid, unsigned id)
{
	for (unsigned i = 0; i < cpuid->nent; i++) {
		struct kvm_cpuid_entry2 *leaf = &cpuid->entries[i];

		switch (leaf->function) {
		case 0x1:
			leaf->ebx = (leaf->ebx & 0x00ffffff) | id << 24;
			break;
		case 0xb:
			leaf->edx = id;
			break;
		case 0x8000001e:
			leaf->eax = leaf->ebx = id;
			break;
		}
	}
}

/* The processor's name, which KVM leaves out: it is the host's (leaves 0x80000002 to 0x80000004).
 */
static void brand_add(struct kvm_cpuid2 *cpuid)
{
	for (uint32_t function = 0x80000002; function <= 0x80000004; function++) {
		struct kvm_cpuid_entry2 leaf = { .function = function };
		unsigned at = 0;

		if (!__get_cpuid(function, &leaf.eax, &leaf.ebx, &leaf.ecx, &leaf.edx))
			return;
		while (at < cpuid->nent && cpuid->entries[at].function != function)
			at++;
		cpuid->entries[at] = leaf;
		if (at == cpuid->nent)
			cpuid->nent++;
	}
}

int cpu_init(struct cpu_model *model, int kvm_fd, unsigned ncpus, bool tsc_deadline)
{
	if (tsc_deadline)
		tsc_deadline = ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0;

	model->cpuid.nent = CPUID_KVM_MAX;
	if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, &model->cpuid) < 0) /* 4.46 */
		return -errno;
	cpu_cpuid_vm(&model->cpuid, ncpus, tsc_deadline);
	brand_add(&model->cpuid);
	return 0;
}

/*
 * MTRRs as firmware leaves them: all memory is write-back (SDM 3A §12.11.2.1); off, they would take
 * the PAT away from older kernels. Without "fast strings" Linux on Intel gives up REP MOVSB.
 */
static int set_msrs(int vcpu_fd)
{
	union {
		struct kvm_msrs msrs;
		char room[sizeof(struct kvm_msrs) + 2 * sizeof(struct kvm_msr_entry)];
	} set = { .msrs.nmsrs = 2 };

	set.msrs.entries[0] = (struct kvm_msr_entry){
		.index = MSR_MTRR_DEF_TYPE,
		.data = MTRR_ENABLE | MTRR_WRITE_BACK,
	};
	set.msrs.entries[1] = (struct kvm_msr_entry){
		.index = MSR_IA32_MISC_ENABLE,
		.data = MISC_ENABLE_FAST_STRING | MISC_ENABLE_BTS_UNAVAILABLE |
		        MISC_ENABLE_PEBS_UNAVAIL,
	};

	int n = ioctl(vcpu_fd, KVM_SET_MSRS, &set.msrs); /* 4.19 */

	if (n < 0)
		return -errno;
	return n == 2 ? 0 : -EINVAL;
}

int cpu_setup(int vcpu_fd, unsigned id, const struct cpu_model *model)
{
	struct cpu_model own = *model;

	cpu_cpuid_vcpu(&own.cpuid, id);
	if (ioctl(vcpu_fd, KVM_SET_CPUID2, &own.cpuid) < 0) /* 4.20 */
		return -errno;
	return set_msrs(vcpu_fd);
}

int cpu_set_entry(int vcpu_fd, const struct boot_entry *entry)
{
	bool is_long = entry->mode == BOOT_LONG;
	struct kvm_segment code = {
		.selector = BOOT_CS,
		.limit = 0xffffffff,
		.type = 11, /* execute, read, accessed */
		.present = 1,
		.s = 1,
		.g = 1,
		.l = is_long,
		.db = !is_long,
	};
	struct kvm_segment data = {
		.selector = BOOT_DS,
		.limit = 0xffffffff,
		.type = 3, /* read, write, accessed */
		.present = 1,
		.s = 1,
		.g = 1,
		.db = 1,
	};
	struct kvm_segment tss = {
		.selector = BOOT_TSS,
		.limit = 0x67,
		.type = 11, /* busy */
		.present = 1,
	};
	struct kvm_sregs sregs = {
		.cs = code,
		.ds = data,
		.es = data,
		.fs = data,
		.gs = data,
		.ss = data,
		.tr = tss,
		.ldt.unusable = 1,
		.gdt.base = LAYOUT_GDT,
		.gdt.limit = BOOT_GDT_ENTRIES * 8 - 1,
		.cr0 = CR0_PE | CR0_ET,
		.apic_base = LAYOUT_LAPIC | APIC_BASE_ENABLE | APIC_BASE_BSP,
	};
	struct kvm_regs regs = {
		.rip = entry->rip,
		.rsi = entry->rsi,
		.rbx = entry->rbx,
		.rsp = entry->rsp,
		.rflags = 2, /* the bit that is always 1 */
	};

	if (is_long) {
		sregs.cr0 |= CR0_PG;
		sregs.cr3 = LAYOUT_PAGE_TABLES;
		sregs.cr4 = CR4_PAE;
		sregs.efer = EFER_LME | EFER_LMA;
	}
	if (ioctl(vcpu_fd, KVM_SET_SREGS, &sregs) < 0) /* 4.14 */
		return -errno;
	if (ioctl(vcpu_fd, KVM_SET_REGS, &regs) < 0) /* 4.12 */
		return -errno;
	return 0;
}
