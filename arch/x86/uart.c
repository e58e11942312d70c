/*
 * A 16550A (PC16550D data sheet, "Registers") without a clock: a byte is on the line the moment it
 * is written, and the character time-out is over when a character is there. No line error happens
 * but an overrun in loopback mode.
 *
 * Output: what the backend has no room for waits in the FIFO with THRE and TEMT clear, so a driver
 * that minds them loses nothing. Linux's printk minds them for 10000 polls only, then writes. Once
 * the FIFO is full such a writer waits here, without the lock, for TX_STUCK_SECONDS in all until
 * the backend takes something; after that its bytes are dropped and counted, and THRE reads as set
 * where transmitter interrupts are off, lest it go on polling for every byte.
 *
 * Input: one FIFO full at a time; more is asked for when the guest has emptied it. Who is asked
 * lets the guest run first, as a line of 115200 baud does, which takes 1.4 ms for 16 characters:
 * else the guest never leaves its interrupt handler, and its tty layer's buffer (64 KiB in
 * Linux 5.10) runs over. Once the guest has used RTS, nothing comes in while it is clear.
 *
 * A driver that starts loses nothing either: clearing the FIFOs leaves what came from outside or
 * has to go there, and input stays hidden while both FIFOs and receive interrupt are disabled, for
 * then Linux reads whatever is there and throws it away.
 */
#include <assert.h>
#include <linux/serial_reg.h>
#include <string.h>

#include "arch/x86/layout.h"
#include "arch/x86/uart.h"

#define UART_PORTS       8
#define TX_STUCK_SECONDS 1

#define IER_BITS (UART_IER_RDI | UART_IER_THRI | UART_IER_RLSI | UART_IER_MSI)
#define FCR_BITS (UART_FCR_ENABLE_FIFO | UART_FCR_TRIGGER_MASK)
#define MCR_BITS (UART_MCR_DTR | UART_MCR_RTS | UART_MCR_OUT1 | UART_MCR_OUT2 | UART_MCR_LOOP)

#define IIR_FIFO_ENABLED 0xc0

static unsigned rx_trigger(const struct uart *uart)
{
	static const uint8_t level[] = { 1, 4, 8, 14 };

	return level[uart->FCR >> UART_FCR_R_TRIG_SHIFT];
}

/* The FIFO that the guest reads from, or NULL when there is nothing to read. */
static struct uart_fifo *rx_fifo(struct uart *uart)
{
	struct uart_fifo *fifo = uart->MCR & UART_MCR_LOOP ? &uart->loop : &uart->rx;
	bool hidden = fifo == &uart->rx && !(uart->FCR & UART_FCR_ENABLE_FIFO) &&
	              !(uart->IER & UART_IER_RDI);

	return fifo->n && !hidden ? fifo : NULL;
}

/* MSR's upper half: a peer that is always there, or in loopback mode MCR's lower half. */
static uint8_t modem_lines(uint8_t mcr)
{
	if (!(mcr & UART_MCR_LOOP))
		return UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS;
	return (uint8_t)((mcr & UART_MCR_RTS ? UART_MSR_CTS : 0) |
	                 (mcr & UART_MCR_DTR ? UART_MSR_DSR : 0) |
	                 (mcr & UART_MCR_OUT1 ? UART_MSR_RI : 0) |
	                 (mcr & UART_MCR_OUT2 ? UART_MSR_DCD : 0));
}

/* The interrupt of the highest priority, as IIR tells it (Interrupt Control Functions). */
static uint8_t interrupt_id(struct uart *uart)
{
	const struct uart_fifo *rx = rx_fifo(uart);

	if (uart->IER & UART_IER_RLSI && uart->LSR)
		return UART_IIR_RLSI;
	if (uart->IER & UART_IER_RDI && rx)
		return rx->n >= rx_trigger(uart) ? UART_IIR_RDI : UART_IIR_RX_TIMEOUT;
	if (uart->IER & UART_IER_THRI && uart->thre_int)
		return UART_IIR_THRI;
	if (uart->IER & UART_IER_MSI && uart->MSR)
		return UART_IIR_MSI;
	return UART_IIR_NO_INT;
}

/* On a PC the OUT2 pin gates the interrupt; in loopback mode it is inactive. */
static bool interrupt_line(struct uart *uart)
{
	return (uart->MCR & (UART_MCR_OUT2 | UART_MCR_LOOP)) == UART_MCR_OUT2 &&
	       interrupt_id(uart) != UART_IIR_NO_INT;
}

