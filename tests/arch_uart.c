/* The serial port: what Linux's driver sees, every edge of the interrupt, and no byte lost. */
#include <errno.h>
#include <linux/serial_reg.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "arch/x86/layout.h"
#include "arch/x86/uart.h"

#define DTR_RTS_OUT2 (UART_MCR_DTR | UART_MCR_RTS | UART_MCR_OUT2)
#define MIB          (1 << 20)

struct machine {
	struct irq irq;
	struct uart uart;
	struct bus bus;

	/* The other end of the line. */
	pthread_mutex_t lock;
	size_t room;  /* bytes that it would take */
	size_t taken; /* bytes that it took */
	size_t wrong; /* of them, not those of byte_at() */
	size_t refused;
	uint8_t last[64]; /* the last that it took */
	int want_fd;
};

/* A stream in which a lost, doubled or swapped byte shows. */
static uint8_t byte_at(size_t i)
{
	return (uint8_t)((i * 2654435761u) >> 13);
}

static size_t sink_write(void *arg, const uint8_t *bytes, size_t n)
{
	struct machine *machine = arg;

	pthread_mutex_lock(&machine->lock);
	if (n > machine->room) {
		n = machine->room;
		machine->refused++;
	}
	for (size_t i = 0; i < n; i++) {
		machine->wrong += bytes[i] != byte_at(machine->taken);
		machine->last[machine->taken++ % sizeof(machine->last)] = bytes[i];
	}
	machine->room -= n;
	pthread_mutex_unlock(&machine->lock);
	return n;
}

static void sink_want_input(void *arg)
{
	struct machine *machine = arg;

	eventfd_write(machine->want_fd, 1);
}

static const struct uart_backend sink = { .write = sink_write, .want_input = sink_want_input };

static int setup(void **state)
{
	static struct machine machine;

	machine = (struct machine){ .room = 1000000 };
	machine.irq.fd = eventfd(0, EFD_NONBLOCK);
	machine.want_fd = eventfd(0, EFD_NONBLOCK);
	pthread_mutex_init(&machine.lock, NULL);
	uart_init(&machine.uart, &machine.irq, &sink, &machine);
	*state = &machine;
	return uart_attach(&machine.uart, &machine.bus);
}

static int teardown(void **state)
{
	struct machine *machine = *state;

	close(machine->irq.fd);
	close(machine->want_fd);
	return 0;
}

static uint8_t in(struct machine *machine, unsigned reg)
{
	uint8_t value;

	bus_access(&machine->bus, BUS_PORT, PORT_COM1 + reg, &value, 1, false);
	return value;
}

static void out(struct machine *machine, unsigned reg, uint8_t value)
{
	bus_access(&machine->bus, BUS_PORT, PORT_COM1 + reg, &value, 1, true);
}

static unsigned count(int fd)
{
	eventfd_t n;

	return eventfd_read(fd, &n) ? 0 : (unsigned)n;
}

static unsigned raised(struct machine *machine)
{
	return count(machine->irq.fd);
}

/* A driver that is up: FIFOs on, trigger level 8 as Linux has it. */
static void open_port(struct machine *machine, uint8_t ier)
{
	out(machine, UART_LCR, UART_LCR_WLEN8);
	out(machine, UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_TRIGGER_8);
	out(machine, UART_MCR, DTR_RTS_OUT2);
	out(machine, UART_IER, ier);
}

static void set_room(struct machine *machine, size_t room)
{
	pthread_mutex_lock(&machine->lock);
	machine->room = room;
	pthread_mutex_unlock(&machine->lock);
}

