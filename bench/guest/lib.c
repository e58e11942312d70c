/*
 * What a C library would be for: words, numbers, memory, the serial line, time, histograms.
 */
#include "bench/guest/guest.h"

void *memset(void *to, int byte, size_t n)
{
	void *at = to;

	__asm__ volatile("rep stosb" : "+D"(at), "+c"(n) : "a"(byte) : "memory");
	return to;
}

void *memcpy(void *to, const void *from, size_t n)
{
	void *at = to;

	__asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(n) : : "memory");
	return to;
}

int memcmp(const void *a, const void *b, size_t n)
{
	const uint8_t *x = a, *y = b;

	for (; n; n--, x++, y++)
		if (*x != *y)
			return *x < *y ? -1 : 1;
	return 0;
}

size_t strlen(const char *text)
{
	size_t n = 0;

	while (text[n])
		n++;
	return n;
}

/* The job. */

static const char *job_line = "";

void job_init(const char *cmdline)
{
	job_line = cmdline;
}

static bool at_end(char c)
{
	return !c || c == ' ' || c == '\n';
}

const char *job_value(const char *name, unsigned nth)
{
	size_t len = strlen(name);
	const char *at = job_line;

	while (*at) {
		if (!memcmp(at, name, len) && at[len] == '=' && !nth--)
			return at + len + 1;
		while (!at_end(*at))
			at++;
		while (*at && at_end(*at))
			at++;
	}
	return NULL;
}

bool job_is(const char *name, const char *value)
{
	const char *has = job_value(name, 0);
	size_t len = strlen(value);

	return has && !memcmp(has, value, len) && at_end(has[len]);
}

uint64_t number_parse(const char **text)
{
	const char *at = *text;
	bool hex = at[0] == '0' && at[1] == 'x';
	uint64_t n = 0;

	for (at += hex ? 2 : 0;; at++) {
		char low = *at | 0x20;

		if (*at >= '0' && *at <= '9')
			n = n * (hex ? 16 : 10) + (uint64_t)(*at - '0');
		else if (hex && low >= 'a' && low <= 'f')
			n = n * 16 + 10 + (uint64_t)(low - 'a');
		else
			break;
	}
	switch (*at | 0x20) {
	case 'g':
		n <<= 10;
		/* fall through */
	case 'm':
		n <<= 10;
		/* fall through */
	case 'k':
		n <<= 10;
		at++;
	}
	*text = at;
	return n;
}

uint64_t job_number(const char *name, uint64_t otherwise)
{
	const char *value = job_value(name, 0);

	return value ? number_parse(&value) : otherwise;
}

/* Output: one line, kept until it is whole, in FIFO loads (PC16550D data sheet, "FIFO Polled
 * Mode"). */

#define COM1      0x3f8
#define COM1_FCR  (COM1 + 2)
#define COM1_LSR  (COM1 + 5)
#define FCR_FIFO  0x01
#define LSR_THRE  0x20
#define FIFO_SIZE 16

static struct {
	size_t n;
	char text[4096];
} out;

static void out_byte(char c)
{
	if (out.n < sizeof(out.text))
		out.text[out.n++] = c;
}

void out_text(const char *text)
{
	while (*text)
		out_byte(*text++);
}

void out_word(const char *text)
{
	for (; !at_end(*text); text++)
		if (*text >= ' ' && *text != '"' && *text != '\\')
			out_byte(*text);
}

void out_number(uint64_t n)
{
	char digits[20];
	unsigned i = 0;

	do
		digits[i++] = (char)('0' + n % 10);
	while (n /= 10);
	while (i)
		out_byte(digits[--i]);
}

void out_fixed(uint64_t thousandths)
{
	uint64_t rest = thousandths % 1000;

	out_number(thousandths / 1000);
	out_byte('.');
	out_byte((char)('0' + rest / 100));
	out_byte((char)('0' + rest / 10 % 10));
	out_byte((char)('0' + rest % 10));
}

void out_flush(void)
{
	outb(COM1_FCR, FCR_FIFO);
	for (size_t at = 0; at < out.n;) {
		size_t n = out.n - at < FIFO_SIZE ? out.n - at : FIFO_SIZE;
		const char *from = out.text + at;

		at += n;
		while (!(inb(COM1_LSR) & LSR_THRE))
			;
		__asm__ volatile("rep outsb" : "+S"(from), "+c"(n) : "d"(COM1) : "memory");
	}
	out.n = 0;
}

