/*
 * What this machine's KVM can do: facts, and for what is wrong a hint what to fix and how. Prints
 * nothing, leaves nothing behind.
 *
 * Any thread, at any time.
 */
#ifndef CORE_PROBE_H
#define CORE_PROBE_H

#include <stdint.h>

/* A CPUID bit that KVM offers to guests. */
struct probe_cpu_flag {
	const char *name;
	uint32_t function, index;
	enum { PROBE_EAX, PROBE_EBX, PROBE_ECX, PROBE_EDX } reg;
	unsigned bit;
};

/* A parameter of KVM's modules that costs speed when it is @bad. */
struct probe_param {
	const char *path;
	char bad;
	const char *hint;
};

#define PROBE_CAPS      256
#define PROBE_CPU_FLAGS 32
#define PROBE_PARAMS    4

/* Capabilities worth telling: names by number, KVM_CAP_*; else NULL (api.rst 4.4, 6 to 8). */
extern const char *const probe_caps[PROBE_CAPS];
extern const struct probe_cpu_flag probe_cpu_flags[PROBE_CPU_FLAGS];
extern const struct probe_param probe_params[PROBE_PARAMS];

struct probe_cpu {
	char vendor[12 + 1];
	char brand[48 + 1]; /* "": KVM does not tell */
	unsigned family, model, stepping;
	uint32_t flags; /* 1 << index of those of probe_cpu_flags that are set */
};

/* Above this many nanoseconds an instruction of guest ring 0 is not run by a processor. */
#define PROBE_EMULATED_NS 50

struct kvm_probe {
	int error;        /* 0 or -errno; the facts behind the failed step are zero */
	const char *step; /* what failed */
	const char *hint; /* what to fix and how; NULL: kring can run here */
	int api_version;
	int run_size;             /* KVM_GET_VCPU_MMAP_SIZE, bytes */
	int cap[PROBE_CAPS];      /* values of probe_caps, by number; 0: not there */
	struct probe_cpu cpu;     /* as KVM_GET_SUPPORTED_CPUID has it */
	char param[PROBE_PARAMS]; /* first letters of the values, 0: no such parameter */
	double ring0_ns;          /* probe_kvm_speed() */
};

/* Ask the KVM device @dev. */
void probe_kvm(struct kvm_probe *probe, const char *dev);

/*
 * How fast this KVM runs guest kernel mode: @ns an instruction, measured by a counted loop in a VM
 * of its own. Takes about 10 ms where each instruction is emulated in 1 us, less elsewhere.
 * Returns 0 or -errno (-EIO: the guest ended otherwise than by its HLT).
 */
int probe_kvm_speed(int kvm_fd, double *ns);

#endif