static void registers(void **state)
{
	struct machine *machine = *state;

	assert_int_equal(in(machine, UART_RX), 0);
	assert_int_equal(in(machine, UART_IER), 0);
	assert_int_equal(in(machine, UART_IIR), 0x01);
	assert_int_equal(in(machine, UART_LCR), 0);
	assert_int_equal(in(machine, UART_MCR), 0);
	assert_int_equal(in(machine, UART_LSR), 0x60);
	assert_int_equal(in(machine, UART_MSR), 0xb0);

	out(machine, UART_IER, 0xff);
	assert_int_equal(in(machine, UART_IER), 0x0f);
	out(machine, UART_MCR, 0xff);
	assert_int_equal(in(machine, UART_MCR), 0x1f);
	out(machine, UART_MCR, 0);
	out(machine, UART_SCR, 0xa5);
	assert_int_equal(in(machine, UART_SCR), 0xa5);
	out(machine, UART_LSR, 0xff);
	out(machine, UART_MSR, 0xff);
	assert_int_equal(in(machine, UART_LSR), 0x60);

	out(machine, UART_LCR, UART_LCR_DLAB | UART_LCR_WLEN8);
	out(machine, UART_DLL, 0x0c);
	out(machine, UART_DLM, 0x01);
	assert_int_equal(in(machine, UART_DLL), 0x0c);
	assert_int_equal(in(machine, UART_DLM), 0x01);
	out(machine, UART_LCR, UART_LCR_WLEN8);
	assert_int_equal(in(machine, UART_IER), 0x0f);
	assert_int_equal(machine->taken, 0);
}

/* What Linux's autoconfig() looks for, with all of its variants' tests. */
static void is_a_16550a(void **state)
{
	struct machine *machine = *state;

	out(machine, UART_MCR, UART_MCR_LOOP | UART_MCR_RTS | UART_MCR_OUT2);
	assert_int_equal(in(machine, UART_MSR) & 0xf0, 0x90);
	out(machine, UART_MCR, 0);

	out(machine, UART_LCR, 0xbf);
	out(machine, UART_FCR, 0); /* an EFR's place */
	out(machine, UART_LCR, 0);
	out(machine, UART_FCR, UART_FCR_ENABLE_FIFO);
	assert_int_equal(in(machine, UART_IIR) >> 6, 3);
	out(machine, UART_LCR, 0x80);
	assert_int_not_equal(in(machine, UART_IIR), 0); /* no EFR */
	out(machine, UART_LCR, 0xbf);
	assert_int_not_equal(in(machine, UART_IIR), 0);
	out(machine, UART_LCR, 0xe0);
	assert_false(in(machine, UART_IIR) & UART_MCR_LOOP); /* no EXCR1 */

	for (unsigned lcr = 0; lcr <= 0x80; lcr += 0x80) { /* not a 16750 */
		out(machine, UART_LCR, (uint8_t)lcr);
		out(machine, UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR7_64BYTE);
		assert_int_equal(in(machine, UART_IIR) >> 5, 6);
	}
	out(machine, UART_LCR, 0);
	out(machine, UART_IER, UART_IER_UUE); /* not an XScale */
	assert_int_equal(in(machine, UART_IER), 0);

	/* size_fifo(); nothing of it goes out or comes from outside. */
	assert_int_equal(uart_receive(&machine->uart, (const uint8_t *)"abc", 3), 3);
	out(machine, UART_FCR, 0x07);
	out(machine, UART_MCR, UART_MCR_LOOP);
	for (unsigned i = 0; i < 256; i++)
		out(machine, UART_TX, (uint8_t)i);
	for (unsigned i = 0; i < 16; i++) {
		assert_true(in(machine, UART_LSR) & UART_LSR_DR);
		assert_int_equal(in(machine, UART_RX), i);
	}
	assert_false(in(machine, UART_LSR) & UART_LSR_DR);
	out(machine, UART_MCR, 0);
	assert_int_equal(machine->taken, 0);
	assert_int_equal(in(machine, UART_RX), 'a');

	out(machine, UART_FCR, 0);
	assert_int_equal(in(machine, UART_IIR) >> 6, 0);
	assert_int_equal(raised(machine), 0);
}

static void modem_status(void **state)
{
	struct machine *machine = *state;

	out(machine, UART_MCR, UART_MCR_LOOP);
	assert_int_equal(in(machine, UART_MSR), 0x0b); /* DCD, DSR, CTS went away */
	assert_int_equal(in(machine, UART_MSR), 0x00);
	out(machine, UART_MCR, UART_MCR_LOOP | UART_MCR_OUT1);
	assert_int_equal(in(machine, UART_MSR), UART_MSR_RI); /* only its trailing edge counts */
	out(machine, UART_MCR, UART_MCR_LOOP | UART_MCR_DTR);
	assert_int_equal(in(machine, UART_MSR), UART_MSR_DSR | UART_MSR_DDSR | UART_MSR_TERI);
	out(machine, UART_IER, UART_IER_MSI);
	assert_int_equal(in(machine, UART_IIR), 0x01);
	out(machine, UART_MCR, 0);
	assert_int_equal(in(machine, UART_IIR), UART_IIR_MSI);
	assert_int_equal(in(machine, UART_MSR), 0xb0 | UART_MSR_DCTS | UART_MSR_DDCD);
	assert_int_equal(in(machine, UART_IIR), 0x01);
}

