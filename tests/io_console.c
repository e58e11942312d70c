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
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
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
	int finished_fd; /* eventfd: stops the main thread */
	struct io_watch finished;

	uint8_t got[MIB];
	size_t got_n;
	size_t want_n;   /* then the main thread stops */
	size_t take_max; /* per call of input(); 0: all */
	bool slow;       /* take some, then nothing until resumed */
	bool full;
	unsigned quits;

	pthread_mutex_t lock;
	pthread_cond_t room;
	unsigned drained;
};

static size_t input(void *arg, const uint8_t *bytes, size_t n)
{
	struct fixture *f = arg;

	assert_true(n > 0);
	if (f->full)
		return 0;
	if (f->slow && n > f->take_max) {
		n = f->take_max;
		f->full = true;
	}
	assert_true(n <= sizeof(f->got) - f->got_n);
	memcpy(f->got + f->got_n, bytes, n);
	f->got_n += n;
	if (f->got_n == f->want_n)
		f->stop = true;
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

static void finished(struct io_watch *watch)
{
	container_of(watch, struct fixture, finished)->stop = true;
}

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
	f->finished_fd = eventfd(0, EFD_CLOEXEC);
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->room, NULL);
	if (ring_init(&f->ring, 16))
		return -1;
	ring_watch(&f->ring, &f->finished, f->finished_fd, finished);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	for (int fd = 0; fd < 3; fd++) {
		dup2(f->saved[fd], fd);
		close(f->saved[fd]);
	}
	close(f->in);
	close(f->out);
	close(f->err);
	close(f->finished_fd);
	pthread_mutex_destroy(&f->lock);
	pthread_cond_destroy(&f->room);
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

static void run_until_stop(struct fixture *f)
{
	ring_run(&f->ring, &f->stop);
	f->stop = false;
}

static void replace(int fd, const char *path, int flags)
{
	int opened = open(path, flags | O_CLOEXEC);

	assert_true(opened >= 0);
	assert_int_equal(dup2(opened, fd), fd);
	close(opened);
}

static size_t put(struct fixture *f, const char *text)
{
	return console_write(&f->console, (const uint8_t *)text, strlen(text));
}

/* What there is to read at @fd, as text. */
static const char *text_at(int fd, char text[256])
{
	ssize_t n = read(fd, text, 255);

	text[n > 0 ? n : 0] = '\0';
	return text;
}

static const char *text_of_stderr(struct fixture *f, char text[256])
{
	lseek(f->err, 0, SEEK_SET);
	return text_at(f->err, text);
}

/* A stream of bytes that differ, and the threads at either end of it. */

struct stream {
	struct fixture *f;
	int fd;
	size_t n;
	size_t piece;        /* bytes at a time, */
	unsigned pause_usec; /* and then a rest */
	size_t wrong;        /* bytes that are not what they should be */
	size_t done;
};

static uint8_t pattern(size_t i)
{
	return (uint8_t)(i * 7 + i / 251 + i / 65521);
}

static uint8_t *pattern_bytes(size_t n)
{
	uint8_t *bytes = malloc(n);

	for (size_t i = 0; i < n; i++)
		bytes[i] = pattern(i);
	return bytes;
}

static void *read_stream(void *arg)
{
	struct stream *s = arg;
	uint8_t *bytes = malloc(s->piece);
	ssize_t n;

	while (s->done < s->n && (n = read(s->fd, bytes, s->piece)) > 0) {
		for (ssize_t i = 0; i < n; i++)
			s->wrong += bytes[i] != pattern(s->done + (size_t)i);
		s->done += (size_t)n;
		if (s->pause_usec)
			usleep(s->pause_usec);
	}
	free(bytes);
	return NULL;
}

static void *write_stream(void *arg)
{
	struct stream *s = arg;
	uint8_t *bytes = pattern_bytes(s->n);
	ssize_t n;

	while (s->done < s->n && (n = write(s->fd, bytes + s->done, s->n - s->done)) > 0)
		s->done += (size_t)n;
	free(bytes);
	return NULL;
}

