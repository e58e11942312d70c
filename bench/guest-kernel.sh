#!/bin/sh
# Builds the minimal guest kernel: Debian's linux-source-6.1, tinyconfig and bench/guest-kernel.config, out of
# tree in the cache. Result: vmlinuz-minimal and vmlinux-minimal there. Five minutes on two cores, then cached by
# configuration and source version. A cached kernel is used as it is; `--newest` asks apt for a newer source.
set -eu
me=guest-kernel
up=..
# shellcheck source=tests/lab/common.sh
. "$(dirname "$0")/../tests/lab/common.sh"

config=$root/bench/guest-kernel.config
hash=$(sha256sum <"$config" | cut -c1-12)

done=$(newest "$cache/minimal-$hash-"*)
if [ -n "$done" ] && [ "${1-}" != --newest ]; then
	publish minimal "$done"
	exit
fi

need guest-kernel gcc make flex bison bc lz4 xz perl strip
deb=$(fetch_deb linux-source-6.1) || deb=$(newest "$cache"/debs/linux-source-6.1_*.deb)
[ -n "$deb" ] || die "cannot get the package linux-source-6.1: run apt-get update, and try again with the network up"
version=$(dpkg-deb -f "$deb" Version)
out=$cache/minimal-$hash-$version
if [ -d "$out" ]; then
	publish minimal "$out"
	exit
fi

work=$(mktemp -d "$cache/.minimal.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' HUP INT TERM
log=$cache/minimal.log
say "building a minimal guest kernel from linux-source $version (five minutes); the log is $log"
dpkg-deb --fsys-tarfile "$deb" | tar -xO --wildcards './usr/src/linux-source-*.tar.xz' | tar -xJ -C "$work"
src=$(echo "$work"/linux-source-*)
mkdir "$work/build"
{
	make -C "$src" O="$work/build" tinyconfig
	(cd "$work/build" && "$src/scripts/kconfig/merge_config.sh" -m .config "$config")
	make -C "$src" O="$work/build" olddefconfig
} >"$log" 2>&1 || die "the kernel was not configured: see $log"

# An option that this source cannot have would make it another kernel than the one asked for: say so.
grep -v '^#' "$config" | while read -r line; do
	case $line in
	*=n) ! grep -q "^${line%=n}=" "$work/build/.config" ;;
	*) grep -qxF "$line" "$work/build/.config" ;;
	esac || say "$line of $config is not in the built kernel"
done

nice make -C "$src" O="$work/build" -j"$(nproc)" KBUILD_BUILD_USER=kring KBUILD_BUILD_HOST=guest bzImage vmlinux \
	>>"$log" 2>&1 || die "the kernel did not build: see $log"
mkdir "$work/out"
cp "$work/build/arch/x86/boot/bzImage" "$work/out/vmlinuz"
strip -o "$work/out/vmlinux" "$work/build/vmlinux"
cp "$work/build/.config" "$work/out/config"
mv "$work/out" "$out"
publish minimal "$out"
