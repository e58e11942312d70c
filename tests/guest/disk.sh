# shellcheck shell=sh disable=SC2015,SC2034,SC2154 # names go both ways between lib.sh and the tests
# Disks: what a guest writes is on the image, what is on the image the guest reads, and what it may not do fails.
# Guests are told what to do by a script, `job`, that the test writes; jobs/disk runs it, with fio and e2fsprogs there.

# disk ARG...: a guest with those disks, /dev/vda and on, and last of all its tools; runs the file named job.
disk() {
	disk_begin "$@"
	disk_end
}

# disk_begin ARG...: the same in the background; disk_end waits for it and expects that its job went well.
disk_begin() {
	: "${kernel:=$minimal}"
	need_kernel "$kernel"
	need_tools
	job_initrd "$KRING_CACHE/disktools.cpio"
	guest_start -k "$kernel" -m 256M --append "kring.job=disk ${parameters-}" "$@" \
		-d "$tools"
}

disk_end() {
	guest_end
	expect_passed
}

# image NAME SIZE: an empty one.
image() {
	truncate -s "$2" "$1"
}

# noise FILE SIZE: what does not repeat, as a compressed kernel: blocks of it are not easily mixed up.
noise() {
	need_kernel "$minimal"
	head -c "$2" "$minimal" >"$1"
}

# kb FILE: what it takes on the host.
kb() {
	du -k "$1" | cut -f1
}

# need_root WHY
need_root() {
	[ "$(id -u)" = 0 ] || skip "only root can $1"
}

# fio_job DIRECT: block sizes and depths, each block read back and checked when all are written.
fio_job() {
	cat <<-END
		cat >verify.fio <<-FIO
			[global]
			filename=/dev/vda
			ioengine=io_uring
			direct=$1
			rw=randwrite
			verify=crc32c
			verify_fatal=1
			verify_state_save=0
			stonewall
			[a]
			bs=512
			iodepth=1
			size=128k
			[b]
			bs=512
			iodepth=64
			offset=1m
			size=256k
			[c]
			bs=4k
			iodepth=1
			offset=2m
			size=1m
			[d]
			bs=4k
			iodepth=32
			offset=4m
			size=4m
			[e]
			bs=64k
			iodepth=8
			offset=8m
			size=8m
			[f]
			bs=1m
			iodepth=4
			offset=16m
			size=16m
			[g]
			rw=write
			bssplit=512/20:1536/20:4k/20:20k/20:1m/20
			iodepth=16
			offset=32m
			size=16m
		FIO
		fio --output-format=terse --terse-version=3 verify.fio >log || {
			cut -c1-200 log
			exit 1
		}
	END
}

test_disk_fio_direct() {
	image a.img 64M
	fio_job 1 >job
	disk -d a.img
}

test_disk_fio_buffered() {
	image a.img 64M
	fio_job 0 >job
	disk -d a.img
}

test_disk_fio_sync() {
	image a.img 64M
	fio_job 1 >job
	disk -d a.img,sync
}

# Guest memory that the kernel has registered.
test_disk_fio_registered() {
	image a.img 64M
	fio_job 1 >job
	disk --registered-memory on -d a.img
}

# Four jobs on four CPUs, and so on four queues, each of which gets its share.
test_disk_fio_queues() {
	image a.img 64M
	cat >job <<-'END'
		[ "$(ls /sys/block/vda/mq | wc -l)" = 4 ]
		fio --filename=/dev/vda --ioengine=io_uring --direct=1 --rw=randwrite --bs=4k --iodepth=16 --verify=crc32c \
			--verify_fatal=1 --verify_state_save=0 --numjobs=4 --size=4m --offset_increment=16m --cpus_allowed=0-3 --cpus_allowed_policy=split --name=a >log ||
			{ cat log; exit 1; }
		grep virtio0-req /proc/interrupts
	END
	disk -c 4 -d a.img,queues=4 --stats stats.json
	expect_queues blk0 requests 4 1024
	[ "$(tr -d '\r' <out | grep -c 'PCI-MSI.*virtio0-req')" = 4 ] || fail 'not four queues with MSI-X vectors'
}

