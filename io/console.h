/*
 * The console: the terminal, pipe or file at the other end of the guest's serial line.
 *
 * Output: console_write() puts bytes into a buffer, the I/O thread lets them gather for a
 * millisecond and writes them in one piece. A full buffer refuses bytes; drained() tells when there
 * is room again. Once nobody can read it any more (EPIPE, EIO, ENOSPC) the output is discarded,
 * with one warning.
 *
 * Input: bytes are offered to input(); what it does not take is kept, and offered again a
 * millisecond after console_resume_input(). Reading goes on while there is room to keep more, so
 * that Ctrl-a x works when the guest takes nothing. Nothing is lost and nothing is changed, but the
 * keys that begin with Ctrl-a when standard input is a terminal.
 *
 * console_write, console_resume_input: any thread. console_restore: also a signal handler. All
 * others: the main thread, on which the callbacks run too, without any lock held.
 */
#ifndef IO_CONSOLE_H
#define IO_CONSOLE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <termios.h>

#include "io/ring.h"

#define CONSOLE_BUFFER 65536 /* bytes kept, each way */

struct console_ops {
	/*
	 * Take up to @n bytes, return how many. Who took fewer must call console_resume_input()
	 * once there is room.
	 */
	size_t (*input)(void *arg, const uint8_t *bytes, size_t n);
	void (*drained)(void *arg); /* there is room after console_write() had refused bytes */
	void (*quit)(void *arg);    /* Ctrl-a x */
};

/* Where the output is on its way from the buffer to the file. */
enum console_out {
	CONSOLE_OUT_IDLE, /* the buffer is empty; who puts a byte in must wake the I/O thread */
	CONSOLE_OUT_WOKEN,
	CONSOLE_OUT_BUSY, /* the I/O thread gathers or writes, and will look again */
};

struct console {
	struct ring *ring;
	const struct console_ops *ops;
	void *arg;
	int wake_fd; /* eventfd: output for the I/O thread, or room for input */
	int out_fd;
	int file_fd; /* ours to close, or -1 */

	/* Any thread, under the lock. */
	pthread_mutex_t lock;
	enum console_out out_state;
	bool discard;
	bool refused;
	size_t out_head; /* a ring of bytes; from head on, @out_used of them */
	size_t out_used;
	uint8_t *out; /* CONSOLE_BUFFER */

	/* The I/O thread. */
	struct io_watch wake;
	struct io_timer output; /* one operation at a time: gather, write or poll */
	struct io_timer input;  /* likewise: poll, read, or wait for the foreground */
	size_t writing;         /* bytes, from out_head on, that the kernel has */
	bool tty;
	bool escape;          /* Ctrl-a was the last key */
	struct io_timer pace; /* until what is held is offered again */
	bool pacing;
	bool in_waiting; /* @input is in flight */
	bool in_over;    /* the input has ended */
	size_t in_head;  /* in[in_head..in_end) is kept for the guest */
	size_t in_end;
	uint8_t *in;      /* CONSOLE_BUFFER */
	_Atomic bool raw; /* the terminal's mode is ours, @saved is what it was */
	struct termios saved;
};

/*
 * Open the console: @where is "stdio", "none" (no input, output discarded) or the name of a file to
 * create for the output (no input). The callbacks run from the next ring batch on. A terminal is
 * put into raw mode, unless kring is in the background: then the terminal is not touched until
 * kring is in the foreground. SIGPIPE, and with a terminal SIGTTIN, are ignored from here on.
 * Returns 0 or -errno and nothing is held.
 */
int console_init(struct console *console, struct ring *ring, const char *where,
                 const struct console_ops *ops, void *arg);

/* After ring_fini: restore the terminal, close files. */
void console_fini(struct console *console);

/* Give the terminal the mode it had. Async-signal-safe; may be called any number of times. */
void console_restore(struct console *console);

/* Append output. Returns how many bytes were taken: fewer than @n when the buffer is full. */
size_t console_write(struct console *console, const uint8_t *bytes, size_t n);

/* There is room for input that was refused. */
void console_resume_input(struct console *console);

/* Run the ring until all output is written, or a handler has set @give_up. */
void console_drain(struct console *console, const bool *give_up);

#endif
