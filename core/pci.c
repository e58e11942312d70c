/*
 * PCI configuration space and BARs. A device is 256 bytes and a mask of the bits that a guest may
 * change; what is not there reads as all ones. Knows no device but the host bridge.
 *
 * Most of what a kernel asks of a device at boot is in its configuration space, so the guest reads
 * that as memory (KVM_MEM_READONLY), which exits for writes alone. The first access that has
 * effects when it reads, or a value that changes by itself, ends this: pci_unmap().
 *
 * Port 0xcf9 lies inside CONFIG_ADDRESS: as in Intel's chipsets, byte accesses there reach the
 * reset control register, and only 4-byte accesses CONFIG_ADDRESS. So writes there must not be
 * deferred (core/bus.h): a guest that reset itself may make no other exit.
 */
#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "core/pci.h"

#define CONFIG_ENABLE 0x80000000u
#define RESET_CONTROL 1    /* 0xcf9 - 0xcf8 */
#define RESET_RST_CPU 0x04 /* 0 -> 1 resets (ICH9 datasheet §13.7.5) */
#define NOT_MAPPED    (-1)
#define BAR_IO        1 /* in its register (PCI 3.0 §6.2.5.1) */

#define ECAM_BUS_BYTES  0x100000
#define ECAM_SLOT_BYTES 0x8000 /* eight functions, of which there is the first */

static const uint8_t bridge_header[] = {
	/* Vendor and device of QEMU's PCIe host bridge: every system knows it, none has a quirk. */
	[PCI_VENDOR_ID] = 0x36, [PCI_VENDOR_ID + 1] = 0x1b,
	[PCI_DEVICE_ID] = 0x08, [PCI_DEVICE_ID + 1] = 0x00,
	[PCI_SUBCLASS] = 0x00,  [PCI_CLASS] = 0x06, /* bridge, host */
};

void pci_init(struct pci *pci, const struct pci_config *at, struct power *power)
{
	*pci = (struct pci){
		.power = power,
		.at = *at,
		.window[BUS_PORT] = { pci, BUS_PORT, at->io, at->io_len, at->io },
		.window[BUS_MMIO] = { pci, BUS_MMIO, at->mmio, at->mmio_len, at->mmio },
		.map_slot = NOT_MAPPED,
	};
	pthread_mutex_init(&pci->lock, NULL);
	memcpy(pci->bridge.config, bridge_header, sizeof(bridge_header));
	pci->slot[0] = &pci->bridge;
}

void pci_fini(struct pci *pci)
{
	if (pci->map)
		munmap(pci->map, pci->map_len);
	pthread_mutex_destroy(&pci->lock);
}

/* What the guest reads of @device, when it reads memory. */
static void show(struct pci *pci, const struct pci_device *device, unsigned slot)
{
	if (pci->map && slot < pci->map_len / ECAM_SLOT_BYTES)
		memcpy(pci->map + (size_t)slot * ECAM_SLOT_BYTES, device->config,
		       sizeof(device->config));
}

int pci_map(struct pci *pci, struct vm *vm, unsigned n)
{
	size_t len = (size_t)ECAM_SLOT_BYTES * (1 + n);
	void *map;

	if (n >= PCI_SLOTS)
		return -ENOSPC;
	map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (map == MAP_FAILED)
		return -errno;
	memset(map, 0xff, len);

	int slot = vm_map(vm, pci->at.ecam, map, len, true);

	if (slot < 0) {
		munmap(map, len);
		return 0;
	}
	pci->map_slot = slot;
	pci->vm = vm;
	pci->map = map;
	pci->map_len = len;
	show(pci, &pci->bridge, 0);
	return 0;
}

void pci_unmap(struct pci *pci)
{
	int slot = atomic_exchange(&pci->map_slot, NOT_MAPPED);

	if (slot != NOT_MAPPED)
		vm_unmap(pci->vm, slot);
}

/* Give BAR @i of @device the next address in its window. Returns whether there is one. */
static bool bar_place(struct pci *pci, struct pci_device *device, unsigned i)
{
	const struct pci_bar *bar = &device->bar[i];
	struct pci_window *window = &pci->window[bar->space];
	unsigned reg = PCI_BAR0 + 4 * i;
	uint64_t base = (window->next + bar->size - 1) & -(uint64_t)bar->size;

	if (base + bar->size > window->base + window->len)
		return false;
	window->next = base + bar->size;
	pci_set32(device, reg, (uint32_t)base | (bar->space == BUS_PORT ? BAR_IO : 0));
	for (unsigned byte = 0; byte < 4; byte++)
		device->writable[reg + byte] = (uint8_t)(-bar->size >> 8 * byte);
	return true;
}

