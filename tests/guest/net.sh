# shellcheck shell=sh disable=SC2015,SC2016,SC2034,SC2154 # see lib.sh; what is quoted is the guest's
# Network cards: what is sent one way arrives the other, whatever is switched or unplugged meanwhile.
# The first card's tap has 192.0.2.1 and 2001:db8::1, the second's 198.51.100.1; the guest's ends have .2 and ::2.

need_taps() {
	[ -c /dev/net/tun ] && [ "$(id -u)" = 0 ] || skip 'no taps: this takes root and /dev/net/tun'
}

# need_iperf: at this end; the guest's is among its tools.
need_iperf() {
	command -v iperf3 >/dev/null || skip 'no iperf3: tests/deps run brings it'
}

# What guests are told. $up: the first card comes up. $fetch: the file that `serve` offers is fetched, and its digest
# printed. $send: it goes back, and the digest that this end makes of it is printed (as text: busybox's wget sends no
# file beyond a zero byte, and its nc 1024 bytes of one). $streams: packets go out, and files
# come in, without an end.
up='ip link set lo up
ip addr add 192.0.2.2/24 dev eth0
ip link set eth0 up
until ping -c 1 -W 1 192.0.2.1 >/dev/null; do sleep 0.2; done'
fetch='until wget -qO /tmp/got http://192.0.2.1:8080/file 2>/dev/null; do sleep 0.2; done; sha256sum </tmp/got'
send='base64 /tmp/got >/tmp/sent
until wget -qO - --post-file=/tmp/sent http://192.0.2.1:8080/cgi-bin/digest 2>/dev/null; do sleep 0.2; done'
streams="while :; do ping -A -s 1400 192.0.2.1; done >/dev/null 2>&1 &
while :; do $fetch; done >/dev/null 2>&1 &"

# card_start COMMANDS ARG...: a guest in the background that runs them. cards gives its taps their addresses.
card_start() {
	need_taps
	need_kernel "$minimal"
	echo "$1" >job
	shift
	job_initrd
	guest_start -k "$minimal" -m 256M --append "${parameters-} kring.job=sh kring.sh=. /job" "$@"
}

# cards TAP...
cards() {
	address=192.0.2.1
	for tap; do
		tries=0
		until [ -e "/sys/class/net/$tap" ]; do
			kill -0 "$pid" 2>/dev/null || fail 'kring ended before its tap was seen'
			tries=$((tries + 1))
			[ $tries -lt 100 ] || fail "there is no tap $tap"
			sleep 0.1
		done
		ip addr add $address/24 dev "$tap" || fail "$tap takes no address"
		ip link set "$tap" up
		address=198.51.100.1
	done
}

# keep COMMAND...: in the background until the test ends, which ends kring, too.
keep() {
	"$@" >/dev/null 2>&1 &
	kept="${kept-} $!"
	# shellcheck disable=SC2086 # a list
	trap 'kill $kept 2>/dev/null; [ -z "$pid" ] || kill -KILL "$pid" 2>/dev/null' EXIT
}

# serve FILE [BYTES]: that much of it, or all, to whoever asks for /file; /cgi-bin/digest says what was sent to it.
serve() {
	mkdir -p www/cgi-bin
	head -c "${2-999999999}" "$1" >www/file
	printf '#!/bin/sh\necho\nhead -c "$CONTENT_LENGTH" | base64 -d | sha256sum\n' >www/cgi-bin/digest
	chmod +x www/cgi-bin/digest
	digest=$(sha256sum <www/file | cut -d' ' -f1)
	keep busybox httpd -f -p 192.0.2.1:8080 -h "$PWD/www"
}

# flood: packets of 1400 bytes each way, the next one as soon as the last was answered.
flood() {
	keep ping -A -s 1400 192.0.2.2
}

# expect_digests N: so many transfers, all of them whole.
expect_digests() {
	tr -d '\r' <out | sed -n 's/^\([0-9a-f]\{64\}\)  -$/\1/p' >digests
	! grep -v "^$digest$" digests >wrong || fail "$(grep -c . wrong) transfers went wrong"
	[ "$(grep -c . digests)" = "$1" ] || fail "$(grep -c . digests) transfers of $1"
}

test_net_transfer() {
	card_start "$up; $fetch; $send" -t kr0 --stats net.json
	cards kr0
	serve "$KRING_CACHE/vmlinux-minimal" 12000000
	guest_end
	expect_status 0
	expect_digests 2
	expect_no_line net.json '"lost": [1-9]'
	expect_line net.json '"packets": [1-9][0-9][0-9]'
	[ ! -e /sys/class/net/kr0 ] || fail 'the tap is still there'
	cp net.json "$LAB_OUT"
}

