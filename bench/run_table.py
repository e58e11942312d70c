"""Medians, spread and ratios of results, as Markdown. Knows results as bench/run writes them, and no monitor."""

import collections
import pathlib
import statistics

# What kring is held to: what, the job, the value, the bound on the value itself or on its ratio (×) to that of a base:
# QEMU, or what does the same with no VM.
QEMU, FIO, PLAIN = 'qemu', 'fio, no VM', 'plain, no VM'
DISTANCE = [
    ('system calls per 4 KiB read, depth 1', 'disk-randread-4k-1', 'calls', '≤ 2', QEMU),
    ('system calls per 4 KiB read, depth 32', 'disk-randread-4k-32', 'calls', '≤ 0.08', QEMU),
    ('KVM exits per 4 KiB read, depth 1', 'disk-randread-4k-1', 'exits', '≤ 2.2', QEMU),
    ('KVM exits per 4 KiB read, depth 32', 'disk-randread-4k-32', 'exits', '≤ 0.1', QEMU),
    ('monitor CPU per 4 KiB read, depth 1, µs', 'disk-randread-4k-1', 'cpu_us', '≤ 0.5 ×', QEMU),
    ('monitor CPU per 4 KiB read, depth 32, µs', 'disk-randread-4k-32', 'cpu_us', '≤ 0.5 ×', QEMU),
    ('4 KiB reads a second, depth 32', 'disk-randread-4k-32', 'per_second', '≥ 1.5 ×', QEMU),
    ('bulk TCP out, MB a second', 'net-tcp-out', 'mbytes_out', '≥ 1.5 ×', QEMU),
    ('bulk TCP in, MB a second', 'net-tcp-in', 'mbytes_in', '≥ 1.5 ×', QEMU),
    ('UDP 64 B packets out a second', 'net-udp-64-out', 'packets_out', '≥ 1.5 ×', QEMU),
    ('UDP 64 B packets in a second', 'net-udp-64-in', 'packets_in', '≥ 1.5 ×', QEMU),
    ('here: benchmark guest, exec to exit, ms', 'start', 'exit_ms', '≤ 5', QEMU),
]
DISTANCE += [(f'here: 4 KiB {op} a second, depth 32, {place}', f'disk-{place}-{op}-4k-32', 'per_second', bound, base)
             for place in ('cached', 'tmpfs', 'direct') for op in ('randread', 'randwrite')
             for bound, base in (('≥ 1.5 ×', QEMU), ('≥ 0.95 ×', FIO))]
DISTANCE += [(f'here: {size} B packets {word}{what}', f'net-{op}-{size}', value, bound, base)
             for op, word in (('tx', 'out'), ('rx', 'in')) for size in (64, 1514)
             for what, value, bound, base in ((' a second', 'per_second', '≥ 1.5 ×', QEMU),
                                              (', CPU µs each', 'cpu_us_io', '≤ 1.25 ×', PLAIN))]
COLUMNS = [('calls', 'calls'), ('exits', 'exits'), ('cpu_us', 'CPU µs'), ('per_second', 'a second')]


TITLES = {'per_second': 'a second', 'mbytes_per_second': 'MB/s', 'p50_us': '50 % below, µs', 'p99_us': '99 % below, µs',
          'cpu_us_io': 'CPU µs each, vCPUs apart', 'calls': 'system calls each', 'kicks': 'kicks each',
          'exit_ms': 'exec to exit, ms', 'first_run_ms': 'to the first KVM_RUN, ms', 'marker_ms': 'to the guest, ms',
          'starts_per_second': 'starts a second', 'starts_per_second_all_cores': 'the same, as many at once as cores',
          'private_kib': 'private memory beyond RAM, KiB', 'cpu_us_a_second': 'CPU µs a second, each'}

BOOT_COLUMNS = [('exits', 'KVM exits'), ('user_exits', 'of them to the monitor'), ('boot_ms', 'ms')]


def gather(results):
    """Values by bench, monitor and name: lists over the runs."""
    found = collections.defaultdict(lambda: collections.defaultdict(lambda: collections.defaultdict(list)))
    for result in results:
        for name, value in result.get('values', {}).items():
            if not isinstance(value, dict):
                found[result['bench']][result['monitor']][name].append(value)
    return found


def number(value):
    """Three digits that matter."""
    return f'{value:.0f}' if value >= 100 else f'{value:.3g}'


def spread(values):
    """A median with the least and the most around it."""
    if not values:
        return '–'
    if len(values) == 1:
        return number(values[0])
    return f'{number(statistics.median(values))} ({number(min(values))}–{number(max(values))})'


def ratio(values, base, wanted):
    """How a median stands to the base's."""
    if not wanted or not values or not base or not statistics.median(base):
        return ''
    return f' = {statistics.median(values) / statistics.median(base):.2f}×'


def shown(values, base, names):
    """Each value, and how it stands to the base's where that is another one."""
    return [spread(values[name]) + ratio(values[name], base[name], values is not base) for name in names]


def failures(results, out):
    """What gave no values, and why."""
    lost = collections.Counter((what, result['monitor'], result['bench'], result[what]) for result in results
                               for what in ('failed', 'skipped') if what in result)
    for (what, monitor, bench, why), count in lost.items():
        print(f'- {what}, {count} times: {monitor} {bench}: {why}', file=out)
    if lost:
        print(file=out)


def rows(out, header, lines):
    """A Markdown table."""
    print('| ' + ' | '.join(header) + ' |', file=out)
    print('|' + '---|' * len(header), file=out)
    for line in lines:
        print('| ' + ' | '.join(line) + ' |', file=out)
    print(file=out)


