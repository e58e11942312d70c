"""Side by side on this machine's own KVM: the benchmark guest (bench/guest/main.c) on kring and on its peers.

The guest works in ring 3, so all this holds where a KVM emulates ring 0, too. Every section yields results, one
dictionary a measurement, monitors alternating. A ceiling, what the host does with no VM, runs as one more monitor.
Knows the monitors' command lines; nothing of tables.
"""

import collections
import contextlib
import json
import os
import pathlib
import re
import shlex
import shutil
import statistics
import subprocess
import tempfile
import time

QEMU = ('qemu-system-x86_64 -M microvm,acpi=off,pit=off,pic=off,rtc=off -global virtio-mmio.force-legacy=false'
        ' -accel kvm -cpu host -m {memory} -smp {cpus} -nodefaults -no-user-config'
        ' -display none -no-reboot -name bench,debug-threads=on -serial stdio -object iothread,id=io'
        ' -kernel {elf} -append "{job}" {devices}')
QEMU_DISK = ('-drive if=none,id=d{n},format=raw,file={path},aio={aio},cache={cache}'
             ' -device virtio-blk-device,drive=d{n},iothread=io,num-queues={queues}')
QEMU_NET = ('-netdev tap,id=net,ifname={tap},script=no,downscript=no,vhost={vhost}'
            ' -device virtio-net-device,netdev=net')
KRING = '{kring} boot -k {elf} -m {memory}m -c {cpus} -p "{job}" {devices} {counters}'
KRING_DISK = '-d {path},queues={queues}{direct}'
KRING_NET = '-t {tap}'
KRING_COUNTERS = '--stats {directory}/stats --timings {directory}/timings'

# Monitor: command line, devices, how QEMU serves them, and which of its threads run guest code.
Monitor = collections.namedtuple('Monitor', 'command disk aio net vhost is_vcpu')


def kring_vcpu(comm, is_main):
    """The main thread serves the ring; io_uring's and KVM's threads have names of their own."""
    return not is_main and comm.startswith('kring')


def qemu_vcpu(comm, _):
    """QEMU names them."""
    return comm.startswith('CPU ')


MONITORS = {
    'qemu': Monitor(QEMU, QEMU_DISK, 'io_uring', QEMU_NET, 'off', qemu_vcpu),
    'kring': Monitor(KRING, KRING_DISK, '', KRING_NET, '', kring_vcpu),
    'kring-registered': Monitor(KRING + ' --registered-memory on', KRING_DISK, '', '', '', kring_vcpu),
    'qemu-native': Monitor(QEMU, QEMU_DISK, 'native', '', '', qemu_vcpu),
    'qemu-vhost': Monitor(QEMU, '', '', QEMU_NET, 'on', qemu_vcpu),
}
LEAN = ('qemu', 'kring')

FIO = ('fio --name=a --thread --filename={path} --ioengine=io_uring --gtod_reduce=1 --time_based --runtime={ms}ms'
       ' --size=256m --norandommap --randrepeat=0 --rw={op} --bs={bs} --iodepth={depth} --direct={direct} --numjobs=1'
       ' --iodepth_batch_submit={batch} --iodepth_batch_complete_min=1 --iodepth_batch_complete_max={depth}'
       ' --invalidate=0 --registerfiles=1 --fixedbufs=1 --output-format=json --group_reporting')

# A guest that has nothing to do: each of its processors is woken so many times a second.
IDLE = 'job=idle hz=10 time=0'
TRACING = pathlib.Path('/sys/kernel/tracing/instances/kring-bench')
KVM_RUN = 0xae80
# bench/guest/entry.h
MARKER = 0x4b52
MARK_RING3, MARK_END = 2, 3


class Host:
    """Where things are, and how long and how often to measure."""

    def __init__(self, kring, elf, directory, seconds, runs):
        self.kring, self.elf, self.seconds, self.runs = kring, elf, seconds, runs
        self.directory = directory
        self.counters = KRING_COUNTERS.format(directory=directory)

    def command(self, name, job, disks=(), queues=1, tap=None, **more):
        """The words that start a monitor. Disks: paths, and whether past the page cache. Tap: its name."""
        monitor = MONITORS[name]
        devices = ' '.join(monitor.disk.format(
            n=n, path=path, queues=queues, aio=monitor.aio if direct or monitor.aio != 'native' else 'threads',
            cache='none' if direct else 'writeback', direct=',direct' if direct else '')
                           for n, (path, direct) in enumerate(disks))
        if tap:
            devices += monitor.net.format(tap=tap, vhost=monitor.vhost)
        words = {'elf': self.elf, 'memory': 64, 'cpus': 1, 'kring': self.kring, 'job': job, 'devices': devices,
                 'counters': '', **more}
        return shlex.split(monitor.command.format(**words))


