/*
 * PCI configuration space. A device is 256 bytes and a mask of the bits that a guest may change;
 * what is not there reads as all ones. Knows no device but the host bridge.
 *
 * Port 0xcf9 lies inside CONFIG_ADDRESS: as in Intel's chipsets, byte accesses there reach the
 * reset control register, and only 4-byte accesses reach CONFIG_ADDRESS.
 */
#include <errno.h>
#include <string.h>

#include "core/pci.h"

#define CONFIG_ENABLE  0x80000000u
#define RESET_CONTROL  1    /* 0xcf9 - 0xcf8 */
#define RESET_RST_CPU  0x04 /* 0 -> 1 resets (ICH9 datasheet §13.7.5) */
#define ECAM_BUS_BYTES 0x100000

static const uint8_t bridge_header[] = {
	/* Vendor and device of QEMU's PCIe host bridge: every system knows it, none has a quirk. */
	[PCI_VENDOR_ID] = 0x36, [PCI_VENDOR_ID + 1] = 0x1b,
	[PCI_DEVICE_ID] = 0x08, [PCI_DEVICE_ID + 1] = 0x00,
	[PCI_SUBCLASS] = 0x00,  [PCI_CLASS] = 0x06, /* bridge, host */
};

void pci_init(struct pci *pci, struct power *power)
{
	*pci = (struct pci){ .power = power };
	pthread_mutex_init(&pci->lock, NULL);
	memcpy(pci->bridge.config, bridge_header, sizeof(bridge_header));
	pci->slot[0] = &pci->bridge;
}

void pci_fini(struct pci *pci)
{
	pthread_mutex_destroy(&pci->lock);
}

int pci_add(struct pci *pci, struct pci_device *device, unsigned slot)
{
	if (slot >= PCI_SLOTS || pci->slot[slot])
		return -EBUSY;
	pci->slot[slot] = device;
	return 0;
}

void pci_set16(struct pci_device *device, unsigned reg, uint16_t value)
{
	device->config[reg] = (uint8_t)value;
	device->config[reg + 1] = (uint8_t)(value >> 8);
}

/* @devfn is slot and function, as in both address formats. */
static struct pci_device *device_find(struct pci *pci, unsigned devfn)
{
	return devfn & 7 ? NULL : pci->slot[devfn >> 3];
}

static uint64_t config_read(struct pci *pci, unsigned devfn, unsigned reg, unsigned len)
{
	const struct pci_device *device = device_find(pci, devfn);
	uint64_t value = ~0ull;

	if (device && reg + len <= PCI_CONFIG_SIZE) {
		value = 0;
		pthread_mutex_lock(&pci->lock);
		memcpy(&value, device->config + reg, len);
		pthread_mutex_unlock(&pci->lock);
	}
	return value;
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
	pthread_mutex_unlock(&pci->lock);
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

static uint64_t ports_read(void *dev, uint64_t off, unsigned len)
{
	struct pci *pci = dev;
	uint32_t address = address_get(pci);

	if (off >= 4)
		return address_valid(address) ? config_read(pci, (address >> 8) & 0xff,
		                                            (address & 0xfc) + (off - 4), len)
		                              : ~0ull;
	if (off == 0 && len == 4)
		return address;
	return off == RESET_CONTROL && len == 1 ? pci->reset_control : ~0ull;
}

static void ports_write(void *dev, uint64_t off, unsigned len, uint64_t value)
{
	struct pci *pci = dev;

	if (off >= 4) {
		uint32_t address = address_get(pci);

		if (address_valid(address))
			config_write(pci, (address >> 8) & 0xff, (address & 0xfc) + (off - 4), len,
			             value);
		return;
	}

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

static const struct bus_ops ports_ops = { .read = ports_read, .write = ports_write };
static const struct bus_ops ecam_ops = { .read = ecam_read, .write = ecam_write };

int pci_attach(struct pci *pci, struct bus *bus, const struct pci_config *config)
{
	struct bus_range ports = {
		.base = config->ports, .len = 8, .name = "pci-config", .ops = &ports_ops, .dev = pci
	};
	struct bus_range ecam = { .base = config->ecam,
		                  .len = ECAM_BUS_BYTES,
		                  .name = "pci-ecam",
		                  .ops = &ecam_ops,
		                  .dev = pci };
	int err = bus_add(bus, BUS_PORT, &ports);

	return err ? err : bus_add(bus, BUS_MMIO, &ecam);
}
