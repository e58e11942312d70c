# shellcheck shell=sh disable=SC2015,SC2034,SC2154 # names go both ways between lib.sh and the tests
# The console: bytes arrive whole both ways, from pipes, files and terminals.

bytes=$here/bytes

# No console=ttyS0: the port belongs to the job alone, from its first byte.
raw='panic=-1 quiet'

test_console_in_64k() {
	need_kernel "$minimal"
	sh "$bytes" 65536 >sent
	mkfifo pipe
	input=pipe
	guest_start -k "$minimal" -m 128M -p "$raw kring.job=sink kring.bytes=65536"
	exec 4>pipe
	wait_for KRING-READY
	cat sent >&4
	wait_for KRING-SHA256
	exec 4>&-
	guest_end
	expect_status 0
	expect_line out "KRING-SHA256 $(sha256sum <sent | cut -d' ' -f1)"
}

# Lines that are there before the guest is: the first one waits until the port is open.
test_console_in_file() {
	need_kernel "$minimal"
	seq -f 'line %04g' 1 300 2>/dev/null >sent || seq 10001 10500 >sent
	input=sent
	guest -k "$minimal" -m 128M --append "kring.job=sh kring.sh=stty -echo; head -c $(wc -c <sent) | sha256sum"
	expect_status 0
	expect_line out "$(sha256sum <sent | cut -d' ' -f1)"
}

# The lab's guests write 10 KiB a second: an exit is that slow there.
test_console_out() {
	need_kernel "$minimal"
	size=10485760
	[ "${KRING_WHERE-}" = here ] || size=262144
	guest -k "$minimal" -m 128M -p "$raw kring.job=source kring.bytes=$size"
	expect_status 0
	sh "$bytes" $size >sent
	expect_same out sent
}

test_console_to_file() {
	need_kernel "$minimal"
	guest -k "$minimal" -m 128M --console log -p "$raw kring.job=source kring.bytes=50000"
	expect_status 0
	[ ! -s out ] || fail 'the console is also on standard output'
	sh "$bytes" 50000 >sent
	expect_same log sent
}

test_console_none() {
	need_kernel "$minimal"
	guest -k "$minimal" -m 128M --console none --append kring.job=demo
	expect_status 0
	[ ! -s out ] || fail 'there is output with --console none'
}

# A reader that stops for a while: nothing is lost, and the vCPU goes on.
test_console_slow_reader() {
	need_kernel "$minimal"
	: >err
	{
		status=0
		timeout -s KILL "$deadline" "$KRING" boot -k "$minimal" -i "$initrd" -m 128M --timeout 80 \
			-p "$raw kring.job=source kring.bytes=150000" 2>err </dev/null || status=$?
		echo $status >status
	} | {
		dd bs=1 count=1000 2>/dev/null
		sleep 12
		cat
	} >out
	status=$(cat status)
	expect_status 0
	sh "$bytes" 150000 >sent
	expect_same out sent
}

# A shell that is fed from a pipe, as a script would.
test_console_shell_from_pipe() {
	need_kernel "$minimal"
	mkfifo pipe
	input=pipe
	guest_start -k "$minimal" -m 128M
	exec 4>pipe
	wait_for 'exit powers off'
	# The end of a session throws away what its terminal has not sent: wait for that.
	# shellcheck disable=SC2016 # the guest's
	echo 'echo $((6 * 7)) is the answer; sleep 1; exit' >&4
	guest_end
	exec 4>&-
	expect_status 0
	expect_line out '^42 is the answer'
}

# on_pty ARG...: kring boot as on_terminal would have it; keys are written to file descriptor 4.
on_pty() {
	[ -x "${PTY-}" ] || skip 'no pty helper: tests/run-guests builds it'
	need_kernel "$minimal"
	mkfifo keys
	"$PTY" "$KRING" boot -k "$minimal" -i "$initrd" -m 128M --timeout 60 "$@" <keys >out 2>err &
	pid=$!
	exec 4>keys
}

# The helper passes signals on; its own status is 99 when kring leaves the terminal other than it was.
test_terminal_ctrl_a_x() {
	on_pty
	wait_for 'exit powers off'
	# shellcheck disable=SC2016 # the guest's
	printf 'echo $((6 * 7))\r' >&4
	wait_for '^42.?$'
	printf '\001x' >&4
	guest_end
	expect_status 0
}

test_terminal_ctrl_a_h() {
	on_pty --append kring.job=idle
	wait_for KRING-IDLE
	printf '\001h' >&4
	wait_for 'Ctrl-a x'
	printf '\001x' >&4
	guest_end
	expect_status 0
}

# Ctrl-c, Ctrl-z and Ctrl-\ belong to the guest; Ctrl-a Ctrl-a sends one.
test_terminal_keys_pass() {
	on_pty --append 'kring.job=sh kring.sh=stty raw -echo; echo KRING-READY; head -c 5 | od -An -tx1'
	wait_for KRING-READY
	printf '\003\032\034\001\001a' >&4
	guest_end
	expect_status 0
	expect_line out '03 1a 1c 01 61'
}

restored_after() {
	on_pty --append kring.job=idle
	wait_for KRING-IDLE
	kill "-$1" "$pid"
	guest_end
	expect_status "$2"
}
test_terminal_restored_after_sigterm() { restored_after TERM 143; }
test_terminal_restored_after_panic() {
	on_pty --append kring.job=panic
	guest_end
	expect_status 123
}