int pci_add(struct pci *pci, struct pci_device *device)
{
	int slot = 0;

	while (slot < PCI_SLOTS && pci->slot[slot])
		slot++;
	if (slot == PCI_SLOTS)
		return -ENOSPC;
	for (unsigned i = 0; i < PCI_BARS; i++)
		if (device->bar[i].size && !bar_place(pci, device, i))
			return -ENOSPC;
	pci->slot[slot] = device;
	show(pci, device, (unsigned)slot);
	return slot;
}

void pci_set16(struct pci_device *device, unsigned reg, uint16_t value)
{
	device->config[reg] = (uint8_t)value;
	device->config[reg + 1] = (uint8_t)(value >> 8);
}

uint16_t pci_get16(const struct pci_device *device, unsigned reg)
{
	return (uint16_t)(device->config[reg] | device->config[reg + 1] << 8);
}

void pci_set32(struct pci_device *device, unsigned reg, uint32_t value)
{
	pci_set16(device, reg, (uint16_t)value);
	pci_set16(device, reg + 2, (uint16_t)(value >> 16));
}

uint32_t pci_get32(const struct pci_device *device, unsigned reg)
{
	return pci_get16(device, reg) | (uint32_t)pci_get16(device, reg + 2) << 16;
}

int pci_add_capability(struct pci_device *device, const void *body, unsigned len)
{
	unsigned at = device->caps_end ? device->caps_end : PCI_HEADER_END;
	unsigned link = device->last_cap ? device->last_cap + 1 : PCI_CAPABILITIES;

	if (at + len > PCI_CONFIG_SIZE)
		return -ENOSPC;
	memcpy(device->config + at, body, len);
	device->config[at + 1] = 0;
	device->config[link] = (uint8_t)at;
	pci_set16(device, PCI_STATUS, PCI_STATUS_CAPABILITIES);
	device->last_cap = (uint8_t)at;
	device->caps_end = (at + len + 3) & ~3u;
	return (int)at;
}

/* @devfn is slot and function, as in both address formats. */
static struct pci_device *device_find(struct pci *pci, unsigned devfn)
{
	return devfn & 7 ? NULL : pci->slot[devfn >> 3];
}

static uint64_t config_read(struct pci *pci, unsigned devfn, unsigned reg, unsigned len)
{
	struct pci_device *device = device_find(pci, devfn);
	uint64_t value = ~0ull;

	if (device && reg + len <= PCI_CONFIG_SIZE) {
		value = 0;
		pthread_mutex_lock(&pci->lock);
		if (device->reading)
			device->reading(device, reg, len);
		memcpy(&value, device->config + reg, len);
		pthread_mutex_unlock(&pci->lock);
	}
	return value;
}

/* A BAR answers where its register says, in its window, while the command register lets it. */
static void bar_follow(struct pci *pci, struct pci_device *device, unsigned i)
{
	static const uint16_t enable[] = {
		[BUS_PORT] = PCI_COMMAND_IO,
		[BUS_MMIO] = PCI_COMMAND_MEMORY,
	};
	struct pci_bar *bar = &device->bar[i];
	const struct pci_window *window = &pci->window[bar->space];
	uint64_t base = pci_get32(device, PCI_BAR0 + 4 * i) & -bar->size;

	if (!(pci_get16(device, PCI_COMMAND) & enable[bar->space]) || base < window->base ||
	    base - window->base + bar->size > window->len)
		base = 0;
	if (!bar->size || base == bar->base)
		return;
	bar->base = base;
	bar->moved(bar->dev, base);
}

static void config_write(struct pci *pci, unsigned devfn, unsigned reg, unsigned len,
                         uint64_t value)
{
	struct pci_device *device = device_find(pci, devfn);

	if (!device || reg + len > PCI_CONFIG_SIZE)
		return;
	pthread_mutex_lock(&pci->lock);
	for (unsigned i = 0; i < len; i++) {
		uint8_t mask = device->writable[reg + i];
		uint8_t *byte = &device->config[reg + i];

		*byte = (uint8_t)((*byte & ~mask) | ((value >> 8 * i) & mask));
	}
	for (unsigned i = 0; i < PCI_BARS; i++)
		bar_follow(pci, device, i);
	if (device->written)
		device->written(device, reg, len);
	show(pci, device, devfn >> 3);
	pthread_mutex_unlock(&pci->lock);
}

/* A window for BARs: to the device whose BAR lies there. */

static struct pci_bar *bar_of(struct pci_device *device, enum bus_space space, uint64_t addr,
                              unsigned len)
{
	for (struct pci_bar *bar = device->bar; bar < device->bar + PCI_BARS; bar++)
		if (bar->base && bar->space == space && addr >= bar->base &&
		    addr - bar->base < bar->size && len <= bar->size - (addr - bar->base))
			return bar;
	return NULL;
}