# direct_image MEGABYTES: leaves in $direct an image on which O_DIRECT works: a device with blocks of 4 KiB, or a file.
direct_image() {
	config=/sys/kernel/config
	name=kring$$
	[ -d $config/nullb ] || mount -t configfs config $config 2>/dev/null
	if mkdir "$config/nullb/$name" 2>/dev/null; then
		(cd "$config/nullb/$name" && echo "$1" >size && echo 4096 >blocksize && echo 1 >memory_backed &&
			echo 1 >discard && echo 1 >power) || fail 'null_blk makes no device'
		direct=/dev/$name
	else
		image direct.img "${1}M"
		direct=$PWD/direct.img
		dd if="$direct" of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null || skip 'no O_DIRECT here'
	fi
}

# Sectors of 512 bytes on a host that writes 4 KiB: kring reads, changes and writes blocks.
test_disk_fio_host_direct() {
	direct_image 64
	fio_job 1 >job
	disk -d "$direct,direct"
}

# File systems: made by the guest, read by the host.

# mkfs KERNEL
mkfs() {
	kernel=$KRING_CACHE/$1
	image a.img 64M
	noise big 5120000
	cat >job <<-'END'
		/bin/mke2fs -q -t ext4 /dev/vda
		mount -t ext4 /dev/vda /mnt
		dd if=/dev/vdb of=/mnt/big bs=1000 count=5120
		for i in $(seq 200); do
			echo "$i" >/mnt/small.$i
		done
		rm /mnt/small.??
		sync
		echo 3 >/proc/sys/vm/drop_caches
		head -c 5120000 /dev/vdb | sha256sum >sum
		sha256sum </mnt/big | cmp - sum
		umount /mnt
		e2fsck -fn /dev/vda
		echo "GUEST $(sha256sum </dev/vda | cut -d' ' -f1)"
	END
	disk -d a.img -d big,readonly
	expect_line out "GUEST $(sha256sum <a.img | cut -d' ' -f1)"
	e2fsck -fn a.img >fsck 2>&1 || fail "the host's e2fsck: $(tail -n 1 fsck)"
	debugfs -R 'cat /big' a.img 2>said >big.back || fail "the host's debugfs: $(tail -n 1 said)"
	head -c 5120000 big | cmp - big.back || fail 'the file is another one on the host'
}

test_disk_mkfs_minimal() { mkfs vmlinuz-minimal; }
test_disk_mkfs_5_10() { mkfs vmlinuz-5.10; }
test_disk_mkfs_6_1() { mkfs vmlinuz-6.1; }
test_disk_mkfs_6_12() { mkfs vmlinuz-6.12; }

# Discarding.

test_disk_discard() {
	image a.img 64M
	cat >job <<-'END'
		cat /sys/block/vda/queue/discard_granularity /sys/block/vda/queue/discard_max_bytes
		dd if=/dev/zero of=/dev/vda bs=1M count=64 conv=fsync
		echo KRING-FULL
		read line
		blkdiscard -o 1048576 -l 50331648 /dev/vda
		echo KRING-DISCARDED
		read line
		/bin/mke2fs -q -t ext4 -E nodiscard /dev/vda
		mount -t ext4 /dev/vda /mnt
		dd if=/dev/zero of=/mnt/big bs=1M count=40 conv=fsync
		sync
		echo KRING-BIG
		read line
		rm /mnt/big
		sync
		fstrim -v /mnt
		umount /mnt
		echo KRING-TRIMMED
		read line
	END
	mkfifo keys
	input=keys
	disk_begin -d a.img
	exec 4>keys
	for mark in FULL DISCARDED BIG TRIMMED; do
		wait_for "KRING-$mark"
		echo "$mark $(kb a.img)" >>sizes
		echo >&4
	done
	disk_end
	exec 4>&-
	full=$(sed -n 's/FULL //p' sizes)
	[ "$full" -ge 65536 ] || fail "the full image takes $full KiB"
	[ "$(sed -n 's/DISCARDED //p' sizes)" -le $((65536 - 49152 + 512)) ] || fail "blkdiscard: $(cat sizes)"
	[ "$(sed -n 's/TRIMMED //p' sizes)" -le $(($(sed -n 's/BIG //p' sizes) - 40000)) ] || fail "fstrim: $(cat sizes)"
}

