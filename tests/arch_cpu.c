/* cpu: CPUID for Intel- and AMD-like hosts, and a vCPU that starts where it is told. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "arch/x86/boot.h"
#include "arch/x86/cpu.h"
#include "arch/x86/layout.h"

struct row {
	uint32_t function, index, eax, ebx, ecx, edx;
};

/* What KVM reports on a host of 2 x 16 threads. */
static const struct row intel[] = {
	{ 0x0, 0, 0x1f, 0x756e6547, 0x6c65746e, 0x49656e69 },
	{ 0x1, 0, 0x606a6, 0x07200800, 0x0000802d, 0x1fabfbff },
	{ 0x4, 0, 0x3c004121, 0x2c0003f, 0, 0 },
	{ 0x4, 2, 0x3c004143, 0x4c0003f, 0, 0 },
	{ 0x4, 3, 0x3c07c163, 0x2c0003f, 0, 0 },
	{ 0x4, 4, 0, 0, 0, 0 },
	{ 0x7, 0, 2, 0xf1bf27ef, 0x40c00140, 0 },
	{ 0x7, 1, 0x10, 4, 0, 0 },
	{ 0xa, 0, 0x08300805, 0, 0, 0x603 },
	{ 0xb, 0, 1, 2, 0x100, 7 },
	{ 0xb, 1, 5, 32, 0x201, 7 },
	{ 0x1f, 0, 1, 2, 0x100, 7 },
	{ 0x80000000, 0, 0x80000008, 0, 0, 0 },
	{ 0x80000001, 0, 0, 0, 0x121, 0x2c100800 },
	{ 0x80000008, 0, 0x302e, 0, 0, 0 },
	{ 0x40000001, 0, 0x01007efb, 0, 0, 0 },
};

static const struct row amd[] = {
	{ 0x0, 0, 0x10, 0x68747541, 0x444d4163, 0x69746e65 },
	{ 0x1, 0, 0xa00f11, 0x05100800, 0x76f83203, 0x178bfbff },
	{ 0x4, 0, 0, 0, 0, 0 },
	{ 0xb, 0, 0, 0, 0, 0 },
	{ 0x80000000, 0, 0x8000001e, 0, 0, 0 },
	{ 0x80000001, 0, 0xa00f11, 0, 0x00400277, 0x2fd3fbff },
	{ 0x80000008, 0, 0x3030, 0x0104d205, 0x501f, 0 },
	{ 0x8000001d, 0, 0x4121, 0, 0, 0 },
	{ 0x8000001d, 3, 0x3c163, 0, 0, 0 },
	{ 0x8000001e, 0, 5, 0x102, 0x301, 9 },
};

static void build(struct cpu_model *model, const struct row *row, size_t n, unsigned ncpus,
                  unsigned id)
{
	memset(model, 0, sizeof(*model));
	for (size_t i = 0; i < n; i++) {
		model->cpuid.entries[i] = (struct kvm_cpuid_entry2){
			.function = row[i].function,
			.index = row[i].index,
			.eax = row[i].eax,
			.ebx = row[i].ebx,
			.ecx = row[i].ecx,
			.edx = row[i].edx,
		};
	}
	model->cpuid.nent = (uint32_t)n;
	cpu_cpuid_vm(&model->cpuid, ncpus, true);
	assert_true(model->cpuid.nent <= n + CPUID_ADD_MAX);
	cpu_cpuid_vcpu(&model->cpuid, id);
}

/* A leaf as the guest reads it: zero where there is none. */
static struct kvm_cpuid_entry2 leaf(const struct cpu_model *model, uint32_t function,
                                    uint32_t index)
{
	struct kvm_cpuid_entry2 found = { 0 };
	unsigned n = 0;

	for (unsigned i = 0; i < model->cpuid.nent; i++) {
		const struct kvm_cpuid_entry2 *entry = &model->cpuid.entries[i];

		if (entry->function == function && entry->index == index) {
			found = *entry;
			n++;
		}
	}
	assert_true(n <= 1);
	return found;
}

#define BUILD(model, host, ncpus, id) build(model, host, sizeof(host) / sizeof(*(host)), ncpus, id)

