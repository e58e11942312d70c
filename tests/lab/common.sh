# shellcheck shell=sh
# What the scripts of the lab share: where things are, how they speak, how a package is fetched.
# Sourced after `set -eu`; a script first sets `me`, its name in messages, and `up`, its way to the checkout's root.
#
# Everything fetched or derived lives in one cache outside the checkout, so a second run needs no network:
#	debs/				packages as they came
#	apt-CODENAME/			a private apt for each other release: lists, nothing of this machine's own
#	linux-R/			vmlinuz, vmlinux, config and modules of the stock Debian cloud kernels, R = 5.10 6.1 6.12
#	minimal-CONFIG-VERSION/		the minimal guest kernel (bench/guest-kernel.sh)
#	vmlinuz-R vmlinux-R modules-R	links to those, R = also `minimal`
#	guest.cpio			the guests' initramfs (tests/lab/initramfs)
#	disktools.ext4 disktools.cpio	the guests' tools and modules (tests/lab/disktools)
#	lab/				what L1 boots from (tests/lab/lab)
# A thing is built beside its place and renamed into it: what is there is whole.

# shellcheck disable=SC2034,SC2154
root=$(cd "$(dirname "$0")/$up" && pwd -P)
cache=${KRING_CACHE:-${XDG_CACHE_HOME:-${HOME:?is not set: set KRING_CACHE to a directory for downloads}/.cache}/kring}
mkdir -p "$cache/debs"
cache=$(cd "$cache" && pwd -P)

say() {
	# shellcheck disable=SC2154
	echo "$me: $*" >&2
}

die() {
	say "$*"
	exit 1
}

# newest FILE...: prints the last by version of those that exist.
newest() {
	# shellcheck disable=SC2012 # our own names
	ls -d "$@" 2>/dev/null | sort -V | tail -n 1
}

# need GROUP TOOL...: the tools that a script calls and the group of tests/deps that brings them.
need() {
	group=$1
	shift
	PATH=$PATH:/usr/sbin:/sbin
	for tool; do
		command -v "$tool" >/dev/null || die "$tool is missing: run tests/deps $group"
	done
}

# fetch_deb PACKAGE [APT-OPTION...]: downloads the newest version into debs/ and prints the file's path.
fetch_deb() {
	package=$1
	shift
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

# publish R DIRECTORY: makes vmlinuz-R and the like name what the directory (in the cache) holds.
publish() {
	for name in vmlinuz vmlinux modules; do
		[ -e "$2/$name" ] || continue
		ln -sfn "${2##*/}/$name" "$cache/.$name.$$"
		mv -T "$cache/.$name.$$" "$cache/$name-$1"
	done
}
