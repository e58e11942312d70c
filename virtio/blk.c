/*
 * The block device. Knows requests as a driver lays them out; not how rings work, nor files.
 */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/iov.h"
#include "virtio/blk.h"

#define DEVICE_ID  2
#define CLASS_CODE 0x018000 /* mass storage, of no other kind */

/* The longest range: a reset waits for one, and some hosts have to write what is zeroed. */
#define RANGE_SECTORS_MAX (1u << 21)
#define RANGES_MAX        16 /* in a request */

#define CAPACITY  offsetof(struct virtio_blk_config, capacity)
#define WRITEBACK offsetof(struct virtio_blk_config, writeback)

#define PENDING (-1) /* in place of a status: the disk will tell */

static bool has(uint64_t features, unsigned bit)
{
	return features >> bit & 1;
}

static struct blk *blk_of(const struct blk_req *req)
{
	return container_of(req->queue->vdev, struct blk, vdev);
}

static bool is_inbound(uint32_t type)
{
	return type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
}

static bool is_on_disk(const struct disk *disk, uint64_t sector, uint64_t n)
{
	uint64_t sectors = disk->size / BACKING_SECTOR;

	return n <= sectors && sector <= sectors - n;
}

/*
 * Whether a write must be stable when it is done (§5.2.6.2): the driver has no flush, or has
 * switched the write cache off. A vCPU may have written that just before it offered the request:
 * virtq_pop() has acquired both.
 */
static bool wants_durable(const struct vdev *vdev)
{
	const uint8_t *writeback = &vdev->config[WRITEBACK];

	return !has(vdev->features, VIRTIO_BLK_F_FLUSH) ||
	       !__atomic_load_n(writeback, __ATOMIC_RELAXED);
}

/* Give the request back. The length it is given back with counts bytes without a gap (§2.7.8.2). */
static void finish(struct blk_req *req, int status)
{
	struct blk_queue *queue = &blk_of(req)->queue[req->queue->index];
	uint32_t written = 0;

	if (status == VIRTIO_BLK_S_OK) {
		written = is_inbound(req->type) ? req->len : 0;
		queue->bytes_read += req->type == VIRTIO_BLK_T_IN ? req->len : 0;
		queue->bytes_written += req->type == VIRTIO_BLK_T_OUT ? req->len : 0;
	}
	*req->status = (uint8_t)status;
	req->busy = false;
	vdev_push(req->queue, req->head, written == req->in - 1 ? req->in : written);
}

/* The next range of a discard or write zeroes command. Returns PENDING or a status. */
static int range_start(struct blk_req *req)
{
	struct blk *blk = blk_of(req);
	bool zero = req->type == VIRTIO_BLK_T_WRITE_ZEROES;
	struct virtio_blk_discard_write_zeroes range;
	uint64_t offset, len;

	if (!req->ndata)
		return VIRTIO_BLK_S_OK;
	if (!vdev_runs(req->queue))
		return VIRTIO_BLK_S_IOERR;

	iov_read(req->data, &range, sizeof(range));
	iov_skip(&req->data, &req->ndata, sizeof(range));
	if (range.flags & ~(zero ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0u))
		return VIRTIO_BLK_S_UNSUPP;
	if (!range.num_sectors || range.num_sectors > RANGE_SECTORS_MAX ||
	    !is_on_disk(blk->disk, range.sector, range.num_sectors))
		return VIRTIO_BLK_S_IOERR;

	offset = range.sector * BACKING_SECTOR;
	len = (uint64_t)range.num_sectors * BACKING_SECTOR;
	if (zero)
		disk_zero(blk->disk, &req->op, offset, len,
		          range.flags && blk->disk->backing.config->discard,
		          wants_durable(&blk->vdev));
	else
		disk_discard(blk->disk, &req->op, offset, len);
	return PENDING;
}

static void blk_done(struct disk_op *op, int res)
{
	struct blk_req *req = container_of(op, struct blk_req, op);
	int status = VIRTIO_BLK_S_OK;

	if (res)
		status = res == -EOPNOTSUPP ? VIRTIO_BLK_S_UNSUPP : VIRTIO_BLK_S_IOERR;
	else if (req->type == VIRTIO_BLK_T_DISCARD || req->type == VIRTIO_BLK_T_WRITE_ZEROES)
		status = range_start(req);
	if (status != PENDING)
		finish(req, status);
}