static void features(void **state)
{
	struct cpu_model model;

	(void)state;
	BUILD(&model, intel, 1, 0);
	/* Hidden: MONITOR, VMX, PDCM; shown: TSC deadline, hypervisor; kept: the rest. */
	assert_int_equal(leaf(&model, 1, 0).ecx, 0x5 | 1u << 24 | 1u << 31);
	assert_int_equal(leaf(&model, 7, 0).ebx, 0xf1bf27eb);
	assert_int_equal(leaf(&model, 7, 0).ecx, 0x00c00140);
	assert_int_equal(leaf(&model, 7, 1).ebx, 4);
	assert_int_equal(leaf(&model, 0xa, 0).eax, 0);
	assert_int_equal(leaf(&model, 0xa, 0).edx, 0);
	assert_int_equal(leaf(&model, 0x40000001, 0).eax, 0x01007efb);

	BUILD(&model, amd, 1, 0);
	assert_int_equal(leaf(&model, 0x80000001, 0).ecx, 0x00400271);

	/* A KVM without the deadline timer. */
	memset(&model, 0, sizeof(model));
	model.cpuid.nent = 1;
	model.cpuid.entries[0].function = 1;
	cpu_cpuid_vm(&model.cpuid, 1, false);
	assert_int_equal(leaf(&model, 1, 0).ecx, 1u << 31);

	/* x2APIC where there are IPIs to send. */
	BUILD(&model, intel, 2, 0);
	assert_int_equal(leaf(&model, 1, 0).ecx, 0x5 | 1u << 21 | 1u << 24 | 1u << 31);
}

