/*
 * The machine: which chips and devices there are, where they lie, in what order they are built.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "arch/x86/acpi.h"
#include "arch/x86/boot.h"
#include "arch/x86/cpu.h"
#include "arch/x86/layout.h"
#include "core/main.h"
#include "core/main_machine.h"

/*
 * The BIOS data area's reset flag: Linux writes it on every reset, 0x1234 for a warm one. With
 * reboot=panic_warm on the command line only a panic is warm (kernel-parameters.txt, "reboot=").
 */
#define RESET_FLAG      0x472
#define RESET_FLAG_WARM 0x1234

static const struct vm_config vm_places = {
	.tss = LAYOUT_TSS,
	.identity_map = LAYOUT_IDENTITY_MAP,
};

static const struct pci_config pci_places = {
	.ports = PORT_PCI_CONF,
	.ecam = LAYOUT_ECAM,
	.mmio = LAYOUT_PCI_MMIO,
	.mmio_len = LAYOUT_PCI_MMIO_LEN,
	.io = PORT_PCI_IO,
	.io_len = PORT_PCI_IO_LEN,
};

static void marked(void *arg, uint8_t value)
{
	struct machine *machine = arg;

	stats_mark(&machine->stats, value);
}

static void debug_wrote(void *arg, uint8_t byte)
{
	struct pollfd out = { .fd = STDERR_FILENO, .events = POLLOUT };

	(void)arg;
	if (poll(&out, 1, 0) == 1 && out.revents & POLLOUT) /* nobody waits for who does not read */
		fputc(byte, stderr);
}

static void rtc_due(struct io_watch *watch)
{
	rtc_tick(&container_of(watch, struct machine, rtc_watch)->rtc);
}

/* Allowed, for a guest need not touch all it has; but more often -m 512 was meant to be 512m. */
static void memory_warn(uint64_t size)
{
	struct sysinfo host;

	if (!sysinfo(&host) && size > (uint64_t)host.totalram * host.mem_unit)
		fprintf(stderr, "kring: --memory: %llu MiB is more than this host has (%llu)\n",
		        (unsigned long long)size >> 20,
		        ((unsigned long long)host.totalram * host.mem_unit) >> 20);
}

static int memory_init(struct machine *machine, uint64_t size)
{
	struct mem *mem = &machine->mem;
	int err = mem_init(mem, size);

	err = err ? err : vm_map(&machine->vm, mem->low.gpa, mem->low.host, mem->low.len, false);
	if (err >= 0 && mem->high.len)
		err = vm_map(&machine->vm, mem->high.gpa, mem->high.host, mem->high.len, false);
	return err < 0 ? err : 0;
}

/* For who asks for it: it populates and pins all of RAM. */
static int memory_register(const struct mem *mem, struct ring *ring)
{
	const struct iovec area[] = {
		{ mem->low.host, mem->low.len },
		{ mem->high.host, mem->high.len },
	};
	int err = ring_register_memory(ring, area, mem->high.len ? 2 : 1);

	if (err)
		fprintf(stderr, "kring: --registered-memory: %s%s\n", strerror(-err),
		        err == -ENOMEM       ? "; raise `ulimit -l` above the size of --memory"
		        : err == -EOPNOTSUPP ? "; it needs Linux 5.13"
		                             : "");
	return err;
}

/* Writes that a device answers only when it is read may wait. */
static int writes_defer(struct machine *machine)
{
	int err = 0;

	for (enum bus_space space = BUS_PORT; space <= BUS_MMIO; space++)
		for (unsigned i = 0; !err && i < machine->bus.space[space].n; i++) {
			const struct bus_range *range = &machine->bus.space[space].range[i];

			if (range->ops->defer_writes)
				err = vm_defer_writes(&machine->vm, space, range->base,
				                      (uint32_t)range->len);
		}
	return err;
}

