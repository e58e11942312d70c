/*
 * The bzImage: setup code, of which only the header counts here, and behind it the protected-mode
 * kernel. Source: Linux Documentation/arch/x86/boot.rst, "boot.rst" below. Knows no files.
 *
 * A kernel goes to its pref_address and nowhere else: a relocatable one that finds itself lower
 * moves up to that address (boot.rst, init_size), and higher there is less room.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

#include "arch/x86/image.h"
#include "arch/x86/layout.h"

#define SECTOR            512
#define HEADER_START      offsetof(struct boot_params, hdr)
#define HEADER_END_MIN    (HEADER_START + offsetof(struct setup_header, kernel_info_offset))
#define HEADER_END_MAX    offsetof(struct boot_params, edd_mbr_sig_buffer)
#define HEADER_LEN_OFFSET 0x201  /* the jump's displacement: from 0x202 to the header's end */
#define PROTOCOL_MIN      0x020c /* 2.12, Linux 3.8: has every field that is read here */
#define ENTRY64_OFFSET    0x200  /* boot.rst, 64-bit boot protocol */
#define JMP_SHORT         0xeb
#define BOOT_FLAG         0xaa55

static uint32_t le32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

/*
 * A kernel that is also an EFI program may carry a signature behind all that the setup header tells
 * of; the file is whole when that is there too (PE/COFF, optional header, "certificate table").
 */
static int signature_check(struct image *image, const uint8_t *head, size_t len, uint64_t file_size)
{
	if (memcmp(head, "MZ", 2))
		return 0;

	uint64_t optional = (uint64_t)le32(head + 0x3c) + 24;

	if (optional + 152 > len || memcmp(head + optional - 24, "PE\0", 4))
		return 0;

	bool plus = head[optional] == 0x0b && head[optional + 1] == 0x02; /* PE32+ */
	const uint8_t *directories = head + optional + (plus ? 112 : 96);

	if (le32(directories - 4) <= 4)
		return 0;
	return image_has(image, file_size, le32(directories + 32), le32(directories + 36));
}

int bzimage_parse(struct image *image, const uint8_t *head, size_t len, uint64_t file_size)
{
	const struct setup_header *hdr = &image->zero_page.hdr;
	size_t end = HEADER_LEN_OFFSET + 1 + head[HEADER_LEN_OFFSET];

	if (end > len)
		return image_refuse(image, "setup header ends at %#zx, beyond the file", end);
	if (end > HEADER_END_MAX)
		return image_refuse(image, "setup header ends at %#zx, beyond %#zx", end,
		                    HEADER_END_MAX);
	memcpy((uint8_t *)&image->zero_page + HEADER_START, head + HEADER_START,
	       end - HEADER_START);

	if (hdr->boot_flag != BOOT_FLAG || (hdr->jump & 0xff) != JMP_SHORT)
		return image_refuse(image, "setup header without its boot flag or jump");
	if (hdr->version < PROTOCOL_MIN)
		return image_refuse(image, "boot protocol %u.%02u is too old, 2.12 is needed",
		                    hdr->version >> 8, hdr->version & 0xff);
	if (end < HEADER_END_MIN)
		return image_refuse(image,
		                    "setup header ends at %#zx, too short for protocol %u.%02u",
		                    end, hdr->version >> 8, hdr->version & 0xff);
	if (!(hdr->loadflags & LOADED_HIGH))
		return image_refuse(image, "a zImage, loaded low; only a bzImage can be booted");

	uint64_t setup = ((hdr->setup_sects ? hdr->setup_sects : 4) + 1) * SECTOR;
	uint64_t size = hdr->syssize * 16ull;
	int err = image_has(image, file_size, setup, size);

	if (!err)
		err = signature_check(image, head, len, file_size);
	if (err)
		return err;
	if ((uint64_t)hdr->payload_offset + hdr->payload_length > size)
		return image_refuse(image, "payload ends at %#" PRIx64 " of %#" PRIx64 " bytes",
		                    (uint64_t)hdr->payload_offset + hdr->payload_length, size);
	if (!size || hdr->init_size < size)
		return image_refuse(image, "init_size %#x, but the kernel has %#" PRIx64 " bytes",
		                    hdr->init_size, size);
	if (!hdr->kernel_alignment || hdr->kernel_alignment & (hdr->kernel_alignment - 1) ||
	    hdr->pref_address & (hdr->kernel_alignment - 1))
		return image_refuse(image,
		                    "pref_address %#llx is not aligned to kernel_alignment %#x",
		                    hdr->pref_address, hdr->kernel_alignment);
	if (hdr->pref_address < LAYOUT_HIGH_RAM || hdr->pref_address > UINT32_MAX - hdr->init_size)
		return image_refuse(image, "pref_address %#llx is not between 1 MiB and 4 GiB",
		                    hdr->pref_address);

	image->segment[image->n_segments++] = (struct image_segment){
		.offset = setup,
		.filesz = size,
		.gpa = hdr->pref_address,
		.memsz = hdr->init_size,
	};
	image->entry[BOOT_LINUX32] = hdr->pref_address;
	if (hdr->xloadflags & XLF_KERNEL_64) {
		if (size <= ENTRY64_OFFSET)
			return image_refuse(image, "64-bit entry at 0x200 of %#" PRIx64 " bytes",
			                    size);
		image->entry[BOOT_LINUX64] = hdr->pref_address + ENTRY64_OFFSET;
	}
	return 0;
}