def result(bench, monitor, run, values=None, **lost):
    """One measurement, or `failed` or `skipped` and why."""
    what = lost or {'values': values}
    return {'where': 'host', 'bench': bench, 'monitor': monitor, 'run': run, **what}


def threads(pid):
    """CPU time so far of each thread, in us, by name and number."""
    found = {}
    for task in pathlib.Path(f'/proc/{pid}/task').glob('*'):
        with contextlib.suppress(OSError, IndexError):
            spent = int((task / 'schedstat').read_text().split()[0]) / 1000
            found[(task / 'comm').read_text().strip(), int(task.name)] = spent
    return found


def run_sampled(argv, seconds, is_vcpu=lambda comm, is_main: False):
    """Runs it to its end; the CPU share of its threads but the vCPUs', during the busiest part of the job."""
    seen, samples = {}, []
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        deadline = time.monotonic() + seconds + 60
        while child.poll() is None and time.monotonic() < deadline:
            seen |= {tid: spent for (comm, tid), spent in threads(child.pid).items()
                     if not is_vcpu(comm, tid == child.pid)}
            samples.append((time.monotonic(), sum(seen.values()) / 1e6))
            time.sleep(min(0.05, seconds / 10))
        child.kill()
        child.wait()
        out.seek(0)
        err.seek(0)
        text, errors = out.read().decode(errors='replace'), err.read().decode(errors='replace')
    shares = [(last - first) / (end - begin) for begin, first in samples for end, last in samples
              if end - begin >= 0.7 * seconds]
    return text, errors, max(shares, default=0)


def last_json(text):
    """The last line that is an object, or the whole."""
    lines = [line for line in text.splitlines() if line.startswith('{') and line.rstrip().endswith('}')]
    with contextlib.suppress(ValueError):
        return json.loads(lines[-1] if lines else text[text.index('{'):])
    return None


def guest_values(told, share):
    """What a disk or net job of the benchmark guest came to, and the monitor's CPU beside the vCPUs'."""
    per_second = told['ops'] / told['seconds']
    values = {'per_second': per_second, 'mbytes_per_second': told['bytes'] / told['seconds'] / 1e6}
    if told['lat_us']['p50']:
        values |= {'p50_us': told['lat_us']['p50'], 'p99_us': told['lat_us']['p99']}
    done = told['served'] or 1
    return values | {'kicks': told['kicks'] / done, 'interrupts': told['interrupts'] / done,
                     'cpu_us_io': share * 1e6 / per_second}


def ring_values(host, done):
    """What kring counted in the run before: its ring's, and KVM's exits between the guest's marks."""
    counted = json.loads((host.directory / 'stats').read_text())['ring']
    marks = {mark['value']: mark for mark in json.loads((host.directory / 'timings').read_text())['markers']}
    exits = marks[MARK_END].get('kvm_exits', 0) - marks[MARK_RING3].get('kvm_exits', 0)
    return {'enters': counted['enters'] / done, 'sqes_per_enter': counted['sqes'] / (counted['enters'] or 1)} | (
        {'exits': exits / done} if exits else {})


def guest_run(host, bench, name, run, job, **more):
    """One job of the benchmark guest as a result."""
    argv = host.command(name, job, counters=host.counters, **more)
    text, errors, share = run_sampled(argv, host.seconds, MONITORS[name].is_vcpu)
    told = last_json(text)
    if not told or 'error' in told or not told.get('ops'):
        why = told.get('error') if told and 'error' in told else (errors or text).strip().splitlines()[-1:]
        return result(bench, name, run, failed=f'{why}')
    counted = ring_values(host, told['served'] or 1) if name.startswith('kring') else {}
    return result(bench, name, run, guest_values(told, share) | counted)


