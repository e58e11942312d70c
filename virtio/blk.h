/*
 * The block device (virtio 1.2 §5.2): its requests, on a disk.
 *
 * Main thread, which is the I/O thread.
 */
#ifndef VIRTIO_BLK_H
#define VIRTIO_BLK_H

#include <stdint.h>
#include <sys/uio.h>

#include "io/disk.h"
#include "virtio/vdev.h"

#define BLK_QUEUE_SIZE 256

/* Feature bits (§5.2.3). */
#define VIRTIO_BLK_F_SEG_MAX      2
#define VIRTIO_BLK_F_RO           5
#define VIRTIO_BLK_F_BLK_SIZE     6
#define VIRTIO_BLK_F_FLUSH        9
#define VIRTIO_BLK_F_TOPOLOGY     10
#define VIRTIO_BLK_F_CONFIG_WCE   11
#define VIRTIO_BLK_F_MQ           12
#define VIRTIO_BLK_F_DISCARD      13
#define VIRTIO_BLK_F_WRITE_ZEROES 14

/* §5.2.4 */
struct virtio_blk_config {
	uint64_t capacity;
	uint32_t size_max;
	uint32_t seg_max;
	struct {
		uint16_t cylinders;
		uint8_t heads;
		uint8_t sectors;
	} geometry;
	uint32_t blk_size;
	struct {
		uint8_t physical_block_exp;
		uint8_t alignment_offset;
		uint16_t min_io_size;
		uint32_t opt_io_size;
	} topology;
	uint8_t writeback;
	uint8_t unused0;
	uint16_t num_queues;
	uint32_t max_discard_sectors;
	uint32_t max_discard_seg;
	uint32_t discard_sector_alignment;
	uint32_t max_write_zeroes_sectors;
	uint32_t max_write_zeroes_seg;
	uint8_t write_zeroes_may_unmap;
	uint8_t unused1[3];
};

/* What a request begins with (§5.2.6). Data follow, and the last byte is the status. */
struct virtio_blk_req {
	uint32_t type;
	uint32_t reserved;
	uint64_t sector;
};

#define VIRTIO_BLK_T_IN           0
#define VIRTIO_BLK_T_OUT          1
#define VIRTIO_BLK_T_FLUSH        4
#define VIRTIO_BLK_T_GET_ID       8
#define VIRTIO_BLK_T_DISCARD      11
#define VIRTIO_BLK_T_WRITE_ZEROES 13

#define VIRTIO_BLK_S_OK     0
#define VIRTIO_BLK_S_IOERR  1
#define VIRTIO_BLK_S_UNSUPP 2

struct virtio_blk_discard_write_zeroes {
	uint64_t sector;
	uint32_t num_sectors;
	uint32_t flags;
};

#define VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP 1

/* A request in flight. */
struct blk_req {
	struct disk_op op;
	struct vdev_queue *queue;
	uint8_t *status; /* in guest memory */
	uint32_t type;
	uint32_t in;  /* bytes that the driver gave to be written, the status among them */
	uint32_t len; /* bytes of data */
	uint16_t head;
	bool busy;
	struct iovec *data; /* within iov; of DISCARD and WRITE_ZEROES the ranges that are left */
	unsigned ndata;
	struct iovec iov[BLK_QUEUE_SIZE];
};

struct blk_queue {
	struct blk_req *req; /* by head */
	uint64_t bytes_read; /* since blk_init() */
	uint64_t bytes_written;
};

struct blk {
	struct vdev vdev;
	struct vdev_kind kind;
	char name[8];
	struct disk *disk;
	struct blk_queue queue[BACKING_QUEUES_MAX];
	struct iovec iov[BLK_QUEUE_SIZE]; /* of the chain being popped */
};

/*
 * Put the disk, which must outlive the device, on the PCI bus as number @index of its kind.
 * Returns 0, or -errno and nothing is held.
 */
int blk_init(struct blk *blk, unsigned index, struct disk *disk, const struct vdev_world *world);

/* After vCPUs have stopped and before ring_fini(). A zeroed device is left alone. */
void blk_fini(struct blk *blk);

#endif