/* All four at once, served one by one. */
static void priorities(void **state)
{
	struct machine *machine = *state;

	out(machine, UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_TRIGGER_14);
	out(machine, UART_MCR, UART_MCR_LOOP);
	out(machine, UART_IER, 0x0f);
	for (unsigned i = 0; i < 17; i++)
		out(machine, UART_TX, (uint8_t)i);
	assert_int_equal(in(machine, UART_IIR), 0xc0 | UART_IIR_RLSI);
	assert_int_equal(in(machine, UART_LSR), 0x61 | UART_LSR_OE);
	assert_int_equal(in(machine, UART_IIR), 0xc0 | UART_IIR_RDI);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(in(machine, UART_RX), i);
	assert_int_equal(in(machine, UART_IIR), 0xc0 | UART_IIR_RX_TIMEOUT);
	for (unsigned i = 3; i < 16; i++)
		assert_int_equal(in(machine, UART_RX), i);
	assert_int_equal(in(machine, UART_IIR), 0xc0 | UART_IIR_THRI);
	assert_int_equal(in(machine, UART_IIR), 0xc0 | UART_IIR_MSI);
	in(machine, UART_MSR);
	assert_int_equal(in(machine, UART_IIR), 0xc0 | UART_IIR_NO_INT);
	assert_int_equal(raised(machine), 0); /* loopback: OUT2 is off */
}

static void thre_edges(void **state)
{
	struct machine *machine = *state;

	open_port(machine, 0);
	assert_int_equal(raised(machine), 0);
	out(machine, UART_IER, UART_IER_THRI);
	assert_int_equal(raised(machine), 1);
	out(machine, UART_IER, UART_IER_THRI); /* not 0 -> 1 */
	assert_int_equal(raised(machine), 0);
	assert_int_equal(in(machine, UART_IIR), 0xc2);
	assert_int_equal(in(machine, UART_IIR), 0xc1);
	out(machine, UART_IER, UART_IER_THRI);
	assert_int_equal(in(machine, UART_IIR), 0xc1);

	for (unsigned i = 0; i < 16; i++)
		out(machine, UART_TX, byte_at(i));
	assert_int_equal(raised(machine), 1); /* once for all 16 */
	assert_int_equal(in(machine, UART_LSR), 0x60);
	assert_int_equal(in(machine, UART_IIR), 0xc2);
	assert_int_equal(in(machine, UART_IIR), 0xc1);

	/* Linux's tests for ports that do not tell again. */
	out(machine, UART_IER, 0);
	out(machine, UART_IER, UART_IER_THRI);
	assert_int_equal(in(machine, UART_IIR), 0xc2);
	assert_int_equal(raised(machine), 1);

	/* OUT2 gates. */
	out(machine, UART_IER, 0);
	out(machine, UART_MCR, UART_MCR_DTR | UART_MCR_RTS);
	out(machine, UART_IER, UART_IER_THRI);
	assert_int_equal(raised(machine), 0);
	out(machine, UART_MCR, DTR_RTS_OUT2);
	assert_int_equal(raised(machine), 1);
	assert_int_equal(machine->taken, 16);
	assert_int_equal(machine->wrong, 0);
}