def by_kind(results, bench, monitor, name):
    """The parts of a count, the greatest first: medians over the runs."""
    parts = collections.defaultdict(list)
    taken = [result['values'][name] for result in results
             if result['bench'] == bench and result['monitor'] == monitor and 'values' in result]
    for value in taken:
        for part, count in value.items():
            parts[part].append(count)
    medians = {part: sum(counts) / len(taken) for part, counts in parts.items()}
    ordered = sorted(medians.items(), key=lambda item: -item[1])
    return ', '.join(f'{part} {number(count)}' for part, count in ordered[:4] if count > 0.001)


def held(bound, value, base):
    """Whether a bound holds."""
    sign, limit, *times = bound.split()
    value = value / base if times else value
    value = float(number(value))  # as it is shown
    return value <= float(limit) if sign == '≤' else value >= float(limit)


def distance(results, out):
    """What kring is held to, and where it stands."""
    found = gather(results)
    lines = []
    for what, bench, name, bound, base in DISTANCE:
        kring, other = (found[bench][monitor][name] if bench in found else [] for monitor in ('kring', base))
        if kring and other:
            verdict = held(bound, statistics.median(kring), statistics.median(other))
            lines.append([what, base, spread(other), spread(kring) + ratio(kring, other, True), bound,
                          'yes' if verdict else '**no**'])
    if lines:
        rows(out, ['', 'base', 'base has', 'kring has', 'bound', 'holds'], lines)


def lab(results, out):
    """Every job of the lab: each value of each monitor, and its ratio to the first monitor's."""
    found = gather(results)
    lines, parts, boots = [], [], []
    for bench, monitors in found.items():
        base = next(iter(monitors))
        if bench.startswith('boot-'):
            boots += [[bench, monitor, *shown(values, monitors[base], [name for name, _ in BOOT_COLUMNS])]
                      for monitor, values in monitors.items()]
            continue
        for monitor, values in monitors.items():
            lines.append([bench, monitor, *shown(values, monitors[base], [name for name, _ in COLUMNS]),
                          spread(values['mbytes_per_second'])])
            parts.append([bench, monitor, by_kind(results, bench, monitor, 'calls_by_name'),
                          by_kind(results, bench, monitor, 'exits_by_reason')])
    if boots:
        rows(out, ['exec to init', 'monitor'] + [title for _, title in BOOT_COLUMNS], boots)
    if lines:
        rows(out, ['job', 'monitor'] + [title for _, title in COLUMNS] + ['MB/s'], lines)
        rows(out, ['job', 'monitor', 'system calls by name', 'exits by reason'], parts)
    failures(results, out)


def host(results, out):
    """Every job on the host: all values of each monitor, and their ratios to the first monitor's."""
    found = gather(results)
    sections = collections.defaultdict(list)
    for bench in found:
        names = dict.fromkeys(name for values in found[bench].values() for name in values)
        sections[tuple(names)].append(bench)
    for names, benches in sections.items():
        lines = []
        for bench in benches:
            base = next(iter(found[bench]))
            for monitor, values in found[bench].items():
                lines.append([bench, monitor, *shown(values, found[bench][base], names)])
        rows(out, ['job', 'monitor', *(TITLES.get(name, name) for name in names)], lines)
    failures(results, out)


HEAD = """# Results

What bench/run measured last, losses included; written by it, not to be edited. Each part tells its own runs, which may
be of different commits and of some jobs only. Medians, the monitors alternating, with (least–most); `= N×` is the ratio
to QEMU in the same job.

{notes}
"""
HERE = """## On this machine's own KVM: the benchmark guest

`qemu` is QEMU's microvm with virtio-mmio, aio=io_uring and an iothread, its tap without vhost; `qemu-native` the same
with aio=native (threads where there is no O_DIRECT), `qemu-vhost` with vhost; `kring-registered` is kring with
`--registered-memory on`, whose CPU has the populating of RAM in it. `fio, no VM` (its buffers and file registered) and
`plain, no VM` do the same with no VM: the ceilings; `fio, one core` is bound to one CPU, as a monitor is that shares
two with a guest that polls. CPU each: a request or packet, of all threads but the vCPUs, whose guest polls. `tmpfs` is
a file there, `cached` one on a disk, both through the page cache on all sides; `direct` one on a disk with O_DIRECT.
`-qN`: N queues. Depth is that of all queues together.
"""
LAB = """## In the nested lab: fio and iperf3 in Linux

One boot of L1, one CPU for it, its iperf3, the monitor and the guest together; a memory-backed null_blk with O_DIRECT,
and a tap. `qemu` is QEMU's microvm with virtio-pci, aio=io_uring and an iothread, vhost off; `qemu-native` with
aio=native. CPU µs: of the monitor without the time in the guest, a request or packet (both ways). A TCG machine: times
stand for the order of things, counts for themselves. Boots: 256 MiB, one vCPU, serial port and virtio-rng. fio
submits up to 32 at once, `single` one by one.
"""


def report(there, nested, notes, plots, out):
    """All of it, with the machine and versions in it. Plots: files and titles."""
    print(HEAD.format(notes='\n'.join(f'- {note}' for note in notes)), file=out)
    print('## What kring is held to\n', file=out)
    distance(there + nested, out)
    print((pathlib.Path(__file__).parent / 'bounds.md').read_text(encoding='utf-8'), file=out)
    print(HERE, file=out)
    host(there, out)
    print(LAB, file=out)
    lab(nested, out)
    if plots:
        print('## Plots\n', file=out)
        print('\n'.join(f'![{title}]({file})' for file, title in plots), file=out)
