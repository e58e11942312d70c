/*
 * ACPI tables (ACPI 6.5 §5.2), one image of fixed layout that is copied into guest memory.
 *
 * What is said here is chosen so that Linux touches little: no VGA, no PS/2 controller to probe,
 * and hardware-reduced ACPI (§4.1), with which Linux leaves PIC and PIT alone and does not clear
 * the IOAPIC pin by pin: 40 exits to user space less a boot, 490 in all. Only a guest that is told
 * to do without the IOAPIC has to be shown the fixed hardware: no SMI command (ACPI is always on),
 * no buttons, no GPEs. Knows no device's inside.
 */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "arch/x86/acpi.h"
#include "arch/x86/layout.h"
#include "dsdt.hex" /* dsdt_aml_code, compiled from dsdt.asl */

#define PACKED __attribute__((packed))

/* §5.2.5.3 */
struct acpi_rsdp {
	char Signature[8];
	uint8_t Checksum; /* of the first 20 bytes */
	char OEMID[6];
	uint8_t Revision;
	uint32_t RsdtAddress;
	uint32_t Length;
	uint64_t XsdtAddress;
	uint8_t ExtendedChecksum;
	uint8_t Reserved[3];
} PACKED;

/* §5.2.6 */
struct acpi_header {
	char Signature[4];
	uint32_t Length;
	uint8_t Revision;
	uint8_t Checksum;
	char OEMID[6];
	char OEMTableID[8];
	uint32_t OEMRevision;
	char CreatorID[4];
	uint32_t CreatorRevision;
} PACKED;

/* §5.2.3.2 */
struct acpi_gas {
	uint8_t AddressSpaceID;
	uint8_t RegisterBitWidth;
	uint8_t RegisterBitOffset;
	uint8_t AccessSize;
	uint64_t Address;
} PACKED;

/* §5.2.8 */
struct acpi_xsdt {
	struct acpi_header header;
	uint64_t Entry[3];
} PACKED;

/* §5.2.10 */
struct acpi_facs {
	char Signature[4];
	uint32_t Length;
	uint32_t HardwareSignature;
	uint32_t FirmwareWakingVector;
	uint32_t GlobalLock;
	uint32_t Flags;
	uint64_t XFirmwareWakingVector;
	uint8_t Version;
	uint8_t Reserved[31];
} PACKED;

/* §5.2.9. Register blocks are named by port alone: extended addresses (X_*) of 0 say so. */
struct acpi_fadt {
	struct acpi_header header;
	uint32_t FIRMWARE_CTRL;
	uint32_t DSDT;
	uint8_t Reserved0;
	uint8_t Preferred_PM_Profile;
	uint16_t SCI_INT;
	uint32_t SMI_CMD;
	uint8_t ACPI_ENABLE;
	uint8_t ACPI_DISABLE;
	uint8_t S4BIOS_REQ;
	uint8_t PSTATE_CNT;
	uint32_t PM1a_EVT_BLK;
	uint32_t PM1b_EVT_BLK;
	uint32_t PM1a_CNT_BLK;
	uint32_t PM1b_CNT_BLK;
	uint32_t PM2_CNT_BLK;
	uint32_t PM_TMR_BLK;
	uint32_t GPE0_BLK;
	uint32_t GPE1_BLK;
	uint8_t PM1_EVT_LEN;
	uint8_t PM1_CNT_LEN;
	uint8_t PM2_CNT_LEN;
	uint8_t PM_TMR_LEN;
	uint8_t GPE0_BLK_LEN;
	uint8_t GPE1_BLK_LEN;
	uint8_t GPE1_BASE;
	uint8_t CST_CNT;
	uint16_t P_LVL2_LAT;
	uint16_t P_LVL3_LAT;
	uint16_t FLUSH_SIZE;
	uint16_t FLUSH_STRIDE;
	uint8_t DUTY_OFFSET;
	uint8_t DUTY_WIDTH;
	uint8_t DAY_ALRM;
	uint8_t MON_ALRM;
	uint8_t CENTURY;
	uint16_t IAPC_BOOT_ARCH;
	uint8_t Reserved1;
	uint32_t Flags;
	struct acpi_gas RESET_REG;
	uint8_t RESET_VALUE;
	uint16_t ARM_BOOT_ARCH;
	uint8_t FADTMinorVersion;
	uint64_t X_FIRMWARE_CTRL;
	uint64_t X_DSDT;
	struct acpi_gas X_PM1a_EVT_BLK;
	struct acpi_gas X_PM1b_EVT_BLK;
	struct acpi_gas X_PM1a_CNT_BLK;
	struct acpi_gas X_PM1b_CNT_BLK;
	struct acpi_gas X_PM2_CNT_BLK;
	struct acpi_gas X_PM_TMR_BLK;
	struct acpi_gas X_GPE0_BLK;
	struct acpi_gas X_GPE1_BLK;
	struct acpi_gas SLEEP_CONTROL_REG;
	struct acpi_gas SLEEP_STATUS_REG;
	uint64_t HypervisorVendorIdentity;
} PACKED;

