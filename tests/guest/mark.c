/*
 * The guest's first program: writes a byte to kring's marker port, which `kring boot --timings`
 * records with the time from exec.
 *
 * As PID 1 (/init of the test initramfs) it marks 1, "init reached", before anything else happens,
 * and then becomes the shell that runs /jobs/init. From a shell `mark N` marks N, and `mark N PORT`
 * writes to another port; the exit status is 1 where the port is refused.
 *
 * Freestanding: no libc start-up lies between the kernel and the mark.
 */
#include <asm/unistd.h>

#define MARKER_PORT 0x4b52

static long syscall3(long number, long a, long b, long c)
{
	long result;

	__asm__ volatile("syscall"
	                 : "=a"(result)
	                 : "a"(number), "D"(a), "S"(b), "d"(c)
	                 : "rcx", "r11", "memory");
	return result;
}

static int mark(long value, long port)
{
	if (syscall3(__NR_ioperm, port, 1, 1) < 0)
		return 1;
	__asm__ volatile("outb %b0, %w1" : : "a"(value), "Nd"(port));
	return 0;
}

static long number(const char *s)
{
	long value = 0;

	while (*s >= '0' && *s <= '9')
		value = value * 10 + (*s++ - '0');
	return value;
}

/* The stack as the kernel leaves it (x86-64 psABI §3.4.1): argc, argv, NULL, envp, NULL. */
__attribute__((used)) static void start(long *stack)
{
	static const char *const shell[] = { "sh", "/jobs/init", 0 };
	const char **argv = (const char **)(stack + 1);
	long argc = stack[0];
	int failed;

	if (syscall3(__NR_getpid, 0, 0, 0) == 1) {
		mark(1, MARKER_PORT);
		syscall3(__NR_execve, (long)"/bin/busybox", (long)shell, (long)(argv + argc + 1));
	}
	failed = mark(argc > 1 ? number(argv[1]) : 1, argc > 2 ? number(argv[2]) : MARKER_PORT);
	syscall3(__NR_exit, failed, 0, 0);
	__builtin_unreachable();
}

__asm__(".globl _start\n"
        "_start:\n"
        "	xor %ebp, %ebp\n"
        "	mov %rsp, %rdi\n"
        "	and $-16, %rsp\n"
        "	call start\n");
