/*
 * Taps. Knows names, ioctls and permissions; not who reads the packets, nor how.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "io/tap.h"

#define TUN_DEVICE "/dev/net/tun"

/* "network NAME: " and the rest; returns @err. */
__attribute__((format(printf, 4, 5))) static int refuse(char *why, const char *name, int err,
                                                        const char *format, ...)
{
	int n = snprintf(why, TAP_WHY_MAX, "network %.64s: ", name);
	va_list args;

	va_start(args, format);
	vsnprintf(why + n, TAP_WHY_MAX - (size_t)n, format, args);
	va_end(args);
	return err;
}

/* The command line. */

/* What Linux takes for an interface, less the patterns it would fill in. */
static bool name_is_valid(const char *name)
{
	return *name && strlen(name) < IFNAMSIZ && strcmp(name, ".") != 0 &&
	       strcmp(name, "..") != 0 && !strpbrk(name, "/:% \t\n\v\f\r");
}

static bool is_zero(const uint8_t mac[ETH_ALEN])
{
	static const uint8_t zero[ETH_ALEN];

	return !memcmp(mac, zero, ETH_ALEN);
}

/* A station's address: no group's, and not nobody's. */
static bool mac_parse(const char *text, uint8_t mac[ETH_ALEN])
{
	static const char pattern[] = "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%n";
	int len = 0;

	return strspn(text, "0123456789abcdefABCDEF:") == strlen(text) &&
	       sscanf(text, pattern, &mac[0], &mac[1], &mac[2], &mac[3], &mac[4], &mac[5], &len) ==
	               ETH_ALEN &&
	       !text[len] && !(mac[0] & 1) && !is_zero(mac);
}

static bool number_parse(const char *text, unsigned min, unsigned max, unsigned *number)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	*number = (unsigned)n;
	return *text >= '0' && *text <= '9' && !*end && n >= min && n <= max;
}

/* The value of @word if it is @name=value, or NULL. */
static const char *value_of(const char *word, const char *name)
{
	size_t len = strlen(name);

	return !strncmp(word, name, len) && word[len] == '=' ? word + len + 1 : NULL;
}

static int word_parse(struct tap_config *config, const char *word, char *why)
{
	const char *value;

	if ((value = value_of(word, "mac"))) {
		if (!mac_parse(value, config->mac))
			return refuse(why, config->name, -EINVAL,
			              "%.64s: not a station's address, as 52:54:00:12:34:56 is",
			              word);
		return 0;
	}
	if ((value = value_of(word, "queues"))) {
		if (!number_parse(value, 1, TAP_QUEUES_MAX, &config->queues))
			return refuse(why, config->name, -EINVAL, "%.64s: must be from 1 to %d",
			              word, TAP_QUEUES_MAX);
		return 0;
	}
	if ((value = value_of(word, "mtu"))) {
		if (!number_parse(value, TAP_MTU_MIN, TAP_MTU_MAX, &config->mtu))
			return refuse(why, config->name, -EINVAL, "%.64s: must be from %d to %d",
			              word, TAP_MTU_MIN, TAP_MTU_MAX);
		return 0;
	}
	return refuse(why, config->name, -EINVAL,
	              "unknown option '%.64s'; there are mac=M, queues=N and mtu=N", word);
}

int tap_parse(struct tap_config *config, const char *text, char *why)
{
	char words[128];
	char *rest = words;
	const char *name;
	const char *word;
	int err = 0;

	*config = (struct tap_config){ .queues = 1 };
	if (strlen(text) >= sizeof(words))
		return refuse(why, text, -EINVAL, "too long");
	strcpy(words, text);

	word = strsep(&rest, ",");
	name = value_of(word, "tap");
	if (!name)
		name = word;
	if (!name_is_valid(name))
		return refuse(why, name, -EINVAL, "not a name that an interface can have");
	strcpy(config->name, name);
	while (!err && (word = strsep(&rest, ",")))
		err = word_parse(config, word, why);
	return err;
}