static void member(const char *name)
{
	out_text(", \"");
	out_text(name);
	out_text("\": ");
}

void member_number(const char *name, uint64_t n)
{
	member(name);
	out_number(n);
}

void member_fixed(const char *name, uint64_t thousandths)
{
	member(name);
	out_fixed(thousandths);
}

void member_flag(const char *name, bool value)
{
	member(name);
	out_text(value ? "true" : "false");
}

void member_text(const char *name, const char *text)
{
	member(name);
	out_byte('"');
	out_word(text);
	out_byte('"');
}

/* Memory. */

static uint64_t memory_next, memory_end;

void memory_init(uint64_t from, uint64_t to)
{
	memory_next = from;
	memory_end = to;
}

/* Written to at once: whatever a host does at the first touch is over before the clock starts. */
void *memory_take(uint64_t bytes, uint64_t align)
{
	uint64_t at = (memory_next + align - 1) & -align;

	if (bytes > memory_end || at > memory_end - bytes)
		guest_fail("too little memory below 3 GiB for that depth and bs");
	memory_next = at + bytes;
	return memset((void *)at, 0, bytes);
}

/* Time. */

#define NS_PER_SECOND 1000000000ull

#define CPUID_TSC          0x15
#define CPUID_HYPERVISOR   0x40000000
#define CPUID_KVM_FEATURES 0x40000001
#define CPUID_TIMING       0x40000010
#define KVM_CLOCKSOURCE2   (1u << 3)
#define MSR_KVM_CLOCK      0x4b564d01

/* Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME_NEW */
struct pvclock {
	uint32_t version;
	uint32_t padding;
	uint64_t tsc_timestamp;
	uint64_t system_time;
	uint32_t tsc_to_system_mul;
	int8_t tsc_shift;
	uint8_t flags;
	uint8_t more[2];
};

static struct {
	uint64_t hz;
	const char *from;
} tsc;

/* SDM vol. 2A, CPUID, leaf 15H */
static uint64_t hz_of_cpuid(void)
{
	struct cpuid r = cpuid(CPUID_TSC);

	return cpuid(0).eax >= CPUID_TSC && r.eax ? (uint64_t)r.ecx * r.ebx / r.eax : 0;
}

static uint64_t hz_of_hypervisor(void)
{
	return cpuid(CPUID_HYPERVISOR).eax >= CPUID_TIMING ? cpuid(CPUID_TIMING).eax * 1000ull : 0;
}

static uint64_t hz_of_kvmclock(void)
{
	static volatile struct pvclock clock __attribute__((aligned(64)));
	struct cpuid kvm = cpuid(CPUID_HYPERVISOR);
	uint64_t hz;

	if (kvm.ebx != 0x4b4d564b /* KVMK */ || !(cpuid(CPUID_KVM_FEATURES).eax & KVM_CLOCKSOURCE2))
		return 0;
	ring0(ring0_wrmsr, (uintptr_t)&clock | 1, MSR_KVM_CLOCK, 0);
	if (clock.tsc_to_system_mul) {
		hz = (NS_PER_SECOND << 32) / clock.tsc_to_system_mul;
		hz = clock.tsc_shift < 0 ? hz << -clock.tsc_shift : hz >> clock.tsc_shift;
	} else {
		hz = 0;
	}
	ring0(ring0_wrmsr, 0, MSR_KVM_CLOCK, 0);
	return hz;
}

#define PIT_HZ     1193182
#define PIT_COUNT  23864 /* 20 ms */
#define PIT_TIMES  5     /* a host may take the processor away at any moment: the median counts */
#define PIT_CH0    0x40
#define PIT_MODE   0x43
#define MODE_0     0x30 /* of channel 0: the output rises when the count is over */
#define READ_BACK  0xe2 /* its status: */
#define STATUS_OUT 0x80
#define HZ_LEAST   100000000 /* where there is no PIT, its output seems to be high */