static void receive_edges(void **state)
{
	struct machine *machine = *state;
	uint8_t bytes[40];

	for (unsigned i = 0; i < sizeof(bytes); i++)
		bytes[i] = byte_at(i);
	open_port(machine, UART_IER_RDI | UART_IER_RLSI);

	assert_int_equal(uart_receive(&machine->uart, bytes, 1), 1);
	assert_int_equal(raised(machine), 1);
	assert_int_equal(in(machine, UART_IIR), 0xcc);
	assert_int_equal(in(machine, UART_LSR), 0x61);
	assert_int_equal(in(machine, UART_RX), bytes[0]);
	assert_int_equal(in(machine, UART_LSR), 0x60);
	assert_int_equal(in(machine, UART_IIR), 0xc1);
	assert_int_equal(count(machine->want_fd), 0); /* nothing was refused */

	assert_int_equal(uart_receive(&machine->uart, bytes, sizeof(bytes)), 16);
	assert_int_equal(uart_receive(&machine->uart, bytes + 16, 24), 0);
	assert_int_equal(raised(machine), 1);
	for (unsigned i = 0; i < 16; i++) {
		assert_int_equal(count(machine->want_fd), 0);
		assert_int_equal(in(machine, UART_IIR), i <= 8 ? 0xc4 : 0xcc);
		assert_int_equal(in(machine, UART_RX), bytes[i]);
	}
	assert_int_equal(in(machine, UART_IIR), 0xc1);
	assert_int_equal(count(machine->want_fd), 1);
	assert_int_equal(raised(machine), 0);
	assert_int_equal(uart_receive(&machine->uart, bytes + 16, 16), 16);
	assert_int_equal(raised(machine), 1);
}

static void rts_holds_input(void **state)
{
	struct machine *machine = *state;

	open_port(machine, UART_IER_RDI);
	assert_int_equal(uart_receive(&machine->uart, (const uint8_t *)"ab", 2), 2);
	out(machine, UART_MCR, UART_MCR_DTR | UART_MCR_OUT2);
	assert_int_equal(uart_receive(&machine->uart, (const uint8_t *)"cd", 2), 0);
	assert_int_equal(in(machine, UART_RX), 'a');
	assert_int_equal(in(machine, UART_RX), 'b');
	assert_int_equal(in(machine, UART_LSR), 0x60);
	assert_int_equal(count(machine->want_fd), 0);
	out(machine, UART_MCR, DTR_RTS_OUT2);
	assert_int_equal(count(machine->want_fd), 1);
	assert_int_equal(uart_receive(&machine->uart, (const uint8_t *)"cd", 2), 2);
}

/* Input that waits from the start is there after all that Linux's start-up throws away. */
static void startup_loses_nothing(void **state)
{
	struct machine *machine = *state;
	static const uint8_t line[] = "poweroff";

	assert_int_equal(uart_receive(&machine->uart, line, sizeof(line)), sizeof(line));
	out(machine, UART_MCR, UART_MCR_DTR | UART_MCR_RTS); /* earlyprintk */
	out(machine, UART_FCR, 0x81);                        /* the console's set-up */
	out(machine, UART_MCR, UART_MCR_DTR);
	for (int i = 0; i < 2; i++) {
		out(machine, UART_FCR, 0x01);
		out(machine, UART_FCR, 0x07);
		out(machine, UART_FCR, 0x00);
		assert_int_equal(in(machine, UART_LSR), 0x60);
		in(machine, UART_RX);
		in(machine, UART_IIR);
		in(machine, UART_MSR);
	}
	out(machine, UART_MCR, UART_MCR_DTR | UART_MCR_OUT2);
	assert_int_equal(raised(machine), 0);
	out(machine, UART_IER, UART_IER_RDI | UART_IER_RLSI);
	assert_int_equal(raised(machine), 1);
	out(machine, UART_FCR, 0x01);
	out(machine, UART_FCR, 0x81);
	for (unsigned i = 0; i < sizeof(line); i++)
		assert_int_equal(in(machine, UART_RX), line[i]);
}

