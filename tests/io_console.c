/*
 * The console over pipes, files and pseudo-terminals: every byte arrives, whoever is slow or gone,
 * the terminal gets its mode back, and the end never hangs.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <cmocka.h>

#include "io/console.h"

#define MIB 0x100000u

/* A console with its standard files, and a guest that remembers what it got. */
struct fixture {
	struct ring ring;
	struct console console;
	int saved[3]; /* the test program's own standard files */
	int in;       /* what is written here is the console's standard input */
	int out;      /* what it wrote to standard output is read here */
	int err;      /* likewise */
	bool stop;

	uint8_t *got;
	size_t got_n;
	size_t got_max;
	size_t take_max; /* per call of input(); 0: all */
	unsigned quits;
	bool never_stop; /* run on when all has arrived */

	pthread_mutex_t lock;
	pthread_cond_t room;
	unsigned drained;
};

static size_t input(void *arg, const uint8_t *bytes, size_t n)
{
	struct fixture *f = arg;

	assert_true(n > 0);
	if (f->take_max && n > f->take_max)
		n = f->take_max;
	assert_true(n <= f->got_max - f->got_n);
	memcpy(f->got + f->got_n, bytes, n);
	f->got_n += n;
	f->stop = f->got_n == f->got_max && !f->never_stop;
	return n;
}

static void drained(void *arg)
{
	struct fixture *f = arg;

	pthread_mutex_lock(&f->lock);
	f->drained++;
	pthread_cond_signal(&f->room);
	pthread_mutex_unlock(&f->lock);
}

static void quit(void *arg)
{
	struct fixture *f = arg;

	f->quits++;
	f->stop = true;
}

static const struct console_ops OPS = { .input = input, .drained = drained, .quit = quit };

/* Standard input and output become pipes, standard error a file. */
static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	int in[2], out[2];

	*state = f;
	fflush(stdout);
	for (int fd = 0; fd < 3; fd++)
		f->saved[fd] = fcntl(fd, F_DUPFD_CLOEXEC, 10);
	if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC))
		return -1;
	f->in = in[1];
	f->out = out[0];
	f->err = memfd_create("stderr", MFD_CLOEXEC);
	dup2(in[0], STDIN_FILENO);
	dup2(out[1], STDOUT_FILENO);
	dup2(f->err, STDERR_FILENO);
	close(in[0]);
	close(out[1]);
	f->got_max = MIB;
	f->got = malloc(f->got_max);
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->room, NULL);
	return ring_init(&f->ring, 16);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	for (int fd = 0; fd < 3; fd++) {
		dup2(f->saved[fd], fd);
		close(f->saved[fd]);
	}
	if (f->in >= 0)
		close(f->in);
	if (f->out >= 0)
		close(f->out);
	close(f->err);
	pthread_mutex_destroy(&f->lock);
	pthread_cond_destroy(&f->room);
	free(f->got);
	free(f);
	return 0;
}

static void open_console(struct fixture *f, const char *where)
{
	assert_int_equal(console_init(&f->console, &f->ring, where, &OPS, f), 0);
}

static void close_console(struct fixture *f)
{
	ring_fini(&f->ring);
	console_fini(&f->console);
}

/* Run what is ready, and what becomes ready within @msec. */
static void run_for(struct fixture *f, unsigned msec);

struct deadline {
	struct io_timer timer;
	bool over;
};

static void deadline_over(struct io_op *op, int res)
{
	(void)res;
	container_of(op, struct deadline, timer.op)->over = true;
}

static void run_for(struct fixture *f, unsigned msec)
{
	struct deadline deadline = { .timer.op.done = deadline_over };

	ring_timeout(&f->ring, &deadline.timer, msec * 1000000ull);
	ring_run(&f->ring, &deadline.over);
}

static void replace(int fd, const char *path, int flags)
{
	int new = open(path, flags | O_CLOEXEC);

	assert_true(new >= 0);
	dup2(new, fd);
	close(new);
}

static uint8_t pattern(size_t i)
{
	return (uint8_t)(i * 7 + i / 251 + i / 65521);
}

static uint8_t *make_pattern(size_t n)
{
	uint8_t *bytes = malloc(n);

	for (size_t i = 0; i < n; i++)
		bytes[i] = pattern(i);
	return bytes;
}

/* Threads at the other ends. */

struct stream {
	struct fixture *f;
	int fd;
	size_t n;
	unsigned pause_usec; /* after each piece */
	size_t piece;
	size_t wrong;
	size_t done;
};

static void *read_stream(void *arg)
{
	struct stream *s = arg;
	uint8_t bytes[65536];
	ssize_t n;

	while (s->done < s->n && (n = read(s->fd, bytes, s->piece)) > 0) {
		for (ssize_t i = 0; i < n; i++)
			s->wrong += bytes[i] != pattern(s->done + (size_t)i);
		s->done += (size_t)n;
		if (s->pause_usec)
			usleep(s->pause_usec);
	}
	return NULL;
}

static void *write_stream(void *arg)
{
	struct stream *s = arg;
	uint8_t *bytes = make_pattern(s->n);
	ssize_t n;

	while (s->done < s->n && (n = write(s->fd, bytes + s->done, s->n - s->done)) > 0)
		s->done += (size_t)n;
	free(bytes);
	return NULL;
}

/* The guest: writes all, sleeping when the console is full; then asks the main thread to stop. */
static void *console_stream(void *arg)
{
	struct stream *s = arg;
	struct fixture *f = s->f;
	uint8_t *bytes = make_pattern(s->n);

	while (s->done < s->n) {
		size_t n = s->n - s->done < s->piece ? s->n - s->done : s->piece;
		unsigned seen;
		size_t taken;

		pthread_mutex_lock(&f->lock);
		seen = f->drained;
		pthread_mutex_unlock(&f->lock);
		taken = console_write(&f->console, bytes + s->done, n);
		s->done += taken;
		pthread_mutex_lock(&f->lock);
		while (taken < n && f->drained == seen)
			pthread_cond_wait(&f->room, &f->lock);
		pthread_mutex_unlock(&f->lock);
	}
	free(bytes);
	return NULL;
}

struct joined {
	struct io_watch watch;
	bool stop;
};

static void joined_woken(struct io_watch *watch)
{
	container_of(watch, struct joined, watch)->stop = true;
}

struct guest {
	struct stream *stream;
	int fd;
};

static void *guest_main(void *arg)
{
	struct guest *guest = arg;

	console_stream(guest->stream);
	uint64_t one = 1;

	assert_int_equal(write(guest->fd, &one, sizeof(one)), sizeof(one));
	return NULL;
}
