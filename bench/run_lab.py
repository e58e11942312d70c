"""Side by side in the nested lab: a small Linux on kring and on its peers, alternating in one boot of L1.

Writes the plan that bench/lab.sh carries out in L1, and turns the counters that it brings back into results: one
dictionary a job. Knows the monitors' command lines; nothing of tables.
"""

import collections
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Seconds: until a job has its pace, the stretch for time and CPU, the stretch with everything counted by kind.
SETTLE, FREE, COUNTED = 0.7, 1.5, 1

FIO = ('chroot /root fio --name=a --thread --filename=/dev/vda --ioengine=io_uring --direct=1 --gtod_reduce=1'
       ' --time_based --runtime=1000 --size=128m --norandommap --randrepeat=0 --rw={rw} --bs={bs} --iodepth={depth}'
       ' --iodepth_batch_submit={batch} --iodepth_batch_complete_min=1 --iodepth_batch_complete_max={depth}')
IPERF = 'chroot /root iperf3 -c 192.0.2.1 -t 1000 -i 0 {how}'


def disk_jobs():
    """Name and command: requests are submitted as many at once as may be, 32 at most; `single` submits one by one."""
    for rw, bs, depth, batch in [(rw, '4k', depth, min(depth, 32)) for rw in ('randread', 'randwrite')
                                 for depth in (1, 32, 128)] + [
                                     ('read', '128k', 8, 8), ('write', '128k', 8, 8), ('randread', '4k', 32, 1)]:
        name = f'{rw}-{bs}-{depth}' + ('-single' if batch == 1 < depth else '')
        yield name, FIO.format(rw=rw, bs=bs, depth=depth, batch=batch)


# Kind, name, what L1 does meanwhile, what the guest does.
JOBS = [('disk', name, '-', command) for name, command in disk_jobs()]
JOBS += [('net', name, 'iperf3 -s', IPERF.format(how=how)) for name, how in (
    ('tcp-out', ''), ('tcp-in', '-R'),
    ('udp-64-out', '-u -b 0 -l 64'), ('udp-64-in', '-u -b 0 -l 64 -R'),
    ('udp-1472-out', '-u -b 0 -l 1472'), ('udp-1472-in', '-u -b 0 -l 1472 -R'))]

# Kernels of the cache that are booted to init, and no further.
BOOTS = [(f'{name}-{form}', f'{file}-{name.removeprefix("debian-")}') for name in ('minimal', 'debian-6.1')
         for form, file in (('bzImage', 'vmlinuz'), ('vmlinux', 'vmlinux'))]

APPEND = 'kring.job=bench kring.bench={kind}'
QEMU = ('qemu-system-x86_64 -M microvm,pcie=on,rtc=on -accel kvm -cpu host -m 256 -smp 1 -nodefaults -no-user-config'
        ' -display none -no-reboot -chardev stdio,id=serial,signal=off -serial chardev:serial -object iothread,id=io'
        ' -kernel {kernel} -initrd {initrd} -append "console=ttyS0 quiet panic=-1 random.trust_cpu=on'
        ' cryptomgr.notests tsc=reliable ' + APPEND + '" {devices}'
        ' -drive if=none,id=tools,format=raw,readonly=on,file={tools}'
        ' -device virtio-blk-pci,drive=tools,serial=disktools')
KRING_BOOT = '{kring} boot -k {kernel} -i {guest} -m 256m --append kring.job=idle'
# As lean as it goes; without the RTC Linux asks for it 20000 times.
QEMU_BOOT = ('qemu-system-x86_64 -M microvm,pit=off,pic=off,rtc=on,x-option-roms=off,auto-kernel-cmdline=off'
             ' -accel kvm -cpu host -m 256 -smp 1 -nodefaults -no-user-config -display none -no-reboot'
             ' -chardev stdio,id=serial,signal=off -serial chardev:serial -kernel {kernel} -initrd {guest}'
             ' -append "console=ttyS0 quiet panic=-1 random.trust_cpu=on cryptomgr.notests tsc=reliable kring.job=idle"')
