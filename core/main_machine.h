/*
 * A machine: one guest from its first instruction to its last, all devices wired together.
 *
 * Main thread. What ends the guest is told by the power that it is given.
 */
#ifndef CORE_MAIN_MACHINE_H
#define CORE_MAIN_MACHINE_H

#include "arch/x86/i8042.h"
#include "arch/x86/pm.h"
#include "arch/x86/ports.h"
#include "arch/x86/rtc.h"
#include "arch/x86/uart.h"
#include "core/main_virtio.h"
#include "core/options.h"
#include "core/pci.h"
#include "core/stats.h"
#include "core/trace.h"
#include "core/vcpu.h"
#include "io/ring.h"

/* What a machine gets from the session around it. */
struct machine_host {
	struct ring *ring;
	struct power *power;
	struct virtio_host *virtio;
	const struct uart_backend *serial;
	void *serial_arg;
};

struct machine {
	const struct options *options;
	const struct machine_host *host;
	char *cmdline; /* what the kernel is told */
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
	struct virtio virtio;
	struct stats stats;
	struct trace trace;
	struct vcpu_world world;
	pthread_mutex_t deferred_lock;
	struct vcpu *vcpu;
	unsigned nvcpus; /* that exist */
	bool legacy;     /* the guest will not use ACPI or the IOAPIC */
};

/*
 * Build a machine, zeroed before, by the @options, its kernel loaded. Returns 0, or -errno and one
 * line was printed.
 */
int machine_init(struct machine *machine, const struct options *options,
                 const struct machine_host *host, uint64_t exec_ns);

/* Only after machine_stop(). */
void machine_fini(struct machine *machine);

/* Run the guest, on threads of their own. A thread that cannot start ends the guest. */
void machine_start(struct machine *machine);
void machine_stop(struct machine *machine);

/* Whether the reset that the guest asked for was that of a panic. */
bool machine_panicked(const struct machine *machine);

#endif