static void thre_clear_while_held(void **state)
{
	struct machine *machine = *state;

	open_port(machine, UART_IER_THRI);
	assert_int_equal(in(machine, UART_IIR), 0xc2);
	assert_int_equal(raised(machine), 1);
	set_room(machine, 5);
	for (unsigned i = 0; i < 16; i++)
		out(machine, UART_TX, byte_at(i));
	assert_int_equal(machine->taken, 5);
	assert_int_equal(in(machine, UART_LSR), 0);
	assert_int_equal(in(machine, UART_IIR), 0xc1);
	assert_int_equal(raised(machine), 1); /* for the first five */

	out(machine, UART_FCR, 0x07); /* does not take back what was sent */
	uart_tx_ready(&machine->uart);
	set_room(machine, 4);
	uart_tx_ready(&machine->uart);
	assert_int_equal(machine->taken, 9);
	assert_int_equal(in(machine, UART_LSR), 0);
	assert_int_equal(raised(machine), 0);
	out(machine, UART_IER, 0);
	out(machine, UART_IER, UART_IER_THRI); /* 0 -> 1, but it is not empty */
	assert_int_equal(raised(machine), 0);

	set_room(machine, 100);
	uart_tx_ready(&machine->uart);
	assert_int_equal(raised(machine), 1);
	assert_int_equal(in(machine, UART_LSR), 0x60);
	assert_int_equal(in(machine, UART_IIR), 0xc2);
	assert_int_equal(machine->taken, 16);
	assert_int_equal(machine->wrong, 0);
	uart_tx_ready(&machine->uart); /* nothing was held: nothing happens */
	assert_int_equal(in(machine, UART_IIR), 0xc1);
	assert_int_equal(raised(machine), 0);
}

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void nap_ms(unsigned ms)
{
	const struct timespec nap = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };

	nanosleep(&nap, NULL);
}

/* A driver that does not mind THRE. */
static void *rude_writer(void *arg)
{
	struct machine *machine = arg;

	for (unsigned i = 0; i < UART_FIFO + 4; i++)
		out(machine, UART_TX, byte_at(i));
	return NULL;
}

/*
 * It waits for room, the others do not wait for it, and with room in time nothing is lost. That it
 * is woken, not merely times out, must show in one of three attempts.
 */
static void rude_writer_waits(void **state)
{
	struct machine *machine = *state;
	int64_t waited = 1000;
	pthread_t writer;

	open_port(machine, 0);
	for (int attempt = 0; attempt < 3 && waited > 900; attempt++) {
		int64_t start = now_ms();

		machine->taken = 0;
		set_room(machine, 0);
		pthread_create(&writer, NULL, rude_writer, machine);
		nap_ms(50);
		assert_int_equal(in(machine, UART_LSR), 0);
		set_room(machine, 1000);
		uart_tx_ready(&machine->uart);
		pthread_join(writer, NULL);
		waited = now_ms() - start;
		assert_int_equal(machine->taken, UART_FIFO + 4);
	}
	assert_in_range(waited, 0, 900);
	assert_int_equal(machine->wrong, 0);
	assert_int_equal(machine->uart.dropped, 0);
}

/* The wait ends, once for all; what is dropped is counted; then all is well again. */
static void stall_is_bounded(void **state)
{
	struct machine *machine = *state;
	int64_t start = now_ms();

	open_port(machine, 0);
	set_room(machine, 0);
	rude_writer(machine);
	assert_in_range(now_ms() - start, 990, 5000);
	assert_int_equal(machine->uart.dropped, 4);

	start = now_ms();
	for (unsigned i = 0; i < 1000; i++)
		out(machine, UART_TX, 'x');
	assert_in_range(now_ms() - start, 0, 900);
	assert_int_equal(machine->uart.dropped, 1004);

	/* A polling writer need not wait for what is given up; one with interrupts is held back. */
	assert_int_equal(in(machine, UART_LSR), 0x60);
	out(machine, UART_IER, UART_IER_THRI);
	assert_int_equal(in(machine, UART_LSR), 0);
	out(machine, UART_IER, 0);

	set_room(machine, 1);
	uart_tx_ready(&machine->uart);
	assert_int_equal(in(machine, UART_LSR), 0);
	set_room(machine, 1000);
	uart_tx_ready(&machine->uart);
	assert_int_equal(in(machine, UART_LSR), 0x60);
	for (unsigned i = UART_FIFO; i < 100; i++)
		out(machine, UART_TX, byte_at(i));
	assert_int_equal(machine->taken, 100);
	assert_int_equal(machine->wrong, 0);
	assert_int_equal(machine->uart.dropped, 1004);
}

/* Whether the interrupt came within ten seconds. */
static bool wait_event(int fd)
{
	struct pollfd event = { .fd = fd, .events = POLLIN };
	eventfd_t n;

	return poll(&event, 1, 10000) == 1 && !eventfd_read(fd, &n);
}

