/*
 * A device's life: the I/O thread follows what a driver wrote, serves queues and stops them. Knows
 * no register and no request.
 *
 * A queue is off, runs, or stops; only the I/O thread moves it:
 *
 *             virtq_enable()              ops->stop()           nothing in flight
 *   off ------------------------> runs -----------------> stops ------------------> off
 *   virtq.size is 0                                      `stopping`
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "virtio/vdev.h"
#include "virtio/vpci.h"
#include "virtio/vregs.h"

static uint64_t bit(const struct vdev_queue *queue)
{
	return 1ull << queue->index;
}

static bool is_off(const struct vdev_queue *queue)
{
	return !queue->virtq.size;
}

bool vdev_runs(const struct vdev_queue *queue)
{
	return !is_off(queue) && !queue->stopping;
}

static void queue_serve(struct vdev_queue *queue)
{
	if (vdev_runs(queue))
		queue->vdev->kind->ops->notify(queue->vdev, queue->index);
}

static void kicked(struct io_watch *watch)
{
	struct vdev_queue *queue = container_of(watch, struct vdev_queue, kick);

	queue->kicks++;
	queue_serve(queue);
}

/* Polling: while the ring does, it looks at the queues that else wait for a kick. */

static void queue_poll(struct vdev_queue *queue)
{
	if (vdev_runs(queue) && queue->virtq.waiting) {
		virtq_kicks_off(&queue->virtq);
		queue->vdev->polled |= bit(queue);
	}
}

static void poll_begin(struct vdev *vdev)
{
	for (unsigned i = 0; i < vdev->kind->nqueues; i++)
		queue_poll(&vdev->queue[i]);
}

static bool poll_look(struct ring_poller *poller)
{
	struct vdev *vdev = container_of(poller, struct vdev, poller);
	bool found = false;

	for (uint64_t left = vdev->polled; left; left &= left - 1) {
		struct vdev_queue *queue = &vdev->queue[__builtin_ctzll(left)];

		if (vdev_runs(queue) && virtq_peek(&queue->virtq)) {
			vdev->polled &= ~bit(queue);
			queue_serve(queue);
			queue_poll(queue);
			found = true;
		}
	}
	return found;
}

/* A queue that is served and found empty has its kicks on. */
static void poll_end(struct ring_poller *poller)
{
	struct vdev *vdev = container_of(poller, struct vdev, poller);
	uint64_t left = vdev->polled;

	vdev->polled = 0;
	for (; left; left &= left - 1)
		queue_serve(&vdev->queue[__builtin_ctzll(left)]);
}

/* Frozen addresses need no lock: the queue was seen enabled under it. */
static int queue_start(struct vdev_queue *queue)
{
	struct vdev *vdev = queue->vdev;

	if (!queue->kick.ring)
		ring_watch(vdev->world->ring, &queue->kick, queue->doorbell.fd, kicked);
	return virtq_enable(&queue->virtq, vdev->world->mem, vdev->features, queue->queue_size,
	                    queue->queue_desc, queue->queue_driver, queue->queue_device);
}

static void queue_stop(struct vdev_queue *queue)
{
	struct vdev *vdev = queue->vdev;

	if (vdev_runs(queue)) {
		queue->stopping = true;
		if (vdev->kind->ops->stop)
			vdev->kind->ops->stop(vdev, queue->index);
	}
	if (queue->stopping && !queue->virtq.in_flight) {
		virtq_disable(&queue->virtq);
		queue->stopping = false;
	}
}

static uint64_t queues_wanted(struct vdev *vdev)
{
	uint64_t wanted = 0;

	pthread_mutex_lock(&vdev->lock);
	for (unsigned i = 0; vdev->state == VDEV_LIVE && i < vdev->kind->nqueues; i++)
		if (vdev->queue[i].queue_enable && !vdev->queue[i].queue_reset)
			wanted |= bit(&vdev->queue[i]);
	pthread_mutex_unlock(&vdev->lock);
	return wanted;
}

static void queues_follow(struct vdev *vdev)
{
	const struct vdev_ops *ops = vdev->kind->ops;
	uint64_t wanted = queues_wanted(vdev);
	uint64_t fresh = 0;
	int err = 0;

	for (unsigned i = 0; !err && i < vdev->kind->nqueues; i++) {
		struct vdev_queue *queue = &vdev->queue[i];

		if (!(wanted & bit(queue))) {
			queue_stop(queue);
		} else if (is_off(queue)) {
			err = queue_start(queue);
			fresh |= bit(queue);
		}
	}
	if (err) {
		for (unsigned i = 0; i < vdev->kind->nqueues; i++)
			if (fresh & bit(&vdev->queue[i]))
				virtq_disable(&vdev->queue[i].virtq);
		vdev_broken(vdev, "a queue's size or addresses", err);
		return;
	}
	if (fresh && !vdev->started && ops->start)
		ops->start(vdev);
	vdev->started |= fresh != 0;
	/* Kicks that came too early were not heard. */
	for (unsigned i = 0; i < vdev->kind->nqueues; i++)
		if (fresh & bit(&vdev->queue[i]))
			ops->notify(vdev, i);
}

/* Show the driver which of the resets it waits for are over. */
static void resets_end(struct vdev *vdev)
{
	bool all_off = true;

	pthread_mutex_lock(&vdev->lock);
	for (unsigned i = 0; i < vdev->kind->nqueues; i++) {
		if (!is_off(&vdev->queue[i]))
			all_off = false;
		else if (vdev->queue[i].queue_reset)
			vregs_reset_queue(vdev, i);
	}
	if (all_off && vdev->state == VDEV_RESETTING) {
		vregs_reset(vdev);
		vdev->started = false;
		vdev->config_raise = false;
	}
	pthread_mutex_unlock(&vdev->lock);
}

