# shellcheck shell=sh disable=SC2015,SC2016,SC2034,SC2154 # see lib.sh; what is quoted is the guest's
# All devices at once: drivers that come and go, machines that start over, and time that passes, under load and without.

# Each driver lets go of its device a hundred times while requests are under way, and takes it back. Another disk is
# written to all the time, and must not notice.
test_load_rebind() {
	need_taps
	need_kernel "$minimal"
	need_tools
	truncate -s 16M a.img b.img
	cat >job <<-END
		# rebind DEVICE DRIVER: the functions load and back are what comes before and after.
		rebind() {
			n=0
			while [ \$n -lt 100 ]; do
				n=\$((n + 1))
				load
				echo \$1 >/sys/bus/virtio/drivers/\$2/unbind
				wait
				echo \$1 >/sys/bus/virtio/drivers/\$2/bind
				back
			done
			echo "KRING-REBOUND \$2 \$n"
		}
		device_of() {
			basename /sys/bus/virtio/drivers/\$1/virtio*
		}
		(
			device=\$(basename "\$(readlink /sys/block/vda/device)")
			load() {
				disk=/dev/\$(ls /sys/bus/virtio/devices/\$device/block)
				[ -b \$disk ]
				exec 5<\$disk 6>\$disk # before the node goes, or it would be made, as a file
				dd of=/dev/null bs=64k <&5 2>/dev/null &
				dd if=/dev/zero bs=64k count=64 >&6 2>/dev/null &
				exec 5<&- 6>&-
			}
			back() { :; }
			rebind \$device virtio_blk
			dd if=/dev/\$(ls /sys/bus/virtio/devices/\$device/block) of=/dev/null bs=64k
		) &
		(
			load() { :; }
			back() {
				ip addr add 192.0.2.2/24 dev eth0
				ip link set eth0 up
			}
			back
			rebind \$(device_of virtio_net) virtio_net
			until ping -c 1 -W 1 192.0.2.1 >/dev/null; do sleep 0.2; done
			$fetch
			$send
		) &
		(
			load() {
				dd if=/dev/hwrng of=/dev/null bs=512 count=8 2>/dev/null &
			}
			back() { :; }
			rebind \$(device_of virtio_rng) virtio_rng
			dd if=/dev/hwrng bs=32 count=1 | wc -c | sed 's/^/KRING-RANDOM /'
		) &
		while :; do ping -A -s 1400 192.0.2.1 || :; done >/dev/null 2>&1 &
		streams=\$!
		while [ ! -e /tmp/over ]; do
			fio --filename=/dev/vdb --ioengine=io_uring --direct=1 --rw=randwrite --bs=4k --iodepth=8 --size=2m \\
				--verify=crc32c --verify_fatal=1 --verify_state_save=0 --name=a >log || { cat log; exit 1; }
			echo KRING-VERIFIED
		done &
		verify=\$!
		wait %1 %2 %3
		touch /tmp/over
		wait \$verify
		kill \$streams
		grep virtio /proc/interrupts
	END
	job_initrd
	deadline=180
	guest_start -k "$minimal" -m 256M -c 2 --append kring.job=disk -t kr0 -d a.img -d b.img -d "$tools"
	cards kr0
	serve "$minimal" 1000000
	flood
	guest_end
	expect_passed
	for driver in blk net rng; do
		expect_line out "^KRING-REBOUND virtio_$driver 100$"
	done
	expect_line out '^KRING-RANDOM 32$'
	expect_line out '^KRING-VERIFIED'
	expect_digests 2
}

