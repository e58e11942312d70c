/*
 * UDP with contents that can be checked: `datagrams send ADDRESS PORT N` and `datagrams receive
 * PORT N`. Each datagram has its number in front, and all else of it, its length too, comes from
 * that. The receiver ends with the last number, or when nothing has come for a while; it prints
 * what has arrived, and fails when some of it is not as it was sent, or was there before.
 *
 * IPv4 addresses go as ::ffff:192.0.2.1.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define DATAGRAM_MAX  65000
#define SILENCE_SEC   5
#define RECEIVE_BYTES (8 << 20)
/* The sender waits after each that many, as long as a busy guest may take for them. */
#define BURST_BYTES   65536
#define BURST_NSEC    10000000

static uint64_t next(uint64_t *state)
{
	*state += 0x9e3779b97f4a7c15;

	uint64_t x = *state;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
	x = (x ^ x >> 27) * 0x94d049bb133111eb;
	return x ^ x >> 31;
}

/* Make datagram @number. Most fit into an Ethernet frame; one in 16 comes in many fragments. */
static size_t datagram(uint32_t number, uint8_t *to)
{
	uint64_t state = number;
	size_t max = number % 16 ? 1472 : DATAGRAM_MAX;
	size_t len = sizeof(number) + next(&state) % (max - sizeof(number) + 1);

	memcpy(to, &number, sizeof(number));
	for (size_t at = sizeof(number); at < len; at += sizeof(state)) {
		uint64_t value = next(&state);

		memcpy(to + at, &value, sizeof(value));
	}
	return len;
}

static int fail(const char *what)
{
	fprintf(stderr, "datagrams: %s: %s\n", what, strerror(errno));
	return 1;
}

static int send_all(const char *address, int port, uint32_t n)
{
	static uint8_t data[DATAGRAM_MAX + sizeof(uint64_t)];
	struct sockaddr_in6 to = { .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port) };
	struct timespec pause = { .tv_nsec = BURST_NSEC };
	int fd = socket(AF_INET6, SOCK_DGRAM, 0);
	size_t burst = 0;

	if (inet_pton(AF_INET6, address, &to.sin6_addr) != 1)
		return fail(address);
	if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0)
		return fail(address);
	for (uint32_t i = 0; i < n; i++) {
		size_t len = datagram(i, data);

		/* The queue is full, or nobody listens yet. */
		while (send(fd, data, len, 0) < 0) {
			if (errno != ENOBUFS && errno != ECONNREFUSED)
				return fail("send");
			nanosleep(&pause, NULL);
		}
		burst += len;
		if (burst >= BURST_BYTES) {
			burst = 0;
			nanosleep(&pause, NULL);
		}
	}
	return 0;
}

static int receive_all(int port, uint32_t n)
{
	static uint8_t data[DATAGRAM_MAX + 1], want[DATAGRAM_MAX + sizeof(uint64_t)];
	struct sockaddr_in6 at = { .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port) };
	struct timeval silence = { .tv_sec = SILENCE_SEC };
	int fd = socket(AF_INET6, SOCK_DGRAM, 0), size = RECEIVE_BYTES;
	unsigned arrived = 0, wrong = 0, again = 0, late = 0;
	unsigned long long bytes = 0;
	uint32_t number, highest = 0;
	bool *seen = calloc(n, sizeof(*seen));

	if (!seen || fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0)
		return fail("receive");
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	while (highest + 1 < n) {
		ssize_t len = recv(fd, data, sizeof(data), 0);

		if (len < 0 && !arrived)
			continue; /* the first one may take its time: the test has a limit */
		if (len < 0)
			break;
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &silence, sizeof(silence));
		arrived++;
		bytes += (size_t)len;
		memcpy(&number, data, sizeof(number));
		if ((size_t)len < sizeof(number) || number >= n ||
		    (size_t)len != datagram(number, want) || memcmp(data, want, (size_t)len) != 0) {
			wrong++;
			continue;
		}
		again += seen[number];
		late += number < highest;
		seen[number] = true;
		highest = number > highest ? number : highest;
	}
	printf("datagrams: %u of %u, %llu bytes, %u wrong, %u again, %u late\n", arrived, n, bytes,
	       wrong, again, late);
	return wrong || again;
}

int main(int argc, char **argv)
{
	if (argc == 5 && strcmp(argv[1], "send") == 0)
		return send_all(argv[2], atoi(argv[3]), (uint32_t)atol(argv[4]));
	if (argc == 4 && strcmp(argv[1], "receive") == 0)
		return receive_all(atoi(argv[2]), (uint32_t)atol(argv[3]));
	fprintf(stderr, "usage: datagrams send ADDRESS PORT N | datagrams receive PORT N\n");
	return 2;
}
