/*
 * The benchmark guest: does one job and ends. It is started by `kring bench`, and boots as well
 * under any monitor that knows PVH; by itself it is build/bench/guest.elf:
 *
 *   kring boot -k guest.elf -p "job=disk op=randread" -d IMAGE
 *   qemu-system-x86_64 -M q35 -kernel guest.elf -append "job=disk op=randread" ...
 *   qemu-system-x86_64 -M microvm,acpi=off -global virtio-mmio.force-legacy=false -no-reboot ...
 *
 * The job is the kernel command line, words NAME=VALUE; of a name that comes twice the first
 * counts. Numbers may be hexadecimal, and have k, m or g behind them.
 *
 *   job=boot   marks its first instructions (below) and ends
 *   job=disk
 *     op=      randread, randwrite, read or write
 *     bs=4096  bytes a request
 *     depth=32 requests in flight, of all queues together
 *     queues=1 of each disk
 *     disks=1  so many, from dev on, at once
 *     span=    bytes of the disk that are used (all)
 *     min_ops= go on until so many are done (0)
 *     verify=1 compare: what was written is read back; what is read must be from op=write verify=1
 *              with the same bs and seed
 *   job=net
 *     op=      tx, rx, or rr (one frame there and back)
 *     size=64  bytes a frame with its Ethernet header; above 1514 TCP segments of 1448 in one
 *     depth=   frames in flight to the host (256)
 *     segs=1   descriptors a frame to the host; several are indirect where that is negotiated
 *     mrg=1    mergeable receive buffers, where the device has them
 *     verify=1 compare what comes in
 *              rx and rr need somebody at the other end, with the addresses that net.c has
 *   job=exits  what each way out of the guest costs; those through a device where there is a
 *              virtio-rng. "ways": [{way, n, least_us, lat_us}], see exits.c
 *   job=idle   all processors sleep, woken by timers: {cpus, seconds, interrupts}, see idle.c
 *     hz=10    times a second, each
 *     time=0   for ever
 *     disks=0  so many are set up, with queues= each
 *
 *   for all that have a device:
 *     time=5   seconds; time_ms= milliseconds
 *     wait=    poll or irq; irq where the processor that polls is the host's only one
 *     indirect=1, event_idx=1: 0 is not to negotiate it
 *     seed=1
 *     dev=0    which of the devices of that kind
 *
 * What comes out is one JSON object in a line of its own on COM1: the parameters in use, and
 *
 *   ops (in the time given), served (all), bytes (of ops), seconds (by TSC; tsc_hz and tsc_from
 *   say how fast that is, and who told), lat_us {mean p50 p90 p99 p99.9 max} (within 3 %), kicks,
 *   interrupts, errors, verified and mismatches (blocks or frames), transport, queue_size
 *
 * or {"error": "..."}. Bytes written to port 0x4b52 mark the first instruction, ring 3, and the
 * end (entry.h). It ends by ACPI's S5, and where there is none by a triple fault (QEMU needs
 * -no-reboot to leave then).
 *
 * All its work is done in ring 3, which runs at the processor's speed even where a KVM emulates
 * ring 0; all memory, its own page tables too, and all ports are open to it. There is one
 * thread and no library, and one processor but in job=idle.
 */
#include "bench/guest/guest.h"

/* Xen xen/include/public/arch-x86/hvm/start_info.h */
struct hvm_start_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modlist_paddr, cmdline_paddr, rsdp_paddr, memmap_paddr;
	uint32_t memmap_entries, reserved;
};

struct hvm_memmap_table_entry {
	uint64_t addr, size;
	uint32_t type, reserved;
};

#define MEMMAP_RAM 1
#define MIB        0x100000ull
#define FOUR_GIB   0x100000000ull
#define PAGE_2M    0x200000ull
#define PTE        0x07
#define PDE_PAGE   0x80
#define GATE_RING0 0x8e
#define GATE_RING3 0xee
#define CS_RING0   0x08
#define PORT_PM1   0x604
#define PM1_SLP_EN 0x2000
#define PM1_S5     (5 << 10)

extern volatile uint64_t idt[256][2];
extern char gate[], interrupt[], faults[];

void guest_main(const struct hvm_start_info *info);
void guest_fault(uint64_t vector, uint64_t a, uint64_t b, uint64_t cr2);

