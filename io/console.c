/*
 * The console. Knows bytes, terminals and files; not the guest or its serial line.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "io/console.h"

#define CTRL_A          0x01
#define GATHER_NSEC     1000000
#define PACE_NSEC       1000000
#define BACKGROUND_NSEC 1000000000

static const char HELP[] = "\r\n"
                           "Ctrl-a x       end the VM\r\n"
                           "Ctrl-a h       print this\r\n"
                           "Ctrl-a Ctrl-a  send one Ctrl-a\r\n";

/* Output. */

static void output_gathered(struct io_op *op, int res);
static void output_ready(struct io_op *op, int res);
static void output_written(struct io_op *op, int res);

static struct console *of_output(struct io_op *op)
{
	return container_of(op, struct console, output.op);
}

static void output_gather(struct console *console)
{
	console->output.op.done = output_gathered;
	ring_timeout(console->ring, &console->output, GATHER_NSEC);
}

/* The bytes from out_head to the last one, or to the end of the array. */
static void output_write(struct console *console)
{
	size_t n = CONSOLE_BUFFER - console->out_head;

	pthread_mutex_lock(&console->lock);
	if (n > console->out_used)
		n = console->out_used;
	pthread_mutex_unlock(&console->lock);

	console->writing = n;
	console->output.op.done = output_written;
	ring_write(console->ring, &console->output.op, console->out_fd,
	           console->out + console->out_head, (unsigned)n, (uint64_t)-1);
}

/* Take @n written bytes out of the buffer; returns how many are left. */
static size_t output_take(struct console *console, size_t n, bool discard)
{
	bool refused;
	size_t left;

	pthread_mutex_lock(&console->lock);
	if (discard) {
		console->discard = true;
		n = console->out_used;
	}
	console->out_head = (console->out_head + n) % CONSOLE_BUFFER;
	console->out_used -= n;
	left = console->out_used;
	if (!left)
		console->out_state = CONSOLE_OUT_IDLE;
	refused = console->refused;
	console->refused = false;
	pthread_mutex_unlock(&console->lock);

	if (refused)
		console->ops->drained(console->arg);
	return left;
}

static void output_gathered(struct io_op *op, int res)
{
	if (res != -ECANCELED)
		output_write(of_output(op));
}

static void output_ready(struct io_op *op, int res)
{
	if (res != -ECANCELED)
		output_write(of_output(op));
}

static void output_written(struct io_op *op, int res)
{
	struct console *console = of_output(op);

	switch (res) {
	case -ECANCELED:
		break;
	case -EINTR:
		output_write(console);
		break;
	case -EAGAIN:
		op->done = output_ready;
		ring_poll(console->ring, op, console->out_fd, POLLOUT);
		break;
	default:
		if (res < 0) {
			fprintf(stderr, "kring: console output: %s; discarding it from here on%s\n",
			        strerror(-res), console->raw ? "\r" : "");
			output_take(console, 0, true);
		} else if (output_take(console, (size_t)res, false)) {
			if ((size_t)res < console->writing)
				output_write(console);
			else
				output_gather(console);
		}
	}
}

/* Whether the I/O thread is to begin with the output. */
static bool output_woken(struct console *console)
{
	bool woken;

	pthread_mutex_lock(&console->lock);
	woken = console->out_state == CONSOLE_OUT_WOKEN;
	if (woken)
		console->out_state = CONSOLE_OUT_BUSY;
	pthread_mutex_unlock(&console->lock);
	return woken;
}

