# shellcheck shell=sh disable=SC2015,SC2034,SC2154 # names go both ways between lib.sh and the tests
# What guest tests are written with. A test is a function test_NAME, in a directory of its own, in a shell of its
# own; it boots guests with `guest` and says what it expects. The first expectation that is not met ends it.
# Runs under busybox sh in the lab and under dash on a host: nothing here may need more.
#
# Set by tests/guest/run: KRING, the binary; KRING_CACHE, where kernels are; name, the test; LAB_OUT, for JSON files.

initrd=$KRING_CACHE/guest.cpio
minimal=$KRING_CACHE/vmlinuz-minimal

# The command line that gokvm gives by default (gokvm, flag/flag.go).
gokvm_cmdline='console=ttyS0 earlyprintk=serial noapic noacpi notsc nowatchdog nmi_watchdog=0 debug apic=debug
show_lapic=all mitigations=off lapic tsc_early_khz=2000
dyndbg="file arch/x86/kernel/smpboot.c +plf ; file drivers/net/virtio_net.c +plf" pci=realloc=off
virtio_pci.force_legacy=1 rdinit=/init init=/init gokvm.ipv4_addr=192.168.20.1/24'
gokvm_cmdline=$(echo "$gokvm_cmdline" | tr '\n' ' ')

# Seconds that a guest may take. A stock kernel needs 10 in the lab.
deadline=90

# fail WHY...: ends the test, with what its last guest left.
fail() {
	for file in out err; do
		[ -s $file ] || continue
		echo "    $file:"
		tail -n 25 $file | tail -c 4096 | tr -cd '\11\12\40-\176' | sed 's/^/	/'
	done >details
	echo "$*" >why
	exit 1
}

skip() {
	echo "$*" >why
	exit 77
}

# need_kernel FILE...: skips where the cache has none, as when a release is gone from the mirror.
need_kernel() {
	for file; do
		[ -e "$file" ] || skip "no ${file##*/} in the cache: tests/lab/kernels and bench/guest-kernel.sh get them"
	done
}

# need_tools: for jobs/disk, which runs what the test wrote to the file named job among fio and the like. The guest's
# last disk must be $tools.
tools=$KRING_CACHE/disktools.ext4,readonly,serial=disktools
need_tools() {
	[ -e "$KRING_CACHE/disktools.ext4" ] || skip 'no tools for guests in the cache: tests/lab/disktools makes them'
}

# kring ARG...: runs it to its end, or the deadline. Leaves $status and the files out and err. Input comes from the
# file named by $input.
input=/dev/null
kring() {
	echo "kring $*" >ran
	status=0
	timeout -s KILL "$deadline" "$KRING" "$@" <"$input" >out 2>err || status=$?
}

# guest ARG...: kring boot with the test's initramfs and a limit of its own.
guest() {
	kring boot -i "$initrd" --timeout $((deadline - 5)) "$@"
}

# job_initrd [ARCHIVE]: puts the file named job, those named in $files, and the archive into the guest's initramfs.
job_initrd() {
	cat "$initrd" "$@" >job.cpio
	# shellcheck disable=SC2086 # a list
	printf '%s\n' job ${files-} | cpio -o -H newc >>job.cpio 2>/dev/null
	initrd=job.cpio
}

# guest_start ARG...: the same in the background; $pid is kring's. guest_end waits for it.
guest_start() {
	echo "kring boot $*" >ran
	"$KRING" boot -i "$initrd" --timeout $((deadline - 5)) "$@" <"$input" >out 2>err &
	pid=$!
}

guest_end() {
	status=0
	wait "$pid" || status=$?
	pid=
}

# wait_for PATTERN [FILE]: until a line of the output matches; the test fails when kring ends before that.
wait_for() {
	tries=0
	until grep -qE "$1" "${2:-out}"; do
		kill -0 "$pid" 2>/dev/null || fail "kring ended before '$1' was seen"
		tries=$((tries + 1))
		[ $tries -lt $((deadline * 5)) ] || {
			kill -KILL "$pid"
			fail "'$1' was not seen in $deadline s"
		}
		sleep 0.2
	done
}

# expect_passed: the job came to its end under jobs/disk, and each command of it went well.
expect_passed() {
	expect_status 0
	expect_line out '^KRING-PASSED$'
}

expect_status() {
	[ "$status" = "$1" ] || fail "exit status $status, not $1"
}

# expect_line FILE PATTERN: some line of it matches.
expect_line() {
	tr -d '\r' <"$1" | grep -qE "$2" || fail "no line of $1 matches '$2'"
}

expect_no_line() {
	! tr -d '\r' <"$1" | grep -E "$2" >unwanted || fail "$1 has a line '$(head -n 1 unwanted)'"
}

expect_same() {
	cmp "$1" "$2" >differ 2>&1 || fail "$(cat differ)"
}

# report: takes the report job's lines from out to the file report.
report() {
	tr -d '\r' <out | sed -n '/^KRING-REPORT-BEGIN$/,/^KRING-REPORT-END$/p' >report
	grep -q '^KRING-REPORT-END$' report || fail 'no whole report from the guest'
}

# value KEY: prints the report's value.
value() {
	sed -n "s/^$1=//p" report | head -n 1
}

expect_value() {
	value "$1" | grep -qxE "$2" || fail "the guest has $1=$(value "$1"), not $2"
}

# queue_counts DEVICE KEY: what each of its queues has to say of that in stats.json, a line each.
queue_counts() {
	awk -v device="\"$1\"" -v key="\"$2\": " '
		/"name":/ { on = index($0, device) }
		on && (at = index($0, key)) { print substr($0, at + length(key)) + 0 }' stats.json
}

# expect_queues DEVICE KEY N MINIMUM: each of its first N queues has that much of it.
expect_queues() {
	counts=$(queue_counts "$1" "$2" | head -n "$3" | tr '\n' ' ')
	echo "$name: $2 of the queues of $1: $counts" | tee -a "$LAB_OUT/queues"
	# shellcheck disable=SC2086 # numbers
	set -- "$3" "$4" $counts
	[ $# = $(($1 + 2)) ] || fail "not $1 queues in stats.json"
	least=$2
	shift 2
	for count; do
		[ "$count" -ge "$least" ] || fail "a queue has had $count, not $least: $counts"
	done
}

# ram_kb: the memory that the guest's map shows, in KiB.
ram_kb() {
	total=0
	# shellcheck disable=SC2013 # no blanks in them
	for range in $(sed -n 's/^iomem=\([0-9a-f]*-[0-9a-f]*\) : System RAM$/\1/p' report); do
		total=$((total + 0x${range#*-} + 1 - 0x${range%-*}))
	done
	echo $((total / 1024))
}