/* The BAR @off bytes into the window; then @off counts from its start. */
static struct pci_bar *bar_find(const struct pci_window *window, uint64_t *off, unsigned len)
{
	struct pci *pci = window->pci;
	uint64_t addr = window->base + *off;
	struct pci_bar *bar = NULL;

	pthread_mutex_lock(&pci->lock);
	for (unsigned slot = 0; slot < PCI_SLOTS && !bar; slot++)
		if (pci->slot[slot])
			bar = bar_of(pci->slot[slot], window->space, addr, len);
	if (bar)
		*off = addr - bar->base;
	pthread_mutex_unlock(&pci->lock);
	return bar;
}

static uint64_t window_read(void *dev, uint64_t off, unsigned len)
{
	struct pci_bar *bar = bar_find(dev, &off, len);

	return bar ? bar->ops->read(bar->dev, off, len) : ~0ull;
}

static void window_write(void *dev, uint64_t off, unsigned len, uint64_t value)
{
	struct pci_bar *bar = bar_find(dev, &off, len);

	if (bar)
		bar->ops->write(bar->dev, off, len, value);
}

/* ECAM: bits 12..19 of the offset are slot and function (PCI Express 4.0 §7.2.2). */
static uint64_t ecam_read(void *dev, uint64_t off, unsigned len)
{
	return config_read(dev, (unsigned)(off >> 12), off & 0xfff, len);
}

static void ecam_write(void *dev, uint64_t off, unsigned len, uint64_t value)
{
	config_write(dev, (unsigned)(off >> 12), off & 0xfff, len, value);
}

static uint32_t address_get(struct pci *pci)
{
	pthread_mutex_lock(&pci->lock);
	uint32_t address = pci->address;
	pthread_mutex_unlock(&pci->lock);
	return address;
}

/* Whether CONFIG_ADDRESS points at bus 0; other buses are empty. */
static bool address_valid(uint32_t address)
{
	return address & CONFIG_ENABLE && !(address & 0x00ff0000);
}

static uint64_t address_read(void *dev, uint64_t off, unsigned len)
{
	struct pci *pci = dev;

	if (off == 0 && len == 4)
		return address_get(pci);
	return off == RESET_CONTROL && len == 1 ? pci->reset_control : ~0ull;
}

static void address_write(void *dev, uint64_t off, unsigned len, uint64_t value)
{
	struct pci *pci = dev;

	pthread_mutex_lock(&pci->lock);
	if (off == 0 && len == 4) {
		pci->address = (uint32_t)value;
	} else if (off == RESET_CONTROL && len == 1) {
		bool rises = value & ~pci->reset_control & RESET_RST_CPU;

		pci->reset_control = (uint8_t)value & (uint8_t)~RESET_RST_CPU;
		if (rises)
			power_request(pci->power, POWER_RESET);
	}
	pthread_mutex_unlock(&pci->lock);
}

static uint64_t data_read(void *dev, uint64_t off, unsigned len)
{
	struct pci *pci = dev;
	uint32_t address = address_get(pci);

	if (!address_valid(address))
		return ~0ull;
	return config_read(pci, (address >> 8) & 0xff, (address & 0xfc) + (unsigned)off, len);
}

static void data_write(void *dev, uint64_t off, unsigned len, uint64_t value)
{
	struct pci *pci = dev;
	uint32_t address = address_get(pci);

	if (address_valid(address))
		config_write(pci, (address >> 8) & 0xff, (address & 0xfc) + (unsigned)off, len,
		             value);
}

static const struct bus_ops address_ops = { .read = address_read, .write = address_write };
static const struct bus_ops data_ops = { .read = data_read, .write = data_write };
static const struct bus_ops ecam_ops = { .read = ecam_read, .write = ecam_write };
static const struct bus_ops window_ops = { .read = window_read, .write = window_write };

int pci_attach(struct pci *pci, struct bus *bus)
{
	const struct pci_config *at = &pci->at;
	const struct bus_range address = { at->ports, 4, "pci-address", &address_ops, pci };
	const struct bus_range data = { at->ports + 4, 4, "pci-data", &data_ops, pci };
	const struct bus_range ecam = { at->ecam, ECAM_BUS_BYTES, "pci-ecam", &ecam_ops, pci };
	int err = bus_add(bus, BUS_PORT, &address);

	err = err ? err : bus_add(bus, BUS_PORT, &data);
	err = err ? err : bus_add(bus, BUS_MMIO, &ecam);
	for (struct pci_window *window = pci->window; !err && window < pci->window + 2; window++) {
		const struct bus_range range = { window->base, window->len, "pci-bar", &window_ops,
			                         window };

		err = bus_add(bus, window->space, &range);
	}
	return err;
}
