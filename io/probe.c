/*
 * What the host offers. Knows files, limits and ioctls; not how they are shown.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "io/probe.h"

#define THP   "/sys/kernel/mm/transparent_hugepage/"
#define PAGES "/sys/kernel/mm/hugepages/hugepages-2048kB/"

#define FEAT(feature) IORING_FEAT_##feature, #feature
#define TAP(flag)     IFF_##flag, #flag

const struct ring_name probe_features[] = {
	{ FEAT(SINGLE_MMAP) },     { FEAT(NODROP) },
	{ FEAT(SUBMIT_STABLE) },   { FEAT(RW_CUR_POS) },
	{ FEAT(CUR_PERSONALITY) }, { FEAT(FAST_POLL) },
	{ FEAT(POLL_32BITS) },     { FEAT(SQPOLL_NONFIXED) },
	{ FEAT(EXT_ARG) },         { FEAT(NATIVE_WORKERS) },
	{ FEAT(RSRC_TAGS) },       { FEAT(CQE_SKIP) },
	{ FEAT(LINKED_FILE) },     { 0 },
};

const struct ring_name probe_tap_flags[] = {
	{ TAP(TAP) },        { TAP(NO_PI) }, { TAP(VNET_HDR) }, { TAP(MULTI_QUEUE) }, { TAP(NAPI) },
	{ TAP(NAPI_FRAGS) }, { 0 },
};

static void probe_ring(struct probe_ring *probe)
{
	struct io_uring_probe *opcodes = io_uring_get_probe();
	struct ring ring;

	probe->disabled = ring_disabled();
	for (const struct ring_name *op = ring_opcodes; opcodes && op->name; op++)
		if (io_uring_opcode_supported(opcodes, (int)op->value))
			probe->opcodes |= 1ull << op->value;
	io_uring_free_probe(opcodes);

	probe->error = ring_init(&ring, RING_ENTRIES);
	if (probe->error) {
		probe->hint = ring_explain(probe->error);
		return;
	}
	for (const struct ring_name *flag = ring_setup_flags; flag->name; flag++)
		probe->setup |= ring.uring.flags & flag->value;
	probe->features = ring.uring.features;
	ring_fini(&ring);
}

static const char *tap_hint(int err)
{
	switch (-err) {
	case ENOENT:
	case ENODEV:
	case ENXIO:
		return "no /dev/net/tun: `modprobe tun`; in a container pass the device in "
		       "(docker: --device /dev/net/tun)";
	case EACCES:
	case EPERM:
		return "/dev/net/tun is not for this user: run as root, or `chmod 0666 "
		       "/dev/net/tun` and make the tap beforehand (`ip tuntap add mode tap user "
		       "NAME`)";
	default:
		return "/dev/net/tun does not answer as a tun device: `ls -l /dev/net/tun` shows "
		       "character device 10, 200 when it is one";
	}
}

static void probe_tap(struct probe_tap *probe)
{
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	if (fd < 0 || ioctl(fd, TUNGETFEATURES, &probe->flags) < 0) {
		probe->error = -errno;
		probe->hint = tap_hint(probe->error);
	}
	if (fd >= 0)
		close(fd);
}

/* The first line of a small file of /sys, "" when there is none. */
static void read_line(const char *path, char *line, int size)
{
	FILE *file = fopen(path, "re");

	line[0] = '\0';
	if (!file)
		return;
	if (!fgets(line, size, file))
		line[0] = '\0';
	fclose(file);
}

/* The choice in brackets: "always [madvise] never". */
static void read_choice(const char *path, char choice[16])
{
	char line[128];
	char *open_bracket;

	read_line(path, line, sizeof(line));
	open_bracket = strchr(line, '[');
	if (!open_bracket || sscanf(open_bracket, "[%15[^]]", choice) != 1)
		choice[0] = '\0';
}

static uint64_t read_number(const char *path)
{
	uint64_t number = 0;
	char line[32];

	read_line(path, line, sizeof(line));
	if (sscanf(line, "%" SCNu64, &number) != 1)
		return 0;
	return number;
}

static void probe_huge(struct probe_huge *probe)
{
	read_choice(THP "enabled", probe->enabled);
	read_choice(THP "shmem_enabled", probe->shmem);
	probe->total = read_number(PAGES "nr_hugepages");
	probe->free = read_number(PAGES "free_hugepages");
	if (!probe->enabled[0])
		probe->hint = "this kernel has no transparent huge pages: guests take more page "
		              "faults (CONFIG_TRANSPARENT_HUGEPAGE)";
	else if (!strcmp(probe->enabled, "never"))
		probe->hint = "transparent huge pages are off, guests take more page faults: "
		              "`echo madvise > " THP "enabled`";
}

void probe_host(struct probe *probe)
{
	*probe = (struct probe){ 0 };
	uname(&probe->uname);
	probe_ring(&probe->ring);
	probe_tap(&probe->tap);
	getrlimit(RLIMIT_MEMLOCK, &probe->memlock);
	probe_huge(&probe->huge);
}
