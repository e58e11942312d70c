/*
 * The processors: what CPUID tells the guest, and the state in which each starts.
 *
 * Main thread, before the vCPU runs; for each vCPU in the order in which the functions stand here.
 * cpu_cpuid_vm and cpu_cpuid_vcpu are pure.
 */
#ifndef ARCH_X86_CPU_H
#define ARCH_X86_CPU_H

#include <linux/kvm.h>
#include <stdbool.h>

struct boot_entry;

#define CPUID_KVM_MAX 256 /* entries that KVM may report */
#define CPUID_ADD_MAX 5   /* entries that cpu_init() may add, 2 of them cpu_cpuid_vm() */

/* CPUID as the processors of a VM see it, but for what tells one from another. */
struct cpu_model {
	union {
		struct kvm_cpuid2 cpuid;
		char room[sizeof(struct kvm_cpuid2) +
		          (CPUID_KVM_MAX + CPUID_ADD_MAX) * sizeof(struct kvm_cpuid_entry2)];
	};
};

/*
 * Fill @model with what @kvm_fd supports, made into one package of @ncpus processors (1..CPUS_MAX)
 * of one core each. @tsc_deadline: with the local APIC's TSC deadline timer, if KVM has it.
 * Returns 0 or -errno.
 */
int cpu_init(struct cpu_model *model, int kvm_fd, unsigned ncpus, bool tsc_deadline);

/* Give vCPU @id, whose APIC ID is @id too, its CPUID and its MSRs. Returns 0 or -errno. */
int cpu_setup(int vcpu_fd, unsigned id, const struct cpu_model *model);

/*
 * Make vCPU 0 start at the kernel's entry; the others stay in KVM's reset state, waiting for INIT
 * and SIPI. Returns 0 or -errno.
 */
int cpu_set_entry(int vcpu_fd, const struct boot_entry *entry);

/*
 * What cpu_init does to the list that KVM reports, which has room for CPUID_ADD_MAX entries more:
 * hide what the guest is better off without, describe the topology. @tsc_deadline: KVM has the
 * local APIC's TSC deadline timer.
 */
void cpu_cpuid_vm(struct kvm_cpuid2 *cpuid, unsigned ncpus, bool tsc_deadline);

/* What cpu_setup does to it: the APIC ID in every place. */
void cpu_cpuid_vcpu(struct kvm_cpuid2 *cpuid, unsigned id);

#endif