/* Interfaces. */

/* One of the socket ioctls on interfaces. Returns 0 or -errno. */
static int interface(const char *name, unsigned long request, struct ifreq *ifr)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int err = 0;

	if (fd < 0)
		return -errno;
	strcpy(ifr->ifr_name, name);
	if (ioctl(fd, request, ifr))
		err = -errno;
	close(fd);
	return err;
}

static bool exists(const char *name)
{
	struct ifreq ifr = { 0 };

	return !interface(name, SIOCGIFFLAGS, &ifr);
}

static int bring_up(const char *name)
{
	struct ifreq ifr = { 0 };
	int err = interface(name, SIOCGIFFLAGS, &ifr);

	if (err || ifr.ifr_flags & IFF_UP)
		return err;
	ifr.ifr_flags |= IFF_UP;
	return interface(name, SIOCSIFFLAGS, &ifr);
}

unsigned tap_mtu(const struct tap *tap)
{
	struct ifreq ifr = { 0 };

	return interface(tap->name, SIOCGIFMTU, &ifr) ? TAP_MTU_MAX : (unsigned)ifr.ifr_mtu;
}

static int set_mtu(const struct tap *tap, unsigned mtu)
{
	struct ifreq ifr = { .ifr_mtu = (int)mtu };

	return tap_mtu(tap) == mtu ? 0 : interface(tap->name, SIOCSIFMTU, &ifr);
}

/* Opening. */

static int device_refuse(char *why, const char *name, int err)
{
	switch (-err) {
	case ENOENT:
	case ENODEV:
	case ENXIO:
		return refuse(why, name, err,
		              "no " TUN_DEVICE " here: `modprobe tun`, or pass the device into "
		              "the container");
	case EACCES:
	case EPERM:
		return refuse(why, name, err,
		              TUN_DEVICE " is not for this user: `chmod 0666 " TUN_DEVICE
		                         "`, or be root");
	default:
		return refuse(why, name, err, TUN_DEVICE ": %s", strerror(-err));
	}
}

static int name_refuse(char *why, const struct tap_config *config, bool existed, int err)
{
	switch (-err) {
	case EPERM:
		if (existed)
			return refuse(why, config->name, err, "it belongs to another user");
		return refuse(why, config->name, err,
		              "there is none, and only root may make one: `ip tuntap add mode tap "
		              "user NAME dev %s`",
		              config->name);
	case EBUSY:
	case E2BIG:
		return refuse(why, config->name, err, "a kring or another program uses it");
	case EINVAL:
		return refuse(why, config->name, err,
		              config->queues > 1 ? "it exists and is no tap of several queues: "
		                                   "`ip tuntap add mode tap multi_queue`"
		                                 : "it exists and is no tap");
	default:
		return refuse(why, config->name, err, "%s", strerror(-err));
	}
}

/* Make @fd one queue of the tap @name. */
static int queue_join(int fd, const char *name, bool multi_queue)
{
	struct ifreq ifr = {
		.ifr_flags =
		        IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (multi_queue ? IFF_MULTI_QUEUE : 0),
	};

	strcpy(ifr.ifr_name, name);
	return ioctl(fd, TUNSETIFF, &ifr) ? -errno : 0;
}