/* 8254 data sheet, "Mode 0", "Read-Back Command". In ticks of the TSC; 0: it does not end. */
static uint64_t pit_count(void)
{
	uint64_t start;

	outb(PIT_MODE, MODE_0);
	outb(PIT_CH0, PIT_COUNT & 0xff);
	outb(PIT_CH0, PIT_COUNT >> 8);
	start = rdtsc();
	do {
		if (rdtsc() - start > 1ull << 34)
			return 0;
		outb(PIT_MODE, READ_BACK);
	} while (!(inb(PIT_CH0) & STATUS_OUT));
	return rdtsc() - start;
}

static uint64_t hz_of_pit(void)
{
	uint64_t took[PIT_TIMES] = { 0 }, hz;

	for (unsigned i = 0; i < PIT_TIMES; i++) {
		uint64_t now = pit_count();
		unsigned at = i;

		if (!now)
			return 0;
		for (; at && took[at - 1] > now; at--)
			took[at] = took[at - 1];
		took[at] = now;
	}
	hz = took[PIT_TIMES / 2] * PIT_HZ / PIT_COUNT;
	return hz < HZ_LEAST ? 0 : hz;
}

void clock_init(void)
{
	static const struct {
		const char *name;
		uint64_t (*hz)(void);
	} sources[] = {
		{ "cpuid-15", hz_of_cpuid },
		{ "cpuid-40000010", hz_of_hypervisor },
		{ "kvmclock", hz_of_kvmclock },
		{ "pit", hz_of_pit },
	};

	for (size_t i = 0; !tsc.hz && i < sizeof(sources) / sizeof(sources[0]); i++) {
		tsc.hz = sources[i].hz();
		tsc.from = sources[i].name;
	}
	if (!tsc.hz)
		guest_fail("nothing tells the TSC's frequency: no CPUID leaf, no kvmclock, no PIT");
}

uint64_t clock_hz(void)
{
	return tsc.hz;
}

uint64_t clock_ns(uint64_t ticks)
{
	return ticks / tsc.hz * NS_PER_SECOND + ticks % tsc.hz * NS_PER_SECOND / tsc.hz;
}

void clock_print(void)
{
	member_number("tsc_hz", tsc.hz);
	member_text("tsc_from", tsc.from);
}

/* xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators"). */
uint64_t random_below(struct xorshift *random, uint64_t n)
{
	random->state ^= random->state >> 12;
	random->state ^= random->state << 25;
	random->state ^= random->state >> 27;
	return (uint64_t)((unsigned __int128)(random->state * 0x2545f4914f6cdd1dull) * n >> 64);
}

/* Below 32 a value is its own step; above, its power of two and the five bits behind it. */
static unsigned step_of(uint64_t ticks)
{
	unsigned power = ticks < 32 ? 5 : 63 - (unsigned)__builtin_clzll(ticks);

	return (power - 5) * 32 + (unsigned)(ticks >> (power - 5));
}

static uint64_t step_end(unsigned step)
{
	unsigned shift = step < 64 ? 0 : step / 32 - 1;

	return ((uint64_t)(step - shift * 32) + 1) << shift;
}

void histogram_add(struct histogram *h, uint64_t ticks)
{
	h->n++;
	h->sum += ticks;
	if (ticks > h->max)
		h->max = ticks;
	h->count[step_of(ticks)]++;
}

/* What @per_10000 of all do not exceed, within 3 %. */
static uint64_t percentile(const struct histogram *h, uint64_t per_10000)
{
	uint64_t wanted = (h->n * per_10000 + 9999) / 10000;
	uint64_t seen = 0;

	for (unsigned i = 0; i < sizeof(h->count) / sizeof(h->count[0]); i++) {
		seen += h->count[i];
		if (seen >= wanted && seen)
			return step_end(i) < h->max ? step_end(i) : h->max;
	}
	return h->max;
}

void histogram_print(const struct histogram *h)
{
	static const struct {
		const char *name;
		unsigned per_10000;
	} rows[] = { { "p50", 5000 }, { "p90", 9000 }, { "p99", 9900 }, { "p99.9", 9990 } };

	out_text(", \"lat_us\": {\"mean\": ");
	out_fixed(clock_ns(h->n ? h->sum / h->n : 0));
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		member_fixed(rows[i].name, clock_ns(percentile(h, rows[i].per_10000)));
	member_fixed("max", clock_ns(h->max));
	out_byte('}');
}
