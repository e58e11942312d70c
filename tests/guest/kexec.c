/*
 * The guest's way to another kernel: `kexec KERNEL INITRD CMDLINE` starts it at once. What the
 * devices are about is not asked, and file systems are not written back.
 */
#include <asm/unistd.h>
#include <fcntl.h>
#include <linux/reboot.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc != 4)
		return 2;

	int kernel = open(argv[1], O_RDONLY);
	int initrd = open(argv[2], O_RDONLY);

	if (syscall(__NR_kexec_file_load, kernel, initrd, strlen(argv[3]) + 1, argv[3], 0L) == 0)
		syscall(__NR_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2,
		        LINUX_REBOOT_CMD_KEXEC, 0);
	perror("kexec");
	return 1;
}