QEMU_DISK = ('-drive if=none,id=disk,format=raw,cache=none,file={disk},aio=%s'
             ' -device virtio-blk-pci,drive=disk,iothread=io')
QEMU_NET = ('-netdev tap,id=net,ifname=kb0,script=no,downscript=no,vhost=%s'
            ' -device virtio-net-pci,netdev=net,romfile=')
KRING = ('{kring} boot -k {kernel} -i {initrd} -m 256m --append "' + APPEND + '" {devices}'
         ' -d {tools},readonly,serial=disktools')

# Monitor: its kinds of devices, and its command line. The first is the one that the others are compared with.
MONITORS = {
    'qemu': (QEMU, {'disk': QEMU_DISK % 'io_uring', 'net': QEMU_NET % 'off'}),
    'kring': (KRING, {'disk': '-d {disk},direct', 'net': '-t kb0'}),
    'qemu-native': (QEMU, {'disk': QEMU_DISK % 'native'}),
    'qemu-threads': (QEMU, {'disk': QEMU_DISK % 'threads'}),
    'qemu-vhost': (QEMU, {'net': QEMU_NET % 'on'}),
}

BOOT_COMMANDS = {'qemu': QEMU_BOOT, 'kring': KRING_BOOT}

# Linux, arch/x86/entry/syscalls/syscall_64.tbl: those that monitors live on.
CALLS = {0: 'read', 1: 'write', 7: 'poll', 8: 'lseek', 16: 'ioctl', 17: 'pread64', 18: 'pwrite64', 19: 'readv',
         20: 'writev', 24: 'sched_yield', 202: 'futex', 208: 'io_getevents', 209: 'io_submit', 232: 'epoll_wait',
         271: 'ppoll', 281: 'epoll_pwait', 295: 'preadv', 296: 'pwritev', 333: 'io_pgetevents', 426: 'io_uring_enter'}
# Linux, arch/x86/include/uapi/asm/svm.h.
EXITS = {0x060: 'intr', 0x061: 'nmi', 0x064: 'vintr', 0x072: 'cpuid', 0x078: 'hlt', 0x07b: 'io', 0x07c: 'msr',
         0x400: 'npf'}


def libraries(program):
    """The shared libraries of a program."""
    listed = subprocess.run(['ldd', program], capture_output=True, text=True, check=False).stdout
    return re.findall(r'(/\S+) \(0x', listed)


def files_for_l1(monitors, kinds):
    """What L1 needs beside kring and the kernels: QEMU and iperf3 as they are installed here."""
    programs = []
    if any(name.startswith('qemu') for name in monitors):
        programs.append('qemu-system-x86_64')
    if 'net' in kinds:
        programs.append('iperf3')
    for name in programs:
        program = shutil.which(name)
        if not program:
            raise SystemExit(f'bench: {name} is missing: run tests/deps bench')
        yield program
        yield from libraries(program)
    for name in ('qemu/qboot.rom', 'seabios/bios-256k.bin', 'qemu/linuxboot_dma.bin', 'qemu/pvh.bin',
                 'qemu/kvmvapic.bin', 'qemu/bios-microvm.bin', 'seabios/bios-microvm.bin'):
        if os.path.exists(f'/usr/share/{name}'):
            yield f'/usr/share/{name}'


def make_initrd(cache, directory):
    """The guests' initramfs of the lab, with the job and its lists behind it."""
    tree = directory / 'tree'
    (tree / 'jobs').mkdir(parents=True)
    (tree / 'bench').mkdir()
    shutil.copy(ROOT / 'bench/lab-job', tree / 'jobs/bench')
    for jobs in directory.glob('jobs.*'):
        shutil.copy(jobs, tree / 'bench')
    names = '\n'.join(str(path.relative_to(tree)) for path in sorted(tree.rglob('*')))
    more = subprocess.run(['cpio', '--quiet', '-o', '-H', 'newc', '-R', '0:0'], cwd=tree, input=names.encode(),
                          capture_output=True, check=True).stdout
    initrd = directory / 'initrd'
    initrd.write_bytes((cache / 'guest.cpio').read_bytes() + more)
    return initrd