/* Flags, Table 5.10. A set *_BUTTON or FIX_RTC says that there is no such fixed hardware. */
enum {
	FADT_WBINVD = 1 << 0,
	FADT_PROC_C1 = 1 << 2,
	FADT_PWR_BUTTON = 1 << 4,
	FADT_SLP_BUTTON = 1 << 5,
	FADT_FIX_RTC = 1 << 6,
	FADT_TMR_VAL_EXT = 1 << 8,
	FADT_RESET_REG_SUP = 1 << 10,
	FADT_HW_REDUCED = 1 << 20,
};

/* IAPC_BOOT_ARCH, Table 5.11. */
enum {
	BOOT_LEGACY_DEVICES = 1 << 0,
	BOOT_VGA_NOT_PRESENT = 1 << 2,
	BOOT_NO_PCIE_ASPM = 1 << 4,
};

enum { GAS_SYSTEM_IO = 1, GAS_BYTE_ACCESS = 1 };
enum { PROFILE_ENTERPRISE_SERVER = 4 };
enum { C2_NOT_SUPPORTED = 101, C3_NOT_SUPPORTED = 1001 }; /* latencies in microseconds */
enum { PULSE_RESET = 0xfe }; /* the i8042's command: unlike port 0xcf9 it is never deferred */

/* §5.2.12.2 */
struct madt_lapic {
	uint8_t Type;
	uint8_t Length;
	uint8_t ACPIProcessorUID;
	uint8_t APICID;
	uint32_t Flags;
} PACKED;

/* §5.2.12.3 */
struct madt_ioapic {
	uint8_t Type;
	uint8_t Length;
	uint8_t IOAPICID;
	uint8_t Reserved;
	uint32_t IOAPICAddress;
	uint32_t GlobalSystemInterruptBase;
} PACKED;

/* §5.2.12.5 */
struct madt_override {
	uint8_t Type;
	uint8_t Length;
	uint8_t Bus;
	uint8_t Source;
	uint32_t GlobalSystemInterrupt;
	uint16_t Flags;
} PACKED;

/* §5.2.12.7 */
struct madt_lapic_nmi {
	uint8_t Type;
	uint8_t Length;
	uint8_t ACPIProcessorUID;
	uint16_t Flags;
	uint8_t LocalAPICLINT;
} PACKED;

/* §5.2.12: what there is one of, then a local APIC for each processor. */
struct acpi_madt {
	struct acpi_header header;
	uint32_t LocalInterruptControllerAddress;
	uint32_t Flags;
	struct madt_ioapic ioapic;
	struct madt_override sci;
	struct madt_lapic_nmi nmi;
	struct madt_lapic lapic[CPUS_MAX];
} PACKED;