static int devices_init(struct machine *machine)
{
	const struct machine_host *host = machine->host;
	static const struct ports_ops ports = { .mark = marked, .debug = debug_wrote };
	struct bus *bus = &machine->bus;
	int err = irq_init(&machine->com1_irq, machine->vm.fd, IRQ_COM1);

	err = err ? err : irq_init(&machine->rtc_irq, machine->vm.fd, IRQ_RTC);
	if (err)
		return main_fail("KVM_IRQFD", err);
	err = rtc_init(&machine->rtc, &machine->rtc_irq, machine->mem.low.len,
	               machine->mem.high.len);
	if (err)
		return main_fail("timerfd", err);

	ring_watch(host->ring, &machine->rtc_watch, machine->rtc.timer_fd, rtc_due);
	uart_init(&machine->uart, &machine->com1_irq, host->serial, host->serial_arg);
	i8042_init(&machine->i8042, host->power);
	pm_init(&machine->pm, host->power);
	ports_init(&machine->ports, &ports, machine);

	err = uart_attach(&machine->uart, bus);
	err = err ? err : rtc_attach(&machine->rtc, bus);
	err = err ? err : i8042_attach(&machine->i8042, bus);
	err = err ? err : pm_attach(&machine->pm, bus);
	err = err ? err : ports_attach(&machine->ports, bus);
	err = err ? err : pci_attach(&machine->pci, bus);
	if (!err && !machine->legacy)
		err = writes_defer(machine);
	if (err)
		return main_fail("the bus", err);
	return virtio_init(&machine->virtio, host->virtio, &machine->mem, &machine->pci,
	                   machine->vm.fd);
}

/* Whether the kernel's command line has one of @parameters, or one that begins with it and ends in
 * =. */
static bool has_parameter(const char *cmdline, const char *const *parameters)
{
	for (; *parameters; parameters++) {
		size_t len = strlen(*parameters);

		for (const char *at = cmdline; (at = strstr(at, *parameters)); at += len)
			if ((at == cmdline || at[-1] == ' ') &&
			    (at[len] == ' ' || !at[len] || at[len - 1] == '='))
				return true;
	}
	return false;
}

/*
 * Guests know two machines. The lean one has hardware-reduced ACPI and deferred writes: no PIC, no
 * PIT, no fixed registers to look for, 160 exits to user space and 500 in all less a boot.
 * Parameters that take ACPI or the APICs away need the whole PC.
 */
static const char *const legacy_parameters[] = { "acpi=off", "acpi=noirq",  "pci=noacpi", "noapic",
	                                         "nolapic",  "disableapic", NULL };

/* Who is told a wrong rate of the TSC, or none, must not set timers by it: they would fire at once.
 */
static const char *const no_tsc_parameters[] = { "notsc", "tsc_early_khz=", NULL };

static int guest_load(struct machine *machine, struct boot_entry *entry)
{
	const struct options *options = machine->options;
	struct boot_error error;
	struct boot_config config = {
		.kernel = options->kernel,
		.initrd = options->initrd && *options->initrd ? options->initrd : NULL,
		.cmdline = machine->cmdline,
		.protocol = (enum boot_protocol)options->protocol,
		.cpus = (unsigned)options->cpus,
		.rsdp = acpi_write(&machine->mem, (unsigned)options->cpus, machine->legacy),
	};
	int err = boot_load(&machine->mem, &config, entry, &error);

	if (err)
		fprintf(stderr, "kring: %s\n", error.text);
	return err;
}

static int vcpus_init(struct machine *machine, const struct boot_entry *entry)
{
	const struct options *options = machine->options;
	struct cpu_model *model = malloc(sizeof(*model));
	int err = -ENOMEM;

	machine->vcpu = calloc(options->cpus, sizeof(*machine->vcpu));
	if (!model || !machine->vcpu)
		goto out;
	err = cpu_init(model, machine->vm.kvm_fd, (unsigned)options->cpus,
	               !has_parameter(machine->cmdline, no_tsc_parameters));
	while (!err && machine->nvcpus < options->cpus) {
		unsigned id = machine->nvcpus;
		struct vcpu *vcpu = &machine->vcpu[id];

		err = vcpu_init(vcpu, &machine->vm, id, &machine->world);
		if (err)
			break;
		machine->nvcpus++;
		err = cpu_setup(vcpu->fd, id, model);
		if (!err && options->timings)
			err = stats_detail(&machine->stats, id, vcpu->fd);
	}
	if (!err)
		err = cpu_set_entry(machine->vcpu[0].fd, entry);
	for (unsigned id = 0; !err && machine->world.trace && id < machine->nvcpus; id++)
		err = trace_arm(machine->vcpu[id].fd);
out:
	free(model);
	if (err)
		fprintf(stderr, "kring: vCPU %u of %u: %s\n", machine->nvcpus,
		        (unsigned)options->cpus, strerror(-err));
	return err;
}

static int trace_start(struct machine *machine)
{
	const struct options *options = machine->options;
	int err;

	if (!options->trace)
		return 0;
	err = trace_init(&machine->trace, &machine->mem, options->trace, options->kernel, stderr);
	if (err)
		return main_fail(options->kernel, err);
	machine->world.trace = &machine->trace;
	return 0;
}