static void intel_topology(void **state)
{
	struct cpu_model model;

	(void)state;
	BUILD(&model, intel, 3, 2);
	assert_int_equal(leaf(&model, 1, 0).ebx, 0x02030800);
	assert_int_equal(leaf(&model, 1, 0).edx, 0x1fabfbff);
	/* 3 cores; L1 and L2 of a thread alone, L3 of 3 */
	assert_int_equal(leaf(&model, 4, 0).eax, 2u << 26 | 0u << 14 | 0x0121);
	assert_int_equal(leaf(&model, 4, 2).eax, 2u << 26 | 0u << 14 | 0x0143);
	assert_int_equal(leaf(&model, 4, 3).eax, 2u << 26 | 2u << 14 | 0x0163);
	assert_int_equal(leaf(&model, 4, 4).eax, 0);
	assert_int_equal(leaf(&model, 0xb, 0).eax, 0);
	assert_int_equal(leaf(&model, 0xb, 0).ebx, 1);
	assert_int_equal(leaf(&model, 0xb, 0).ecx, 0x100);
	assert_int_equal(leaf(&model, 0xb, 0).edx, 2);
	assert_int_equal(leaf(&model, 0xb, 1).eax, 2);
	assert_int_equal(leaf(&model, 0xb, 1).ebx, 3);
	assert_int_equal(leaf(&model, 0xb, 1).ecx, 0x201);
	assert_int_equal(leaf(&model, 0xb, 1).edx, 2);
	assert_int_equal(leaf(&model, 0xb, 1).flags, KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
	assert_int_equal(leaf(&model, 0x1f, 0).ebx, 0);
	/* Not AMD's */
	assert_int_equal(leaf(&model, 0x80000001, 0).ecx, 0x121);
	assert_int_equal(leaf(&model, 0x80000008, 0).ecx, 0);
}

static void amd_topology(void **state)
{
	struct cpu_model model;

	(void)state;
	BUILD(&model, amd, 4, 3);
	assert_int_equal(leaf(&model, 1, 0).ebx, 0x03040800);
	assert_int_equal(leaf(&model, 4, 0).eax, 0);
	assert_int_equal(leaf(&model, 0xb, 1).ebx, 4);
	assert_int_equal(leaf(&model, 0x80000001, 0).ecx, 0x00400273);
	assert_int_equal(leaf(&model, 0x80000008, 0).ecx, 2u << 12 | 3);
	assert_int_equal(leaf(&model, 0x80000008, 0).ebx, 0x0104d205);
	assert_int_equal(leaf(&model, 0x8000001d, 0).eax, 0x0121);
	assert_int_equal(leaf(&model, 0x8000001d, 3).eax, 3u << 14 | 0x0163);
	assert_int_equal(leaf(&model, 0x8000001e, 0).eax, 3);
	assert_int_equal(leaf(&model, 0x8000001e, 0).ebx, 3);
	assert_int_equal(leaf(&model, 0x8000001e, 0).ecx, 0);
	assert_int_equal(leaf(&model, 0x8000001e, 0).edx, 0);
}

static void one_and_many(void **state)
{
	struct cpu_model model;

	(void)state;
	BUILD(&model, intel, 1, 0);
	assert_int_equal(leaf(&model, 1, 0).ebx, 0x00010800);
	assert_int_equal(leaf(&model, 1, 0).edx, 0x0fabfbff); /* no HTT */
	assert_int_equal(leaf(&model, 4, 3).eax, 0x0163);
	assert_int_equal(leaf(&model, 0xb, 1).eax, 0);

	BUILD(&model, amd, 1, 0);
	assert_int_equal(leaf(&model, 0x80000008, 0).ecx, 0);

	BUILD(&model, intel, CPUS_MAX, CPUS_MAX - 1);
	assert_int_equal(leaf(&model, 1, 0).ebx, 0xfdfe0800);
	assert_int_equal(leaf(&model, 4, 3).eax, 63u << 26 | 253u << 14 | 0x0163);
	assert_int_equal(leaf(&model, 0xb, 1).eax, 8);
	assert_int_equal(leaf(&model, 0xb, 1).edx, 253);

	/* The next processor's differs in the APIC ID alone. */
	cpu_cpuid_vcpu(&model.cpuid, 7);
	assert_int_equal(leaf(&model, 1, 0).ebx, 0x07fe0800);
	assert_int_equal(leaf(&model, 0xb, 0).edx, 7);
}

/* A VM with what a vCPU needs, of this machine's KVM. */
struct machine {
	int kvm_fd, vm_fd, vcpu_fd;
	struct kvm_run *run;
	size_t run_size;
	struct mem mem;
};

static void machine_init(struct machine *machine)
{
	uint64_t identity_map = LAYOUT_IDENTITY_MAP;

	machine->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (machine->kvm_fd < 0)
		skip();
	machine->vm_fd = ioctl(machine->kvm_fd, KVM_CREATE_VM, 0);
	assert_true(machine->vm_fd >= 0);
	assert_int_equal(ioctl(machine->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map), 0);
	assert_int_equal(ioctl(machine->vm_fd, KVM_SET_TSS_ADDR, LAYOUT_TSS), 0);
	assert_int_equal(ioctl(machine->vm_fd, KVM_CREATE_IRQCHIP, 0), 0);
	assert_int_equal(mem_init(&machine->mem, 4 << 20), 0);

	struct kvm_userspace_memory_region slot = {
		.memory_size = machine->mem.low.len,
		.userspace_addr = (uintptr_t)machine->mem.low.host,
	};

	assert_int_equal(ioctl(machine->vm_fd, KVM_SET_USER_MEMORY_REGION, &slot), 0);
	machine->vcpu_fd = ioctl(machine->vm_fd, KVM_CREATE_VCPU, 0);
	assert_true(machine->vcpu_fd >= 0);
	machine->run_size = (size_t)ioctl(machine->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	machine->run = mmap(NULL, machine->run_size, PROT_READ | PROT_WRITE, MAP_SHARED,
	                    machine->vcpu_fd, 0);
	assert_true(machine->run != MAP_FAILED);
}

static void machine_fini(struct machine *machine)
{
	munmap(machine->run, machine->run_size);
	close(machine->vcpu_fd);
	close(machine->vm_fd);
	close(machine->kvm_fd);
	mem_fini(&machine->mem);
}

static void machine_setup(struct machine *machine, const struct boot_entry *entry)
{
	struct cpu_model *model = malloc(sizeof(*model));

	assert_non_null(model);
	assert_int_equal(cpu_init(model, machine->kvm_fd, 2, true), 0);
	assert_int_equal(cpu_setup(machine->vcpu_fd, 0, model), 0);
	assert_int_equal(cpu_set_entry(machine->vcpu_fd, entry), 0);
	free(model);
}

static void runs_from(enum boot_mode mode)
{
	static const uint8_t code[] = { 0xe6, 0x80 }; /* OUT 0x80, AL */
	struct boot_entry entry = {
		.mode = mode,
		.rip = 0x200000,
		.rsi = 0x7000,
		.rbx = 0x6000,
		.rsp = 0x8ff0,
	};
	struct machine machine;
	struct kvm_regs regs;

	machine_init(&machine);
	memcpy(mem_host(&machine.mem, entry.rip, sizeof(code)), code, sizeof(code));
	/* One 2 MiB page each for the tables and for the code, mapped to themselves. */
	uint64_t *table = mem_host(&machine.mem, LAYOUT_PAGE_TABLES, 0x3000);

	table[0] = (LAYOUT_PAGE_TABLES + 0x1000) | 3;
	table[512] = (LAYOUT_PAGE_TABLES + 0x2000) | 3;
	table[1024] = 0x83;
	table[1025] = 0x200083;
	machine_setup(&machine, &entry);

	assert_int_equal(ioctl(machine.vcpu_fd, KVM_RUN, 0), 0);
	assert_int_equal(machine.run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(machine.run->io.port, 0x80);
	assert_int_equal(ioctl(machine.vcpu_fd, KVM_GET_REGS, &regs), 0);
	assert_int_equal(regs.rsi, 0x7000);
	assert_int_equal(regs.rbx, 0x6000);
	assert_int_equal(regs.rsp, 0x8ff0);
	assert_int_equal(regs.rbp | regs.rdi, 0);
	assert_int_equal(regs.rflags, 2);
	machine_fini(&machine);
}

static void runs_long(void **state)
{
	(void)state;
	runs_from(BOOT_LONG);
}

static void runs_protected(void **state)
{
	(void)state;
	runs_from(BOOT_PROTECTED);
}

static uint64_t msr(int vcpu_fd, uint32_t index)
{
	struct kvm_msrs *get = calloc(1, sizeof(*get) + sizeof(get->entries[0]));
	uint64_t data;

	assert_non_null(get);
	get->nmsrs = 1;
	get->entries[0].index = index;
	assert_int_equal(ioctl(vcpu_fd, KVM_GET_MSRS, get), 1);
	data = get->entries[0].data;
	free(get);
	return data;
}

static void reset_state(void **state)
{
	struct boot_entry entry = { .mode = BOOT_PROTECTED, .rip = 0x200000 };
	struct machine machine;
	struct kvm_sregs sregs;
	struct kvm_lapic_state lapic;
	uint32_t lint0;

	(void)state;
	machine_init(&machine);
	machine_setup(&machine, &entry);
	assert_int_equal(msr(machine.vcpu_fd, 0x2ff), 0x806);
	assert_int_equal(msr(machine.vcpu_fd, 0x1a0) & 1, 1);
	assert_int_equal(ioctl(machine.vcpu_fd, KVM_GET_SREGS, &sregs), 0);
	assert_int_equal(sregs.apic_base, 0xfee00900);
	assert_int_equal(sregs.cr0 & 0xe000000f, 1);
	assert_int_equal(sregs.cs.db, 1);
	assert_int_equal(sregs.gdt.base, LAYOUT_GDT);
	/* What is left to KVM: the PIC's interrupts pass through LINT0, as ExtINT. */
	assert_int_equal(ioctl(machine.vcpu_fd, KVM_GET_LAPIC, &lapic), 0);
	memcpy(&lint0, &lapic.regs[0x350], sizeof(lint0));
	assert_int_equal(lint0, 0x700);
	machine_fini(&machine);
}

static void errors(void **state)
{
	struct cpu_model model = { .cpuid.nent = 0 };
	int fd = open("/dev/null", O_RDWR);

	(void)state;
	assert_int_equal(cpu_init(&model, fd, 1, true), -ENOTTY);
	model.cpuid.nent = 0;
	assert_int_equal(cpu_setup(fd, 0, &model), -ENOTTY);
	assert_int_equal(cpu_set_entry(fd, &(struct boot_entry){ .mode = BOOT_LONG }), -ENOTTY);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(features),     cmocka_unit_test(intel_topology),
		cmocka_unit_test(amd_topology), cmocka_unit_test(one_and_many),
		cmocka_unit_test(runs_long),    cmocka_unit_test(runs_protected),
		cmocka_unit_test(reset_state),  cmocka_unit_test(errors),
	};

	return cmocka_run_group_tests_name("arch/cpu", tests, NULL, NULL);
}
