#!/bin/sh
# The half of `bench/run lab` that runs in L1 (tests/lab/lab): boots one guest after another as the plan says, has each
# do the jobs of its kind (bench/lab-job), and writes down counters before and after a stretch of each job.
#	lab.sh DIRECTORY	with the files
#	  plan			MONITOR RUN KIND COMMAND: the command boots the guest, its serial port is stdin and
#				stdout; kind boot-NAME: only until init has marked and told that it is there
#	  jobs.KIND		NAME<tab>SIDE<tab>COMMAND: what the guest does, and what L1 does meanwhile
# Two stretches a job: the first for time and CPU, undisturbed; the second with every system call and KVM exit counted
# by kind, by histograms in the kernel. All counters are the kernel's own, whatever the monitor: requests by the disk,
# packets by the tap. $LAB_OUT/samples is what bench/run_lab.py reads.
set -u
# A monitor that died no longer reads.
trap '' PIPE
dir=$1
out=$LAB_OUT/samples
export PATH="$PATH:/usr/bin:/usr/sbin:/sbin"
trace=/sys/kernel/tracing
calls=$trace/events/raw_syscalls/sys_enter
exits=$trace/events/kvm/kvm_exit
marker=0x4b52
# The disk: memory with a block layer on it, which takes O_DIRECT. The tap: made by the monitor, or before it.
disk=kringbench
tap=kb0
# shellcheck source=/dev/null # SECONDS_FREE, SECONDS_COUNTED, SECONDS_SETTLE
. "$dir/settings"

set_up() {
	mount -t tracefs trace $trace 2>/dev/null
	echo 16384 >$trace/buffer_size_kb
	echo "port == $marker" >$trace/events/kvm/kvm_pio/filter
	mount -t configfs config /sys/kernel/config 2>/dev/null
	mkdir /sys/kernel/config/nullb/$disk && cd /sys/kernel/config/nullb/$disk || return
	echo 128 >size && echo 1 >memory_backed && echo 1 >power || return
	dd if=/dev/zero of=/dev/$disk bs=1M count=128 2>/dev/null
	cd /tmp && mkfifo to-guest || return
	tunctl -t $tap >/dev/null && ip addr add 192.0.2.1/24 dev $tap && ip link set $tap up
}

# done_so_far: requests or packets, in $work.
done_so_far() {
	case $kind in
	disk)
		read -r reads _ _ _ writes _ <"/sys/block/$disk/stat"
		work=$((reads + writes))
		;;
	net)
		read -r rx <"/sys/class/net/$tap/statistics/rx_packets"
		read -r tx <"/sys/class/net/$tap/statistics/tx_packets"
		work=$((rx + tx))
		;;
	esac
}

# snapshot NAME [FILE...]: every counter, one line each, by one process.
snapshot() {
	echo "#snapshot $1"
	shift
	# shellcheck disable=SC2086 # lists
	grep -Hs '' /proc/uptime /proc/$pid/task/*/schedstat /proc/$pid/task/*/stat $vhost /sys/block/$disk/stat \
		/sys/class/net/$tap/statistics/?x_packets /sys/class/net/$tap/statistics/?x_bytes \
		/sys/kernel/debug/kvm/$pid-*/*exits "$@"
}

# wait_until COMMAND...: at most half a minute, and while the monitor lives.
wait_until() {
	tries=0
	until "$@"; do
		kill -0 "$pid" 2>/dev/null || return
		tries=$((tries + 1))
		[ $tries -lt 300 ] || return
		usleep 100000
	done
}

said() {
	tr -d '\r' <console | grep -qx "KRING-BENCH $1"
}

begun() {
	done_so_far
	[ "$work" -ge $((before + 50)) ]
}

# measure NAME SIDE: one job that the guest has just begun.
measure() {
	echo "#job $monitor $run $kind $1"
	wait_until begun || {
		echo "#failed no work is seen: $(tail -n 3 console side.log | tr -d '\r' | tr '\n' ' ')"
		return
	}
	sleep "$SECONDS_SETTLE"
	vhost=$(grep -lsx "vhost-$pid" /proc/[0-9]*/comm | sed 's/comm$/schedstat/')
	snapshot free
	sleep "$SECONDS_FREE"
	snapshot free
	echo 'hist:keys=common_pid,id:size=2048' >$calls/trigger
	echo 'hist:keys=exit_reason' >$exits/trigger
	snapshot counted $calls/hist $exits/hist
	sleep "$SECONDS_COUNTED"
	snapshot counted $calls/hist $exits/hist
	echo '!hist:keys=common_pid,id:size=2048' >$calls/trigger
	echo '!hist:keys=exit_reason' >$exits/trigger
}

# guest COMMAND: from its boot to its end.
guest() {
	: >console
	sh -c "exec $1" <to-guest >console 2>errors &
	pid=$!
	exec 4>to-guest
	while IFS='	' read -r name side _ <&5; do
		done_so_far
		before=$work
		server=
		[ "$side" = - ] || {
			$side >side.log 2>&1 &
			server=$!
		}
		if wait_until said "$name"; then
			measure "$name"
		else
			echo "#job $monitor $run $kind $name"
			echo "#failed the guest does not come to it: $(tail -n 3 console errors | tr -d '\r' | tr '\n' ' ')"
		fi
		[ -z "$server" ] || {
			kill "$server" 2>/dev/null
			wait "$server"
		}
		echo next >&4
	done 5<"$dir/jobs.$kind"
	exec 4>&-
	tries=0
	while kill -0 $pid 2>/dev/null && [ $tries -lt 50 ]; do
		tries=$((tries + 1))
		usleep 100000
	done
	kill -KILL $pid 2>/dev/null
	wait $pid 2>/dev/null
	tr -d '\r' <console | sed -n "s/^KRING-COUNTED/#inside $monitor $run $kind/p"
}

# boot_events 1|0: what is written down of a boot, on or off.
boot_events() {
	for event in sched/sched_process_exec kvm/kvm_exit kvm/kvm_userspace_exit kvm/kvm_pio; do
		echo "$1" >"$trace/events/$event/enable"
	done
}

# boot COMMAND: from exec to the marker of the guest's init: ms, KVM exits, and those of them to the monitor.
boot() {
	echo "#job $monitor $run boot ${kind#boot-}"
	: >console
	echo >$trace/trace
	boot_events 1
	sh -c "exec $1" <to-guest >console 2>errors &
	pid=$!
	exec 4>to-guest
	wait_until grep -q KRING-IDLE console
	boot_events 0
	kill -KILL $pid
	wait $pid 2>/dev/null
	exec 4>&-
	awk -v pid="pid=$pid " '
		match($0, / [0-9]+\.[0-9]+: /) { at = substr($0, RSTART, RLENGTH) * 1000 }
		/: sched_process_exec: / && index($0 " ", pid) && !exits { begin = at }
		/: kvm_exit: / { exits++ }
		/: kvm_userspace_exit: / { user++ }
		/: kvm_pio: / { print "#boot", at - begin, exits, user; exit }' $trace/trace
}

set_up || {
	echo 'bench: L1 has no null_blk, tap or tracefs' >&2
	exit 1
}
while read -r monitor run kind command <&3; do
	echo "bench: $monitor, run $run, $kind" >/dev/console
	case $kind in
	boot-*) boot "$command" ;;
	*) guest "$command" ;;
	esac >>"$out"
done 3<"$dir/plan"
