# shellcheck shell=sh disable=SC2015,SC2034,SC2154 # names go both ways between lib.sh and the tests
# Bad input: one clear line of kring's that names the culprit, a status that says whose fault, nothing left behind.

# files: all that a run may leave, but what the test itself writes.
files() {
	find . /dev/shm /tmp -maxdepth 1 ! -name out ! -name err ! -name ran
}

# refuses STATUS WORD ARG...: kring ARG... must end with that status, at once, and with one line that has WORD in it.
refuses() {
	want=$1
	word=$2
	shift 2
	mkdir -p empty
	deadline=25
	before=$(files)
	kring "$@"
	[ "$status" = "$want" ] || fail "kring $*: exit status $status, not $want"
	[ ! -s out ] || fail "kring $*: something on standard output"
	[ "$(grep -c . err)" = 1 ] || fail "kring $*: $(grep -c . err) lines on standard error, not 1"
	grep -q '^kring: ' err || fail "kring $*: the line does not begin with 'kring: '"
	grep -qiF -e "$word" err || fail "kring $*: the line does not name '$word'"
	[ "$before" = "$(files)" ] || fail "kring $*: files were left behind"
}

test_input_kernel_missing() {
	refuses 125 none/vmlinuz boot -k none/vmlinuz
	: >empty-file
	refuses 125 empty-file boot -k empty-file
	mkdir directory
	refuses 125 directory boot -k directory
	refuses 125 ./bzImage boot
	refuses 125 /dev/null boot -k /dev/null
}

test_input_kernel_is_something_else() {
	refuses 125 "${initrd##*/}" boot -k "$initrd"
	head -c 100000 /dev/zero >zeros
	refuses 125 zeros boot -k zeros
	echo 'this is no kernel' >text
	refuses 125 text boot -k text
	refuses 125 busybox boot -k "$(command -v busybox || echo "$KRING")" -i "$initrd"
}

# A kernel of another architecture, and one of 32 bits.
test_input_kernel_wrong_machine() {
	need_kernel "$KRING_CACHE/vmlinux-minimal"
	for patch in '18 \267' '4 \001' '5 \002' '16 \001'; do
		cp "$KRING_CACHE/vmlinux-minimal" patched
		# shellcheck disable=SC2059 # an escape
		printf "${patch#* }" | dd of=patched bs=1 seek="${patch% *}" conv=notrunc 2>/dev/null
		refuses 125 patched boot -k patched --timeout 10
	done
}

# truncated KERNEL BYTES...: cut off there, it is refused.
truncated() {
	need_kernel "$1"
	file=$1
	shift
	for size; do
		head -c "$size" "$file" >short
		refuses 125 short boot -k short --timeout 10
	done
}

test_input_bzimage_truncated() {
	size=$(wc -c <"$minimal")
	truncated "$minimal" 1 2 511 512 513 575 576 600 1024 4096 16384 65536 $((size / 2)) $((size - 1))
}

test_input_vmlinux_truncated() {
	size=$(wc -c <"$KRING_CACHE/vmlinux-minimal")
	truncated "$KRING_CACHE/vmlinux-minimal" 1 4 15 16 63 64 65 100 232 4096 2097152 $((size / 2))
}

test_input_initrd() {
	need_kernel "$minimal"
	refuses 125 none boot -k "$minimal" -i none
	mkdir directory
	refuses 125 directory boot -k "$minimal" -i directory
	head -c 40000000 /dev/zero >big
	refuses 125 big boot -k "$minimal" -i big -m 64M
}

test_input_memory() {
	need_kernel "$minimal"
	for size in 0 0M -1 x '' 1T 1Q 99999999999G 18446744073709551616 1.5G ' 1G' 1G1 M; do
		refuses 2 memory boot -k "$minimal" -m "$size"
	done
	# What the option allows and the kernel or the host cannot have.
	refuses 125 memory boot -k "$minimal" -m 1M
	refuses 125 memory boot -k "$minimal" -m 32768G
}

test_input_cpus() {
	need_kernel "$minimal"
	for n in 0 -1 x '' 255 9999 99999999999999999999 1.5 2G; do
		refuses 2 cpus boot -k "$minimal" -c "$n"
	done
}

test_input_cmdline() {
	need_kernel "$minimal"
	cmdline=$(head -c 70000 /dev/zero | tr '\000' x)
	refuses 125 'command line' boot -k "$minimal" -p "$cmdline"
	refuses 125 'command line' boot -k "$minimal" --append "$cmdline"
}

test_input_options() {
	refuses 2 frob frob
	refuses 2 --frob boot --frob
	refuses 2 --kernel boot -k
	refuses 2 surplus boot surplus
	refuses 2 protocol boot --protocol mbr
	refuses 2 timeout boot --timeout x
	refuses 2 timeout boot --timeout 0
	refuses 2 timeout boot --timeout -3
	refuses 2 reboot boot --reboot perhaps
	refuses 2 trace boot -T x
	refuses 2 memory boot -m 1G -m 2G
	refuses 2 'boot' ''
	kring
	expect_status 2
	[ "$(grep -c . err)" = 1 ] || fail 'kring without arguments: not one line'
}

test_input_help() {
	for words in --help 'boot --help' 'probe --help' --version; do
		# shellcheck disable=SC2086 # words
		kring $words
		expect_status 0
		[ -s out ] && [ ! -s err ] || fail "kring $words: not on standard output"
		[ "$words" != --help ] || [ "$(grep -c '' out)" -le 24 ] || fail 'kring --help does not fit a screen'
	done
}

test_input_dev() {
	need_kernel "$minimal"
	refuses 125 none boot -k "$minimal" -D none
	refuses 125 /dev/null boot -k "$minimal" -D /dev/null
	: >file
	refuses 125 file boot -k "$minimal" -D file
}

test_input_files_to_write() {
	need_kernel "$minimal"
	refuses 125 none/log boot -k "$minimal" --console none/log --timeout 10
	refuses 125 none/timings boot -k "$minimal" --timings none/timings --console none --timeout 10
}