/*
 * 4 GiB, each address its own (SDM vol. 3 §4.5), in fresh tables: a KVM without nested paging makes
 * an exit of every write into those in use.
 */
static void map_all(void)
{
	static uint64_t pml4[512] __attribute__((aligned(4096)));
	static uint64_t pdpt[512] __attribute__((aligned(4096)));
	static uint64_t page_directory[4 * 512] __attribute__((aligned(4096)));

	for (uint64_t i = 0; i < 4 * 512; i++)
		page_directory[i] = i * PAGE_2M | PTE | PDE_PAGE;
	for (unsigned i = 0; i < 4; i++)
		pdpt[i] = (uintptr_t)&page_directory[i * 512] | PTE;
	pml4[0] = (uintptr_t)pdpt | PTE;
	ring0(ring0_paging, (uintptr_t)pml4, 0, 0);
}

/* SDM vol. 3 §6.14.1 */
static void gate_set(unsigned vector, const char *handler, unsigned type)
{
	uint64_t at = (uintptr_t)handler;

	idt[vector][1] = at >> 32;
	idt[vector][0] =
	        (at & 0xffff) | CS_RING0 << 16 | (uint64_t)type << 40 | (at >> 16 & 0xffff) << 48;
}

static void gates_init(void)
{
	for (unsigned i = 0; i < 32; i++)
		gate_set(i, faults + 8 * i, GATE_RING0);
	gate_set(VECTOR_DEVICE, interrupt, GATE_RING0);
	gate_set(VECTOR_GATE, gate, GATE_RING3);
}

/* The RAM that the guest lies in, behind the guest. */
static void memory_find(const struct hvm_start_info *info)
{
	const struct hvm_memmap_table_entry *entry = (const void *)info->memmap_paddr;
	uint64_t from = ((uintptr_t)guest_end + PAGE_2M - 1) & -PAGE_2M;

	for (uint32_t i = 0; info->version >= 1 && i < info->memmap_entries; i++, entry++) {
		uint64_t end = entry->addr + entry->size;

		if (entry->type == MEMMAP_RAM && entry->addr <= from && end > from)
			memory_init(from, end < FOUR_GIB ? end : FOUR_GIB);
	}
}

void guest_exit(void)
{
	outb(PORT_MARKER, MARK_END);
	outw(PORT_PM1, PM1_SLP_EN | PM1_S5); /* kring */
	outw(PORT_PM1, PM1_SLP_EN);          /* QEMU q35 */
	/* A gate that is not there, and no handler for that: a triple fault, which -no-reboot ends.
	 */
	for (unsigned i = 0; i < 32; i++)
		idt[i][0] = 0;
	__asm__ volatile("ud2");
	__builtin_unreachable();
}

void guest_fail(const char *why)
{
	out_text("\n{\"error\": \"");
	out_text(why);
	out_text("\"}\n");
	out_flush();
	guest_exit();
}

void guest_fault(uint64_t vector, uint64_t a, uint64_t b, uint64_t cr2)
{
	out_text("\n{\"error\": \"exception\"");
	member_number("vector", vector);
	member_number("frame", a);
	member_number("frame_next", b);
	member_number("cr2", cr2);
	out_text("}\n");
	out_flush();
	guest_exit();
}

static const struct {
	const char *name;
	void (*run)(void);
} jobs[] = {
	{ "boot", NULL },       { "disk", disk_job }, { "net", net_job },
	{ "exits", exits_job }, { "idle", idle_job },
};

void guest_main(const struct hvm_start_info *info)
{
	outb(PORT_MARKER, MARK_RING3);
	job_init((const char *)info->cmdline_paddr);
	if (job_is("job", "boot"))
		guest_exit();
	gates_init();
	map_all();
	memory_find(info);
	for (size_t i = 0; i < sizeof(jobs) / sizeof(jobs[0]); i++) {
		if (!job_is("job", jobs[i].name))
			continue;
		clock_init();
		jobs[i].run();
		clock_print();
		out_text("}\n");
		out_flush();
		guest_exit();
	}
	guest_fail("no job: say job=disk, job=net, job=exits, job=idle or job=boot on the command "
	           "line");
}