# reboots KERNEL COMMAND: the machine starts over with requests under way, 20 times, every other time with no driver told
# (reset by SysRq), else after that command: kring, its tap and what is connected to that stay. What a boot has synced,
# the last one finds.
reboots() {
	need_taps
	kernel=$KRING_CACHE/$1
	need_kernel "$kernel"
	need_tools
	truncate -s 64M a.img
	cat >job <<-END
		record() { # N
			yes "boot \$1" | head -c 65536
		}
		$up
		n=\$((\$(dd if=/dev/vda bs=512 count=1 2>/dev/null | tr -d '\0 ') + 1))
		printf '%-512s' \$n | dd of=/dev/vda bs=512 count=1 conv=fsync 2>/dev/null
		record \$n | dd of=/dev/vda bs=64k seek=\$n conv=fsync 2>/dev/null
		echo "KRING-BOOT \$n"
		if [ \$n = 21 ]; then
			while [ \$n -gt 0 ]; do
				record \$n >want
				dd if=/dev/vda bs=64k skip=\$n count=1 2>/dev/null | cmp - want && echo KRING-FOUND
				n=\$((n - 1))
			done
			$fetch
			$send
			poweroff -f
		fi
		$streams
		for at in 1 2 3; do
			while :; do
				dd if=/dev/zero of=/dev/vda bs=64k count=64 seek=\$((at * 64)) conv=fsync 2>/dev/null
			done &
		done
		dd if=/dev/hwrng of=/dev/null bs=512 &
		sleep 0.4
		if [ \$((n % 2)) = 0 ]; then
			$2
			reboot -f
		fi
		echo b >/proc/sysrq-trigger
	END
	deadline=180
	job_initrd "$KRING_CACHE/disktools.cpio"
	guest_start -k "$kernel" -m 128M --reboot restart -d a.img -t kr0 --append 'kring.job=sh kring.sh=. /job'
	cards kr0
	serve "$minimal"
	flood
	before=$(cat /sys/class/net/kr0/ifindex)
	wait_for 'KRING-BOOT 21'
	[ "$(cat /sys/class/net/kr0/ifindex)" = "$before" ] || fail 'it is another tap after a reboot'
	guest_end
	expect_status 0
	[ "$(grep -c KRING-BOOT out)" = 21 ] || fail "$(grep -c KRING-BOOT out) boots"
	[ "$(grep -c KRING-FOUND out)" = 21 ] || fail "$(grep -c KRING-FOUND out) of 21 boots have left what they synced"
	expect_digests 2
}

test_load_reboot() { reboots vmlinuz-minimal 'ip link set eth0 down'; } # see jobs/init
test_load_reboot_6_12() { reboots vmlinux-6.12 :; } # which need not unpack itself each time

# Everything for a while: SOAK_SECONDS, 300 where nobody says otherwise (`make soak`: an hour). One disk is under
# fio, which verifies; the other one and the card are let go and taken back all the time, between writes to the one and
# amid transfers of the other.
test_load_soak() {
	need_taps
	need_kernel "$minimal"
	need_tools
	truncate -s 64M a.img b.img
	cat >job <<-END
		seconds=${SOAK_SECONDS:-300}
		$up
		fetch() {
			$fetch
		}
		send() {
			$send
		}
	END
	cat >>job <<-'END'
		running() {
			[ "$(cut -d. -f1 /proc/uptime)" -lt "$seconds" ]
		}
		rebind() { # DEVICE DRIVER
			echo $1 >/sys/bus/virtio/drivers/$2/unbind
			echo $1 >/sys/bus/virtio/drivers/$2/bind
		}
		fetch >digest
		(
			n=0
			while running; do
				for bs in 4k-4k 64k-64k 512-128k; do
					fio --filename=/dev/vda --ioengine=io_uring --direct=1 --rw=randwrite --bsrange=$bs --iodepth=16 --size=16m \
						--verify=crc32c --verify_fatal=1 --verify_state_save=0 --name=a >log || { cat log; exit 1; }
					n=$((n + 1))
				done
			done
			echo "KRING-VERIFIED $n"
		) &
		(
			device=$(basename "$(readlink /sys/block/vdb/device)")
			n=0
			while running; do
				n=$((n + 1))
				disk=/dev/$(ls /sys/bus/virtio/devices/$device/block)
				yes "cycle $n" | head -c 8388608 >want
				dd if=want of=$disk bs=64k conv=fsync 2>/dev/null
				exec 6>$disk # before the node goes, or it would be made, as a file
				dd if=/dev/zero bs=64k seek=256 conv=notrunc >&6 2>/dev/null &
				exec 6>&-
				echo $device >/sys/bus/virtio/drivers/virtio_blk/unbind
				wait
				echo $device >/sys/bus/virtio/drivers/virtio_blk/bind
				disk=/dev/$(ls /sys/bus/virtio/devices/$device/block)
				[ -b $disk ]
				dd if=$disk bs=64k count=128 2>/dev/null | cmp - want
			done
			dd if=/dev/zero of=$disk bs=64k seek=128 2>/dev/null || :
			sync
			echo "KRING-DISK $(sha256sum <$disk | cut -d' ' -f1)"
			echo "KRING-REWRITTEN $n"
		) &
		(
			n=0
			while running; do
				fetch | cmp - digest
				send | cmp - digest
				n=$((n + 1))
			done
			echo "KRING-TRANSFERRED $n"
		) &
		(
			device=$(basename /sys/bus/virtio/drivers/virtio_net/virtio*)
			n=0
			while running; do
				sleep 2
				rebind $device virtio_net
				ip addr add 192.0.2.2/24 dev eth0
				ip link set eth0 up
				n=$((n + 1))
			done
			echo "KRING-REPLUGGED $n"
		) &
		wait
		cat digest
		echo "KRING-DISK $(sha256sum </dev/vda | cut -d' ' -f1)"
	END
	deadline=$((${SOAK_SECONDS:-300} + 120))
	job_initrd
	guest_start -k "$minimal" -m 512M -c 2 --append kring.job=disk -t kr0 -d a.img -d b.img -d "$tools"
	cards kr0
	serve "$minimal"
	flood
	guest_end
	expect_passed
	expect_digests 1
	for count in VERIFIED REWRITTEN TRANSFERRED REPLUGGED; do
		expect_line out "^KRING-$count [1-9]"
	done
	for image in a.img b.img; do
		expect_line out "^KRING-DISK $(sha256sum <$image | cut -d' ' -f1)"
	done
	tr -d '\r' <out | grep -E '^KRING-(VERIFIED|REWRITTEN|TRANSFERRED|REPLUGGED)' | tee "$LAB_OUT/soak"
}