/* The parts in the order in which each needs those before it; what failed has said so. */
static int machine_build(struct machine *machine, uint64_t exec_ns)
{
	const struct options *options = machine->options;
	struct boot_entry entry;
	char why[WHY_MAX];
	int err;

	if (asprintf(&machine->cmdline, "%s%s%s", options->cmdline, options->append ? " " : "",
	             options->append ? options->append : "") < 0) {
		machine->cmdline = NULL;
		return main_fail("command line", -ENOMEM);
	}
	machine->legacy = has_parameter(machine->cmdline, legacy_parameters);

	err = stats_init(&machine->stats, exec_ns, (unsigned)options->cpus);
	if (err)
		return main_fail("counters", err);

	err = vm_init(&machine->vm, options->dev, why);
	if (err) {
		fprintf(stderr, "kring: %s\n", why);
		return err;
	}
	stats_phase(&machine->stats, PHASE_KVM);

	err = memory_init(machine, options->memory);
	if (err)
		return main_fail("guest RAM (--memory)", err);
	memory_warn(options->memory);
	if (options->registered_memory) {
		err = memory_register(&machine->mem, machine->host->ring);
		if (err)
			return err;
	}
	pci_init(&machine->pci, &pci_places, machine->host->power);
	err = pci_map(&machine->pci, &machine->vm, virtio_devices(machine->host->virtio));
	if (err == -ENOSPC)
		fprintf(stderr,
		        "kring: at most %d disks and network cards; --rng off makes room "
		        "for one more\n",
		        PCI_SLOTS - 2);
	else if (err)
		main_fail("PCI configuration space", err);
	if (err)
		return err;
	err = vm_add_chips(&machine->vm, &vm_places, why);
	if (err) {
		fprintf(stderr, "kring: %s: %s\n", options->dev, why);
		return err;
	}
	stats_phase(&machine->stats, PHASE_MEMORY);

	err = guest_load(machine, &entry);
	if (err)
		return err;
	stats_phase(&machine->stats, PHASE_KERNEL);

	err = devices_init(machine);
	err = err ? err : trace_start(machine);
	return err ? err : vcpus_init(machine, &entry);
}

int machine_init(struct machine *machine, const struct options *options,
                 const struct machine_host *host, uint64_t exec_ns)
{
	machine->options = options;
	machine->host = host;
	machine->vm = (struct vm){ .kvm_fd = -1, .fd = -1 };
	machine->com1_irq.fd = -1;
	machine->rtc_irq.fd = -1;
	machine->rtc.timer_fd = -1;
	machine->world = (struct vcpu_world){
		&machine->bus,   &machine->mem, host->power,
		&machine->stats, NULL,          &machine->deferred_lock,
	};
	pthread_mutex_init(&machine->deferred_lock, NULL);

	int err = machine_build(machine, exec_ns);

	if (err)
		machine_fini(machine);
	return err;
}

void machine_fini(struct machine *machine)
{
	for (unsigned i = 0; i < machine->nvcpus; i++)
		vcpu_fini(&machine->vcpu[i]);
	free(machine->vcpu);
	if (machine->rtc_watch.ring)
		ring_unwatch(&machine->rtc_watch);
	rtc_fini(&machine->rtc);
	virtio_fini(&machine->virtio);
	pci_fini(&machine->pci);
	trace_fini(&machine->trace);
	stats_fini(&machine->stats);
	irq_fini(&machine->rtc_irq);
	irq_fini(&machine->com1_irq);
	vm_fini(&machine->vm);
	ring_forget_memory(machine->host->ring);
	mem_fini(&machine->mem);
	pthread_mutex_destroy(&machine->deferred_lock);
	free(machine->cmdline);
}

void machine_start(struct machine *machine)
{
	for (unsigned i = 0; i < machine->nvcpus; i++) {
		int err = vcpu_start(&machine->vcpu[i]);

		if (err) {
			main_fail("vCPU thread", err);
			power_request(machine->host->power, POWER_FAILED);
		}
	}
}

void machine_stop(struct machine *machine)
{
	power_request(machine->host->power, POWER_OFF); /* unless the guest was first */
	for (unsigned i = 0; i < machine->nvcpus; i++)
		vcpu_stop(&machine->vcpu[i]);
	stats_phase(&machine->stats, PHASE_SHUTDOWN);
}

bool machine_panicked(const struct machine *machine)
{
	const uint16_t *flag = mem_host(&machine->mem, RESET_FLAG, sizeof(*flag));

	return flag && *flag == RESET_FLAG_WARM;
}