static void follow(struct vdev *vdev)
{
	queues_follow(vdev);
	resets_end(vdev);
	vpci_interrupt(vdev, 0, 0); /* if one is due: the guest may have let its line up */
}

static void flush(struct vdev *vdev)
{
	uint8_t isr = 0;
	uint64_t vectors = 0;

	/* Before the driver sees what was pushed, and offers more. */
	if (vdev->pushed && ring_polls(vdev->world->ring))
		poll_begin(vdev);
	for (; vdev->pushed; vdev->pushed &= vdev->pushed - 1) {
		struct vdev_queue *queue = &vdev->queue[__builtin_ctzll(vdev->pushed)];

		if (vdev_runs(queue) && virtq_flush(&queue->virtq)) {
			isr |= VPCI_ISR_QUEUE;
			vectors |= vpci_vector_bit(vdev, queue->queue_msix_vector);
		}
	}
	if (vdev->config_raise) {
		isr |= VPCI_ISR_CONFIG;
		vectors |= vpci_vector_bit(vdev, vdev->config_msix_vector);
		vdev->config_raise = false;
	}
	if (isr)
		vpci_interrupt(vdev, isr, vectors);
}

static void batch_end(struct ring_hook *hook)
{
	struct vdev *vdev = container_of(hook, struct vdev, batch);

	if (vdev->follow) {
		vdev->follow = false;
		follow(vdev);
	}
	flush(vdev);
}

static void noted(struct io_watch *watch)
{
	struct vdev *vdev = container_of(watch, struct vdev, noted);

	vdev->follow = true;
	ring_batch_end(vdev->world->ring, &vdev->batch);
}

void vdev_wake(const struct vdev *vdev)
{
	eventfd_write(vdev->noted.fd, 1);
}

void vdev_push(struct vdev_queue *queue, uint16_t head, uint32_t len)
{
	struct vdev *vdev = queue->vdev;

	virtq_push(&queue->virtq, head, len);
	queue->requests++;
	vdev->pushed |= bit(queue);
	vdev->follow |= queue->stopping;
	ring_batch_end(vdev->world->ring, &vdev->batch);
}

void vdev_config_changed(struct vdev *vdev)
{
	vdev->config_generation++;
	vdev->config_raise = vdev->state == VDEV_LIVE || vdev->state == VDEV_BROKEN;
	ring_batch_end(vdev->world->ring, &vdev->batch);
}

void vdev_broken(struct vdev *vdev, const char *why, int err)
{
	bool first;

	pthread_mutex_lock(&vdev->lock);
	first = vdev->state == VDEV_LIVE;
	if (first) {
		vdev->state = VDEV_BROKEN;
		vdev_config_changed(vdev);
	}
	pthread_mutex_unlock(&vdev->lock);

	if (!first)
		return;
	vdev->follow = true;
	fprintf(stderr, "kring: %s stops until its driver resets it: %s: %s\n", vdev->kind->name,
	        why, strerror(-err));
}

int vdev_init(struct vdev *vdev, const struct vdev_kind *kind, const struct vdev_world *world)
{
	int err;

	assert(kind->nqueues <= VDEV_QUEUES_MAX && kind->config_len <= VDEV_CONFIG_MAX);
	vdev->kind = kind;
	vdev->batch.run = batch_end;
	vdev->queue = calloc(kind->nqueues, sizeof(*vdev->queue));
	if (!vdev->queue)
		return -ENOMEM;
	for (unsigned i = 0; i < kind->nqueues; i++) {
		vdev->queue[i].vdev = vdev;
		vdev->queue[i].index = i;
	}
	vdev->noted.fd = eventfd(0, EFD_CLOEXEC);
	if (vdev->noted.fd < 0) {
		err = -errno;
		goto no_eventfd;
	}
	vdev->world = world;
	pthread_mutex_init(&vdev->lock, NULL);
	err = vpci_init(vdev);
	if (err)
		goto no_vpci;
	ring_watch(world->ring, &vdev->noted, vdev->noted.fd, noted);
	vdev->poller.look = poll_look;
	vdev->poller.end = poll_end;
	ring_add_poller(world->ring, &vdev->poller);
	return 0;

no_vpci:
	pthread_mutex_destroy(&vdev->lock);
	vdev->world = NULL;
	close(vdev->noted.fd);
no_eventfd:
	free(vdev->queue);
	return err;
}

void vdev_fini(struct vdev *vdev)
{
	if (!vdev->world)
		return;
	ring_remove_poller(vdev->world->ring, &vdev->poller);
	if (vdev->state != VDEV_IDLE)
		vdev->state = VDEV_RESETTING;
	follow(vdev);
	while (vdev->state != VDEV_IDLE)
		ring_step(vdev->world->ring);

	for (unsigned i = 0; i < vdev->kind->nqueues; i++)
		ring_unwatch(&vdev->queue[i].kick);
	/* The batch that this takes also submits the last interrupts, whose eventfds go now. */
	ring_unwatch(&vdev->noted);
	vpci_fini(vdev);
	close(vdev->noted.fd);
	pthread_mutex_destroy(&vdev->lock);
	free(vdev->queue);
	vdev->world = NULL;
}