def write_plan(directory, jobs, boots, monitors, runs, paths):
    """Jobs and the order of things: every monitor in turn, as many times as there are runs."""
    kinds = sorted({job[0] for job in jobs})
    for kind in kinds:
        lines = ['\t'.join(job[1:]) + '\n' for job in jobs if job[0] == kind]
        (directory / f'jobs.{kind}').write_text(''.join(lines))
    (directory / 'settings').write_text(
        f'SECONDS_SETTLE={SETTLE} SECONDS_FREE={FREE} SECONDS_COUNTED={COUNTED}\n')
    plan = []
    for run in range(1, runs + 1):
        for kind in kinds:
            for monitor in monitors:
                command, devices = MONITORS[monitor]
                if kind in devices:
                    line = command.replace('{devices}', devices[kind])
                    line = line.format(kind=kind, disk='/dev/kringbench', **paths)
                    plan.append(f'{monitor} {run} {kind} {line}\n')
        for name, kernel in boots:
            for monitor in (monitor for monitor in monitors if monitor in BOOT_COMMANDS):
                line = BOOT_COMMANDS[monitor].format(**{**paths, 'kernel': paths['cache'] / kernel})
                plan.append(f'{monitor} {run} boot-{name} {line}\n')
    (directory / 'plan').write_text(''.join(plan))
    return kinds, len(plan)


def measure(cache, kring, monitors, only, runs):
    """Boots L1 and yields a dictionary for each job of each guest."""
    jobs = [job for job in JOBS if re.search(only, f'{job[0]}-{job[1]}')]
    boots = [boot for boot in BOOTS if re.search(only, f'boot-{boot[0]}')]
    if not jobs and not boots:
        raise SystemExit(f"bench: no job of the lab matches '{only}'")
    with tempfile.TemporaryDirectory(prefix='bench-') as name:
        directory = pathlib.Path(name)
        paths = {'kring': kring, 'cache': cache, 'kernel': cache / 'vmlinuz-minimal',
                 'guest': (cache / 'guest.cpio').resolve(), 'initrd': directory / 'initrd',
                 'tools': (cache / 'disktools.ext4').resolve()}
        kinds, guests = write_plan(directory, jobs, boots, monitors, runs, paths)
        make_initrd(cache, directory)
        shutil.rmtree(directory / 'tree')
        files = {str(directory), str(paths['tools']), str(paths['guest']), str(kring), *files_for_l1(monitors, kinds)}
        timeout = 180 + guests * (20 + len(jobs) * int(SETTLE + FREE + COUNTED + 6))
        done = subprocess.run([ROOT / 'tests/lab/lab', 'run', 'sh', ROOT / 'bench/lab.sh', directory], check=False,
                              env=dict(os.environ, KRING=str(kring), LAB_OUT=str(directory / 'out'),
                                       LAB_FILES='\n'.join(sorted(files)), LAB_TIMEOUT=str(timeout)))
        samples = directory / 'out/samples'
        if samples.exists():
            yield from results(samples.read_text(errors='replace'))
        done.check_returncode()


def results(text):
    """The samples of bench/lab.sh as dictionaries."""
    inside = {tuple(line.split()[1:5]): line.split()[5:] for line in text.splitlines() if line.startswith('#inside ')}
    for block in text.split('#job ')[1:]:
        head, _, rest = block.partition('\n')
        monitor, run, kind, name = head.split()
        result = {'where': 'lab', 'monitor': monitor, 'bench': f'{kind}-{name}', 'run': int(run)}
        if kind == 'boot':
            found = re.search(r'^#boot (\S+) (\d+) (\d+)', rest, re.M)
            yield dict(result, values={'boot_ms': float(found[1]), 'exits': int(found[2]), 'user_exits': int(found[3])}
                       ) if found else dict(result, failed='it does not come to init')
            continue
        failed = re.search(r'^#failed (.*)', rest, re.M)
        snapshots = re.split(r'^#snapshot \w+\n', rest, flags=re.M)[1:]
        if failed or len(snapshots) != 4:
            yield dict(result, failed=failed[1] if failed else 'the guest or L1 died')
            continue
        free = difference(snapshots[0], snapshots[1])
        counted = difference(snapshots[2], snapshots[3])
        yield dict(result, values=values(kind, free, counted) | interrupts(inside.get((monitor, run, kind, name), [])))