def fio_run(host, bench, name, run, argv):
    """A ceiling of a disk."""
    text, errors, share = run_sampled(argv, host.seconds)
    told = last_json(text)
    if not told:
        return result(bench, name, run, failed=errors.strip()[-200:])
    job = told['jobs'][0]
    per_second = job['read']['iops'] + job['write']['iops']
    moved = job['read']['bw_bytes'] + job['write']['bw_bytes']
    return result(bench, name, run, {'per_second': per_second, 'mbytes_per_second': moved / 1e6,
                                     'cpu_us_io': share * 1e6 / per_second})


DISK_PEERS = ('qemu', 'kring', 'kring-registered', 'qemu-native')
DISK_JOBS = [(op, '4k', depth, 1) for op in ('randread', 'randwrite') for depth in (1, 32, 128)]
DISK_JOBS += [('read', '128k', 8, 1), ('write', '128k', 8, 1), ('randread', '4k', 32, 4), ('randwrite', '4k', 32, 4)]


# A guest that polls has a core for itself: what is left to a monitor on two is what fio has on one.
CEILINGS = {'fio, no VM': [], 'fio, one core': ['taskset', '-c', str(min(os.sched_getaffinity(0)))]}


def image(path, mbytes=256):
    """A file without holes."""
    with open(path, 'wb') as out:
        for _ in range(mbytes):
            out.write(os.urandom(1 << 20))
        os.fsync(out.fileno())
    return path


def write_back(path):
    """Everyone begins with a clean page cache: QEMU ends so, and pages already dirty are written faster."""
    with open(path, 'rb') as disk_file:
        os.fsync(disk_file.fileno())


def disk(host, wanted):
    """A file on tmpfs, one on a disk in the page cache, and one past it."""
    few = [job for job in DISK_JOBS if job[1:] in (('4k', 1, 1), ('4k', 32, 1))]
    places = [('tmpfs', '/dev/shm', False, DISK_JOBS), ('cached', host.directory, False, few),
              ('direct', host.directory, True, DISK_JOBS)]
    for place, directory, direct, kinds in places:
        jobs = [(f'disk-{place}-{op}-{bs}-{depth}' + (f'-q{queues}' if queues > 1 else ''), op, bs, depth, queues)
                for op, bs, depth, queues in kinds]
        jobs = [job for job in jobs if wanted(job[0])]
        if not jobs:
            continue
        with tempfile.TemporaryDirectory(prefix='kring-bench-', dir=directory) as where:
            path = image(pathlib.Path(where) / 'disk')
            for run in range(1, host.runs + 1):
                for bench, op, bs, depth, queues in jobs:
                    job = f'job=disk op={op} bs={bs} depth={depth} queues={queues} time_ms={int(host.seconds * 1000)}'
                    for name in DISK_PEERS:
                        write_back(path)
                        yield guest_run(host, bench, name, run, job, disks=[(path, direct)], queues=queues)
                    argv = shlex.split(FIO.format(path=path, ms=int(host.seconds * 1000), op=op, bs=bs, depth=depth,
                                                  direct=int(direct), batch=min(depth, 32)))
                    for name, prefix in CEILINGS.items():
                        write_back(path)
                        yield fio_run(host, bench, name, run, prefix + argv)


@contextlib.contextmanager
def running(argvs):
    """So many VMs at once, ended at the end."""
    children = []
    try:
        for argv in argvs:
            children.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                             stderr=subprocess.DEVNULL))
        yield children
    finally:
        for child in children:
            child.kill()
        for child in children:
            child.wait()


@contextlib.contextmanager
def a_tap(name):
    """A tap that is up and quiet; why there is none, where there is none."""
    made = subprocess.run(['ip', 'tuntap', 'add', 'dev', name, 'mode', 'tap', 'vnet_hdr'], capture_output=True,
                          text=True, check=False)
    if made.returncode:
        yield f'no tap: {made.stderr.strip()}'
        return
    try:
        quiet = pathlib.Path(f'/proc/sys/net/ipv6/conf/{name}/disable_ipv6')
        if quiet.exists():
            quiet.write_text('1')
        subprocess.run(['ip', 'link', 'set', name, 'up'], check=True)
        yield None
    finally:
        subprocess.run(['ip', 'link', 'del', name], check=True)


