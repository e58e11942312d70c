# shellcheck shell=sh disable=SC2016,SC2034,SC2154 # see lib.sh; what is quoted is the guest's
# The virtio devices under their real drivers, in the minimal kernel that has them built in.

# shell_guest COMMANDS ARG...: a shell in the guest that runs COMMANDS; its output without what the console echoes.
shell_guest() {
	need_kernel "$minimal"
	{
		echo 'stty -echo; PS1='
		echo "$1"
		echo 'sleep 1; poweroff -f'
	} >commands
	shift
	input=commands
	guest -k "$minimal" -m 256m --append kring.job=shell "$@"
	tr -d '\r' <out >plain
}

# digest FILE: of a file here.
digest() {
	sha256sum "$1" | cut -d' ' -f1
}

test_disk_write_read() {
	truncate -s 32M disk
	dd if=/dev/urandom of=other bs=1024 count=512 2>/dev/null
	shell_guest 'dd if=/dev/urandom of=/dev/vda bs=1M count=8; sync; sha256sum /dev/vda /dev/vdb; cat /sys/block/vda/serial' \
		-d disk,serial=KRING-1 -d other,readonly --stats "$LAB_OUT/disk.json"
	expect_status 0
	grep -q "$(digest disk)  /dev/vda" plain || fail 'the image is not what the guest wrote'
	grep -q "$(digest other)  /dev/vdb" plain || fail 'the guest does not read what is in the image'
	grep -q KRING-1 plain || fail 'no serial number'
}

test_disk_readonly() {
	truncate -s 1M disk
	before=$(digest disk)
	shell_guest 'cat /sys/block/vda/ro | sed s/^/ro=/; dd if=/dev/urandom of=/dev/vda bs=4k count=1 || echo refused' -d disk,readonly
	expect_status 0
	grep -q '^ro=1' plain || fail 'the guest does not know'
	grep -q refused plain || fail 'it wrote'
	[ "$before" = "$(digest disk)" ] || fail 'the image has changed'
}

test_disk_two_writers() {
	need_kernel "$minimal"
	truncate -s 1M disk
	guest_start -k "$minimal" -m 128m -d disk --append kring.job=idle
	wait_for KRING-IDLE
	kring boot -k "$minimal" -d disk
	kill "$pid"
	wait "$pid" || :
	expect_status 125
	grep -q '^kring: .*disk' err || fail 'no line that names the image'
}

# fsync in the guest, kill -9 of kring: what was synced is in the image.
test_disk_fsync_survives() {
	need_kernel "$minimal"
	truncate -s 8M disk
	mkfifo pipe
	input=pipe
	guest_start -k "$minimal" -m 128m -d disk --append kring.job=shell
	exec 4>pipe
	wait_for 'exit powers off'
	echo 'yes kring | dd of=/dev/vda bs=4k count=512 iflag=fullblock conv=fsync && echo is-$((1+1))-synced' >&4
	wait_for '^is-2-synced'
	kill -KILL "$pid"
	wait "$pid" || :
	exec 4>&-
	yes kring | head -c 2097152 >want
	head -c 2097152 disk | cmp -s - want || fail 'bytes that were synced are lost'
}

test_rng() {
	shell_guest 'cat /sys/class/misc/hw_random/rng_current; dd if=/dev/hwrng bs=32 count=1 | od -An -tx1 | sed s/^/rng/'
	expect_status 0
	grep -q virtio_rng plain || fail 'no virtio-rng'
	[ "$(grep -c '^rng [0-9a-f]' plain)" -eq 2 ] || fail 'no random bytes'
}

test_net_ping() {
	[ -c /dev/net/tun ] || skip 'no /dev/net/tun'
	need_kernel "$minimal"
	mkfifo pipe
	input=pipe
	guest_start -k "$minimal" -m 128m -t kr0,mac=52:54:00:00:00:02 --append kring.job=shell
	exec 4>pipe
	wait_for 'exit powers off'
	ip addr add 192.0.2.1/24 dev kr0 || fail 'the tap is not there'
	ip link set kr0 up
	echo 'ip addr add 192.0.2.2/24 dev eth0; ip link set eth0 up; cat /sys/class/net/eth0/address; for i in 1 2 3 4 5 6 7 8 9; do ping -c 1 -W 1 192.0.2.1 && break; done; ping -c 3 192.0.2.1 | sed s/^/ping-/; echo is-$((1+1))-done' >&4
	wait_for '^is-2-done'
	ping -c 2 -W 2 192.0.2.2 >/dev/null || fail 'no answer from the guest'
	echo 'poweroff -f' >&4
	guest_end
	exec 4>&-
	expect_status 0
	expect_line out '^ping-3 packets transmitted, 3'
	grep -q 52:54:00:00:00:02 out || fail 'another MAC address'
	[ ! -e /sys/class/net/kr0 ] || fail 'the tap is still there'
}