/* As a vCPU would: wait when the console is full. */
static void *console_stream(void *arg)
{
	struct stream *s = arg;
	struct fixture *f = s->f;
	uint8_t *bytes = pattern_bytes(s->n);

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
	eventfd_write(f->finished_fd, 1);
	return NULL;
}

static void check_input(struct fixture *f, size_t n)
{
	size_t wrong = 0;

	assert_int_equal(f->got_n, n);
	for (size_t i = 0; i < n; i++)
		wrong += f->got[i] != pattern(i);
	assert_int_equal(wrong, 0);
}

/* Output of @n bytes to @out_fd, which reads back at f->out. */
static void stream_out(struct fixture *f, size_t n, size_t read_piece, unsigned pause_usec)
{
	const bool never = false;
	struct stream w = { .f = f, .n = n, .piece = 10007 };
	struct stream r = { .fd = f->out, .n = n, .piece = read_piece, .pause_usec = pause_usec };
	pthread_t writer, reader;

	pthread_create(&reader, NULL, read_stream, &r);
	pthread_create(&writer, NULL, console_stream, &w);
	run_until_stop(f);
	console_drain(&f->console, &never);
	pthread_join(writer, NULL);
	pthread_join(reader, NULL);
	assert_int_equal(r.done, n);
	assert_int_equal(r.wrong, 0);
}

static void ten_mib_to_a_slow_pipe(void **state)
{
	struct fixture *f = *state;

	open_console(f, "stdio");
	stream_out(f, 10 * MIB, 30011, 100);
	close_console(f);
}

static void output_leaves_in_batches(void **state)
{
	struct fixture *f = *state;
	const bool never = false;
	struct timespec start, end;
	char text[2001];
	uint64_t sqes;

	open_console(f, "stdio");
	sqes = f->ring.sqes;
	clock_gettime(CLOCK_MONOTONIC, &start);
	for (int i = 0; i < 2000; i++)
		assert_int_equal(put(f, "x"), 1);
	console_drain(&f->console, &never);
	clock_gettime(CLOCK_MONOTONIC, &end);
	assert_true((end.tv_sec - start.tv_sec) * 1000000000 + end.tv_nsec - start.tv_nsec >=
	            1000000);
	/* Gather, write, and the read of the wake-up again. */
	assert_true(f->ring.sqes - sqes <= 4);
	assert_int_equal(read(f->out, text, sizeof(text)), 2000);
	close_console(f);
}

static void a_full_console_refuses_and_says_when_it_has_room(void **state)
{
	struct fixture *f = *state;
	uint8_t *bytes = pattern_bytes(70000);

	open_console(f, "stdio");
	assert_int_equal(console_write(&f->console, bytes, 70000), 65536);
	assert_int_equal(console_write(&f->console, bytes, 1), 0);
	assert_int_equal(f->drained, 0);
	while (!f->drained)
		ring_step(&f->ring);
	assert_int_equal(f->drained, 1);
	assert_int_equal(console_write(&f->console, bytes, 1), 1);
	close_console(f);
	free(bytes);
}

static void nobody_reads_any_more(void **state)
{
	struct fixture *f = *state;
	const bool never = false;
	uint8_t *bytes = pattern_bytes(70000);
	char text[256];

	open_console(f, "stdio");
	close(f->out);
	f->out = -1;
	assert_int_equal(console_write(&f->console, bytes, 70000), 65536);
	console_drain(&f->console, &never);
	assert_int_equal(f->drained, 1);
	for (int i = 0; i < 10; i++)
		assert_int_equal(console_write(&f->console, bytes, 70000), 70000);
	run_for(f, 5);
	assert_string_equal(text_of_stderr(f, text),
	                    "kring: console output: Broken pipe; discarding it from here on\n");
	close_console(f);
	free(bytes);
}