def plain_run(host, bench, run, op, tap, size):
    """The ceiling of a tap: a loop of system calls that does the same with no VM."""
    argv = [host.kring, 'bench', 'net', '--plain', '-t', tap, '--op', op, '--size', str(size),
            '--time', str(host.seconds), '--json']
    done = subprocess.run(argv, capture_output=True, text=True, timeout=host.seconds + 60, check=False)
    told = last_json(done.stdout)
    if not told:
        return result(bench, 'plain, no VM', run, failed=done.stderr.strip())
    values = {'per_second': told['requests_per_s'], 'mbytes_per_second': told['bytes_per_s'] / 1e6}
    if told['lat_us']['p50']:
        values |= {'p50_us': told['lat_us']['p50'], 'p99_us': told['lat_us']['p99']}
    return result(bench, 'plain, no VM', run, values | {
        'cpu_us_io': told['per_request']['io_cpu_us'], 'calls': told['guest']['calls'] / told['guest']['ops']})


# 64 KiB: as many whole segments as Linux takes in one piece.
NET_JOBS = [('tx', 64), ('tx', 1514), ('tx', 65214), ('rx', 64), ('rx', 1514), ('rx', 65214), ('rr', 64)]
NET_PEERS = ('qemu', 'kring', 'qemu-vhost')


def net(host, wanted):
    """Frames into a tap, out of it, and there and back; the other end is the same for all."""
    tap = f'krb{os.getpid() % 100000}'
    jobs = [(f'net-{op}-{size}', op, size) for op, size in NET_JOBS if wanted(f'net-{op}-{size}')]
    for run in range(1, host.runs + 1):
        for bench, op, size in jobs:
            for name in NET_PEERS:
                if name == 'qemu-vhost' and not os.path.exists('/dev/vhost-net'):
                    yield result(bench, name, run, skipped='no /dev/vhost-net')
                    continue
                job = f'job=net op={op} size={size} time_ms={int(host.seconds * 1000)}'
                with the_other_end(host, tap, op, size) as why:
                    yield (result(bench, name, run, skipped=why) if why
                           else guest_run(host, bench, name, run, job, tap=tap))
            with the_other_end(host, tap, op, size) as why:
                yield (result(bench, 'plain, no VM', run, skipped=why) if why
                       else plain_run(host, bench, run, op, tap, size))


@contextlib.contextmanager
def the_other_end(host, tap, op, size):
    """A fresh tap with what a job needs at the host's end; why not, where that cannot be."""
    with a_tap(tap) as why:
        if why or op == 'tx':
            yield why
            return
        with running([[host.kring, 'bench', 'peer', '-t', tap, '--op', op, '--size', str(size), '--time', '1000']]):
            yield None


@contextlib.contextmanager
def tracing():
    """The kernel's own clock of exec, the first KVM_RUN and the guest's marker; False where it cannot be had."""
    events = {'sched/sched_process_exec': None, 'syscalls/sys_enter_ioctl': f'cmd == {KVM_RUN}',
              'kvm/kvm_pio': f'port == {MARKER}'}
    try:
        TRACING.mkdir()
    except OSError:
        yield False
        return
    try:
        (TRACING / 'options/event-fork').write_text('1')
        for event, condition in events.items():
            if condition:
                (TRACING / 'events' / event / 'filter').write_text(condition)
            (TRACING / 'events' / event / 'enable').write_text('1')
        yield True
    except OSError:
        yield False
    finally:
        TRACING.rmdir()


def traced(argv):
    """Runs it; ms from exec to its first KVM_RUN and to the guest's first marker."""
    (TRACING / 'trace').write_text('')
    script = f'echo $$ >{TRACING}/set_event_pid; exec "$@"'
    subprocess.run(['sh', '-c', script, 'sh', *argv], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL, check=False)
    at = {}
    for line in (TRACING / 'trace').read_text().splitlines():
        if found := re.search(r' (\d+\.\d+): (\w+)', line):
            at.setdefault(found[2], float(found[1]))
    begin = at.pop('sched_process_exec', None)
    return {name: (at[event] - begin) * 1e3 for name, event in (('first_run_ms', 'sys_ioctl'), ('marker_ms', 'kvm_pio'))
            if begin and event in at}


def timed(argv):
    """ms from exec to exit."""
    begin = time.monotonic()
    subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return (time.monotonic() - begin) * 1e3


def starts_per_second(argv, abreast, seconds):
    """How many VMs come and go, so many at once."""
    begin, done, running = time.monotonic(), 0, []
    while time.monotonic() - begin < seconds:
        while len(running) < abreast:
            running.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                            stderr=subprocess.DEVNULL))
        pid, _ = os.wait()
        for child in running:
            if child.pid == pid:
                child.returncode = 0
        running = [child for child in running if child.pid != pid]
        done += 1
    for child in running:
        child.wait()
    return done / (time.monotonic() - begin)