static int queue_open(struct tap *tap, const struct tap_config *config, char *why)
{
	bool existed = exists(tap->name);
	int fd = open(TUN_DEVICE, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	int err;

	if (fd < 0)
		return device_refuse(why, tap->name, -errno);
	err = queue_join(fd, tap->name, config->queues > 1);
	/* One that was made for several queues can do with one. */
	if (err == -EINVAL && config->queues == 1)
		err = queue_join(fd, tap->name, true);
	if (err) {
		close(fd);
		return name_refuse(why, config, existed, err);
	}
	tap->fd[tap->queues++] = fd;
	return 0;
}

/* What TUNSETOFFLOAD takes. */
static unsigned offloads_find(const struct tap *tap)
{
	static const unsigned candidates[] = {
		TUN_F_CSUM,
		TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN,
		TUN_F_UFO,
		TUN_F_USO4 | TUN_F_USO6,
	};
	unsigned flags = 0;

	for (size_t i = 0; i < sizeof(candidates) / sizeof(candidates[0]); i++)
		if (!tap_set_offloads(tap, flags | candidates[i]))
			flags |= candidates[i];
	return flags;
}

/* One of those that everybody may use (IEEE 802-2014 §8.2.2). */
static int mac_make_up(uint8_t mac[ETH_ALEN])
{
	if (getrandom(mac, ETH_ALEN, 0) != ETH_ALEN)
		return -EIO;
	mac[0] = (uint8_t)((mac[0] & ~3u) | 2);
	return 0;
}

int tap_open(struct tap *tap, const struct tap_config *config, char *why)
{
	const int header = TAP_HDR_LEN;
	int err = 0;

	*tap = (struct tap){ 0 };
	strcpy(tap->name, config->name);
	tap->mtu_given = config->mtu;
	while (!err && tap->queues < config->queues)
		err = queue_open(tap, config, why);
	if (err)
		goto fail;

	tap->attached = tap->queues;
	tap->offloads = offloads_find(tap);
	err = ioctl(tap->fd[0], TUNSETVNETHDRSZ, &header) ? -errno : 0;
	err = err ? err : tap_set_offloads(tap, 0);
	err = err ? err : tap_set_filter(tap, NULL, 0, false);
	err = err ? err : tap_set_queues(tap, 1);
	memcpy(tap->mac, config->mac, ETH_ALEN);
	if (!err && is_zero(tap->mac))
		err = mac_make_up(tap->mac);
	if (err) {
		refuse(why, tap->name, err, "it cannot be set up: %s", strerror(-err));
		goto fail;
	}

	/* Who owns a tap may use it, and no more. Whoever made it has to bring it up then. */
	err = bring_up(tap->name);
	if (err && err != -EPERM) {
		refuse(why, tap->name, err, "it cannot be brought up: %s", strerror(-err));
		goto fail;
	}
	err = config->mtu ? set_mtu(tap, config->mtu) : 0;
	if (err) {
		refuse(why, tap->name, err, "its MTU cannot be %u: %s", config->mtu,
		       strerror(-err));
		goto fail;
	}
	return 0;
fail:
	tap_close(tap);
	return err;
}

/* A tap that stays lets all packets pass again. */
void tap_close(struct tap *tap)
{
	if (tap->queues)
		tap_set_filter(tap, NULL, 0, false);
	while (tap->queues)
		close(tap->fd[--tap->queues]);
}

int tap_set_offloads(const struct tap *tap, unsigned flags)
{
	return ioctl(tap->fd[0], TUNSETOFFLOAD, flags) ? -errno : 0;
}

int tap_set_queues(struct tap *tap, unsigned n)
{
	while (tap->attached != n) {
		bool more = tap->attached < n;
		struct ifreq ifr = { .ifr_flags = more ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE };

		if (ioctl(tap->fd[more ? tap->attached : tap->attached - 1], TUNSETQUEUE, &ifr))
			return -errno;
		if (more)
			tap->attached++;
		else
			tap->attached--;
	}
	return 0;
}

int tap_set_filter(const struct tap *tap, const uint8_t (*addr)[ETH_ALEN], unsigned n,
                   bool allmulti)
{
	struct { /* struct tun_filter, with room */
		uint16_t flags;
		uint16_t count;
		uint8_t addr[TAP_FILTER_MAX][ETH_ALEN];
	} filter = { .flags = allmulti ? TUN_FLT_ALLMULTI : 0, .count = (uint16_t)n };

	if (n)
		memcpy(filter.addr, addr, n * sizeof(*addr));
	return ioctl(tap->fd[0], TUNSETTXFILTER, &filter) < 0 ? -errno : 0;
}
