# shellcheck shell=sh disable=SC2015,SC2034,SC2154 # names go both ways between lib.sh and the tests
# How it ends: the exit statuses of the README, row by row, and that nothing stays behind.

quick() {
	need_kernel "$minimal"
	guest -k "$minimal" -m 128M "$@"
}

test_end_poweroff() {
	quick --append 'kring.job=sh kring.sh=:'
	expect_status 0
	[ ! -s err ] || fail 'something on standard error'
}

test_end_poweroff_stock() {
	need_kernel "$KRING_CACHE/vmlinuz-6.1"
	guest -k "$KRING_CACHE/vmlinuz-6.1" -m 256M --append 'kring.job=sh kring.sh=:'
	expect_status 0
}

test_end_reboot() {
	quick --append kring.job=reboot
	expect_status 0
	[ "$(grep -c KRING-REBOOT out)" = 1 ] || fail 'the guest did not end at its reboot'
}

# Each way that Linux has to reset a PC.
test_end_reboot_by_acpi() { quick --append 'reboot=acpi kring.job=reboot' && expect_status 0; }
test_end_reboot_by_keyboard() { quick --append 'reboot=kbd kring.job=reboot' && expect_status 0; }
test_end_reboot_by_pci() { quick --append 'reboot=pci kring.job=reboot' && expect_status 0; }

test_end_reboot_restart() {
	need_kernel "$minimal"
	guest_start -k "$minimal" -m 128M --reboot restart --append kring.job=reboot
	tries=0
	until [ "$(grep -c KRING-REBOOT out)" -ge 2 ]; do
		kill -0 "$pid" 2>/dev/null || fail 'kring ended at the reboot'
		tries=$((tries + 1))
		[ $tries -lt 300 ] || break
		sleep 0.2
	done
	kill -TERM "$pid"
	guest_end
	[ "$(grep -c KRING-REBOOT out)" -ge 2 ] || fail 'the guest did not boot again'
	expect_status 143
}

panics() {
	expect_status 123
	[ "$(grep -c '^kring: ' err)" = 1 ] || fail 'not one line of kring about it'
}

test_end_panic() { quick --append kring.job=panic && panics; }
test_end_panic_init() { quick --append kring.job=panic-init && panics; }
test_end_panic_no_init() { quick --append 'rdinit=/none init=/none' && panics; }
test_end_panic_stock() {
	need_kernel "$KRING_CACHE/vmlinuz-6.12"
	guest -k "$KRING_CACHE/vmlinuz-6.12" -m 256M -c 2 --append kring.job=panic
	panics
}
test_end_triple_fault() { quick --append 'reboot=triple kring.job=reboot' && panics; }

test_end_timeout() {
	need_kernel "$minimal"
	kring boot -k "$minimal" -i "$initrd" -m 128M --timeout 8 --append kring.job=idle
	expect_status 124
	expect_line err '^kring: .* 8 s'
}

# ends_by SIGNAL STATUS
ends_by() {
	need_kernel "$minimal"
	guest_start -k "$minimal" -m 128M -c 2 --append kring.job=idle
	wait_for KRING-IDLE
	kill "-$1" "$pid"
	guest_end
	expect_status "$2"
}
test_end_sigterm() { ends_by TERM 143; }
test_end_sigint() { ends_by INT 130; }
test_end_sighup() { ends_by HUP 129; }

# The reader of the console goes away: the guest ends, or goes on in silence; kring neither hangs nor spins.
test_end_closed_pipe() {
	need_kernel "$minimal"
	: >out
	{
		status=0
		timeout -s KILL 60 "$KRING" boot -k "$minimal" -i "$initrd" -m 128M --timeout 40 --append kring.job=demo \
			2>err </dev/null || status=$?
		echo $status >status
	} | head -c 10 >out
	status=$(cat status)
	case $status in
	0 | 141) ;;
	*) fail "exit status $status" ;;
	esac
}

test_timings() {
	need_kernel "$minimal"
	guest -k "$minimal" -m 128M --timings timings.json --append 'kring.job=sh kring.sh=mark 42'
	expect_status 0
	for key in kvm_ready memory_ready kernel_loaded first_run shutdown; do
		grep -q "\"$key\": [0-9]" timings.json || fail "timings: no phase $key"
	done
	for mark in 1 42; do
		grep -q "\"value\": $mark, \"us\": [1-9]" timings.json || fail "timings: no marker $mark"
	done
	grep -qE '"io": [0-9]' timings.json || fail 'timings: no port exits counted'
	cp timings.json "$LAB_OUT/timings.json"
}

test_timings_on_stdout() {
	quick --console none --timings - --append 'kring.job=sh kring.sh=:'
	expect_status 0
	[ "$(head -c 1 out)" = '{' ] || fail 'standard output is not the JSON alone'
	cp out "$LAB_OUT/timings-stdout.json"
}

test_probe() {
	kring probe
	expect_status 0
	[ "$(tail -n 1 out)" = ready ] || fail "the last line is '$(tail -n 1 out)', not ready"
	expect_line out hardware
	kring probe --json
	expect_status 0
	expect_line out '"ring0": ?"hardware"'
	cp out "$LAB_OUT/probe.json"
}
