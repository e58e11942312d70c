/* What --stats says of the ring and of each device's queues, word for word. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/main.h"
#include "core/main_virtio.h"

/* core/main.c's, which is in no library. */
int main_fail(const char *what, int err)
{
	(void)what;
	return err;
}

/* A device of @n queues that has counted from @from on. */
static void device_make(struct vdev *vdev, struct vdev_kind *kind, const char *name, unsigned n,
                        uint64_t from)
{
	*kind = (struct vdev_kind){ .name = name, .nqueues = n };
	vdev->kind = kind;
	vdev->interrupts = from++;
	vdev->queue = calloc(n, sizeof(*vdev->queue));
	assert_non_null(vdev->queue);
	for (unsigned i = 0; i < n; i++) {
		vdev->queue[i].kicks = from++;
		vdev->queue[i].requests = from++;
	}
}

static void print_is(const struct virtio *virtio, const char *want)
{
	char *text;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	virtio_print(virtio, out);
	fclose(out);
	assert_string_equal(text, want);
	free(text);
}

static void each_queue_is_told_of(void **state)
{
	static struct net_rx rx[1] = { { .count = { 51, 52, 53 } } };
	static struct net_tx tx[1] = { { .count = { 54, 55, 56 } } };
	struct ring ring = { .enters = 1, .sqes = 2, .cqes = 3, .fixed = 4 };
	struct virtio *virtio = calloc(1, sizeof(*virtio));
	struct virtio_host *host = calloc(1, sizeof(*host));
	struct vdev_kind rng;

	(void)state;
	assert_true(virtio && host);
	host->ring = &ring;
	virtio->host = host;
	print_is(virtio, "\"ring\": {\"enters\": 1, \"sqes\": 2, \"cqes\": 3, \"fixed\": 4},\n"
	                 "  \"devices\": []");

	host->rng = true;
	device_make(&virtio->rng.vdev, &rng, "rng", 1, 60);
	print_is(virtio, "\"ring\": {\"enters\": 1, \"sqes\": 2, \"cqes\": 3, \"fixed\": 4},\n"
	                 "  \"devices\": [\n"
	                 "    {\"name\": \"rng\", \"interrupts\": 60, \"queues\": [\n"
	                 "      {\"kicks\": 61, \"requests\": 62}]}]");

	host->ndisks = 2;
	device_make(&virtio->blk[0].vdev, &virtio->blk[0].kind, "blk0", 2, 10);
	device_make(&virtio->blk[1].vdev, &virtio->blk[1].kind, "blk1", 1, 30);
	virtio->blk[0].queue[0] = (struct blk_queue){ .bytes_read = 21, .bytes_written = 22 };
	virtio->blk[0].queue[1] = (struct blk_queue){ .bytes_read = 23, .bytes_written = 24 };
	host->ntaps = 1;
	host->tap[0].queues = 1;
	device_make(&virtio->net[0].vdev, &virtio->net[0].kind, "net0", 3, 40);
	virtio->net[0].tap = &host->tap[0];
	virtio->net[0].rx = rx;
	virtio->net[0].tx = tx;
	print_is(virtio, "\"ring\": {\"enters\": 1, \"sqes\": 2, \"cqes\": 3, \"fixed\": 4},\n"
	                 "  \"devices\": [\n"
	                 "    {\"name\": \"blk0\", \"interrupts\": 10, \"queues\": [\n"
	                 "      {\"kicks\": 11, \"requests\": 12, "
	                 "\"bytes_read\": 21, \"bytes_written\": 22},\n"
	                 "      {\"kicks\": 13, \"requests\": 14, "
	                 "\"bytes_read\": 23, \"bytes_written\": 24}]},\n"
	                 "    {\"name\": \"blk1\", \"interrupts\": 30, \"queues\": [\n"
	                 "      {\"kicks\": 31, \"requests\": 32, "
	                 "\"bytes_read\": 0, \"bytes_written\": 0}]},\n"
	                 "    {\"name\": \"net0\", \"interrupts\": 40, \"queues\": [\n"
	                 "      {\"kicks\": 41, \"requests\": 42, "
	                 "\"packets\": 51, \"bytes\": 52, \"lost\": 53},\n"
	                 "      {\"kicks\": 43, \"requests\": 44, "
	                 "\"packets\": 54, \"bytes\": 55, \"lost\": 56},\n"
	                 "      {\"kicks\": 45, \"requests\": 46}]},\n"
	                 "    {\"name\": \"rng\", \"interrupts\": 60, \"queues\": [\n"
	                 "      {\"kicks\": 61, \"requests\": 62}]}]");

	free(virtio->rng.vdev.queue);
	free(virtio->blk[0].vdev.queue);
	free(virtio->blk[1].vdev.queue);
	free(virtio->net[0].vdev.queue);
	free(virtio);
	free(host);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(each_queue_is_told_of) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
