/*
 * Which virtio devices a machine has, and what they have done.
 */

#include "arch/x86/layout.h"
#include "core/main.h"
#include "core/main_virtio.h"

_Static_assert(TAP_WHY_MAX <= BACKING_WHY_MAX, "one line has room for either's");

static int print_why(const char *why, int err)
{
	fprintf(stderr, "kring: %s\n", why);
	return err;
}

int virtio_host_parse(struct virtio_host *host, const struct options *options)
{
	char why[BACKING_WHY_MAX];
	int err = 0;

	for (unsigned i = 0; !err && i < options->disks.n; i++)
		err = backing_parse(&host->backing[i], options->disks.value[i], why);
	for (unsigned i = 0; !err && i < options->nets.n; i++)
		err = tap_parse(&host->tap_config[i], options->nets.value[i], why);
	return err ? print_why(why, err) : 0;
}

int virtio_host_init(struct virtio_host *host, const struct options *options, struct ring *ring)
{
	char why[BACKING_WHY_MAX];

	host->ring = ring;
	host->rng = options->rng;
	for (; host->ndisks < options->disks.n; host->ndisks++) {
		unsigned i = host->ndisks;
		int err = disk_init(&host->disk[i], ring, &host->backing[i], why);

		if (err)
			return print_why(why, err);
	}
	for (; host->ntaps < options->nets.n; host->ntaps++) {
		unsigned i = host->ntaps;
		int err = tap_open(&host->tap[i], &host->tap_config[i], why);

		if (err)
			return print_why(why, err);
	}
	return 0;
}

unsigned virtio_devices(const struct virtio_host *host)
{
	return host->ndisks + host->ntaps + host->rng;
}

void virtio_host_fini(struct virtio_host *host)
{
	while (host->ndisks)
		disk_fini(&host->disk[--host->ndisks]);
	while (host->ntaps)
		tap_close(&host->tap[--host->ntaps]);
}

int virtio_init(struct virtio *virtio, struct virtio_host *host, const struct mem *mem,
                struct pci *pci, int vm_fd)
{
	int err = irq_router_init(&virtio->router, vm_fd);

	virtio->host = host;
	virtio->world = (struct vdev_world){
		.mem = mem,
		.ring = host->ring,
		.pci = pci,
		.router = &virtio->router,
		.vm_fd = vm_fd,
		.intx_gsi = IRQ_PCI_BASE,
		.intx_n = IRQ_PCI_N,
	};
	for (unsigned i = 0; !err && i < host->ndisks; i++)
		err = blk_init(&virtio->blk[i], i, &host->disk[i], &virtio->world);
	for (unsigned i = 0; !err && i < host->ntaps; i++)
		err = net_init(&virtio->net[i], i, &host->tap[i], &virtio->world);
	if (!err && host->rng)
		err = rng_init(&virtio->rng, &virtio->world);
	return err ? main_fail("virtio device", err) : 0;
}

void virtio_fini(struct virtio *virtio)
{
	if (!virtio->host)
		return;
	rng_fini(&virtio->rng);
	for (unsigned i = 0; i < virtio->host->ndisks; i++)
		blk_fini(&virtio->blk[i]);
	for (unsigned i = 0; i < virtio->host->ntaps; i++)
		net_fini(&virtio->net[i]);
	irq_router_fini(&virtio->router);
}

#define N(value) (unsigned long long)(value)

static void print_vdev(const struct vdev *vdev, const char *comma, FILE *out)
{
	fprintf(out, "%s\n    {\"name\": \"%s\", \"interrupts\": %llu, \"queues\": [", comma,
	        vdev->kind->name, N(vdev->interrupts));
}

static void print_queue(const struct vdev *vdev, unsigned i, FILE *out)
{
	fprintf(out, "%s\n      {\"kicks\": %llu, \"requests\": %llu", i ? "," : "",
	        N(vdev->queue[i].kicks), N(vdev->queue[i].requests));
}

static void print_blk(const struct blk *blk, const char *comma, FILE *out)
{
	print_vdev(&blk->vdev, comma, out);
	for (unsigned i = 0; i < blk->vdev.kind->nqueues; i++) {
		print_queue(&blk->vdev, i, out);
		fprintf(out, ", \"bytes_read\": %llu, \"bytes_written\": %llu}",
		        N(blk->queue[i].bytes_read), N(blk->queue[i].bytes_written));
	}
	fprintf(out, "]}");
}

static void print_net(const struct net *net, const char *comma, FILE *out)
{
	print_vdev(&net->vdev, comma, out);
	for (unsigned i = 0; i < net->vdev.kind->nqueues; i++) {
		const struct net_count *count = i / 2 >= net->tap->queues ? NULL
		                                : i & 1                   ? &net->tx[i / 2].count
		                                                          : &net->rx[i / 2].count;

		print_queue(&net->vdev, i, out);
		if (count) /* all but the control queue */
			fprintf(out, ", \"packets\": %llu, \"bytes\": %llu, \"lost\": %llu",
			        N(count->packets), N(count->bytes), N(count->lost));
		fprintf(out, "}");
	}
	fprintf(out, "]}");
}

void virtio_print(const struct virtio *virtio, FILE *out)
{
	const struct ring *ring = virtio->host->ring;
	const char *comma = virtio->host->ndisks || virtio->host->ntaps ? "," : "";

	fprintf(out,
	        "\"ring\": {\"enters\": %llu, \"sqes\": %llu, \"cqes\": %llu, "
	        "\"fixed\": %llu},\n  \"devices\": [",
	        N(ring->enters), N(ring->sqes), N(ring->cqes), N(ring->fixed));
	for (unsigned i = 0; i < virtio->host->ndisks; i++)
		print_blk(&virtio->blk[i], i ? "," : "", out);
	for (unsigned i = 0; i < virtio->host->ntaps; i++)
		print_net(&virtio->net[i], i || virtio->host->ndisks ? "," : "", out);
	if (virtio->host->rng) {
		print_vdev(&virtio->rng.vdev, comma, out);
		print_queue(&virtio->rng.vdev, 0, out);
		fprintf(out, "}]}");
	}
	fprintf(out, "]");
}
