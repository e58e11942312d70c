/*
 * `kring boot`: wire a machine together, run it, say how it ended.
 *
 * A session is the host's side: one ring, one console, signals and the deadline; it outlives a
 * guest that reboots. A machine is one guest from its first instruction to its last.
 */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "arch/x86/acpi.h"
#include "arch/x86/boot.h"
#include "arch/x86/cpu.h"
#include "arch/x86/i8042.h"
#include "arch/x86/layout.h"
#include "arch/x86/pm.h"
#include "arch/x86/ports.h"
#include "arch/x86/rtc.h"
#include "arch/x86/uart.h"
#include "core/main.h"
#include "core/pci.h"
#include "core/stats.h"
#include "core/trace.h"
#include "core/vcpu.h"
#include "io/console.h"
#include "io/ring.h"

#define RING_ENTRIES 256
#define DRAIN_NSEC   2000000000ull /* for the last output of a guest that was ended from outside */

/*
 * The BIOS data area's reset flag: Linux writes it on every reset, 0x1234 for a warm one. With
 * reboot=panic_warm on the command line only a panic is warm (kernel-parameters.txt, "reboot=").
 */
#define RESET_FLAG      0x472
#define RESET_FLAG_WARM 0x1234

enum end {
	END_NONE,
	END_GUEST,   /* the guest: power_state() says how */
	END_QUIT,    /* Ctrl-a x */
	END_TIMEOUT, /* --timeout */
	END_SIGNAL,
};

struct session {
	const struct options *options;
	uint64_t exec_ns;
	struct ring ring;
	struct console console;
	struct power power;
	struct io_watch power_watch;
	struct io_timer deadline;
	struct io_timer drain_limit;
	struct io_op signal_op;
	struct signalfd_siginfo signal;
	int signal_fd;
	FILE *timings;
	struct machine *machine; /* that the console talks to; NULL between two */
	enum end end;
	bool stop;    /* leave the ring: the guest is over */
	bool give_up; /* do not wait for the last output either */
};

struct machine {
	struct vm vm;
	struct mem mem;
	struct bus bus;
	struct irq com1_irq;
	struct irq rtc_irq;
	struct io_watch rtc_watch;
	struct uart uart;
	struct rtc rtc;
	struct i8042 i8042;
	struct pm pm;
	struct ports ports;
	struct pci pci;
	struct stats stats;
	struct trace trace;
	struct vcpu_world world;
	pthread_mutex_t deferred_lock;
	struct vcpu *vcpu;
	unsigned nvcpus; /* that exist */
	bool legacy;     /* the guest will not use ACPI or the IOAPIC */
};

static const struct vm_config vm_places = {
	.tss = LAYOUT_TSS,
	.identity_map = LAYOUT_IDENTITY_MAP,
};

static const struct pci_config pci_places = {
	.ports = PORT_PCI_CONF,
	.ecam = LAYOUT_ECAM,
	.mmio = LAYOUT_PCI_MMIO,
	.mmio_len = LAYOUT_PCI_MMIO_LEN,
};

static int fail(const char *what, int err)
{
	fprintf(stderr, "kring: %s: %s\n", what, strerror(-err));
	return err;
}

/* The serial line, one end at the UART, the other at the console. */

static size_t uart_to_console(void *arg, const uint8_t *bytes, size_t n)
{
	struct session *session = arg;

	return console_write(&session->console, bytes, n);
}

static void uart_wants_input(void *arg)
{
	struct session *session = arg;

	console_resume_input(&session->console);
}

static size_t console_to_uart(void *arg, const uint8_t *bytes, size_t n)
{
	struct session *session = arg;

	return session->machine ? uart_receive(&session->machine->uart, bytes, n) : 0;
}

static void console_has_room(void *arg)
{
	struct session *session = arg;

	if (session->machine)
		uart_tx_ready(&session->machine->uart);
}

/* What ends a guest: each handler runs on the I/O thread. */

static void session_end(struct session *session, enum end end)
{
	if (session->end == END_NONE)
		session->end = end;
	session->stop = true;
}

static void console_quit(void *arg)
{
	struct session *session = arg;

	session->give_up = session->stop;
	session_end(session, END_QUIT);
}