/* Whether the guest lets anybody send; the RTS pin, too, is inactive in loopback mode. */
static bool rx_open(const struct uart *uart)
{
	return (uart->MCR & (UART_MCR_RTS | UART_MCR_LOOP)) == UART_MCR_RTS || !uart->rts_used;
}

/* What follows from a change of state, before the lock is released. */
static void settle(struct uart *uart)
{
	bool line = interrupt_line(uart);

	if (line && !uart->line)
		irq_raise(uart->irq);
	uart->line = line;

	if (uart->rx_refused && !uart->rx.n && rx_open(uart)) {
		uart->rx_refused = false;
		uart->backend->want_input(uart->arg);
	}
}

/* Offer the backend what is held. */
static void tx_drain(struct uart *uart)
{
	size_t n = uart->backend->write(uart->arg, uart->tx.bytes, uart->tx.n);

	assert(n <= uart->tx.n);
	if (n) {
		uart->tx.n -= (unsigned)n;
		memmove(uart->tx.bytes, uart->tx.bytes + n, uart->tx.n);
		uart->tx_stuck = false;
		pthread_cond_broadcast(&uart->tx_room);
	}
	uart->thre_int = !uart->tx.n;
}

/* Wait until the FIFO has room. Returns false when there is none in time. */
static bool tx_wait(struct uart *uart)
{
	if (!uart->tx_stuck) {
		clock_gettime(CLOCK_MONOTONIC, &uart->tx_deadline);
		uart->tx_deadline.tv_sec += TX_STUCK_SECONDS;
		uart->tx_stuck = true;
	}
	while (uart->tx.n == UART_FIFO)
		if (pthread_cond_timedwait(&uart->tx_room, &uart->lock, &uart->tx_deadline))
			return uart->tx.n < UART_FIFO;
	return true;
}

/* Whether writers have waited long enough for the backend. */
static bool tx_given_up(const struct uart *uart)
{
	struct timespec now;

	if (!uart->tx_stuck)
		return false;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec > uart->tx_deadline.tv_sec ||
	       (now.tv_sec == uart->tx_deadline.tv_sec && now.tv_nsec >= uart->tx_deadline.tv_nsec);
}

static void write_thr(struct uart *uart, uint8_t value)
{
	if (uart->MCR & UART_MCR_LOOP) {
		if (uart->loop.n < UART_FIFO)
			uart->loop.bytes[uart->loop.n++] = value;
		else
			uart->LSR |= UART_LSR_OE;
		uart->thre_int = !uart->tx.n;
	} else if (uart->tx.n < UART_FIFO || tx_wait(uart)) {
		uart->tx.bytes[uart->tx.n++] = value;
		tx_drain(uart);
	} else {
		uart->dropped++;
	}
}

static uint8_t read_rbr(struct uart *uart)
{
	struct uart_fifo *rx = rx_fifo(uart);

	if (!rx)
		return 0;

	uint8_t value = rx->bytes[0];

	memmove(rx->bytes, rx->bytes + 1, --rx->n);
	return value;
}

static void write_ier(struct uart *uart, uint8_t value)
{
	if (value & ~uart->IER & UART_IER_THRI && !uart->tx.n)
		uart->thre_int = true;
	uart->IER = value & IER_BITS;
}

static uint8_t read_iir(struct uart *uart)
{
	uint8_t id = interrupt_id(uart);

	if (id == UART_IIR_THRI)
		uart->thre_int = false;
	return id | (uart->FCR & UART_FCR_ENABLE_FIFO ? IIR_FIFO_ENABLED : 0);
}

static void write_fcr(struct uart *uart, uint8_t value)
{
	uart->FCR = value & UART_FCR_ENABLE_FIFO ? value & FCR_BITS : 0;
	if (value & UART_FCR_CLEAR_RCVR)
		uart->loop.n = 0;
}

static void write_mcr(struct uart *uart, uint8_t value)
{
	uint8_t old = modem_lines(uart->MCR);
	uint8_t new = modem_lines(value);
	uint8_t changed = (uint8_t)(((old ^ new) & ~UART_MSR_RI) | (old & ~new &UART_MSR_RI));

	uart->MSR |= changed >> 4;
	uart->MCR = value & MCR_BITS;
	if (!(value & UART_MCR_LOOP)) {
		uart->loop.n = 0;
		uart->rts_used |= value & UART_MCR_RTS;
	}
}