# kexec KERNEL [COMMANDS]: a kernel that is started by another, after those commands, finds devices that were in use a
# moment ago, one of them with packets streaming in to a station that does not answer.
kexec() {
	need_taps
	kernel=$KRING_CACHE/$1
	need_kernel "$kernel"
	need_tools
	truncate -s 64M a.img
	cat >job <<-END
		$up
		n=\$((\$(dd if=/dev/vda bs=512 count=1 2>/dev/null | tr -d '\0 ') + 1))
		printf '%-512s' \$n | dd of=/dev/vda bs=512 count=1 conv=fsync 2>/dev/null
		echo "KRING-BOOT \$n"
		if [ \$n = 1 ]; then
			cat /dev/vdb >kernel
			cat /dev/vdc >initrd
			echo KRING-READY
			fio --filename=/dev/vda --ioengine=io_uring --direct=1 --rw=randrw --bs=4k --iodepth=32 --offset=1m \\
				--size=60m --time_based --runtime=1000 --name=a >log &
			${2-}
			sleep 2
			kexec kernel initrd "\$(cat /proc/cmdline)"
			exit 1
		fi
		fio --filename=/dev/vda --ioengine=io_uring --direct=1 --rw=randwrite --bs=4k --iodepth=8 --offset=1m --size=2m \\
			--verify=crc32c --verify_fatal=1 --verify_state_save=0 --name=a >log || { cat log; exit 1; }
		$fetch
		$send
	END
	job_initrd "$KRING_CACHE/disktools.cpio"
	deadline=180
	dd if="$kernel" of=kernel.img bs=512 conv=sync 2>/dev/null
	dd if="$initrd" of=initrd.img bs=512 conv=sync 2>/dev/null
	guest_start -k "$kernel" -m 512M --append kring.job=disk -t kr0,mac=52:54:00:00:00:10 \
		-d a.img -d kernel.img,readonly -d initrd.img,readonly -d "$tools"
	cards kr0
	serve "$minimal"
	arp -i kr0 -s 192.0.2.77 52:54:00:00:00:10
	keep sh -c 'while :; do head -c 10000000 /dev/zero | busybox nc -u -w 1 192.0.2.77 9; done'
	guest_end
	expect_passed
	[ "$(grep -c KRING-BOOT out)" = 2 ] || fail "$(grep -c KRING-BOOT out) boots"
	expect_digests 2
}