static void power_changed(struct io_watch *watch)
{
	struct session *session = container_of(watch, struct session, power_watch);

	if (power_state(&session->power) != POWER_ON)
		session_end(session, END_GUEST);
}

static void deadline_passed(struct io_op *op, int res)
{
	struct session *session = container_of(op, struct session, deadline.op);

	if (res != -ETIME)
		return;
	session->give_up = session->stop;
	session_end(session, END_TIMEOUT);
}

static void drain_limit_passed(struct io_op *op, int res)
{
	struct session *session = container_of(op, struct session, drain_limit.op);

	(void)res;
	session->give_up = true;
}

static void signal_wait(struct session *session);

static void signal_came(struct io_op *op, int res)
{
	struct session *session = container_of(op, struct session, signal_op);

	if (res != sizeof(session->signal))
		return;
	session->give_up = session->stop; /* the second one does not wait */
	session_end(session, END_SIGNAL);
	signal_wait(session);
}

static void signal_wait(struct session *session)
{
	session->signal_op.done = signal_came;
	ring_read(&session->ring, &session->signal_op, session->signal_fd, &session->signal,
	          sizeof(session->signal), (uint64_t)-1);
}

/* A crash of kring itself must not leave the terminal raw; a handler has no argument but this. */
static struct console *crash_console;

static void crashed(int signal)
{
	console_restore(crash_console);
	raise(signal); /* SA_RESETHAND: now with its usual end */
}

static int signals_init(struct session *session)
{
	static const int crashes[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT };
	struct sigaction action = { .sa_handler = crashed, .sa_flags = SA_RESETHAND | SA_NODEFER };
	sigset_t set;

	crash_console = &session->console;
	for (size_t i = 0; i < sizeof(crashes) / sizeof(crashes[0]); i++)
		sigaction(crashes[i], &action, NULL);
	vcpu_signal_init();

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGQUIT);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	session->signal_fd = signalfd(-1, &set, SFD_CLOEXEC);
	if (session->signal_fd < 0)
		return -errno;
	signal_wait(session);
	return 0;
}

static const struct console_ops console_ops = {
	.input = console_to_uart,
	.drained = console_has_room,
	.quit = console_quit,
};

static int timings_open(struct session *session, const char *path)
{
	if (!path)
		return 0;
	session->timings = strcmp(path, "-") ? fopen(path, "we") : stdout;
	return session->timings ? 0 : -errno;
}

static int session_init(struct session *session, const struct options *options, uint64_t exec_ns)
{
	int err;

	session->options = options;
	session->exec_ns = exec_ns;
	session->signal_fd = -1;

	err = timings_open(session, options->timings);
	if (err)
		return fail(options->timings, err);
	err = power_init(&session->power);
	if (err) {
		fail("eventfd", err);
		goto no_power;
	}
	err = ring_init(&session->ring, RING_ENTRIES);
	if (err) {
		fprintf(stderr, "kring: %s\n", ring_explain(err));
		goto no_ring;
	}
	err = console_init(&session->console, &session->ring, options->console, &console_ops,
	                   session);
	if (err) {
		fail(options->console, err);
		goto no_console;
	}
	err = signals_init(session);
	if (err) {
		fail("signalfd", err);
		goto no_signals;
	}

	ring_watch(&session->ring, &session->power_watch, session->power.fd, power_changed);
	if (options->timeout) {
		session->deadline.op.done = deadline_passed;
		ring_timeout(&session->ring, &session->deadline, options->timeout);
	}
	return 0;

no_signals:
	ring_fini(&session->ring);
	console_fini(&session->console);
	goto no_ring;
no_console:
	ring_fini(&session->ring);
no_ring:
	power_fini(&session->power);
no_power:
	if (session->timings && session->timings != stdout)
		fclose(session->timings);
	return err;
}

static int session_fini(struct session *session)
{
	int err = 0;

	ring_fini(&session->ring);
	console_fini(&session->console);
	close(session->signal_fd);
	power_fini(&session->power);
	if (session->timings && fflush(session->timings))
		err = fail(session->options->timings, -errno);
	if (session->timings && session->timings != stdout)
		fclose(session->timings);
	return err;
}

