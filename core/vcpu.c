/*
 * vCPU threads: KVM_RUN, then the exit to whom it concerns. Knows KVM's exits and the bus; no
 * device.
 */
#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "core/inspect.h"
#include "core/trace.h"
#include "core/vcpu.h"

#define KICK_SIGNAL SIGRTMIN
#define PAGE_SIZE   4096 /* KVM_COALESCED_MMIO_MAX wants it */

static void kicked(int signal)
{
	(void)signal; /* its delivery alone makes KVM_RUN return */
}

void vcpu_signal_init(void)
{
	struct sigaction action = { .sa_handler = kicked };

	sigaction(KICK_SIGNAL, &action, NULL);
}

int vcpu_init(struct vcpu *vcpu, const struct vm *vm, unsigned id, const struct vcpu_world *world)
{
	*vcpu = (struct vcpu){ .world = world, .id = id, .run_size = vm->run_size };
	vcpu->fd = ioctl(vm->fd, KVM_CREATE_VCPU, id); /* api.rst 4.7 */
	if (vcpu->fd < 0)
		return -errno;

	vcpu->run = mmap(NULL, vcpu->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (vcpu->run == MAP_FAILED) {
		int err = -errno;

		close(vcpu->fd);
		vcpu->fd = -1;
		return err;
	}
	vcpu->deferred =
	        (void *)((uint8_t *)vcpu->run + KVM_COALESCED_MMIO_PAGE_OFFSET * PAGE_SIZE);
	return 0;
}

void vcpu_fini(struct vcpu *vcpu)
{
	if (vcpu->fd < 0)
		return;
	munmap(vcpu->run, vcpu->run_size);
	close(vcpu->fd);
	vcpu->fd = -1;
}

static void exit_io(struct vcpu *vcpu, struct exit_stats *exits)
{
	struct kvm_run *run = vcpu->run;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;
	bool is_write = run->io.direction == KVM_EXIT_IO_OUT;

	exit_count_site(exits, BUS_PORT, run->io.port, is_write);
	for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size)
		bus_access(vcpu->world->bus, BUS_PORT, run->io.port, data, run->io.size, is_write);
}

static void exit_mmio(struct vcpu *vcpu, struct exit_stats *exits)
{
	struct kvm_run *run = vcpu->run;

	exit_count_site(exits, BUS_MMIO, run->mmio.phys_addr, run->mmio.is_write);
	bus_access(vcpu->world->bus, BUS_MMIO, run->mmio.phys_addr, run->mmio.data, run->mmio.len,
	           run->mmio.is_write);
}

/*
 * Writes that KVM kept back (core/bus.h, defer_writes). All vCPUs share the one ring of them; it is
 * emptied before an exit is handled, so each access finds the writes that came before it done.
 */
static void take_deferred(struct vcpu *vcpu)
{
	struct kvm_coalesced_mmio_ring *ring = vcpu->deferred;

	if (__atomic_load_n(&ring->first, __ATOMIC_RELAXED) ==
	    __atomic_load_n(&ring->last, __ATOMIC_RELAXED))
		return;

	pthread_mutex_lock(vcpu->world->deferred_lock);
	/* Acquire: KVM's smp_wmb() in coalesced_mmio_write() puts the entry before `last`. */
	while (ring->first != __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE)) {
		struct kvm_coalesced_mmio *entry = &ring->coalesced_mmio[ring->first];

		bus_access(vcpu->world->bus, entry->pio ? BUS_PORT : BUS_MMIO, entry->phys_addr,
		           entry->data, entry->len, true);
		__atomic_store_n(&ring->first, (ring->first + 1) % KVM_COALESCED_MMIO_MAX,
		                 __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(vcpu->world->deferred_lock);
}

/* KVM cannot go on: say what it met, and end the VM. */
static void exit_fatal(struct vcpu *vcpu)
{
	const struct kvm_run *run = vcpu->run;
	char where[INSPECT_MAX];

	inspect_cpu(vcpu->fd, vcpu->world->mem, where, sizeof(where));
	if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR &&
	    run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION)
		fprintf(stderr,
		        "kring: vCPU %u: this KVM cannot run the guest: it has to emulate an "
		        "instruction that it does not know: %s\n",
		        vcpu->id, where);
	else if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR)
		fprintf(stderr, "kring: vCPU %u: KVM internal error, suberror %u: %s\n", vcpu->id,
		        run->internal.suberror, where);
	else if (run->exit_reason == KVM_EXIT_FAIL_ENTRY)
		fprintf(stderr, "kring: vCPU %u: KVM cannot enter the guest, reason %#llx: %s\n",
		        vcpu->id, (unsigned long long)run->fail_entry.hardware_entry_failure_reason,
		        where);
	else
		fprintf(stderr, "kring: vCPU %u: KVM exit %u is not known: %s\n", vcpu->id,
		        run->exit_reason, where);
	power_request(vcpu->world->power, POWER_FAILED);
}