enum { MADT_LAPIC = 0, MADT_IOAPIC = 1, MADT_OVERRIDE = 2, MADT_LAPIC_NMI = 4 };
enum { MADT_PCAT_COMPAT = 1, LAPIC_ENABLED = 1, ALL_PROCESSORS = 0xff };
enum { ACTIVE_HIGH = 1, LEVEL = 3 << 2 }; /* MPS INTI flags, Table 5.26 */

/* PCI Firmware 3.3 §4.1.2 */
struct acpi_mcfg {
	struct acpi_header header;
	uint64_t Reserved;
	uint64_t BaseAddress;
	uint16_t PCISegmentGroup;
	uint8_t StartBus;
	uint8_t EndBus;
	uint32_t Reserved1;
} PACKED;

/* The image: FACS wants 64 bytes' alignment. The second half of the BIOS area is the MP table's. */
struct acpi_image {
	struct acpi_rsdp rsdp;
	struct acpi_facs facs __attribute__((aligned(64)));
	struct acpi_xsdt xsdt __attribute__((aligned(16)));
	struct acpi_fadt fadt __attribute__((aligned(16)));
	struct acpi_mcfg mcfg __attribute__((aligned(16)));
	struct acpi_madt madt __attribute__((aligned(16)));
	uint8_t dsdt[sizeof(dsdt_aml_code)] __attribute__((aligned(16)));
};

static_assert(sizeof(struct acpi_fadt) == 276, "FADT of ACPI 6.5");
static_assert(LAYOUT_ACPI + sizeof(struct acpi_image) <= 0xf0000, "room for the MP table");

#define AT(table) (LAYOUT_ACPI + offsetof(struct acpi_image, table))

#define HEADER(signature, length, revision)                                                        \
	{                                                                                          \
		.Signature = signature, .Length = (length), .Revision = (revision),                \
		.OEMID = "KRING ", .OEMTableID = "KRINGVM ", .OEMRevision = 1,                     \
		.CreatorID = "KRNG", .CreatorRevision = 1,                                         \
	}

#define BYTE_PORT(port)                                                                            \
	{                                                                                          \
		.AddressSpaceID = GAS_SYSTEM_IO, .RegisterBitWidth = 8,                            \
		.AccessSize = GAS_BYTE_ACCESS, .Address = (port),                                  \
	}

/* All but the checksums, the DSDT, the processors and what legacy guests see. */
static const struct acpi_image image = {
	.rsdp = {
		.Signature = "RSD PTR ",
		.OEMID = "KRING ",
		.Revision = 2,
		.Length = sizeof(struct acpi_rsdp),
		.XsdtAddress = AT(xsdt),
	},
	.facs = {
		.Signature = "FACS",
		.Length = sizeof(struct acpi_facs),
		.Version = 2,
	},
	.xsdt = {
		.header = HEADER("XSDT", sizeof(struct acpi_xsdt), 1),
		.Entry = { AT(fadt), AT(madt), AT(mcfg) },
	},
	.fadt = {
		.header = HEADER("FACP", sizeof(struct acpi_fadt), 6),
		.FADTMinorVersion = 5,
		.FIRMWARE_CTRL = AT(facs),
		.DSDT = AT(dsdt),
		.X_DSDT = AT(dsdt),
		.Preferred_PM_Profile = PROFILE_ENTERPRISE_SERVER,
		.IAPC_BOOT_ARCH = BOOT_LEGACY_DEVICES | BOOT_VGA_NOT_PRESENT | BOOT_NO_PCIE_ASPM,
		.Flags = FADT_WBINVD | FADT_PROC_C1 | FADT_PWR_BUTTON | FADT_SLP_BUTTON |
			 FADT_FIX_RTC | FADT_RESET_REG_SUP | FADT_HW_REDUCED,
		.RESET_REG = BYTE_PORT(PORT_I8042 + 4),
		.RESET_VALUE = PULSE_RESET,
		/* §4.8.3.7: made like the high bytes of PM1 control and PM1 status. */
		.SLEEP_CONTROL_REG = BYTE_PORT(PORT_PM1_CNT + 1),
		.SLEEP_STATUS_REG = BYTE_PORT(PORT_PM1_EVT + 1),
	},
	.mcfg = {
		.header = HEADER("MCFG", sizeof(struct acpi_mcfg), 1),
		.BaseAddress = LAYOUT_ECAM,
		.PCISegmentGroup = 1, /* as _SEG in dsdt.asl */
	},
	.madt = {
		.header = HEADER("APIC", offsetof(struct acpi_madt, lapic), 6),
		.LocalInterruptControllerAddress = LAYOUT_LAPIC,
		.Flags = MADT_PCAT_COMPAT,
		.ioapic = {
			.Type = MADT_IOAPIC,
			.Length = sizeof(struct madt_ioapic),
			.IOAPICAddress = LAYOUT_IOAPIC,
		},
		.sci = {
			.Type = MADT_OVERRIDE,
			.Length = sizeof(struct madt_override),
			.Source = IRQ_SCI,
			.GlobalSystemInterrupt = IRQ_SCI,
			.Flags = ACTIVE_HIGH | LEVEL,
		},
		.nmi = {
			.Type = MADT_LAPIC_NMI,
			.Length = sizeof(struct madt_lapic_nmi),
			.ACPIProcessorUID = ALL_PROCESSORS,
			.LocalAPICLINT = 1,
		},
	},
};

