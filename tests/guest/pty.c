/*
 * Runs a command on a terminal of its own: `pty COMMAND [ARG...]`. Standard input is what is typed,
 * standard output what the terminal shows; standard error stays as it is. SIGTERM, SIGINT and
 * SIGHUP are passed on.
 *
 * Exit status: the command's, 128+n when a signal ended it; 99 when it left the terminal's settings
 * changed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

static volatile sig_atomic_t child;

static void pass_on(int signal)
{
	if (child > 0)
		kill(child, signal);
}

static void die(const char *what)
{
	fprintf(stderr, "pty: %s: %s\n", what, strerror(errno));
	exit(125);
}

static void write_all(int fd, const char *data, ssize_t len)
{
	while (len > 0) {
		ssize_t n = write(fd, data, len);

		if (n < 0 && errno != EINTR)
			die("write");
		if (n > 0) {
			data += n;
			len -= n;
		}
	}
}

/* What there is from @from goes to @to. Returns 0 at the end of the input. */
static int relay(int from, int to)
{
	char data[4096];
	ssize_t n = read(from, data, sizeof(data));

	if (n <= 0)
		return n < 0 && errno == EINTR;
	write_all(to, data, n);
	return 1;
}

static int same(const struct termios *a, const struct termios *b)
{
	return a->c_iflag == b->c_iflag && a->c_oflag == b->c_oflag && a->c_cflag == b->c_cflag &&
	       a->c_lflag == b->c_lflag && !memcmp(a->c_cc, b->c_cc, sizeof(a->c_cc));
}

int main(int argc, char **argv)
{
	struct winsize size = { .ws_row = 24, .ws_col = 80 };
	struct termios before, after;
	struct pollfd fds[2] = { { .events = POLLIN }, { .events = POLLIN } };
	int master, slave, status;

	if (argc < 2) {
		fprintf(stderr, "usage: pty COMMAND [ARG...]\n");
		return 2;
	}
	master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (master < 0 || grantpt(master) || unlockpt(master))
		die("no pseudo-terminal");
	/* Kept open here: the settings outlive the command, and the master does not see a hang-up.
	 */
	slave = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (slave < 0 || ioctl(slave, TIOCSWINSZ, &size) || tcgetattr(slave, &before))
		die("terminal");

	child = fork();
	if (child < 0)
		die("fork");
	if (!child) {
		setsid();
		if (ioctl(slave, TIOCSCTTY, 0))
			die("controlling terminal");
		dup2(slave, 0);
		dup2(slave, 1);
		execvp(argv[1], argv + 1);
		die(argv[1]);
	}
	signal(SIGTERM, pass_on);
	signal(SIGINT, pass_on);
	signal(SIGHUP, pass_on);

	fds[0].fd = master;
	fds[1].fd = 0;
	while (waitpid(child, &status, WNOHANG) == 0) {
		if (poll(fds, 2, 20) <= 0)
			continue;
		if (fds[0].revents)
			relay(master, 1);
		if (fds[1].revents && !relay(0, master))
			fds[1].fd = -1;
	}
	while (poll(fds, 1, 0) > 0 && relay(master, 1))
		;
	if (tcgetattr(slave, &after))
		die("terminal");
	if (!same(&before, &after)) {
		fprintf(stderr, "pty: %s left the terminal changed\n", argv[1]);
		return 99;
	}
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