static int ranges_start(struct blk_req *req)
{
	if (!req->len || req->len % sizeof(struct virtio_blk_discard_write_zeroes) ||
	    req->len / sizeof(struct virtio_blk_discard_write_zeroes) > RANGES_MAX)
		return VIRTIO_BLK_S_IOERR;
	return range_start(req);
}

static int transfer_start(struct blk_req *req, uint64_t sector)
{
	struct blk *blk = blk_of(req);
	struct disk *disk = blk->disk;

	if (req->len % BACKING_SECTOR || !is_on_disk(disk, sector, req->len / BACKING_SECTOR))
		return VIRTIO_BLK_S_IOERR;
	if (req->type == VIRTIO_BLK_T_OUT && disk->backing.config->readonly)
		return VIRTIO_BLK_S_IOERR;
	if (!req->len)
		return VIRTIO_BLK_S_OK;
	if (req->type == VIRTIO_BLK_T_IN)
		disk_read(disk, &req->op, req->data, req->ndata, sector * BACKING_SECTOR, req->len);
	else
		disk_write(disk, &req->op, req->data, req->ndata, sector * BACKING_SECTOR, req->len,
		           wants_durable(&blk->vdev));
	return PENDING;
}

static int id_get(struct blk_req *req)
{
	if (req->len > BACKING_SERIAL_MAX)
		req->len = BACKING_SERIAL_MAX;
	iov_write(req->data, blk_of(req)->disk->backing.config->serial, req->len);
	return VIRTIO_BLK_S_OK;
}

static int req_start(struct blk_req *req, uint64_t sector)
{
	struct blk *blk = blk_of(req);

	switch (req->type) {
	case VIRTIO_BLK_T_IN:
	case VIRTIO_BLK_T_OUT:
		return transfer_start(req, sector);
	case VIRTIO_BLK_T_FLUSH:
		disk_flush(blk->disk, &req->op);
		return PENDING;
	case VIRTIO_BLK_T_GET_ID:
		return id_get(req);
	case VIRTIO_BLK_T_DISCARD:
		if (has(blk->vdev.features, VIRTIO_BLK_F_DISCARD))
			return ranges_start(req);
		break;
	case VIRTIO_BLK_T_WRITE_ZEROES:
		if (has(blk->vdev.features, VIRTIO_BLK_F_WRITE_ZEROES))
			return ranges_start(req);
		break;
	}
	return VIRTIO_BLK_S_UNSUPP;
}

/*
 * Start what @chain asks for, its parts being where the driver likes (§2.7.4): the first 16 bytes
 * that it gave to be read, the last that it gave to be written, and the data in between.
 * Returns whether both are there.
 */
static bool chain_start(struct vdev_queue *queue, const struct virtq_chain *chain)
{
	struct blk *blk = container_of(queue->vdev, struct blk, vdev);
	struct blk_req *req = &blk->queue[queue->index].req[chain->head];
	struct iovec *data = chain->iov;
	struct iovec *last;
	unsigned ndata = chain->nout;
	struct virtio_blk_req header;
	int status;

	if (chain->out < sizeof(header) || !chain->in)
		return false;
	iov_read(data, &header, sizeof(header));
	last = &chain->iov[chain->nout + chain->nin - 1];
	last->iov_len--;

	req->op.done = blk_done;
	req->queue = queue;
	req->head = chain->head;
	req->busy = true;
	req->type = header.type;
	req->in = chain->in;
	req->status = (uint8_t *)last->iov_base + last->iov_len;
	if (is_inbound(header.type)) {
		data += chain->nout;
		ndata = chain->nin - !last->iov_len;
		req->len = chain->in - 1;
	} else {
		iov_skip(&data, &ndata, sizeof(header));
		req->len = chain->out - sizeof(header);
	}
	memcpy(req->iov, data, ndata * sizeof(*data));
	req->data = req->iov;
	req->ndata = ndata;

	status = req_start(req, header.sector);
	if (status != PENDING)
		finish(req, status);
	return true;
}

/* The device. */

static void blk_notify(struct vdev *vdev, unsigned index)
{
	struct vdev_queue *queue = &vdev->queue[index];
	struct blk *blk = container_of(vdev, struct blk, vdev);
	struct virtq_chain chain = { .iov = blk->iov, .iov_max = BLK_QUEUE_SIZE };
	int got;

	do {
		virtq_kicks_off(&queue->virtq);
		while ((got = virtq_pop(&queue->virtq, &chain)) > 0)
			if (!chain_start(queue, &chain)) {
				vdev_push(queue, chain.head, 0);
				vdev_broken(vdev, "a request without header or status", -EINVAL);
				return;
			}
	} while (!got && virtq_kicks_on(&queue->virtq));

	if (got < 0)
		vdev_broken(vdev, "a bad descriptor chain", got);
}

