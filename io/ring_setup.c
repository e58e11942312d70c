/*
 * Setting up the ring: what is asked of the kernel, what is done without where it is too old, what
 * a ring is then restricted to, and in words what stands against it. Knows nothing of what the ring
 * does afterwards (io/ring.c).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/ring.h"

/*
 * CQEs beyond this many times the SQEs wait in the kernel (IORING_FEAT_NODROP). Small enough that
 * 256 entries fit the 64 KiB of locked memory which kernels before 5.12 charge rings to.
 */
#define CQ_FACTOR 4

#define SETUP(flag) IORING_SETUP_##flag, #flag
#define OP(op)      IORING_OP_##op, #op

const struct ring_name ring_setup_flags[] = {
	{ SETUP(DEFER_TASKRUN) }, /* 6.1; needs SINGLE_ISSUER */
	{ SETUP(SINGLE_ISSUER) }, /* 6.0 */
	{ SETUP(TASKRUN_FLAG) },  /* 5.19; needs COOP_TASKRUN or DEFER_TASKRUN */
	{ SETUP(COOP_TASKRUN) },  /* 5.19 */
	{ SETUP(SUBMIT_ALL) },    /* 5.18 */
	{ 0 },
};

const struct ring_name ring_opcodes[] = {
	{ OP(READ) },         { OP(WRITE) },      { OP(READV) },       { OP(WRITEV) },
	{ OP(FSYNC) },        { OP(FALLOCATE) },  { OP(POLL_ADD) },    { OP(TIMEOUT) },
	{ OP(ASYNC_CANCEL) }, { OP(READ_FIXED) }, { OP(WRITE_FIXED) }, { 0 },
};

/* What may be registered once the ring is in use, but for its descriptor. */
static const unsigned registrations[] = { IORING_REGISTER_BUFFERS, IORING_UNREGISTER_BUFFERS,
	                                  IORING_REGISTER_FILES };

#define REGISTRATIONS_N (sizeof(registrations) / sizeof(registrations[0]))

#define OPCODES_N (sizeof(ring_opcodes) / sizeof(ring_opcodes[0]) - 1)

static int check_opcodes(struct io_uring *uring)
{
	struct io_uring_probe *probe = io_uring_get_probe_ring(uring);
	int err = probe ? 0 : -ENOMEM;

	for (unsigned i = 0; !err && i < OPCODES_N; i++)
		if (!io_uring_opcode_supported(probe, (int)ring_opcodes[i].value))
			err = -EOPNOTSUPP;
	free(probe);
	return err;
}

/*
 * Once the ring is enabled, the kernel refuses any other opcode, and any other registration; where
 * @fd_registered (kernels before 5.18 do not know it) the descriptor can be given back.
 */
static int restrict_opcodes(struct io_uring *uring, bool fd_registered)
{
	struct io_uring_restriction allowed[OPCODES_N + REGISTRATIONS_N + 2] = { 0 };
	struct io_uring_restriction *next = allowed;

	for (unsigned i = 0; i < OPCODES_N; i++, next++) {
		next->opcode = IORING_RESTRICTION_SQE_OP;
		next->sqe_op = (uint8_t)ring_opcodes[i].value;
	}
	next->opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
	next++->sqe_flags = IOSQE_CQE_SKIP_SUCCESS;
	for (unsigned i = 0; i < REGISTRATIONS_N; i++, next++) {
		next->opcode = IORING_RESTRICTION_REGISTER_OP;
		next->register_op = (uint8_t)registrations[i];
	}
	next->opcode = IORING_RESTRICTION_REGISTER_OP;
	next->register_op = IORING_UNREGISTER_RING_FDS;
	next += fd_registered;
	return io_uring_register_restrictions(uring, allowed, (unsigned)(next - allowed));
}

int ring_init_flags(struct ring *ring, unsigned entries, unsigned flags)
{
	struct io_uring_params params = { 0 };
	int err;

	*ring = (struct ring){ 0 };
	ring->started.next = ring->started.prev = &ring->started;
	ring->reaped.next = ring->reaped.prev = &ring->reaped;

	params.flags = flags | IORING_SETUP_R_DISABLED | IORING_SETUP_CQSIZE;
	params.cq_entries = CQ_FACTOR * entries;
	err = io_uring_queue_init_params(entries, &ring->uring, &params);
	if (err)
		return err;

	err = check_opcodes(&ring->uring);
	if (err)
		goto exit;
	/* A registered descriptor saves its look-up at each system call. */
	err = restrict_opcodes(&ring->uring, io_uring_register_ring_fd(&ring->uring) == 1);
	if (err)
		goto exit;
	err = io_uring_enable_rings(&ring->uring);
	if (err)
		goto exit;
	ring->silent = ring->uring.features & IORING_FEAT_CQE_SKIP;
	ring->multishot = ring->uring.features & IORING_FEAT_RSRC_TAGS; /* as old: 5.13 */
	return 0;
exit:
	io_uring_queue_exit(&ring->uring);
	return err;
}

int ring_init(struct ring *ring, unsigned entries)
{
	const struct ring_name *flag;
	unsigned flags = 0;
	int err;

	for (flag = ring_setup_flags; flag->name; flag++)
		flags |= flag->value;

	/* An older kernel refuses flags it does not know: do without them, the newest first. */
	flag = ring_setup_flags;
	while ((err = ring_init_flags(ring, entries, flags)) == -EINVAL && flag->name)
		flags &= ~flag++->value;
	return err;
}

int ring_disabled(void)
{
	FILE *file = fopen("/proc/sys/kernel/io_uring_disabled", "re");
	int value = -1;

	if (!file)
		return -1;
	if (fscanf(file, "%d", &value) != 1)
		value = -1;
	fclose(file);
	return value;
}

const char *ring_explain(int err)
{
	switch (-err) {
	case ENOSYS:
		return "this kernel has no io_uring, or a seccomp profile hides it: use Linux 5.10 "
		       "or later; in a container allow io_uring_setup, io_uring_enter and "
		       "io_uring_register";
	case EPERM:
	case EACCES:
		switch (ring_disabled()) {
		case 2:
			return "io_uring is switched off (kernel.io_uring_disabled is 2): allow it "
			       "with `sysctl kernel.io_uring_disabled=0`";
		case 1:
			return "io_uring is for privileged processes only "
			       "(kernel.io_uring_disabled is 1): join the group "
			       "kernel.io_uring_group, or `sysctl kernel.io_uring_disabled=0`";
		default:
			return "a seccomp profile or security module forbids io_uring: in a "
			       "container allow io_uring_setup, io_uring_enter and "
			       "io_uring_register (docker: --security-opt seccomp=unconfined, or "
			       "a profile with these three)";
		}
	case ENOMEM:
		return "not enough memory that may be locked (kernels before 5.12 count the ring): "
		       "raise `ulimit -l`";
	case EINVAL:
	case EOPNOTSUPP:
		return "this kernel's io_uring is too old: use Linux 5.10 or later";
	default:
		return strerror(-err);
	}
}