test_net_iperf() {
	need_taps
	need_iperf
	need_tools
	cat >job <<-END
		$up
		ip addr add 2001:db8::2/64 dev eth0
		until ping -c 1 -W 1 2001:db8::1 >/dev/null; do sleep 0.2; done
		ping -c 3 192.0.2.1
		ping -c 3 2001:db8::1
		for way in '-n 16M' '-n 16M -R' '-6 -n 16M' '-6 -n 16M -R' '-u -b 10M -n 2M' '-u -b 10M -n 2M -R'; do
			case \$way in
			-6*) address=2001:db8::1 ;;
			*) address=192.0.2.1 ;;
			esac
			iperf3 -c \$address -f k \$way >log || { tail -n 5 log; exit 1; }
			grep -E 'sender|receiver' log | sed "s/^.*-[0-9. ]*sec */iperf \$way: /"
		done
	END
	job_initrd
	guest_start -k "$minimal" -m 256M -t kr0 --append kring.job=disk -d "$tools"
	cards kr0
	ip addr add 2001:db8::1/64 dev kr0
	keep iperf3 -s
	guest_end
	expect_passed
	[ "$(tr -d '\r' <out | grep -c '^3 packets transmitted, 3 packets received')" = 2 ] || fail 'a ping was lost'
	# What the receiver has not read when the sender is done does not count; net_transfer compares every byte.
	for way in '-n 16M' '-n 16M -R' '-6 -n 16M' '-6 -n 16M -R'; do
		expect_line out "^iperf $way: 1[0-9][.0-9]* MBytes .*receiver"
	done
	for way in '-u -b 10M -n 2M' '-u -b 10M -n 2M -R'; do # and no more than half of it lost
		expect_line out "^iperf $way: .* \([0-4]?[0-9](\.[0-9]*)?%\)  receiver"
	done
}

# Datagrams of all lengths, large ones in fragments, both ways at once: those that arrive are as they were sent, and no
# more than half of them are lost.
test_net_datagrams() {
	need_taps
	n=2000
	cp "$DATAGRAMS" datagrams
	files=datagrams
	card_start "$up
		ip addr add 2001:db8::2/64 dev eth0
		until ping -c 1 -W 1 2001:db8::1 >/dev/null; do sleep 0.2; done
		/datagrams receive 5004 $n &
		/datagrams receive 5006 $n &
		echo KRING-READY
		/datagrams send ::ffff:192.0.2.1 5004 $n &
		/datagrams send 2001:db8::1 5006 $n &
		wait" -t kr0
	cards kr0
	ip addr add 2001:db8::1/64 dev kr0
	for port in 5004 5006; do
		keep sh -c "./datagrams receive $port $n >received.$port 2>&1"
	done
	wait_for KRING-READY
	keep ./datagrams send ::ffff:192.0.2.2 5004 $n
	keep ./datagrams send 2001:db8::2 5006 $n
	guest_end
	expect_status 0
	sleep 6 # as long as a receiver waits for more
	grep -h '^datagrams:' received.* out | tr -d '\r' | tee "$LAB_OUT/datagrams"
	[ "$(grep -c "of $n, .* bytes, 0 wrong, 0 again, " "$LAB_OUT/datagrams")" = 4 ] || fail 'what came is not what was sent'
	awk '$2 * 2 < $4 + 0 { print }' "$LAB_OUT/datagrams" >lost
	[ ! -s lost ] || fail "lost: $(cat lost)"
}

# Two cards, each with the address and the MTU that were ordered, until the guest gives itself others.
test_net_two_cards() {
	card_start "$up
		ip addr add 198.51.100.2/24 dev eth1
		ip link set eth1 up
		ping -c 3 198.51.100.1
		ip link
		echo carrier \$(cat /sys/class/net/eth?/carrier)
		ip link set eth1 down
		ip link set eth1 address 52:54:00:00:00:12
		ip link set eth1 up
		ping -c 4 198.51.100.1
		echo KRING-RENAMED
		$fetch; $send; sleep 1" -t kr0,mac=52:54:00:00:00:10 --net tap=kr1,mac=52:54:00:00:00:11,mtu=1400
	cards kr0 kr1
	serve "$minimal"
	wait_for KRING-RENAMED
	[ "$(busybox arping -c 1 -I kr1 198.51.100.2 | grep -c 52:54:00:00:00:12)" = 1 ] ||
		fail 'nobody answers at the address that the guest gave itself'
	guest_end
	expect_status 0
	expect_digests 2
	expect_line out '^3 packets transmitted, 3 packets received'
	expect_line out '^4 packets transmitted, 4 packets received'
	expect_line out '^3: eth1: .* mtu 1400 '
	expect_line out 'ether 52:54:00:00:00:10 '
	expect_line out 'ether 52:54:00:00:00:11 '
	expect_line out '^carrier 1 1'
}