/* The guest's last words go out before ours; one that was ended from outside gets a moment. */
static void session_drain(struct session *session)
{
	if (session->end != END_GUEST) {
		session->drain_limit.op.done = drain_limit_passed;
		ring_timeout(&session->ring, &session->drain_limit, DRAIN_NSEC);
	}
	console_drain(&session->console, &session->give_up);
}

/* A machine. */

static void marked(void *arg, uint8_t value)
{
	struct machine *machine = arg;

	stats_mark(&machine->stats, value);
}

static void debug_wrote(void *arg, uint8_t byte)
{
	(void)arg;
	fputc(byte, stderr);
}

static void rtc_due(struct io_watch *watch)
{
	rtc_tick(&container_of(watch, struct machine, rtc_watch)->rtc);
}

static int memory_init(struct machine *machine, uint64_t size)
{
	struct mem *mem = &machine->mem;
	int err = mem_init(mem, size);

	err = err ? err : vm_map(&machine->vm, mem->low.gpa, mem->low.host, mem->low.len);
	if (!err && mem->high.len)
		err = vm_map(&machine->vm, mem->high.gpa, mem->high.host, mem->high.len);
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

static int devices_init(struct machine *machine, struct session *session)
{
	static const struct uart_backend serial = {
		.write = uart_to_console,
		.want_input = uart_wants_input,
	};
	static const struct ports_ops ports = { .mark = marked, .debug = debug_wrote };
	struct bus *bus = &machine->bus;
	int err = irq_init(&machine->com1_irq, machine->vm.fd, IRQ_COM1);

	err = err ? err : irq_init(&machine->rtc_irq, machine->vm.fd, IRQ_RTC);
	if (err)
		return fail("KVM_IRQFD", err);
	err = rtc_init(&machine->rtc, &machine->rtc_irq, machine->mem.low.len,
	               machine->mem.high.len);
	if (err)
		return fail("timerfd", err);

	ring_watch(&session->ring, &machine->rtc_watch, machine->rtc.timer_fd, rtc_due);
	uart_init(&machine->uart, &machine->com1_irq, &serial, session);
	i8042_init(&machine->i8042, &session->power);
	pm_init(&machine->pm, &session->power);
	ports_init(&machine->ports, &ports, machine);
	pci_init(&machine->pci, &pci_places, &session->power);

	err = uart_attach(&machine->uart, bus);
	err = err ? err : rtc_attach(&machine->rtc, bus);
	err = err ? err : i8042_attach(&machine->i8042, bus);
	err = err ? err : pm_attach(&machine->pm, bus);
	err = err ? err : ports_attach(&machine->ports, bus);
	err = err ? err : pci_attach(&machine->pci, bus);
	if (!err && !machine->legacy)
		err = writes_defer(machine);
	return err ? fail("the bus", err) : 0;
}

/* The kernel, and what it finds in memory. */
static int guest_load(struct machine *machine, const struct options *options,
                      struct boot_entry *entry)
{
	char cmdline[LAYOUT_CMDLINE_MAX];
	struct boot_error error;
	int len = snprintf(cmdline, sizeof(cmdline), "%s%s%s", options->cmdline,
	                   options->append ? " " : "", options->append ? options->append : "");

	if (len >= (int)sizeof(cmdline)) {
		fprintf(stderr,
		        "kring: the kernel command line is %d bytes long; %zu are too many\n", len,
		        sizeof(cmdline));
		return -E2BIG;
	}

	struct boot_config config = {
		.kernel = options->kernel,
		.initrd = options->initrd && *options->initrd ? options->initrd : NULL,
		.cmdline = cmdline,
		.protocol = (enum boot_protocol)options->protocol,
		.cpus = (unsigned)options->cpus,
		.rsdp = acpi_write(&machine->mem, (unsigned)options->cpus, machine->legacy),
	};
	int err = boot_load(&machine->mem, &config, entry, &error);

	if (err)
		fprintf(stderr, "kring: %s\n", error.text);
	return err;
}

static int vcpus_init(struct machine *machine, const struct options *options,
                      const struct boot_entry *entry)
{
	struct cpu_model *model = malloc(sizeof(*model));
	int err = -ENOMEM;

	machine->vcpu = calloc(options->cpus, sizeof(*machine->vcpu));
	if (!model || !machine->vcpu)
		goto out;
	err = cpu_init(model, machine->vm.kvm_fd, (unsigned)options->cpus);
	while (!err && machine->nvcpus < options->cpus) {
		unsigned id = machine->nvcpus;
		struct vcpu *vcpu = &machine->vcpu[id];

		err = vcpu_init(vcpu, &machine->vm, id, &machine->world);
		if (err)
			break;
		machine->nvcpus++;
		err = cpu_setup(vcpu->fd, id, model);
		if (!err && machine->world.trace)
			err = trace_arm(vcpu->fd);
		if (!err && options->timings)
			err = stats_detail(&machine->stats, id, vcpu->fd);
	}
	if (!err)
		err = cpu_set_entry(machine->vcpu[0].fd, entry);
out:
	free(model);
	if (err) {
		fprintf(stderr, "kring: vCPU %u of %u: %s\n", machine->nvcpus,
		        (unsigned)options->cpus, strerror(-err));
	}
	return err;
}

static void machine_fini(struct machine *machine)
{
	for (unsigned i = 0; i < machine->nvcpus; i++)
		vcpu_fini(&machine->vcpu[i]);
	free(machine->vcpu);
	if (machine->rtc_watch.ring)
		ring_unwatch(&machine->rtc_watch);
	rtc_fini(&machine->rtc);
	pci_fini(&machine->pci);
	trace_fini(&machine->trace);
	stats_fini(&machine->stats);
	irq_fini(&machine->rtc_irq);
	irq_fini(&machine->com1_irq);
	vm_fini(&machine->vm);
	mem_fini(&machine->mem);
	pthread_mutex_destroy(&machine->deferred_lock);
}

/*
 * Guests know two machines. The lean one has hardware-reduced ACPI: no PIC, no PIT, no fixed
 * registers to look for, some 500 exits less a boot. Parameters that take ACPI or the APICs away
 * need the whole PC.
 */
static bool wants_legacy(const char *cmdline)
{
	static const char *const parameters[] = { "acpi=off", "noapic", "pci=conf1", "pci=noacpi",
		                                  "pci=nommconf" };

	for (size_t i = 0; i < sizeof(parameters) / sizeof(parameters[0]); i++) {
		size_t len = strlen(parameters[i]);

		for (const char *at = cmdline; (at = strstr(at, parameters[i])); at += len)
			if ((at == cmdline || at[-1] == ' ') && (at[len] == ' ' || !at[len]))
				return true;
	}
	return false;
}

static int machine_init(struct machine *machine, struct session *session)
{
	const struct options *options = session->options;
	struct boot_entry entry;
	char why[WHY_MAX];
	int err;

	*machine = (struct machine){
		.vm = { .kvm_fd = -1, .fd = -1 },
		.com1_irq.fd = -1,
		.rtc_irq.fd = -1,
		.rtc.timer_fd = -1,
		.legacy = wants_legacy(options->cmdline) ||
		          (options->append && wants_legacy(options->append)),
		.world = { &machine->bus, &machine->mem, &session->power, &machine->stats, NULL,
		           &machine->deferred_lock },
	};
	pthread_mutex_init(&machine->deferred_lock, NULL);

	err = stats_init(&machine->stats, session->exec_ns, (unsigned)options->cpus);
	if (err) {
		fail("counters", err);
		goto fail;
	}
	err = vm_init(&machine->vm, options->dev, why);
	if (err) {
		fprintf(stderr, "kring: %s\n", why);
		goto fail;
	}
	stats_phase(&machine->stats, PHASE_KVM);

	err = memory_init(machine, options->memory);
	if (err) {
		fail("guest RAM (--memory)", err);
		goto fail;
	}
	err = vm_add_chips(&machine->vm, &vm_places, why);
	if (err) {
		fprintf(stderr, "kring: %s: %s\n", options->dev, why);
		goto fail;
	}
	stats_phase(&machine->stats, PHASE_MEMORY);

	err = guest_load(machine, options, &entry);
	if (err)
		goto fail;
	stats_phase(&machine->stats, PHASE_KERNEL);

	err = devices_init(machine, session);
	if (err)
		goto fail;
	if (options->trace) {
		err = trace_init(&machine->trace, &machine->mem, options->trace, options->kernel,
		                 stderr);
		if (err) {
			fail(options->kernel, err);
			goto fail;
		}
		machine->world.trace = &machine->trace;
	}
	err = vcpus_init(machine, options, &entry);
	if (err)
		goto fail;
	return 0;

fail:
	machine_fini(machine);
	return err;
}

static void machine_run(struct machine *machine, struct session *session)
{
	session->machine = machine;
	console_resume_input(&session->console);
	for (unsigned i = 0; i < machine->nvcpus; i++) {
		int err = vcpu_start(&machine->vcpu[i]);

		if (err) {
			fail("vCPU thread", err);
			power_request(&session->power, POWER_FAILED);
		}
	}

	ring_run(&session->ring, &session->stop);

	power_request(&session->power, POWER_OFF); /* unless the guest was first */
	for (unsigned i = 0; i < machine->nvcpus; i++)
		vcpu_stop(&machine->vcpu[i]);
	session->machine = NULL;
	stats_phase(&machine->stats, PHASE_SHUTDOWN);
}

/* A line of our own on a terminal that is not the guest's any more. */
__attribute__((format(printf, 2, 3))) static void say(struct session *session, const char *format,
                                                      ...)
{
	va_list args;

	console_restore(&session->console);
	fputs("kring: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
}

static bool panicked(const struct machine *machine)
{
	const uint16_t *flag = mem_host(&machine->mem, RESET_FLAG, sizeof(*flag));

	return flag && *flag == RESET_FLAG_WARM;
}

static void describe_vcpus(const struct machine *machine, struct session *session)
{
	for (unsigned i = 0; i < machine->nvcpus; i++) {
		char text[2 * WHY_MAX];

		vcpu_describe(&machine->vcpu[i], text, sizeof(text));
		say(session, "%s", text);
	}
}

/* Say how it ended where that is not plain, and give the exit status (README, "How it ends"). */
static int machine_status(const struct machine *machine, struct session *session)
{
	switch (session->end) {
	case END_TIMEOUT:
		fprintf(stderr, "kring: the guest did not end in %g s\n",
		        (double)session->options->timeout / 1e9);
		describe_vcpus(machine, session);
		return STATUS_TIMEOUT;
	case END_SIGNAL:
		return STATUS_SIGNAL + (int)session->signal.ssi_signo;
	case END_QUIT:
		return STATUS_OK;
	default:
		break;
	}

	switch (power_state(&session->power)) {
	case POWER_FAILED:
		return STATUS_FAILED;
	case POWER_CRASH:
		say(session, "the guest crashed: triple fault");
		return STATUS_PANIC;
	case POWER_RESET:
		if (!panicked(machine))
			return STATUS_OK;
		say(session, "the guest panicked");
		return STATUS_PANIC;
	default:
		return STATUS_OK;
	}
}

static int session_run(struct session *session, bool *again)
{
	struct machine *machine = calloc(1, sizeof(*machine));
	int status = STATUS_FAILED;

	*again = false;
	if (!machine || machine_init(machine, session))
		goto out;

	machine_run(machine, session);
	session_drain(session);
	status = machine_status(machine, session);
	*again = session->options->restart && session->end == END_GUEST && status == STATUS_OK &&
	         power_state(&session->power) == POWER_RESET;
	if (session->timings && !*again) {
		console_restore(&session->console);
		stats_print(&machine->stats, &machine->bus, session->timings);
	}
	machine_fini(machine);
out:
	free(machine);
	return status;
}

int main_boot(const struct options *options, uint64_t exec_ns)
{
	struct session *session = calloc(1, sizeof(*session));
	bool again;
	int status = STATUS_FAILED;

	if (!session || session_init(session, options, exec_ns)) {
		free(session);
		return STATUS_FAILED;
	}
	do {
		session->end = END_NONE;
		session->stop = false;
		power_rearm(&session->power);
		status = session_run(session, &again);
	} while (again);

	if (session_fini(session) && status == STATUS_OK)
		status = STATUS_FAILED;
	free(session);
	return status;
}