static void the_device_is_full(void **state)
{
	struct fixture *f = *state;
	const bool never = false;
	char text[256];

	open_console(f, "/dev/full");
	put(f, "lost");
	console_drain(&f->console, &never);
	assert_non_null(strstr(text_of_stderr(f, text), "No space left on device"));
	close_console(f);
}

static void draining_can_be_given_up(void **state)
{
	struct fixture *f = *state;
	struct deadline deadline = { .timer.op.done = deadline_over };
	uint8_t *bytes = pattern_bytes(65536);

	open_console(f, "stdio");
	/* More than a pipe holds, and nobody reads. */
	assert_int_equal(console_write(&f->console, bytes, 65536), 65536);
	while (!console_write(&f->console, bytes, 1))
		ring_step(&f->ring);
	ring_timeout(&f->ring, &deadline.timer, 20000000);
	console_drain(&f->console, &deadline.over);
	assert_true(deadline.over);
	close_console(f);
	free(bytes);
}

static void output_to_a_file(void **state)
{
	struct fixture *f = *state;
	const bool never = false;
	char path[] = "/tmp/kring-console-XXXXXX";
	char text[256];
	int fd = mkstemp(path);

	assert_int_equal(write(fd, "was here before", 15), 15);
	open_console(f, path);
	put(f, "one ");
	console_drain(&f->console, &never);
	put(f, "two");
	console_drain(&f->console, &never);
	assert_int_equal(write(f->in, "not for this guest", 18), 18);
	run_for(f, 5);
	close_console(f);
	lseek(fd, 0, SEEK_SET);
	assert_string_equal(text_at(fd, text), "one two");
	assert_int_equal(f->got_n, 0);
	close(fd);
	unlink(path);
}

static void no_console(void **state)
{
	struct fixture *f = *state;
	const bool never = false;
	struct pollfd out = { .fd = f->out, .events = POLLIN };

	open_console(f, "none");
	for (int i = 0; i < 100000; i++)
		assert_int_equal(put(f, "nowhere"), 7);
	console_drain(&f->console, &never);
	assert_int_equal(write(f->in, "x", 1), 1);
	run_for(f, 5);
	assert_int_equal(poll(&out, 1, 0), 0);
	assert_int_equal(f->got_n, 0);
	close_console(f);
}

static void a_file_that_cannot_be(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(console_init(&f->console, &f->ring, "/", &OPS, f), -EISDIR);
	assert_int_equal(console_init(&f->console, &f->ring, "/nowhere/x", &OPS, f), -ENOENT);
	ring_fini(&f->ring);
}

static void *resume_often(void *arg)
{
	struct fixture *f = arg;

	for (int i = 0; i < 50; i++) {
		usleep(100);
		console_resume_input(&f->console);
	}
	return NULL;
}

/* Each wake-up lets the guest take 16 bytes. */
static void piped_in_for_a_slow_guest(void **state)
{
	struct fixture *f = *state;
	struct stream w = { .fd = f->in, .n = 65536 };
	pthread_t writer, other;

	f->slow = true;
	f->take_max = 16;
	f->want_n = 65536;
	open_console(f, "stdio");
	pthread_create(&writer, NULL, write_stream, &w);
	pthread_create(&other, NULL, resume_often, f);
	while (!f->stop) {
		ring_step(&f->ring);
		if (f->full) {
			f->full = false;
			console_resume_input(&f->console);
		}
	}
	pthread_join(writer, NULL);
	pthread_join(other, NULL);
	check_input(f, 65536);
	close_console(f);
}

static void stdin_is_terminal(struct fixture *f);