/* Interrupt-driven output as in Linux: 16 bytes an interrupt, until IIR has no more. */
static void *polite_writer(void *arg)
{
	struct machine *machine = arg;
	size_t sent = 0;

	open_port(machine, UART_IER_THRI);
	while (sent < 10 * MIB && wait_event(machine->irq.fd)) {
		while (!(in(machine, UART_IIR) & UART_IIR_NO_INT)) {
			if (!(in(machine, UART_LSR) & UART_LSR_THRE))
				continue;
			for (unsigned i = 0; i < 16 && sent < 10 * MIB; i++)
				out(machine, UART_TX, byte_at(sent++));
			if (sent == 10 * MIB)
				out(machine, UART_IER, 0);
		}
	}
	return NULL;
}

/* Output as printk does it, but without its impatience: THRE before each byte. */
static void *polling_writer(void *arg)
{
	struct machine *machine = arg;
	int64_t deadline = now_ms() + 60000;

	for (size_t i = 0; i < MIB; i++) {
		while (!(in(machine, UART_LSR) & UART_LSR_THRE) && now_ms() < deadline)
			;
		out(machine, UART_TX, byte_at(i));
	}
	return NULL;
}

/* Run @writer against a reader in fits and starts, until @total bytes have arrived or none do. */
static void transfer(struct machine *machine, void *(*writer)(void *), size_t total)
{
	pthread_t thread;
	unsigned random = 1;
	int64_t deadline = now_ms() + 120000;
	size_t taken;

	set_room(machine, 0);
	pthread_create(&thread, NULL, writer, machine);
	do {
		random = random * 1103515245 + 12345;
		if (random >> 16 & 1)
			nap_ms(random >> 17 & 3);
		set_room(machine, 1 + (random >> 16) % 16384);
		uart_tx_ready(&machine->uart);
		pthread_mutex_lock(&machine->lock);
		taken = machine->taken;
		pthread_mutex_unlock(&machine->lock);
	} while (taken < total && now_ms() < deadline);
	pthread_join(thread, NULL);

	assert_int_equal(machine->taken, total);
	assert_int_equal(machine->wrong, 0);
	assert_int_equal(machine->uart.dropped, 0);
	assert_true(machine->refused > 0);
}

static void ten_mib_by_interrupts(void **state)
{
	transfer(*state, polite_writer, 10 * MIB);
}

static void one_mib_by_polling(void **state)
{
	transfer(*state, polling_writer, MIB);
}

#define INPUT (64 << 10)

struct reader {
	struct machine *machine;
	size_t received, wrong;
};

/* Interrupt-driven input as in Linux. */
static void *reader_run(void *arg)
{
	struct reader *reader = arg;
	struct machine *machine = reader->machine;

	while (reader->received < INPUT && wait_event(machine->irq.fd))
		while (!(in(machine, UART_IIR) & UART_IIR_NO_INT))
			while (in(machine, UART_LSR) & UART_LSR_DR)
				reader->wrong +=
				        in(machine, UART_RX) != byte_at(reader->received++);
	return NULL;
}

static void sixty_four_kib_in(void **state)
{
	struct machine *machine = *state;
	struct reader reader = { .machine = machine };
	uint8_t input[INPUT];
	pthread_t thread;
	size_t sent = 0;

	for (size_t i = 0; i < INPUT; i++)
		input[i] = byte_at(i);
	open_port(machine, UART_IER_RDI | UART_IER_RLSI);
	pthread_create(&thread, NULL, reader_run, &reader);
	for (;;) {
		size_t n = uart_receive(&machine->uart, input + sent, INPUT - sent);

		assert_in_range(n, 1, UART_FIFO);
		sent += n;
		if (sent == INPUT)
			break;
		assert_true(wait_event(machine->want_fd));
	}
	pthread_join(thread, NULL);
	assert_int_equal(reader.received, INPUT);
	assert_int_equal(reader.wrong, 0);
	assert_int_equal(count(machine->want_fd), 0);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(registers),
		TEST(is_a_16550a),
		TEST(modem_status),
		TEST(priorities),
		TEST(thre_edges),
		TEST(receive_edges),
		TEST(rts_holds_input),
		TEST(startup_loses_nothing),
		TEST(thre_clear_while_held),
		TEST(rude_writer_waits),
		TEST(stall_is_bounded),
		TEST(ten_mib_by_interrupts),
		TEST(one_mib_by_polling),
		TEST(sixty_four_kib_in),
	};

	return cmocka_run_group_tests_name("arch_uart", tests, NULL, NULL);
}
