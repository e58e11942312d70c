/* The benchmark guest's ELF, for bench/bench_run.c. */
	.section .rodata.bench_guest, "a"
	.globl bench_guest, bench_guest_len
bench_guest:
	.incbin "bench/guest.elf"
end:
	.balign 8
bench_guest_len:
	.quad end - bench_guest
	.section .note.GNU-stack, "", @progbits
