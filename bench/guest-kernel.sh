#!/bin/sh
# Builds the minimal guest kernel: Debian's linux-source-6.1, tinyconfig and bench/guest-kernel.config, out of
# tree in the cache. Result: vmlinuz-minimal and vmlinux-minimal there; 5 minutes on two cores, then cached by
# configuration and source version. A cached kernel is used as it is; `--newest` asks apt for a newer source.
set -eu
me=guest-kernel
. "$(dirname "$0")/../tests/lab/common.sh"

config=$root/bench/guest-kernel.config
hash=$(sha256sum <"$config" | cut -c1-12)

# built: the newest kernel of this configuration, as the cache's directory of it.
built() {
	ls -d "$cache/minimal-$hash-"* 2>/dev/null | sort -V | tail -n 1
}

publish() {
	for name in vmlinuz vmlinux; do
		ln -sfn "${1##*/}/$name" "$cache/.$name.$$"
		mv -T "$cache/.$name.$$" "$cache/$name-minimal"
	done
	echo "$cache/vmlinuz-minimal"
}

done=$(built)
if [ -n "$done" ] && [ "${1-}" != --newest ]; then
	publish "$done"
	exit
fi

for tool in gcc make flex bison bc lz4 xz perl; do
	command -v "$tool" >/dev/null || die "$tool is missing: run tests/deps guest-kernel"
done
deb=$(fetch_deb linux-source-6.1) || deb=$(ls "$cache"/debs/linux-source-6.1_*.deb 2>/dev/null | sort -V | tail -n 1)
[ -n "$deb" ] || die "cannot get the package linux-source-6.1 from apt: no network? try again with it, or apt-get update"
version=$(dpkg-deb -f "$deb" Version)
out=$cache/minimal-$hash-$version
if [ -d "$out" ]; then
	publish "$out"
	exit
fi

work=$(mktemp -d "$cache/.minimal.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' HUP INT TERM
say "unpacking linux-source $version"
dpkg-deb --fsys-tarfile "$deb" | tar -xO --wildcards './usr/src/linux-source-*.tar.xz' | tar -xJ -C "$work"
src=$(echo "$work"/linux-source-*)
mkdir "$work/build"
say "configuring and building; the log is in $cache/minimal.log"
make -C "$src" O="$work/build" tinyconfig >"$cache/minimal.log" 2>&1
(cd "$work/build" && KCONFIG_CONFIG=.config "$src/scripts/kconfig/merge_config.sh" -m .config "$config") >>"$cache/minimal.log"
nice make -C "$src" O="$work/build" olddefconfig >>"$cache/minimal.log" 2>&1

# The options that this kernel cannot have are a fault of the fragment: say so rather than measure another kernel.
grep -v '^#' "$config" | while read -r line; do
	name=${line%%=*}
	case $line in
	*=n) ! grep -q "^$name=" "$work/build/.config" || echo "$line" ;;
	*) grep -qx "$line" "$work/build/.config" || echo "$line" ;;
	esac
done >"$work/lost"
[ ! -s "$work/lost" ] || say "not in the built kernel: $(tr '\n' ' ' <"$work/lost")"

nice make -C "$src" O="$work/build" -j"$(nproc)" KBUILD_BUILD_USER=kring KBUILD_BUILD_HOST=guest bzImage vmlinux \
	>>"$cache/minimal.log" 2>&1 || die "the kernel did not build: see $cache/minimal.log"
mkdir "$work/out"
cp "$work/build/arch/x86/boot/bzImage" "$work/out/vmlinuz"
strip -o "$work/out/vmlinux" "$work/build/vmlinux"
cp "$work/build/.config" "$work/out/config"
mv "$work/out" "$out"
publish "$out"
