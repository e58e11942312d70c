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

test_rng() {
	shell_guest 'cat /sys/class/misc/hw_random/rng_current; dd if=/dev/hwrng bs=32 count=1 | od -An -tx1 | sed s/^/rng/'
	expect_status 0
	grep -q virtio_rng plain || fail 'no virtio-rng'
	[ "$(grep -c '^rng [0-9a-f]' plain)" -eq 2 ] || fail 'no random bytes'
}