/* What makes the bytes add up to 0. */
static uint8_t checksum(const void *table, size_t len)
{
	const uint8_t *byte = table;
	uint8_t sum = 0;

	while (len--)
		sum += *byte++;
	return -sum;
}

static void seal(struct acpi_header *header)
{
	header->Checksum = checksum(header, header->Length);
}

/* Fixed hardware in place of reduced (§4.8). */
static void fadt_set_fixed(struct acpi_fadt *fadt)
{
	fadt->SCI_INT = IRQ_SCI;
	fadt->PM1a_EVT_BLK = PORT_PM1_EVT;
	fadt->PM1_EVT_LEN = 4;
	fadt->PM1a_CNT_BLK = PORT_PM1_CNT;
	fadt->PM1_CNT_LEN = 2;
	fadt->PM_TMR_BLK = PORT_PM_TMR;
	fadt->PM_TMR_LEN = 4;
	fadt->P_LVL2_LAT = C2_NOT_SUPPORTED;
	fadt->P_LVL3_LAT = C3_NOT_SUPPORTED;
	fadt->Flags = (fadt->Flags & ~(uint32_t)FADT_HW_REDUCED) | FADT_TMR_VAL_EXT;
	fadt->SLEEP_CONTROL_REG = fadt->SLEEP_STATUS_REG = (struct acpi_gas){ 0 };
}

gpa_t acpi_write(const struct mem *mem, unsigned ncpus, bool legacy)
{
	struct acpi_image *out = mem_host(mem, LAYOUT_ACPI, sizeof(*out));

	assert(ncpus >= 1 && ncpus <= CPUS_MAX);
	if (!out)
		return 0;

	*out = image;
	memcpy(out->dsdt, dsdt_aml_code, sizeof(out->dsdt));
	if (legacy)
		fadt_set_fixed(&out->fadt);
	for (unsigned i = 0; i < ncpus; i++) {
		out->madt.lapic[i] = (struct madt_lapic){
			.Type = MADT_LAPIC,
			.Length = sizeof(struct madt_lapic),
			.ACPIProcessorUID = (uint8_t)i,
			.APICID = (uint8_t)i,
			.Flags = LAPIC_ENABLED,
		};
	}
	out->madt.header.Length += ncpus * sizeof(struct madt_lapic);

	seal(&out->xsdt.header);
	seal(&out->fadt.header);
	seal(&out->mcfg.header);
	seal(&out->madt.header);
	out->rsdp.Checksum = checksum(&out->rsdp, offsetof(struct acpi_rsdp, Length));
	out->rsdp.ExtendedChecksum = checksum(&out->rsdp, sizeof(out->rsdp));
	return AT(rsdp);
}