# Under the stock kernel's driver: two queues on two CPUs, large frames, and whatever can be switched is switched, off
# and on, while a file goes each way.
test_net_offloads() {
	need_taps
	kernel=$KRING_CACHE/vmlinuz-6.1
	need_kernel "$kernel"
	need_tools
	cat >job <<-END
		$up
		ip link
		ping -c 2 -s 8900 192.0.2.1
		ethtool -l eth0 | grep Combined
		ethtool -k eth0 | sed -n '/fixed/d; s/^\([a-z0-9-]*\): o[nf].*/\1/p' >switches
		while read switch; do
			for state in off on; do
				($fetch; $send) >log &
				while [ ! -s /tmp/got ]; do :; done
				ethtool -K eth0 \$switch \$state >/dev/null 2>error || sed 's/^/KRING-ERROR /' error
				wait
				cat log
				rm /tmp/got
			done
		done <switches
		echo "KRING-SWITCHES \$(wc -l <switches)" \$(cat switches)
		grep virtio /proc/interrupts
	END
	job_initrd "$KRING_CACHE/disktools.cpio"
	deadline=180
	guest_start -k "$kernel" -m 256M -c 2 -t kr0,queues=2,mtu=9000 --append kring.job=disk -d "$tools" --stats stats.json
	cards kr0
	serve "$minimal" 1000000
	flood
	guest_end
	expect_passed
	expect_queues net0 packets 4 100
	expect_line out '^2: eth0: .* mtu 9000 '
	expect_line out '^2 packets transmitted, 2 packets received'
	[ "$(tr -d '\r' <out | grep -c '^Combined:.*2$')" = 2 ] || fail 'not two pairs of queues'
	[ "$(grep -c 'PCI-MSI.*virtio.-\(in\|out\)put\.' out)" = 4 ] || fail 'not four queues with MSI-X vectors'
	n=$(tr -d '\r' <out | sed -n 's/^KRING-SWITCHES \([0-9]*\) .*/\1/p')
	[ "$n" -ge 7 ] || fail "$n switches"
	expect_no_line out '^KRING-ERROR'
	expect_digests $((4 * n))
}

# ring_sizes KERNEL: the card's rings become smaller and smaller, and large again, while packets and files go both ways;
# then a file goes each way with that size. A queue is reset for it (virtio 1.2 §2.6.1).
ring_sizes() {
	need_taps
	kernel=$KRING_CACHE/$1
	need_kernel "$kernel"
	need_tools
	sizes='512 256 128 64 32 1024'
	cat >job <<-END
		$up
		ethtool -g eth0
		ping -A -s 1400 192.0.2.1 >/dev/null 2>&1 &
		for size in $sizes; do
			($fetch; $send) >log &
			while [ ! -s /tmp/got ]; do :; done
			ethtool -G eth0 rx \$size
			ethtool -G eth0 tx \$size
			wait \$!
			cat log
			rm /tmp/got
			$fetch
			$send
			echo "KRING-SIZE" \$(ethtool -g eth0 | sed -n '/^Current/,\$ s/^\([RT]X\):[^0-9]*/\1 /p')
		done
		kill %1
	END
	job_initrd "$KRING_CACHE/disktools.cpio"
	guest_start -k "$kernel" -m 256M -t kr0 --append kring.job=disk -d "$tools"
	cards kr0
	serve "$minimal" 1000000
	flood
	guest_end
	expect_passed
	for size in $sizes; do
		expect_line out "^KRING-SIZE RX $size TX $size$"
	done
	expect_digests 24
}

test_net_ring_sizes_6_1() { ring_sizes vmlinuz-6.1; }
test_net_ring_sizes_6_12() { ring_sizes vmlinuz-6.12; }

# Without MSI-X the card's interrupts are the line's.
test_net_without_msi() {
	parameters=pci=nomsi
	card_start "$up; $fetch; $send; grep virtio /proc/interrupts" -t kr0
	cards kr0
	serve "$minimal"
	guest_end
	expect_status 0
	expect_digests 2
	expect_line out 'IO-APIC.*virtio'
}

# The tap is removed while packets go both ways: the guest sees its cable pulled, and lives on.
test_net_tap_goes() {
	card_start "$up
		ping -A -s 1400 192.0.2.1 >/dev/null &
		echo KRING-PINGS
		until grep -q 0 /sys/class/net/eth0/carrier; do sleep 0.2; done
		sleep 1
		echo KRING-UNPLUGGED" -t kr0
	cards kr0
	wait_for KRING-PINGS
	flood
	sleep 2
	ip link delete kr0 || fail 'the tap cannot be removed'
	wait_for KRING-UNPLUGGED
	guest_end
	expect_status 0
	expect_line err '^kring: net0: kr0 is gone'
}

test_net_refused() {
	need_taps
	need_kernel "$minimal"
	kring boot -k "$minimal" -t lo
	expect_status 125
	expect_line err '^kring: network lo: it exists and is no tap'
	kring boot -k "$minimal" -t kr0 -t kr0
	expect_status 125
	expect_line err '^kring: network kr0: a kring or another program uses it'
	[ ! -e /sys/class/net/kr0 ] || fail 'the tap is still there'
}