static void blk_stop(struct vdev *vdev, unsigned index)
{
	struct blk_req *req = container_of(vdev, struct blk, vdev)->queue[index].req;

	for (unsigned i = 0; i < BLK_QUEUE_SIZE; i++)
		if (req[i].busy)
			disk_cancel(&req[i].op);
}

static const struct vdev_ops ops = { .notify = blk_notify, .stop = blk_stop };

static void blk_resized(struct disk *disk, void *arg)
{
	struct vdev *vdev = &((struct blk *)arg)->vdev;
	uint64_t capacity = disk->size / BACKING_SECTOR;

	pthread_mutex_lock(&vdev->lock);
	memcpy(&vdev->config[CAPACITY], &capacity, sizeof(capacity));
	vdev_config_changed(vdev);
	pthread_mutex_unlock(&vdev->lock);
}

static uint64_t features(const struct backing_config *config)
{
	uint64_t bits = 1u << VIRTIO_BLK_F_SEG_MAX | 1u << VIRTIO_BLK_F_BLK_SIZE |
	                1u << VIRTIO_BLK_F_FLUSH | 1u << VIRTIO_BLK_F_TOPOLOGY |
	                1u << VIRTIO_BLK_F_CONFIG_WCE | 1u << VIRTIO_BLK_F_MQ;

	if (config->readonly)
		return bits | 1u << VIRTIO_BLK_F_RO;
	if (config->discard)
		bits |= 1u << VIRTIO_BLK_F_DISCARD;
	return bits | 1u << VIRTIO_BLK_F_WRITE_ZEROES;
}

static struct virtio_blk_config config_of(const struct disk *disk)
{
	uint32_t block = disk->backing.block / BACKING_SECTOR;

	return (struct virtio_blk_config){
		.capacity = disk->size / BACKING_SECTOR,
		.seg_max = BLK_QUEUE_SIZE - 2, /* header and status */
		.blk_size = BACKING_SECTOR,
		.topology = {
			.physical_block_exp = (uint8_t)__builtin_ctz(block),
			.min_io_size = (uint16_t)block,
		},
		.writeback = !disk->backing.config->sync,
		.num_queues = (uint16_t)disk->backing.config->queues,
		.max_discard_sectors = RANGE_SECTORS_MAX,
		.max_discard_seg = RANGES_MAX,
		.discard_sector_alignment = block,
		.max_write_zeroes_sectors = RANGE_SECTORS_MAX,
		.max_write_zeroes_seg = RANGES_MAX,
		.write_zeroes_may_unmap = disk->backing.config->discard,
	};
}

int blk_init(struct blk *blk, unsigned index, struct disk *disk, const struct vdev_world *world)
{
	const struct backing_config *config = disk->backing.config;
	struct virtio_blk_config fields = config_of(disk);
	int err = 0;

	blk->disk = disk;
	snprintf(blk->name, sizeof(blk->name), "blk%u", index);
	blk->kind = (struct vdev_kind){
		.name = blk->name,
		.device_id = DEVICE_ID,
		.class_code = CLASS_CODE,
		.features = features(config),
		.nqueues = config->queues,
		.queue_size = BLK_QUEUE_SIZE,
		.config_len = sizeof(fields),
		/* A disk whose writes are all to be durable has no write cache to switch on. */
		.config_writable = config->sync ? 0 : 1ull << WRITEBACK,
		.ops = &ops,
	};
	memcpy(blk->vdev.config, &fields, sizeof(fields));
	for (unsigned i = 0; !err && i < config->queues; i++) {
		blk->queue[i].req = calloc(BLK_QUEUE_SIZE, sizeof(struct blk_req));
		err = blk->queue[i].req ? 0 : -ENOMEM;
	}
	err = err ? err : vdev_init(&blk->vdev, &blk->kind, world);
	if (err) {
		blk_fini(blk);
		return err;
	}
	disk->resized_arg = blk;
	disk->resized = blk_resized;
	return 0;
}

void blk_fini(struct blk *blk)
{
	if (!blk->disk)
		return;
	blk->disk->resized = NULL;
	vdev_fini(&blk->vdev);
	for (unsigned i = 0; i < blk->kind.nqueues; i++)
		free(blk->queue[i].req);
	blk->disk = NULL;
}