size_t console_write(struct console *console, const uint8_t *bytes, size_t n)
{
	bool wake = false;

	pthread_mutex_lock(&console->lock);
	if (!console->discard) {
		size_t tail = (console->out_head + console->out_used) % CONSOLE_BUFFER;
		size_t room = CONSOLE_BUFFER - console->out_used;
		size_t to_end = CONSOLE_BUFFER - tail;

		if (n > room) {
			n = room;
			console->refused = true;
		}
		if (to_end > n)
			to_end = n;
		memcpy(console->out + tail, bytes, to_end);
		memcpy(console->out, bytes + to_end, n - to_end);
		console->out_used += n;
		if (n && console->out_state == CONSOLE_OUT_IDLE) {
			console->out_state = CONSOLE_OUT_WOKEN;
			wake = true;
		}
	}
	pthread_mutex_unlock(&console->lock);

	if (wake)
		eventfd_write(console->wake_fd, 1);
	return n;
}

static bool output_idle(struct console *console)
{
	bool idle;

	pthread_mutex_lock(&console->lock);
	idle = console->out_state == CONSOLE_OUT_IDLE;
	pthread_mutex_unlock(&console->lock);
	return idle;
}

void console_drain(struct console *console, const bool *give_up)
{
	while (!*give_up && !output_idle(console))
		ring_step(console->ring);
}

/* The terminal. */

/* To read or set the terminal there stops a process (SIGTTIN, SIGTTOU), termios(3). */
static bool in_background(void)
{
	pid_t foreground = tcgetpgrp(STDIN_FILENO); /* -1: not our controlling terminal */

	return foreground > 0 && foreground != getpgrp();
}

/*
 * All bytes as they are, both ways: what Enter, Ctrl-c or a line feed mean is the guest's affair.
 * Returns false in the background.
 */
static bool terminal_take(struct console *console)
{
	struct termios mode;

	if (in_background()) {
		console->raw = false;
		return false;
	}
	if (!console->raw && !tcgetattr(STDIN_FILENO, &mode)) {
		console->saved = mode;
		cfmakeraw(&mode);
		console->raw = true;
		tcsetattr(STDIN_FILENO, TCSANOW, &mode);
	}
	return true;
}

void console_restore(struct console *console)
{
	if (console->raw && !in_background())
		tcsetattr(STDIN_FILENO, TCSANOW, &console->saved);
}

/* Input. */

static void input_foreground(struct io_op *op, int res);
static void input_ready(struct io_op *op, int res);
static void input_arrived(struct io_op *op, int res);

static struct console *of_input(struct io_op *op)
{
	return container_of(op, struct console, input.op);
}

static void input_poll(struct console *console)
{
	console->input.op.done = input_ready;
	ring_poll(console->ring, &console->input.op, STDIN_FILENO, POLLIN);
}

static void input_read(struct console *console)
{
	memmove(console->in, console->in + console->in_head, console->in_end - console->in_head);
	console->in_end -= console->in_head;
	console->in_head = 0;
	console->input.op.done = input_arrived;
	ring_read(console->ring, &console->input.op, STDIN_FILENO, console->in + console->in_end,
	          (unsigned)(CONSOLE_BUFFER - console->in_end), (uint64_t)-1);
}

/*
 * Begin to wait for more, unless there is no room. A terminal is polled first: a read that sleeps
 * in the terminal would take the shell's input once kring is in the background.
 */
static void input_next(struct console *console)
{
	console->in_waiting = console->in_end - console->in_head < CONSOLE_BUFFER;
	if (!console->in_waiting)
		return;
	if (!console->tty) {
		input_read(console);
	} else if (terminal_take(console)) {
		input_poll(console);
	} else {
		console->input.op.done = input_foreground;
		ring_timeout(console->ring, &console->input, BACKGROUND_NSEC);
	}
}

static void input_foreground(struct io_op *op, int res)
{
	if (res != -ECANCELED)
		input_next(of_input(op));
}

static void input_ready(struct io_op *op, int res)
{
	struct console *console = of_input(op);

	if (res == -ECANCELED)
		return;
	if (console->tty && in_background())
		input_next(console);
	else
		input_read(console);
}

static void help(struct console *console)
{
	console_write(console, (const uint8_t *)HELP, sizeof(HELP) - 1);
}