test_disk_discard_off() {
	image a.img 8M
	cat >job <<-'END'
		dd if=/dev/zero of=/dev/vda bs=1M count=8 conv=fsync
		! blkdiscard /dev/vda
	END
	disk -d a.img,discard=off
	[ "$(kb a.img)" -ge 8192 ] || fail "the image takes $(kb a.img) KiB"
}

test_disk_write_zeroes() {
	image a.img 8M
	cat >job <<-'END'
		tr '\0' x </dev/zero | dd of=/dev/vda bs=1M count=8 iflag=fullblock conv=fsync
		/bin/blkdiscard -z -o 1536 -l 4194304 /dev/vda
	END
	disk -d a.img
	{
		head -c 1536 /dev/zero | tr '\0' x
		head -c 4194304 /dev/zero
		head -c $((8388608 - 4194304 - 1536)) /dev/zero | tr '\0' x
	} >expected
	expect_same a.img expected
}

# What the guest sees of its disks, and is not allowed.

test_disk_identity() {
	image a.img 5M
	image b.img 1M
	cat >job <<-'END'
		cd /sys/block
		for key in serial size ro queue/write_cache queue/logical_block_size; do
			echo "vda $key $(cat vda/$key)"
			echo "vdb $key $(cat vdb/$key)"
		done
		echo 'write through' >vda/cache_type
		echo "vda then $(cat vda/queue/write_cache)"
		echo 'write back' >vdb/cache_type || :
		echo "vdb then $(cat vdb/cache_type)"
	END
	disk -d a.img,serial=kring-0123456789 -d b.img,readonly,sync
	expect_line out '^vda serial kring-0123456789$'
	expect_line out '^vdb serial $'
	expect_line out '^vda size 10240$'
	expect_line out '^vdb size 2048$'
	expect_line out '^vda ro 0$'
	expect_line out '^vdb ro 1$'
	expect_line out '^vda queue/logical_block_size 512$'
	expect_line out '^vda queue/write_cache write back$'
	expect_line out '^vdb queue/write_cache write through$'
	expect_line out '^vda then write through$'
	expect_line out '^vdb then write through$'
}

test_disk_refuses_writes() {
	noise a.img 1048576
	cp a.img before
	cat >job <<-'END'
		! dd if=/dev/zero of=/dev/vda bs=4k count=1 conv=fsync
		sha256sum </dev/vda | cut -c1-64
	END
	disk -d a.img,readonly
	expect_same a.img before
	expect_line out "^$(sha256sum <before | cut -d' ' -f1)"
}

test_disk_four() {
	for i in a b c d; do
		noise $i.img 4194304
	done
	cat >job <<-'END'
		for i in a b c d; do
			{
				sha256sum </dev/vd$i >sum.$i
				fio --filename=/dev/vd$i --name=$i --ioengine=io_uring --direct=1 --rw=randwrite --bs=4k \
					--iodepth=8 --size=1m --verify=crc32c --verify_fatal=1 --verify_state_save=0 >log.$i
				touch done.$i
			} &
		done
		wait
		cat sum.?
		ls done.a done.b done.c done.d
		grep virtio.-req /proc/interrupts
	END
	disk -c 2 -d a.img -d b.img,queues=2 -d c.img,sync -d d.img,serial=d --stats "$LAB_OUT/disk.json"
	expect_line out "^$(head -c 4194304 "$minimal" | sha256sum | cut -d' ' -f1)"
	[ "$(grep -c 'PCI-MSI.*virtio.-req' out)" = 6 ] || fail 'not six queues with MSI-X vectors'
}

