/*
 * `kring boot`: wire a machine together, run it, say how it ended.
 *
 * A session is the host's side: one ring, one console, signals and the deadline; it outlives a
 * guest that reboots. A machine is one guest from its first instruction to its last.
 */
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "core/main.h"
#include "core/main_machine.h"
#include "io/console.h"

#define DRAIN_NSEC 2000000000ull /* for the last output of a guest that was ended from outside */

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
	FILE *stats;
	struct virtio_host virtio;
	struct machine *machine; /* that the console talks to; NULL between two */
	enum end end;
	enum end next_end; /* of the guest that a reboot starts: came when this one had ended */
	bool opened;       /* console and timings */
	bool stop;         /* leave the ring: the guest is over */
	bool give_up;      /* do not wait for the last output either */
};

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

static const struct uart_backend serial = {
	.write = uart_to_console,
	.want_input = uart_wants_input,
};

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
	else if (end != END_GUEST && session->next_end == END_NONE)
		session->next_end = end;
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

static bool is_ignored(int signal)
{
	struct sigaction action;

	return !sigaction(signal, NULL, &action) && action.sa_handler == SIG_IGN;
}

static int signals_init(struct session *session)
{
	static const int crashes[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT };
	struct sigaction action = { .sa_handler = crashed, .sa_flags = SA_RESETHAND | SA_NODEFER };
	/* All that would end kring with the terminal still raw. */
	static const int ends[] = { SIGINT,  SIGTERM, SIGHUP,  SIGQUIT,   SIGUSR1,
		                    SIGUSR2, SIGALRM, SIGXCPU, SIGVTALRM, SIGPROF };
	sigset_t set;

	crash_console = &session->console;
	for (size_t i = 0; i < sizeof(crashes) / sizeof(crashes[0]); i++)
		sigaction(crashes[i], &action, NULL);
	vcpu_signal_init();
	signal(SIGXFSZ, SIG_IGN); /* an image at the file size limit is the guest's I/O error */

	sigemptyset(&set);
	for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++)
		if (ends[i] != SIGHUP || !is_ignored(SIGHUP)) /* nohup */
			sigaddset(&set, ends[i]);
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

/*
 * Where there is a core that no vCPU needs, the I/O thread may poll on it; where there is none, it
 * may give way to vCPUs.
 */
static void session_set_pace(struct session *session)
{
	const struct options *options = session->options;
	cpu_set_t cores;
	bool many = sched_getaffinity(0, sizeof(cores), &cores); /* more than 1024 */
	uint64_t spare_nsec = pace_poll_nsec(many ? UINT_MAX : (unsigned)CPU_COUNT(&cores),
	                                     (unsigned)options->cpus);
	uint64_t poll_nsec = options->poll == POLL_AUTO ? spare_nsec : 1000 * options->poll;

	if (!ring_set_pace(&session->ring, poll_nsec, !spare_nsec && !poll_nsec) &&
	    options->poll != POLL_AUTO)
		fputs("kring: --poll: not on this kernel; Linux 5.19 can\n", stderr);
}

static int session_init(struct session *session, const struct options *options, uint64_t exec_ns)
{
	int err;

	session->options = options;
	session->exec_ns = exec_ns;

	err = power_init(&session->power);
	if (err)
		return main_fail("eventfd", err);
	err = ring_init(&session->ring, RING_ENTRIES);
	if (err) {
		fprintf(stderr, "kring: %s\n", ring_explain(err));
		goto no_ring;
	}
	session_set_pace(session);
	err = signals_init(session);
	if (err) {
		main_fail("signalfd", err);
		goto no_signals;
	}

	err = virtio_host_init(&session->virtio, options, &session->ring);
	if (err)
		goto no_devices;
	ring_watch(&session->ring, &session->power_watch, session->power.fd, power_changed);
	if (options->timeout) {
		session->deadline.op.done = deadline_passed;
		ring_timeout(&session->ring, &session->deadline, options->timeout);
	}
	return 0;

no_devices:
	close(session->signal_fd);
	ring_fini(&session->ring);
	virtio_host_fini(&session->virtio);
	goto no_ring;
no_signals:
	ring_fini(&session->ring);
no_ring:
	power_fini(&session->power);
	return err;
}

/* A file to write, or standard output for "-"; none for NULL. */
static int file_open(FILE **file, const char *path)
{
	if (!path)
		return 0;
	*file = strcmp(path, "-") ? fopen(path, "we") : stdout;
	return *file ? 0 : main_fail(path, -errno);
}