/* Act on the keys among @n bytes at @in; returns how many bytes are left for the guest. */
static size_t input_keys(struct console *console, uint8_t *in, size_t n)
{
	size_t kept = 0;

	for (size_t i = 0; i < n; i++) {
		uint8_t key = in[i];

		if (!console->escape && key == CTRL_A) {
			console->escape = true;
			continue;
		}
		if (console->escape && key == 'x')
			console->ops->quit(console->arg);
		else if (console->escape && key == 'h')
			help(console);
		else
			in[kept++] = key;
		console->escape = false;
	}
	return kept;
}

static void input_offer(struct console *console)
{
	size_t n = console->in_end - console->in_head;

	if (n)
		console->in_head +=
		        console->ops->input(console->arg, console->in + console->in_head, n);
	if (!console->in_waiting && !console->in_over)
		input_next(console);
}

/* At the end of the input, or when it cannot be read, the guest goes on without. */
static void input_arrived(struct io_op *op, int res)
{
	struct console *console = of_input(op);

	if (res > 0) {
		bool held = console->in_head < console->in_end; /* until it is asked for */

		console->in_waiting = false;
		console->in_end += console->tty ? input_keys(console, console->in + console->in_end,
		                                             (size_t)res)
		                                : (size_t)res;
		if (held)
			input_next(console);
		else
			input_offer(console);
	} else if (res == -EAGAIN) {
		input_poll(console);
	} else if (res == -EINTR || (res == -EIO && console->tty && in_background())) {
		input_next(console);
	} else {
		console->in_waiting = false;
		console->in_over = true;
	}
}

/* What was held goes on in steps, so that the taker gets to do something with what it took. */
static void input_paced(struct io_op *op, int res)
{
	struct console *console = container_of(op, struct console, pace.op);

	if (res == -ECANCELED)
		return;
	console->pacing = false;
	input_offer(console);
}

void console_resume_input(struct console *console)
{
	eventfd_write(console->wake_fd, 1);
}

static void console_woken(struct io_watch *watch)
{
	struct console *console = container_of(watch, struct console, wake);

	if (output_woken(console))
		output_gather(console);
	if (console->in_head < console->in_end && !console->pacing) {
		console->pacing = true;
		console->pace.op.done = input_paced;
		ring_timeout(console->ring, &console->pace, PACE_NSEC);
	}
}

int console_init(struct console *console, struct ring *ring, const char *where,
                 const struct console_ops *ops, void *arg)
{
	bool stdio = !strcmp(where, "stdio");
	bool none = !strcmp(where, "none");

	*console = (struct console){
		.ring = ring,
		.ops = ops,
		.arg = arg,
		.out_fd = STDOUT_FILENO,
		.file_fd = -1,
		.discard = none,
		.tty = stdio && isatty(STDIN_FILENO),
	};
	if (!stdio && !none) {
		console->file_fd = open(where, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
		if (console->file_fd < 0)
			return -errno;
		console->out_fd = console->file_fd;
	}
	console->out = malloc(2 * CONSOLE_BUFFER);
	console->in = console->out + CONSOLE_BUFFER;
	console->wake_fd = eventfd(0, EFD_CLOEXEC);
	if (!console->out || console->wake_fd < 0) {
		int err = console->out ? -errno : -ENOMEM;

		if (console->wake_fd >= 0)
			close(console->wake_fd);
		if (console->file_fd >= 0)
			close(console->file_fd);
		free(console->out);
		return err;
	}

	pthread_mutex_init(&console->lock, NULL);
	signal(SIGPIPE, SIG_IGN);
	if (console->tty)
		signal(SIGTTIN, SIG_IGN);
	ring_watch(ring, &console->wake, console->wake_fd, console_woken);
	if (stdio)
		input_next(console);
	return 0;
}

void console_fini(struct console *console)
{
	console_restore(console);
	if (console->file_fd >= 0)
		close(console->file_fd);
	close(console->wake_fd);
	free(console->out);
	pthread_mutex_destroy(&console->lock);
}
