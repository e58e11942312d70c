/*
 * The way into ring 3, in as few ring-0 instructions as there can be: where a KVM emulates ring 0 each
 * takes a microsecond. Entered by the PVH protocol (Xen docs/misc/pvh.pandoc): 32-bit, flat, no paging,
 * EBX points to hvm_start_info.
 *
 * The first 4 MiB are mapped here, by tables that start zeroed. All else is ring 3's to write, to which
 * all memory belongs: the tables for 4 GiB, gates (main.c).
 *
 * What needs ring 0 later goes through one gate, INT3 with the routine in RDI: the emulator of KVM has
 * no INT n in long mode, but exceptions are delivered. ring0_halt waits for an interrupt with interrupts
 * enabled, ring0_wrmsr writes an MSR, ring0_paging switches to other tables. An interrupt is counted, and
 * no more.
 *
 * Other processors, where a job starts them, stay in ring 0 and 32 bits, asleep between interrupts of
 * their timers.
 */
#include "bench/guest/entry.h"

#define PTE	 0x07 /* present, writable, user (SDM vol. 3 §4.5) */
#define PDE_PAGE 0x80

#define CR4_PAE	      0x20
#define CR0_PG_PE     0x80000001
#define MSR_EFER      0xc0000080
#define EFER_LME      0x100
#define RFLAGS_IOPL_3 0x3002 /* IF clear: interrupts come while ring0_halt waits, never else */

#define HEAD	 0x100000 /* guest.ld */
#define TSS	 0x40	  /* from HEAD on; the GDT is before it */
#define IO_MAP	 104	  /* from TSS on */
#define PORTS	 0x10000
#define TSS_LIMIT (IO_MAP + PORTS / 8)
#define CS_RING0 0x08
#define SS_RING3 0x1b
#define CS_RING3 0x23
#define TR	 0x28
#define CS_RING0_32 0x38
#define SS_RING0 0x10

#define LAPIC	      0xfee00000
#define LAPIC_ID      0x20
#define LAPIC_EOI     0xb0
#define LAPIC_SVR     0xf0
#define LAPIC_TIMER   0x320
#define LAPIC_COUNT   0x380
#define LAPIC_DIVIDE  0x3e0
#define TIMER	      (0x20000 | VECTOR_DEVICE) /* periodic */
#define DIVIDE_BY_16  3
#define CR0_ET_PE     0x11
#define AP_STACK_BITS 6

	.section .head, "aw"
gdt:
	.quad 0
	.quad 0x00af9b000000ffff /* CS_RING0: 64-bit */
	.quad 0x00cf93000000ffff
	.quad 0x00cff3000000ffff /* SS_RING3 */
	.quad 0x00affb000000ffff /* CS_RING3: 64-bit */
	.quad 0x0000890000000000 | (HEAD + TSS) << 16 | TSS_LIMIT /* TR (SDM vol. 3 §8.2.3) */
	.quad 0
	.quad 0x00cf9b000000ffff /* CS_RING0_32 */
	.org TSS
	.long 0
	.quad ring0_stack_end /* RSP0 */
	.fill 90, 1, 0
	.word IO_MAP
	.fill PORTS / 8, 1, 0 /* all are allowed: IOPL is not enough where a KVM loses it at IRETQ */
	.byte 0xff

gdtr:
	.word TSS - 1
	.long gdt
idtr:
	.word 256 * 16 - 1
	.quad idt
ring3_frame: /* what IRETQ takes */
	.quad start, CS_RING3, RFLAGS_IOPL_3, ring3_stack_end, SS_RING3

	.section .text.entry, "ax"
	.code32
	.globl entry
entry:
	mov $PORT_MARKER, %edx
	mov $MARK_FIRST, %al
	out %al, %dx
	movl $pdpt + PTE, pml4
	movl $page_directory + PTE, pdpt
	movl $PTE | PDE_PAGE, page_directory
	movl $0x200000 | PTE | PDE_PAGE, page_directory + 8
	mov $CR4_PAE, %eax
	mov %eax, %cr4
	mov $pml4, %eax
	mov %eax, %cr3
	mov $MSR_EFER, %ecx
	mov $EFER_LME, %eax
	xor %edx, %edx
	wrmsr
	mov $CR0_PG_PE, %eax
	mov %eax, %cr0
	lgdt gdtr
	ljmp $CS_RING0, $1f
	.code64