static int file_close(FILE *file, const char *path)
{
	int err = file && fflush(file) ? main_fail(path, -errno) : 0;

	if (file && file != stdout)
		fclose(file);
	return err;
}

/*
 * Take the terminal, and open what is written to: once, when there is a machine to show for it. A
 * command line that fails before leaves all files as they were.
 */
static int session_open(struct session *session)
{
	const struct options *options = session->options;
	int err;

	if (session->opened)
		return 0;
	err = file_open(&session->timings, options->timings);
	err = err ? err : file_open(&session->stats, options->stats);
	if (err)
		return err;
	err = console_init(&session->console, &session->ring, options->console, &console_ops,
	                   session);
	if (err)
		return main_fail(options->console, err);
	session->opened = true;
	return 0;
}

static int session_fini(struct session *session)
{
	int err;

	console_restore(&session->console); /* before anything that may take long */
	ring_fini(&session->ring);
	if (session->opened)
		console_fini(&session->console);
	close(session->signal_fd);
	power_fini(&session->power);
	virtio_host_fini(&session->virtio);
	err = file_close(session->timings, session->options->timings);
	return err ? err : file_close(session->stats, session->options->stats);
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
		say(session, "the guest did not end in %g s",
		    (double)session->options->timeout / 1e9);
		describe_vcpus(machine, session);
		if (!stats_device_exits(&machine->stats))
			say(session, "it never got as far as a device: `kring probe` tells whether "
			             "this KVM can run it");
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
		if (!machine_panicked(machine))
			return STATUS_OK;
		say(session, "the guest panicked");
		return STATUS_PANIC;
	default:
		return STATUS_OK;
	}
}

static int session_run(struct session *session, bool *again)
{
	const struct machine_host host = {
		.ring = &session->ring,
		.power = &session->power,
		.virtio = &session->virtio,
		.serial = &serial,
		.serial_arg = session,
	};
	struct machine *machine = calloc(1, sizeof(*machine));
	int status = STATUS_FAILED;

	*again = false;
	if (!machine || machine_init(machine, session->options, &host, session->exec_ns))
		goto out;
	if (session_open(session)) {
		machine_fini(machine);
		goto out;
	}

	session->machine = machine;
	console_resume_input(&session->console);
	machine_start(machine);
	ring_run(&session->ring, &session->stop);
	machine_stop(machine);

	session_drain(session); /* what the UART still holds, too */
	session->machine = NULL;
	status = machine_status(machine, session);
	*again = session->options->restart && session->end == END_GUEST && status == STATUS_OK &&
	         power_state(&session->power) == POWER_RESET;
	if (machine->uart.dropped && !*again)
		say(session, "%llu bytes of the guest's output are lost: nobody took them in time",
		    (unsigned long long)machine->uart.dropped);
	if (session->timings && !*again) {
		console_restore(&session->console);
		stats_print(&machine->stats, &machine->bus, session->timings);
	}
	if (session->stats && !*again) {
		console_restore(&session->console);
		fputs("{\n  ", session->stats);
		stats_print_cpu(&machine->stats, session->stats);
		fputs(",\n  ", session->stats);
		virtio_print(&machine->virtio, session->stats);
		fputs(",\n  ", session->stats);
		stats_print_exits(&machine->stats, session->stats);
		fputs("\n}\n", session->stats);
	}
	if (!*again) /* KVM waits for two grace periods and more, 4 to 30 ms, before a VM is gone */
		ring_hold(&session->ring, machine->vm.fd);
	machine_fini(machine);
out:
	free(machine);
	return status;
}

/* One guest, and another after each of its reboots. */
static int session_guests(struct session *session)
{
	bool again;
	int status;

	do {
		session->end = session->next_end;
		session->stop = session->end != END_NONE;
		session->give_up = false;
		power_rearm(&session->power);
		status = session_run(session, &again);
	} while (again);

	return session_fini(session) && status == STATUS_OK ? STATUS_FAILED : status;
}

int main_boot(const struct options *options, uint64_t exec_ns)
{
	struct session *session = calloc(1, sizeof(*session));
	int status = STATUS_FAILED;

	if (!session)
		main_fail("boot", -ENOMEM);
	else if (virtio_host_parse(&session->virtio, options))
		status = STATUS_USAGE;
	else if (!session_init(session, options, exec_ns))
		status = session_guests(session);
	free(session);
	return status;
}
