# shellcheck shell=sh disable=SC2015,SC2034,SC2154 # names go both ways between lib.sh and the tests
# What boots: kernels, images, CPUs, memory, protocols, and the kernel's switches for tables and interrupts.

# Lines about trouble that a guest may log: they are there on good hardware, too.
harmless='DMI not present|RAS: Correctable|Speculative|Spectre|RETBleed|mitigation|usercopy|debug|if necessary, use "pci=nocrs"|error injection|(fault|error) (report|inject)|printk: bootconsole|audit|module verification|TLB invalidation'

# boots KERNEL CPUS MEGABYTES [PARAMETERS [ARG...]]: the guest must see exactly that machine, and have nothing to complain of.
boots() {
	kernel=$KRING_CACHE/$1
	cpus=$2
	megabytes=$3
	parameters=${4-}
	[ $# -lt 4 ] || shift
	shift 3
	need_kernel "$kernel"
	guest -k "$kernel" -c "$cpus" -m "${megabytes}M" --append "$parameters kring.job=report" "$@"
	expect_status 0
	report
	expect_value cpus "$cpus"
	missing=$((megabytes * 1024 - $(ram_kb)))
	[ $missing -ge 0 ] && [ $missing -le 1024 ] || fail "the guest sees $(ram_kb) KiB of $megabytes MiB"
	! grep '^dmesg=' report | grep -viE "$harmless" >unwanted || fail "the guest's log: $(head -n 1 unwanted)"
}

# with_acpi: the tables are all there, and what comes from them.
with_acpi() {
	for table in APIC DSDT FACP MCFG; do
		grep -q "^acpi=$table" report || fail "the guest has no ACPI table $table"
	done
	grep -qE '^iomem=.*(MMCONFIG|ECAM)' report || fail 'the guest does not use ECAM'
	grep -qE '^interrupts= *[0-9]+:.*IO-APIC.* ttyS0' report || fail 'ttyS0 does not interrupt through the IO-APIC'
	with_clock
	expect_value hypervisor KVM
}

with_clock() {
	expect_value clocksource 'kvm-clock|tsc'
	off=$(($(date +%s) - $(value epoch)))
	[ $off -ge -2 ] && [ $off -le 20 ] || fail "the guest's clock is $off s off"
}

# Each pair of kernel, image, CPUs and memory once.
test_boot_5_10_bzimage_1_128m() { boots vmlinuz-5.10 1 128 && with_acpi; }
test_boot_5_10_vmlinux_2_1g() { boots vmlinux-5.10 2 1024 && with_acpi; }
test_boot_5_10_bzimage_4_6g() { boots vmlinuz-5.10 4 6144 && with_acpi; }
test_boot_6_1_vmlinux_1_1g() { boots vmlinux-6.1 1 1024 && with_acpi; }
test_boot_6_1_bzimage_2_6g() { boots vmlinuz-6.1 2 6144 && with_acpi; }
test_boot_6_1_vmlinux_4_128m() { boots vmlinux-6.1 4 128 && with_acpi; }
test_boot_6_12_vmlinux_1_6g() { boots vmlinux-6.12 1 6144 && with_acpi; }
test_boot_6_12_bzimage_2_128m() { boots vmlinuz-6.12 2 128 && with_acpi; }
test_boot_6_12_bzimage_4_1g() { boots vmlinuz-6.12 4 1024 && with_acpi; }
test_boot_minimal_bzimage() { boots vmlinuz-minimal 1 256 && with_acpi; }
test_boot_minimal_vmlinux() { boots vmlinux-minimal 2 256 && with_acpi; }
test_boot_many_cpus() { boots vmlinuz-minimal 16 512 && with_acpi; }

# The default of one CPU and 1 GiB, sizes in gokvm's unit.
test_boot_defaults() {
	need_kernel "$minimal"
	guest -k "$minimal" --append kring.job=report
	expect_status 0
	report
	expect_value cpus 1
	[ "$(ram_kb)" -gt $((1023 * 1024)) ] && [ "$(ram_kb)" -le $((1024 * 1024)) ] || fail "$(ram_kb) KiB is not 1 GiB"
}

test_boot_long_names() {
	need_kernel "$minimal"
	kring boot --kernel "$minimal" --initrd "$initrd" --cpus 2 --memory 192m --timeout 80 \
		--cmdline 'console=ttyS0 kring.job=report'
	expect_status 0
	report
	expect_value cpus 2
	expect_value cmdline 'console=ttyS0 kring.job=report *'
}

test_protocol_linux64_bzimage() { boots vmlinuz-minimal 1 256 '' --protocol linux64; }
test_protocol_linux32_bzimage() { boots vmlinuz-minimal 1 256 '' --protocol linux32; }
test_protocol_linux64_vmlinux() { boots vmlinux-minimal 1 256 '' --protocol linux64; }
test_protocol_pvh_vmlinux() { boots vmlinux-minimal 2 256 '' --protocol pvh; }
test_protocol_pvh_stock() { boots vmlinux-6.1 1 256 '' --protocol pvh; }
test_protocol_pvh_above_the_hole() { boots vmlinux-minimal 1 6144 '' --protocol pvh; }
test_protocol_linux32_stock() { boots vmlinuz-6.1 1 256 '' --protocol linux32; }

# The MP table in place of ACPI: the stock cloud kernels are built without.
test_acpi_off_1() { boots vmlinuz-minimal 1 256 'acpi=off kring.end=reboot' && without_acpi; }
test_acpi_off_4() { boots vmlinux-minimal 4 256 'acpi=off kring.end=reboot' && without_acpi; }

without_acpi() {
	! grep -q '^acpi=' report || fail 'there are ACPI tables with acpi=off'
	grep -qE '^interrupts= *[0-9]+:.*IO-APIC.* ttyS0' report || fail 'ttyS0 does not interrupt through the IO-APIC'
	with_clock
}

test_noapic_minimal() { boots vmlinuz-minimal 1 256 noapic && without_ioapic; }
test_noapic_stock() { boots vmlinuz-6.1 2 256 noapic && without_ioapic; }

without_ioapic() {
	grep -qE '^interrupts= *4:.*XT-PIC.* ttyS0' report || fail 'ttyS0 does not interrupt through the PIC'
}

# gokvm's own command line is loud by design: only the machine is looked at.
gokvm_boots() {
	need_kernel "$KRING_CACHE/$1"
	guest -k "$KRING_CACHE/$1" -c 2 -m 1 -p "$gokvm_cmdline kring.job=report"
	expect_status 0
	report
	expect_value cpus 2
}
test_gokvm_cmdline_minimal() { gokvm_boots vmlinuz-minimal; }
test_gokvm_cmdline_stock() { gokvm_boots vmlinuz-6.1; }

# A command line of 2047 bytes, the x86 kernel's limit less its NUL, arrives whole.
test_cmdline_long() {
	need_kernel "$minimal"
	cmdline='console=ttyS0 kring.job=report kring.fill='
	while [ ${#cmdline} -lt 2047 ]; do
		cmdline=${cmdline}x
	done
	guest -k "$minimal" -p "$cmdline"
	expect_status 0
	report
	expect_value cmdline "$cmdline"
}

# A line every hundred instructions: address, bytes, registers.
test_trace() {
	need_kernel "$minimal"
	deadline=20
	kring boot -k "$minimal" -i "$initrd" -T 100 --timeout 3 --console none --append kring.job=idle
	expect_status 124
	[ "$(grep -c . err)" -gt 10 ] || fail "only $(grep -c . err) lines of trace"
}