test_disk_without_msi() {
	noise a.img 1048576
	cat >job <<-'END'
		sha256sum </dev/vda | cut -c1-64
		dd if=/dev/zero of=/dev/vda bs=4k count=16 conv=fsync
		grep virtio /proc/interrupts
	END
	parameters=pci=nomsi
	disk -d a.img
	expect_line out "^$(head -c 1048576 "$minimal" | sha256sum | cut -d' ' -f1)"
	expect_line out 'IO-APIC.*virtio'
}

# A full file system is an I/O error to the guest, and no more.
test_disk_full() {
	need_root 'make a small file system'
	mkdir small
	mount -t tmpfs -o size=4m small small || skip 'no tmpfs here'
	image small/a.img 64M
	image b.img 1M
	cat >job <<-'END'
		! dd if=/dev/zero of=/dev/vda bs=64k count=512 conv=fsync 2>error
		grep -i 'error' error
		blkdiscard /dev/vda
		dd if=/dev/zero of=/dev/vda bs=64k count=8 conv=fsync
		dd if=/dev/zero of=/dev/vdb bs=64k count=16 conv=fsync
	END
	disk_begin -d small/a.img -d b.img
	guest_end
	umount small
	expect_passed
}

# What an fsync has returned for is in the image, whatever becomes of kring.
test_disk_killed() {
	image a.img 16M
	cat >job <<-'END'
		n=0
		while n=$((n + 1)); do
			printf '%-4096s' "record $n" | dd of=/dev/vda bs=4k seek=$n conv=fsync 2>/dev/null
			echo "KRING-SYNCED $n"
		done
	END
	disk_begin -d a.img
	wait_for 'KRING-SYNCED 40'
	kill -KILL "$pid"
	guest_end
	last=$(tr -d '\r' <out | sed -n 's/^KRING-SYNCED \([0-9]*\)$/\1/p' | tail -n 1)
	n=0
	while [ $n -lt "$last" ]; do
		n=$((n + 1))
		[ "$(dd if=a.img bs=4k skip=$n count=1 2>/dev/null | tr -d ' ')" = "record$n" ] ||
			fail "record $n of $last is not in the image"
	done
}

test_disk_locked() {
	image a.img 1M
	echo 'echo KRING-READY; read line' >job
	mkfifo keys
	input=keys
	disk_begin -d a.img
	exec 4>keys
	wait_for KRING-READY
	input=/dev/null
	"$KRING" boot -k "$minimal" -d a.img >/dev/null 2>second && fail 'a second kring writes to it'
	"$KRING" boot -k "$minimal" -d a.img,readonly >/dev/null 2>>second && fail 'a second kring reads it'
	echo >&4
	disk_end
	exec 4>&-
	[ "$(grep -c '^kring: disk a.img: a kring or another program' second)" = 2 ] || fail "$(cat second)"
}

test_disk_refused() {
	need_kernel "$minimal"
	image short.img 1000
	for text in none.img short.img . /dev/null short.img,what; do
		kring boot -k "$minimal" -d "$text"
		[ "$status" = 125 ] || [ "$status" = 2 ] || fail "-d '$text': exit status $status"
		[ "$(grep -c . err)" = 1 ] && grep -q '^kring: disk' err || fail "-d '$text': $(cat err)"
	done
}

test_disk_resized() {
	image a.img 1M
	cat >job <<-'END'
		echo "KRING-SIZE $(cat /sys/block/vda/size)"
		while [ "$(cat /sys/block/vda/size)" = 2048 ]; do
			sleep 0.2
		done
		echo "KRING-SIZE $(cat /sys/block/vda/size)"
		dd if=/dev/zero of=/dev/vda bs=1M seek=2 count=1 conv=fsync
	END
	disk_begin -d a.img
	wait_for 'KRING-SIZE 2048'
	truncate -s 3M a.img
	disk_end
	expect_line out '^KRING-SIZE 6144$'
}