static void a_refusing_guest_stops_the_reading(void **state)
{
	struct fixture *f = *state;
	size_t room = CONSOLE_BUFFER;
	uint8_t *bytes = pattern_bytes(room + 16384);
	int left;

	f->full = true;
	open_console(f, "stdio");
	assert_int_equal(write(f->in, bytes, room), room);
	while (f->console.in_end < room)
		ring_step(&f->ring);
	assert_int_equal(write(f->in, bytes + room, 16384), 16384);
	run_for(f, 10);
	assert_int_equal(ioctl(STDIN_FILENO, FIONREAD, &left), 0);
	assert_int_equal(left, 16384);
	f->full = false;
	f->want_n = room + 16384;
	console_resume_input(&f->console);
	run_until_stop(f);
	check_input(f, room + 16384);
	close_console(f);
	free(bytes);
}

static void a_refusing_guest_can_be_quit(void **state)
{
	struct fixture *f = *state;

	stdin_is_terminal(f);
	f->full = true;
	open_console(f, "stdio");
	assert_int_equal(write(f->in, "ls\r", 3), 3);
	while (!f->console.in_end)
		ring_step(&f->ring);
	run_for(f, 10);
	assert_int_equal(write(f->in, "\1x", 2), 2);
	run_until_stop(f);
	assert_int_equal(f->quits, 1);
	assert_int_equal(f->got_n, 0);
	close_console(f);
}

static void a_pipe_is_verbatim_to_its_end(void **state)
{
	static const char keys[] = "a\1x\1h\1\1\0\r\n\3\32\177\377";
	struct fixture *f = *state;
	struct pollfd out = { .fd = f->out, .events = POLLIN };
	uint64_t enters;

	f->want_n = sizeof(keys);
	open_console(f, "stdio");
	assert_int_equal(write(f->in, keys, sizeof(keys)), sizeof(keys));
	close(f->in);
	f->in = -1;
	run_until_stop(f);
	assert_int_equal(f->got_n, sizeof(keys));
	assert_memory_equal(f->got, keys, sizeof(keys));
	assert_int_equal(f->quits, 0);
	assert_int_equal(poll(&out, 1, 0), 0);

	/* At the end of the input nothing spins. */
	enters = f->ring.enters;
	run_for(f, 10);
	assert_true(f->ring.enters - enters < 10);
	close_console(f);
}

static void a_file_is_read_from_its_position(void **state)
{
	struct fixture *f = *state;
	char path[] = "/tmp/kring-console-XXXXXX";
	uint8_t *bytes = pattern_bytes(20000);
	int fd = mkstemp(path);

	assert_int_equal(write(fd, "skipped", 7), 7);
	assert_int_equal(write(fd, bytes, 20000), 20000);
	lseek(fd, 7, SEEK_SET);
	dup2(fd, STDIN_FILENO);
	f->want_n = 20000;
	open_console(f, "stdio");
	run_until_stop(f);
	check_input(f, 20000);
	close_console(f);
	close(fd);
	unlink(path);
	free(bytes);
}

static void without_input_the_guest_goes_on(void **state)
{
	/* The last two fail with EISDIR, and with EBADF as when it is closed. */
	static const char *const paths[] = { "/dev/null", "/", "/" };
	static const int flags[] = { O_RDONLY, O_RDONLY, O_PATH };
	struct fixture *f = *state;
	const bool never = false;
	char text[256];

	for (int i = 0; i < 3; i++) {
		replace(STDIN_FILENO, paths[i], flags[i]);
		open_console(f, "stdio");
		put(f, "hello");
		console_drain(&f->console, &never);
		assert_string_equal(text_at(f->out, text), "hello");
		assert_int_equal(f->got_n, 0);
		close_console(f);
		assert_int_equal(ring_init(&f->ring, 16), 0);
	}
	ring_fini(&f->ring);
}

/* A pseudo-terminal: its master takes the place of the pipe's other end. */
static void stdin_is_terminal(struct fixture *f)
{
	close(f->in);
	f->in = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	assert_int_equal(grantpt(f->in) | unlockpt(f->in), 0);
	replace(STDIN_FILENO, ptsname(f->in), O_RDWR | O_NOCTTY);
}

