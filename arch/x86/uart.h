/*
 * COM1: a 16550A serial port (National Semiconductor PC16550D data sheet).
 *
 * uart_init, uart_attach: main thread, before the first vCPU runs. uart_receive, uart_tx_ready: any
 * thread but from within the backend's functions.
 */
#ifndef ARCH_X86_UART_H
#define ARCH_X86_UART_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "core/bus.h"
#include "core/irq.h"

/*
 * The other end of the line. Called with the UART locked, on vCPU threads and on those that call
 * the UART: must be quick and must not call back. A lock that they take must not be held around
 * uart_receive or uart_tx_ready.
 */
struct uart_backend {
	/*
	 * Take up to @n bytes of output, return how many. Who took fewer must call uart_tx_ready()
	 * once there is room.
	 */
	size_t (*write)(void *arg, const uint8_t *bytes, size_t n);
	/*
	 * There is room again after uart_receive() had refused bytes. The next should come from
	 * another thread in about a millisecond.
	 */
	void (*want_input)(void *arg);
};

#define UART_FIFO 16

struct uart_fifo {
	uint8_t bytes[UART_FIFO];
	unsigned n;
};

struct uart {
	const struct irq *irq;
	const struct uart_backend *backend;
	void *arg;
	uint64_t dropped; /* bytes of output that found no room in time */

	pthread_mutex_t lock;
	pthread_cond_t tx_room;
	struct uart_fifo tx;   /* what the backend has not taken yet */
	struct uart_fifo rx;   /* what came in */
	struct uart_fifo loop; /* what the guest sent itself in loopback mode */
	uint8_t IER, FCR, LCR, MCR, SCR, DLL, DLM;
	uint8_t LSR;     /* of it, OE */
	uint8_t MSR;     /* of it, the deltas */
	bool thre_int;   /* the transmitter holding register empty interrupt is pending */
	bool line;       /* the interrupt line is high */
	bool rts_used;   /* the guest has set RTS before */
	bool rx_refused; /* uart_receive() did not take everything */
	bool tx_stuck;   /* somebody has waited for room, and nothing was taken since */
	struct timespec tx_deadline;
};

void uart_init(struct uart *uart, const struct irq *irq, const struct uart_backend *backend,
               void *arg);
int uart_attach(struct uart *uart, struct bus *bus); /* 0 or bus_add()'s error */

/*
 * Input of @n bytes. Returns how many were taken, which may be none: what was not taken may be
 * offered again when the backend's want_input was called.
 */
size_t uart_receive(struct uart *uart, const uint8_t *bytes, size_t n);

/* The backend has room for output again. */
void uart_tx_ready(struct uart *uart);

#endif