test_load_kexec() { kexec vmlinuz-6.1; } # no packets go out, lest the old kernel meets what jobs/init tells of
test_load_kexec_6_12() { kexec vmlinuz-6.12 "$streams"; }

# counter NAME N: of the Nth marker in the file timings.
counter() {
	sed -n "s/.*\"value\": $2,.*\"$1\": \([0-9]*\)[,}].*/\1/p" timings
}

# ticks: the CPU time that kring has used, in hundredths of a second.
ticks() {
	sed 's/.*) //' "/proc/$pid/stat" | awk '{ print $12 + $13 }'
}

# idle KERNEL LIMIT: nobody wants anything from two disks, a card and a source of random bytes. No interrupts, next to
# no exits, next to nothing for the ring to do, and kring takes less than so many hundredths of a per cent of a core.
idle() {
	need_taps
	need_tools
	kernel=$KRING_CACHE/$1
	need_kernel "$kernel"
	truncate -s 1M a.img b.img
	cat >job <<-END
		$up
		dd if=/dev/vda of=/dev/null
		dd if=/dev/vdb of=/dev/null
		dd if=/dev/hwrng of=/dev/null bs=32 count=1
		ip link set eth0 arp off
		sleep 1
		grep virtio /proc/interrupts | tee before
		echo KRING-IDLE
		sleep 1
		mark 10
		sleep 23
		mark 11
		grep virtio /proc/interrupts >after
		awk '{ sum += \$2 } END { print "KRING-INTERRUPTS", sum }' before
		awk '{ sum += \$2 } END { print "KRING-INTERRUPTS", sum }' after
	END
	job_initrd "$KRING_CACHE/disktools.cpio"
	echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6
	guest_start -k "$kernel" -m 256M -d a.img -d b.img -t kr0 --timings timings --stats stats.json \
		--append 'kring.job=sh kring.sh=. /job'
	cards kr0
	echo 0 >/proc/sys/net/ipv6/conf/default/disable_ipv6
	wait_for KRING-IDLE
	sleep 2 # amid those 23
	used=$(ticks)
	sleep 20
	used=$(($(ticks) - used))
	guest_end
	expect_status 0
	exits=$(($(counter kvm_exits 11) - $(counter kvm_exits 10))) # before Linux 5.14 nobody counts those
	user_exits=$(($(counter user_exits 11) - $(counter user_exits 10)))
	enters=$(sed -n 's/.*"enters": \([0-9]*\),.*/\1/p' stats.json)
	# shellcheck disable=SC2046 # numbers
	set -- "$2" $(tr -d '\r' <out | sed -n 's/^KRING-INTERRUPTS //p')
	[ $# = 3 ] || fail 'no whole report from the guest'
	echo "idle, ${kernel##*/}: $exits exits in 23 s, $user_exits to kring, $(($3 - $2)) interrupts in 24 s," \
		"$enters enters in all, $used ticks in 20 s" | tee -a "$LAB_OUT/idle"
	for queue in virtio0-req virtio1-req virtio2-input virtio2-output virtio3-input; do
		grep -q "PCI-MSI.*$queue" out || fail "$queue has no MSI-X"
	done
	[ $(($3 - $2)) -lt 20 ] || fail "$(($3 - $2)) interrupts in 24 idle seconds"
	[ $exits -lt 4000 ] && [ $user_exits -lt 400 ] || fail "$exits exits in 23 idle seconds, $user_exits of them to kring"
	[ "$enters" -lt 2000 ] || fail "$enters enters, for next to nothing"
	# A tick is a hundredth of a second, and so 0.05 % of 20.
	[ $((used * 5)) -lt "$1" ] || fail "$used ticks in 20 idle seconds: $((used * 5)) hundredths of a per cent of a core, not under $1"
}

test_load_idle() { idle vmlinuz-minimal 50; }
test_load_idle_6_1() { idle vmlinuz-6.1 200; } # Debian's: it wakes up on its own, six times a second
test_load_idle_6_12() { idle vmlinuz-6.12 200; }