static bool same_mode(const struct termios *a, const struct termios *b)
{
	return a->c_iflag == b->c_iflag && a->c_oflag == b->c_oflag && a->c_cflag == b->c_cflag &&
	       a->c_lflag == b->c_lflag && !memcmp(a->c_cc, b->c_cc, sizeof(a->c_cc));
}

static void a_terminal_is_raw_and_restored(void **state)
{
	struct fixture *f = *state;
	struct termios before, during, after;

	stdin_is_terminal(f);
	tcgetattr(STDIN_FILENO, &before);
	open_console(f, "stdio");
	tcgetattr(STDIN_FILENO, &during);
	assert_int_equal(during.c_lflag & (ICANON | ECHO | ISIG | IEXTEN), 0);
	assert_int_equal(during.c_iflag & (ICRNL | IXON | ISTRIP), 0);
	assert_int_equal(during.c_oflag & OPOST, 0);

	console_restore(&f->console);
	tcgetattr(STDIN_FILENO, &after);
	assert_true(same_mode(&before, &after));

	tcsetattr(STDIN_FILENO, TCSANOW, &during);
	close_console(f);
	tcgetattr(STDIN_FILENO, &after);
	assert_true(same_mode(&before, &after));
}

static void a_terminal_has_keys(void **state)
{
	struct fixture *f = *state;
	struct pollfd out = { .fd = f->out, .events = POLLIN };
	char text[256];

	stdin_is_terminal(f);
	f->want_n = 5;
	open_console(f, "stdio");
	assert_int_equal(write(f->in, "a\r\3\1\1b\1", 7), 7);
	run_until_stop(f);
	assert_memory_equal(f->got, "a\r\3\1b", 5);

	/* The key after Ctrl-a may come later. */
	assert_int_equal(write(f->in, "h", 1), 1);
	while (!poll(&out, 1, 0))
		run_for(f, 5);
	assert_int_equal(f->got_n, 5);
	assert_non_null(strstr(text_at(f->out, text), "Ctrl-a x"));

	assert_int_equal(write(f->in, "x\1x", 3), 3);
	assert_int_equal(f->quits, 0);
	run_until_stop(f);
	assert_int_equal(f->quits, 1);
	run_for(f, 5);
	assert_int_equal(f->got_n, 6);
	close_console(f);
}

/* 0x01 is left out: it is a key. */
static void *paste(void *arg)
{
	struct stream *s = arg;

	while (s->done < s->n) {
		uint8_t byte = (uint8_t)(s->done % 251 + 2);

		if (write(s->fd, &byte, 1) != 1)
			break;
		s->done++;
	}
	return NULL;
}

static void pasted_into_a_terminal(void **state)
{
	struct fixture *f = *state;
	struct stream w = { .n = 65536 };
	pthread_t writer;
	size_t wrong = 0;

	stdin_is_terminal(f);
	w.fd = f->in;
	f->want_n = 65536;
	open_console(f, "stdio");
	pthread_create(&writer, NULL, paste, &w);
	run_until_stop(f);
	pthread_join(writer, NULL);
	for (size_t i = 0; i < 65536; i++)
		wrong += f->got[i] != (uint8_t)(i % 251 + 2);
	assert_int_equal(wrong, 0);
	close_console(f);
}

static void the_terminal_goes_away(void **state)
{
	struct fixture *f = *state;
	uint64_t enters;

	stdin_is_terminal(f);
	open_console(f, "stdio");
	run_for(f, 5);
	close(f->in);
	f->in = -1;
	run_for(f, 10);
	enters = f->ring.enters;
	run_for(f, 10);
	assert_true(f->ring.enters - enters < 10);
	close_console(f);
}

