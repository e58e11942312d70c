# shellcheck shell=sh
# What the scripts of the lab share: where things are, how they speak, how a package is fetched.
# Sourced after `set -eu`; a script sets `me` (its name) first.
#
# Everything fetched or derived lives in one cache outside the checkout, so a second run needs no network:
#	debs/			packages as they came
#	vmlinuz-R vmlinux-R	stock Debian cloud kernels, R = 5.10 6.1 6.12, and `minimal` (bench/guest-kernel.sh)
#	modules-R/		their modules
#	guest.cpio.gz		the guests' initramfs (tests/lab/initramfs)
#	lab/			what L1 boots from (tests/lab/lab)

root=$(cd "$(dirname "$0")" && git rev-parse --show-toplevel 2>/dev/null) || root=$(cd "$(dirname "$0")/../.." && pwd)
cache=${KRING_CACHE:-${XDG_CACHE_HOME:-${HOME:?no HOME: set KRING_CACHE to a directory for downloads}/.cache}/kring}

say() {
	echo "$me: $*" >&2
}

die() {
	say "$*"
	exit 1
}

need() {
	for tool; do
		PATH=$PATH:/usr/sbin:/sbin command -v "$tool" >/dev/null || die "$tool is missing: run tests/deps run"
	done
}

# deb PATTERN [APT-OPTION...]: the newest cached package file that matches, or downloads PACKAGE there.
# Prints its path. Fails silently: the caller knows what to do without it.
fetch_deb() {
	package=$1
	shift
	mkdir -p "$cache/debs"
	new=$(mktemp -d "$cache/debs/.new.XXXXXX")
	if (cd "$new" && apt-get "$@" -q -o APT::Sandbox::User=root download "$package" >log 2>&1); then
		deb=$(cd "$new" && ls -- *.deb)
		mv "$new/$deb" "$cache/debs/$deb"
		rm -r "$new"
		echo "$cache/debs/$deb"
	else
		sed 's/^/	/' "$new/log" >&2
		rm -r "$new"
		return 1
	fi
}
