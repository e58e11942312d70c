/*
 * How a VM ends. The first request wins; it wakes the I/O thread, which stops the vCPUs.
 *
 * power_request and power_state: any thread.
 */
#ifndef CORE_POWER_H
#define CORE_POWER_H

enum power_state {
	POWER_ON,
	POWER_OFF,    /* the guest powered off (ACPI S5) */
	POWER_RESET,  /* the guest asked for a reset */
	POWER_CRASH,  /* triple fault: the CPU gave up (a panic is told from a reset by main) */
	POWER_FAILED, /* kring or KVM cannot go on; the reason has been printed */
};

struct power {
	_Atomic int state;
	int fd; /* eventfd, readable once a request was made */
};

int power_init(struct power *power); /* 0 or -errno */
void power_fini(struct power *power);

/* On again, for the next machine; no vCPU may be running. Main thread. */
void power_rearm(struct power *power);

void power_request(struct power *power, enum power_state how);
enum power_state power_state(struct power *power);

#endif