static void a_non_blocking_terminal_is_waited_for(void **state)
{
	struct fixture *f = *state;
	struct termios mode;

	close(f->out);
	f->out = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	assert_int_equal(grantpt(f->out) | unlockpt(f->out), 0);
	replace(STDOUT_FILENO, ptsname(f->out), O_RDWR | O_NOCTTY | O_NONBLOCK);
	tcgetattr(STDOUT_FILENO, &mode);
	cfmakeraw(&mode);
	tcsetattr(STDOUT_FILENO, TCSANOW, &mode);
	open_console(f, "stdio");
	stream_out(f, MIB / 2, 1009, 50);
	close_console(f);
}

/*
 * A session of its own with the terminal, and kring in its background: it must neither stop nor
 * touch the terminal, and take it once it is in the foreground. The session's leader is a child,
 * and kring a child of that.
 */
static int background_kring(struct fixture *f, int ready, int go)
{
	struct termios before, mode;
	char byte = 0;

	tcgetattr(STDIN_FILENO, &before);
	if (ring_init(&f->ring, 16) || console_init(&f->console, &f->ring, "stdio", &OPS, f))
		return 10;
	run_for(f, 20);
	tcgetattr(STDIN_FILENO, &mode);
	if (!same_mode(&before, &mode))
		return 11;
	if (write(ready, &byte, 1) != 1 || read(go, &byte, 1) != 1)
		return 12;
	for (int i = 0; i < 1000 && mode.c_lflag & ICANON; i++) {
		run_for(f, 10);
		tcgetattr(STDIN_FILENO, &mode);
	}
	if (mode.c_lflag & ICANON)
		return 13;
	f->want_n = 1;
	if (write(f->in, "k", 1) != 1)
		return 14;
	run_until_stop(f);
	close_console(f);
	tcgetattr(STDIN_FILENO, &mode);
	return same_mode(&before, &mode) ? 0 : 15;
}

static int session_leader(struct fixture *f)
{
	int ready[2], go[2];
	int status;
	pid_t kring;
	char byte;

	if (setsid() < 0 || ioctl(STDIN_FILENO, TIOCSCTTY, 0) || pipe(ready) || pipe(go))
		return 20;
	kring = fork();
	if (!kring) {
		setpgid(0, 0);
		_exit(background_kring(f, ready[1], go[0]));
	}
	close(ready[1]);
	if (read(ready[0], &byte, 1) == 1) {
		tcsetpgrp(STDIN_FILENO, kring);
		if (write(go[1], &byte, 1) != 1)
			return 21;
	}
	if (waitpid(kring, &status, WUNTRACED) != kring)
		return 22;
	if (WIFSTOPPED(status)) {
		kill(kring, SIGKILL);
		return 23;
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 24;
}

static void in_the_background(void **state)
{
	struct fixture *f = *state;
	int status;
	pid_t leader;

	ring_fini(&f->ring);
	stdin_is_terminal(f);
	leader = fork();
	if (!leader)
		_exit(session_leader(f));
	assert_int_equal(waitpid(leader, &status, 0), leader);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		TEST(ten_mib_to_a_slow_pipe),
		TEST(output_leaves_in_batches),
		TEST(a_full_console_refuses_and_says_when_it_has_room),
		TEST(a_non_blocking_terminal_is_waited_for),
		TEST(nobody_reads_any_more),
		TEST(the_device_is_full),
		TEST(draining_can_be_given_up),
		TEST(output_to_a_file),
		TEST(no_console),
		TEST(a_file_that_cannot_be),
		TEST(piped_in_for_a_slow_guest),
		TEST(a_refusing_guest_stops_the_reading),
		TEST(a_pipe_is_verbatim_to_its_end),
		TEST(a_file_is_read_from_its_position),
		TEST(without_input_the_guest_goes_on),
		TEST(a_terminal_is_raw_and_restored),
		TEST(a_terminal_has_keys),
		TEST(a_refusing_guest_can_be_quit),
		TEST(pasted_into_a_terminal),
		TEST(the_terminal_goes_away),
		TEST(in_the_background),
	};

	alarm(120);
	return cmocka_run_group_tests_name("io/console", tests, NULL, NULL);
}
