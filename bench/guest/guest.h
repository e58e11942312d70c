/*
 * The benchmark guest: what its files share. It has one thread, in ring 3; see main.c.
 */
#ifndef BENCH_GUEST_GUEST_H
#define BENCH_GUEST_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bench/guest/entry.h"

/* The processor. */

static inline uint64_t rdtsc(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (uint64_t)high << 32 | low;
}

struct cpuid {
	uint32_t eax, ebx, ecx, edx;
};

static inline struct cpuid cpuid(uint32_t leaf)
{
	struct cpuid r = { .eax = leaf };

	__asm__ volatile("cpuid" : "+a"(r.eax), "=b"(r.ebx), "+c"(r.ecx), "=d"(r.edx));
	return r;
}

static inline void outb(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "d"(port));
}

static inline void outw(uint16_t port, uint16_t value)
{
	__asm__ volatile("outw %0, %1" : : "a"(value), "d"(port));
}

static inline void outl(uint16_t port, uint32_t value)
{
	__asm__ volatile("outl %0, %1" : : "a"(value), "d"(port));
}

static inline uint8_t inb(uint16_t port)
{
	uint8_t value;

	__asm__ volatile("inb %1, %0" : "=a"(value) : "d"(port));
	return value;
}

static inline uint32_t inl(uint16_t port)
{
	uint32_t value;

	__asm__ volatile("inl %1, %0" : "=a"(value) : "d"(port));
	return value;
}

/* Registers of devices: one plain MOV each, which every KVM can emulate. */

static inline uint8_t mmio_get8(uint64_t at)
{
	uint8_t value;

	__asm__ volatile("movb (%1), %0" : "=q"(value) : "r"(at) : "memory");
	return value;
}

static inline uint16_t mmio_get16(uint64_t at)
{
	uint16_t value;

	__asm__ volatile("movw (%1), %0" : "=r"(value) : "r"(at) : "memory");
	return value;
}

static inline uint32_t mmio_get32(uint64_t at)
{
	uint32_t value;

	__asm__ volatile("movl (%1), %0" : "=r"(value) : "r"(at) : "memory");
	return value;
}

static inline void mmio_set8(uint64_t at, uint8_t value)
{
	__asm__ volatile("movb %0, (%1)" : : "q"(value), "r"(at) : "memory");
}

static inline void mmio_set16(uint64_t at, uint16_t value)
{
	__asm__ volatile("movw %0, (%1)" : : "r"(value), "r"(at) : "memory");
}

static inline void mmio_set32(uint64_t at, uint32_t value)
{
	__asm__ volatile("movl %0, (%1)" : : "r"(value), "r"(at) : "memory");
}

/* entry.S */

extern volatile uint64_t interrupts; /* that came so far */
extern char guest_end[];

/* For ring0() alone. */
void ring0_nothing(void), ring0_halt(void), ring0_wrmsr(void), ring0_paging(void);

/* Run @routine in ring 0. */
static inline void ring0(void (*routine)(void), uint64_t rax, uint64_t rcx, uint64_t rdx)
{
	__asm__ volatile("int3" : : "D"(routine), "a"(rax), "c"(rcx), "d"(rdx) : "memory");
}

/* lib.c */

void *memset(void *to, int byte, size_t n);
void *memcpy(void *to, const void *from, size_t n);
int memcmp(const void *a, const void *b, size_t n);
size_t strlen(const char *text);

/* The kernel command line: NAME=VALUE words. */
void job_init(const char *cmdline);
bool job_is(const char *name, const char *value);          /* whether NAME=VALUE is there */
uint64_t job_number(const char *name, uint64_t otherwise); /* number[kKmMgG] */
/* The value of the @nth NAME=, up to a space; NULL when there is none. */
const char *job_value(const char *name, unsigned nth);
uint64_t number_parse(const char **text);

/* The JSON line; strings are written as they are. */
void out_text(const char *text);
void out_word(const char *text); /* up to a space */
void out_number(uint64_t n);
void out_fixed(uint64_t thousandths);
void out_flush(void); /* to the serial port */

/* `, "NAME": ` and what follows. */
void member_number(const char *name, uint64_t n);
void member_fixed(const char *name, uint64_t thousandths);
void member_flag(const char *name, bool value);
void member_text(const char *name, const char *text);

/* Zeroed memory that is never given back, or the end of the guest. */
void *memory_take(uint64_t bytes, uint64_t align);
void memory_init(uint64_t from, uint64_t to);

/* Time: TSC ticks, and how many a second has. */
void clock_init(void);
uint64_t clock_hz(void);
uint64_t clock_ns(uint64_t ticks);
void clock_print(void);

struct xorshift {
	uint64_t state;
};

uint64_t random_below(struct xorshift *random, uint64_t n);

/* Latencies: 32 steps to a power of two. */
struct histogram {
	uint64_t n, sum, max;
	uint32_t count[64 * 32];
};

void histogram_add(struct histogram *h, uint64_t ticks);
void histogram_print(const struct histogram *h); /* member "lat_us" */

/* Say why, as JSON, and end. */
__attribute__((noreturn)) void guest_fail(const char *why);
__attribute__((noreturn)) void guest_exit(void);

/* The jobs; each prints its members. */
void disk_job(void);
void net_job(void);
void exits_job(void);
void idle_job(void);

#endif