def private_kib(pid, guest_mib):
    """What a process has for itself beyond guest RAM, the mapping of just that size or more."""
    total, size = 0, 0
    for line in pathlib.Path(f'/proc/{pid}/smaps').read_text().splitlines():
        name, _, rest = line.partition(':')
        if name == 'Size':
            size = int(rest.split()[0])
        elif name in ('Private_Clean', 'Private_Dirty') and size < guest_mib * 1024:
            total += int(rest.split()[0])
    return total


def start(host, wanted):
    """From exec to the first KVM_RUN, the guest's first instruction and the exit; starts a second; memory."""
    if not wanted('start'):
        return
    for run in range(1, host.runs + 1):
        for name in LEAN:
            argv = host.command(name, 'job=boot', memory=128)
            values = {'exit_ms': statistics.median(timed(argv) for _ in range(5))}
            with tracing() as works:
                if works:
                    values |= traced(argv)
            values['starts_per_second'] = starts_per_second(argv, 1, host.seconds)
            values['starts_per_second_all_cores'] = starts_per_second(argv, os.cpu_count(), host.seconds)
            with running([host.command(name, IDLE, memory=128)]) as children:
                time.sleep(1)
                values['private_kib'] = private_kib(children[0].pid, 128)
            yield result('start', name, run, values)


def idle_values(host, name, count=1, job=IDLE, **more):
    """CPU and memory a VM of so many that have nothing to do; None where one ended."""
    with running([host.command(name, job, memory=128, **more)] * count) as children:
        time.sleep(0.5 + count / 30)
        before = sum(sum(threads(child.pid).values()) for child in children)
        begin = time.monotonic()
        time.sleep(IDLE_SECONDS)
        spent = sum(sum(threads(child.pid).values()) for child in children) - before
        took = time.monotonic() - begin
        if any(child.poll() is not None for child in children):
            return None
        memory = statistics.median(private_kib(child.pid, 128) for child in children)
        return {'cpu_us_a_second': spent / took / count, 'private_kib': memory}


IDLE_SECONDS = 1.2
# What grows, and how far.
GROWTH = {'disks': (1, 2, 4, 8), 'vcpus': (1, 2, 4, 8), 'queues': (1, 2, 4), 'vms': (1, 10, 50, 200)}


def growth_values(host, name, what, count):
    """What so many of something cost: VMs that idle with them, and one's start."""
    if what == 'vms':
        return idle_values(host, name, count)
    disks, queues = {'disks': (count, 1), 'queues': (1, count)}.get(what, (0, 1))
    more = {'disks': [(image(host.directory / f'disk{n}', 1), True) for n in range(disks)], 'queues': queues,
            'cpus': count if what == 'vcpus' else 1}
    took = statistics.median(timed(host.command(name, 'job=boot', memory=128, **more)) for _ in range(3))
    values = idle_values(host, name, job=f'{IDLE} disks={disks} queues={queues}', **more)
    return values and {'exit_ms': took} | values


def growth(host, wanted):
    """What one more disk, vCPU, queue or VM costs."""
    for run in range(1, host.runs + 1):
        for what, counts in GROWTH.items():
            for count in counts:
                bench = f'growth-{what}-{count}'
                for name in LEAN if wanted(bench) else ():
                    values = growth_values(host, name, what, count)
                    yield result(bench, name, run, values, **({} if values else {'failed': 'not all of them lived'}))


SECTIONS = (start, disk, net, growth)


def measure(kring, elf, only, runs, seconds):
    """All sections that have something to do."""
    if not os.access('/dev/kvm', os.R_OK | os.W_OK):
        yield result('all', 'all', 0, skipped='no /dev/kvm that can be used')
        return
    for tool in ('qemu-system-x86_64', 'fio'):
        if not shutil.which(tool):
            raise SystemExit(f'bench: {tool} is missing: run tests/deps bench')
    with tempfile.TemporaryDirectory(prefix='kring-bench-', dir=elf.parent) as name:
        host = Host(kring, elf, pathlib.Path(name), seconds, runs)
        for section in SECTIONS:
            yield from section(host, lambda bench: re.search(only, bench))