def interrupts(counted):
    """What the guest counted around a job: the interrupts of its device, and the rest is requests or packets."""
    half = len(counted) // 2
    delta = [int(after) - int(before) for before, after in zip(counted[:half], counted[half:])]
    return {'interrupts': delta[0] / sum(delta[1:])} if half and sum(delta[1:]) else {}


def counters(text):
    """One snapshot: what a name stands for, and the hist lines of the counted stretch."""
    found = collections.Counter()
    for line in text.splitlines():
        path, _, content = line.partition(':')
        fields = content.split()
        task = re.match(r'/proc/\d+/task/(\d+)/(stat|schedstat)', path)
        if path == '/proc/uptime':
            found['time'] = float(fields[0])
        elif task and task[2] == 'schedstat':
            found['task ' + task[1]] = int(fields[0]) / 1000
        elif task:
            found['guest ' + task[1]] = int(content.rpartition(')')[2].split()[40]) * 10000
        elif path.endswith('schedstat'):
            found['task vhost'] += int(fields[0]) / 1000
        elif path.startswith('/sys/block'):
            for at, what in ((0, 'requests'), (4, 'requests'), (2, 'sectors'), (6, 'sectors')):
                found[what] += int(fields[at])
        elif path.startswith('/sys/class/net'):
            found[path.rpartition('/')[2]] = int(fields[0])
        elif path.endswith('/exits'):
            found['exits'] += int(fields[0])
        elif path.endswith('/hist') and (hit := re.search(r'\{ (.*) \} hitcount: +(\d+)', content)):
            found[hit[1]] = int(hit[2])
    return found


def difference(before, after):
    """What was counted between two snapshots."""
    first, last = counters(before), counters(after)
    return {name: last[name] - first[name] for name in last}


def values(kind, free, counted):
    """What a job came to, by request or packet. Packets count both ways: acknowledgements are work too."""
    def work(delta):
        return delta['requests'] if kind == 'disk' else delta['rx_packets'] + delta['tx_packets']

    moved = free['sectors'] * 512 if kind == 'disk' else free['rx_bytes'] + free['tx_bytes']
    done, seconds = work(free) or 1, free['time'] or 1
    # A thread that ran guest code is a vCPU. Its time outside of the guest is by clock ticks, the others' is exact.
    tasks = {name[5:]: (spent, free.get('guest ' + name[5:], 0)) for name, spent in free.items()
             if name.startswith('task ')}
    vcpu = sum(max(spent - guest, 0) for spent, guest in tasks.values() if guest)
    rest = sum(spent for spent, guest in tasks.values() if not guest)
    out = {'per_second': work(free) / seconds, 'mbytes_per_second': moved / seconds / 1e6,
           'exits': free.get('exits', 0) / done, 'cpu_us': (vcpu + rest) / done, 'cpu_us_io': rest / done,
           'cpu_us_vcpu': vcpu / done}
    if kind == 'net':
        out.update(packets_out=free['rx_packets'] / seconds, packets_in=free['tx_packets'] / seconds,
                   mbytes_out=free['rx_bytes'] / seconds / 1e6, mbytes_in=free['tx_bytes'] / seconds / 1e6)

    done = work(counted) or 1
    calls, kinds = collections.Counter(), collections.Counter()
    for name, count in counted.items():
        if (call := re.match(r'common_pid: +(\d+), id: +(\d+)', name)) and 'task ' + call[1] in counted:
            calls[CALLS.get(int(call[2]), f'syscall {call[2]}')] += count
        elif reason := re.match(r'exit_reason: +(\d+)', name):
            kinds[EXITS.get(int(reason[1]), hex(int(reason[1])))] += count
    out['calls'] = sum(calls.values()) / done
    out['calls_by_name'] = {name: count / done for name, count in calls.most_common(8)}
    out['exits_by_reason'] = {name: count / done for name, count in kinds.most_common(8)}
    return out