static void exit_handle(struct vcpu *vcpu, struct exit_stats *exits)
{
	const struct vcpu_world *world = vcpu->world;

	exit_count(exits, vcpu->run->exit_reason);
	take_deferred(vcpu);
	switch (vcpu->run->exit_reason) {
	case KVM_EXIT_IO:
		exit_io(vcpu, exits);
		break;
	case KVM_EXIT_MMIO:
		exit_mmio(vcpu, exits);
		break;
	case KVM_EXIT_DEBUG:
		if (world->trace)
			trace_step(world->trace, vcpu->id, vcpu->fd);
		break;
	case KVM_EXIT_SHUTDOWN:
		power_request(world->power, POWER_CRASH);
		break;
	case KVM_EXIT_INTR:
		break;
	default:
		exit_fatal(vcpu);
	}
}

static void *vcpu_main(void *arg)
{
	struct vcpu *vcpu = arg;
	const struct vcpu_world *world = vcpu->world;
	struct exit_stats *exits = &world->stats->exits[vcpu->id];
	sigset_t kick;

	/* Who executed kring may have left it blocked. */
	sigemptyset(&kick);
	sigaddset(&kick, KICK_SIGNAL);
	pthread_sigmask(SIG_UNBLOCK, &kick, NULL);

	if (vcpu->id == 0)
		stats_phase(world->stats, PHASE_RUN);

	while (power_state(world->power) == POWER_ON) {
		if (ioctl(vcpu->fd, KVM_RUN, 0) == 0) { /* api.rst 4.10 */
			exit_handle(vcpu, exits);
		} else if (errno == EINTR || errno == EAGAIN) {
			exit_count(exits, EXIT_INTERRUPTED);
		} else {
			fprintf(stderr, "kring: vCPU %u: KVM_RUN: %s\n", vcpu->id, strerror(errno));
			power_request(world->power, POWER_FAILED);
		}
	}
	exit_count_cpu(exits);
	return NULL;
}

int vcpu_start(struct vcpu *vcpu)
{
	int err = pthread_create(&vcpu->thread, NULL, vcpu_main, vcpu);

	vcpu->started = err == 0;
	return -err;
}

void vcpu_stop(struct vcpu *vcpu)
{
	struct timespec again;

	if (!vcpu->started)
		return;
	assert(power_state(vcpu->world->power) != POWER_ON);
	/* A signal that comes just before KVM_RUN would be lost; the flag is not (api.rst 5). */
	__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	do { /* again and again, for a thread that was about to block elsewhere */
		clock_gettime(CLOCK_REALTIME, &again);
		again.tv_sec++;
		pthread_kill(vcpu->thread, KICK_SIGNAL);
	} while (pthread_timedjoin_np(vcpu->thread, NULL, &again));
	vcpu->started = false;
}

void vcpu_describe(const struct vcpu *vcpu, char *text, size_t len)
{
	struct kvm_mp_state mp = { 0 };
	char where[INSPECT_MAX];

	inspect_cpu(vcpu->fd, vcpu->world->mem, where, sizeof(where));
	ioctl(vcpu->fd, KVM_GET_MP_STATE, &mp); /* api.rst 4.38 */
	snprintf(text, len, "vCPU %u %s: %s", vcpu->id,
	         mp.mp_state == KVM_MP_STATE_RUNNABLE ? "runs"
	         : mp.mp_state == KVM_MP_STATE_HALTED ? "is halted"
	                                              : "was not started",
	         where);
}