static uint8_t read_lsr(struct uart *uart)
{
	bool empty = !uart->tx.n || (tx_given_up(uart) && !(uart->IER & UART_IER_THRI));
	uint8_t value = (uint8_t)(uart->LSR | (rx_fifo(uart) ? UART_LSR_DR : 0) |
	                          (empty ? UART_LSR_THRE | UART_LSR_TEMT : 0));

	uart->LSR = 0;
	return value;
}

static uint8_t read_msr(struct uart *uart)
{
	uint8_t value = uart->MSR | modem_lines(uart->MCR);

	uart->MSR = 0;
	return value;
}

static uint8_t reg_read(struct uart *uart, uint64_t off)
{
	bool dlab = uart->LCR & UART_LCR_DLAB;

	switch (off) {
	case UART_RX:
		return dlab ? uart->DLL : read_rbr(uart);
	case UART_IER:
		return dlab ? uart->DLM : uart->IER;
	case UART_IIR:
		return read_iir(uart);
	case UART_LCR:
		return uart->LCR;
	case UART_MCR:
		return uart->MCR;
	case UART_LSR:
		return read_lsr(uart);
	case UART_MSR:
		return read_msr(uart);
	default:
		return uart->SCR;
	}
}

static void reg_write(struct uart *uart, uint64_t off, uint8_t value)
{
	bool dlab = uart->LCR & UART_LCR_DLAB;

	switch (off) {
	case UART_TX:
		if (dlab)
			uart->DLL = value;
		else
			write_thr(uart, value);
		break;
	case UART_IER:
		if (dlab)
			uart->DLM = value;
		else
			write_ier(uart, value);
		break;
	case UART_FCR:
		write_fcr(uart, value);
		break;
	case UART_LCR:
		uart->LCR = value;
		break;
	case UART_MCR:
		write_mcr(uart, value);
		break;
	case UART_SCR:
		uart->SCR = value;
		break;
	}
}

/* Registers are one byte wide: of a wider access the rest is not decoded. */
static uint64_t uart_read(void *dev, uint64_t off, unsigned len)
{
	struct uart *uart = dev;

	(void)len;
	pthread_mutex_lock(&uart->lock);
	uint8_t value = reg_read(uart, off);

	settle(uart);
	pthread_mutex_unlock(&uart->lock);
	return value;
}

static void uart_write(void *dev, uint64_t off, unsigned len, uint64_t value)
{
	struct uart *uart = dev;

	(void)len;
	pthread_mutex_lock(&uart->lock);
	reg_write(uart, off, (uint8_t)value);
	settle(uart);
	pthread_mutex_unlock(&uart->lock);
}

static const struct bus_ops uart_ops = { .read = uart_read, .write = uart_write };

size_t uart_receive(struct uart *uart, const uint8_t *bytes, size_t n)
{
	size_t taken = 0;

	pthread_mutex_lock(&uart->lock);
	if (rx_open(uart)) {
		size_t room = UART_FIFO - uart->rx.n;

		taken = n < room ? n : room;
		memcpy(uart->rx.bytes + uart->rx.n, bytes, taken);
		uart->rx.n += (unsigned)taken;
	}
	uart->rx_refused = taken < n;
	settle(uart);
	pthread_mutex_unlock(&uart->lock);
	return taken;
}

void uart_tx_ready(struct uart *uart)
{
	pthread_mutex_lock(&uart->lock);
	if (uart->tx.n)
		tx_drain(uart);
	settle(uart);
	pthread_mutex_unlock(&uart->lock);
}

void uart_init(struct uart *uart, const struct irq *irq, const struct uart_backend *backend,
               void *arg)
{
	pthread_condattr_t monotonic;

	*uart = (struct uart){ .irq = irq, .backend = backend, .arg = arg, .DLL = 1 };
	pthread_mutex_init(&uart->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&uart->tx_room, &monotonic);
	pthread_condattr_destroy(&monotonic);
}

int uart_attach(struct uart *uart, struct bus *bus)
{
	const struct bus_range range = { PORT_COM1, UART_PORTS, "com1", &uart_ops, uart };

	return bus_add(bus, BUS_PORT, &range);
}