1:	lidt idtr
	mov $TR, %eax
	ltr %ax
	mov $ring3_frame, %esp
	iretq

start:	/* ring 3 */
	mov %ebx, %edi
	xor %ebp, %ebp
	call guest_main
1:	jmp 1b

	.globl gate, ring0_nothing, ring0_halt, ring0_wrmsr, ring0_paging, interrupt, faults
gate:
	jmp *%rdi

ring0_nothing:
	iretq

ring0_halt:
	sti
halt:	hlt
	iretq

ring0_wrmsr:
	wrmsr
	iretq

ring0_paging:
	mov %rax, %cr3
	iretq

interrupt:
	incq interrupts(%rip)
	cmpq $halt, (%rsp)	/* an emulator took it between STI and HLT, */
	jne 1f
	incq (%rsp)		/* which then has nothing to wait for */
1:	iretq

/* An exception: on to guest_fault() in ring 3 with the vector, two words of the frame and CR2. */
	.balign 8
faults:
	.set vector, 0
	.rept 32
	push $vector
	jmp fault
	.balign 8
	.set vector, vector + 1
	.endr

fault:
	pop %rdi
	pop %rsi
	pop %rdx
	mov %cr2, %rcx
	movq $guest_fault, ring3_frame
	mov $ring3_frame, %esp
	iretq

/* From here to ap_end is copied to AP_PAGE. */
	.globl ap_start, ap_end, ap_interrupt
	.code16
ap_start:
	cli
	lgdtl %cs:ap_gdtr - ap_start
	mov $CR0_ET_PE, %eax
	mov %eax, %cr0
	ljmpl $CS_RING0_32, $ap_protected
ap_gdtr:
	.word TSS - 1
	.long gdt
ap_end:

	.code32
ap_protected:
	mov $SS_RING0, %eax
	mov %eax, %ds
	mov %eax, %ss
	mov LAPIC + LAPIC_ID, %esp
	shr $24, %esp
	inc %esp
	shl $AP_STACK_BITS, %esp
	add $ap_stacks, %esp
	lidt ap_idtr
	movl $0x1ff, LAPIC + LAPIC_SVR
	movl $DIVIDE_BY_16, LAPIC + LAPIC_DIVIDE
	movl $TIMER, LAPIC + LAPIC_TIMER
	mov idle_timer, %eax
	mov %eax, LAPIC + LAPIC_COUNT
	lock incl ap_count
ap_sleep:
	sti
	hlt
	jmp ap_sleep

ap_interrupt:	/* KVM's emulator has no IRET in protected mode: back to sleep without */
	add $12, %esp
	lock incl ap_interrupts
	movl $0, LAPIC + LAPIC_EOI
	jmp ap_sleep
ap_idtr:
	.word (VECTOR_DEVICE + 1) * 8 - 1
	.long ap_idt
	.code64

	.bss
	.balign 4096
	.globl idt, interrupts, ap_idt, ap_count, ap_interrupts, idle_timer
pml4:
	.skip 4096
pdpt:
	.skip 4096
page_directory:
	.skip 4096
idt:
	.skip 256 * 16
interrupts:
	.skip 8
ap_count:
	.skip 4
ap_interrupts:
	.skip 4
idle_timer:
	.skip 4
	.balign 8
ap_idt:
	.skip (VECTOR_DEVICE + 1) * 8
ap_stacks:
	.skip 256 << AP_STACK_BITS
	.balign 16
	.skip 512
ring0_stack_end:
	.skip 16384
	.balign 16
ring3_stack_end:

	.section .note.pvh, "a", @note
	.long 4, 8, 18 /* XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz "Xen"
	.quad entry
	.section .note.GNU-stack, "", @progbits
