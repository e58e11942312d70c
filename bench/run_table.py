"""Medians, spread and ratios of results, as Markdown. Knows results as bench/run writes them, and no monitor."""

import collections
import pathlib
import re
import statistics

# What kring is held to: what, the job, the value, the bound on the value itself or on its ratio (×) to that of a base:
# QEMU, or what does the same with no VM; none where only kring can count it.
QEMU, FIO, PLAIN, NONE = 'qemu', 'fio, no VM', 'plain, no VM', ''
DISTANCE = [
    ('system calls per 4 KiB read, depth 1', 'disk-randread-4k-1', 'calls', '≤ 2', QEMU),
    ('system calls per 4 KiB read, depth 32', 'disk-randread-4k-32', 'calls', '≤ 0.08', QEMU),
    ('KVM exits per 4 KiB read, depth 1', 'disk-randread-4k-1', 'exits', '≤ 2.2', QEMU),
    ('KVM exits per 4 KiB read, depth 32', 'disk-randread-4k-32', 'exits', '≤ 0.1', QEMU),
    ('interrupts per 4 KiB read, depth 32', 'disk-randread-4k-32', 'interrupts', '≤ 0.1', QEMU),
    ('monitor CPU per 4 KiB read, depth 1, µs', 'disk-randread-4k-1', 'cpu_us', '≤ 0.5 ×', QEMU),
    ('monitor CPU per 4 KiB read, depth 32, µs', 'disk-randread-4k-32', 'cpu_us', '≤ 0.5 ×', QEMU),
    ('4 KiB reads a second, depth 32', 'disk-randread-4k-32', 'per_second', '≥ 1.5 ×', QEMU),
    ('bulk TCP out, MB a second', 'net-tcp-out', 'mbytes_out', '≥ 1.5 ×', QEMU),
    ('bulk TCP in, MB a second', 'net-tcp-in', 'mbytes_in', '≥ 1.5 ×', QEMU),
    ('UDP 64 B packets out a second', 'net-udp-64-out', 'packets_out', '≥ 1.5 ×', QEMU),
    ('UDP 64 B packets in a second', 'net-udp-64-in', 'packets_in', '≥ 1.5 ×', QEMU),
]
DISTANCE += [(f'{word}, system calls a packet', f'net-{job}', 'calls', '≤ 0.15', QEMU) for word, job in (
    ('bulk TCP out', 'tcp-out'), ('bulk TCP in', 'tcp-in'),
    ('UDP 64 B out', 'udp-64-out'), ('UDP 64 B in', 'udp-64-in'),
    ('UDP 1472 B out', 'udp-1472-out'), ('UDP 1472 B in', 'udp-1472-in'))]
DISTANCE += [('here: benchmark guest, exec to exit, ms', 'start', 'exit_ms', '≤ 5', QEMU)]
DISTANCE += [(f'here: 4 KiB {op} a second, depth 32, {place}', f'disk-{place}-{op}-4k-32', 'per_second', bound, base)
             for place in ('cached', 'tmpfs', 'direct') for op in ('randread', 'randwrite')
             for bound, base in (('≥ 1.5 ×', QEMU), ('≥ 0.95 ×', FIO))]
DISTANCE += [(f'here: {size} B packets {word}{what}', f'net-{op}-{size}', value, bound, base)
             for op, word in (('tx', 'out'), ('rx', 'in')) for size in (64, 1514, 65214)
             for what, value, bound, base in ((' a second', 'per_second', '≥ 1.5 ×', QEMU),
                                              (', CPU µs each', 'cpu_us_io', '≤ 1.25 ×', PLAIN),
                                              (', enters each', 'enters', '≤ 0.15', NONE))]
DISTANCE += [('here: 64 B there and back, a second', 'net-rr-64', 'per_second', '≥ 1.5 ×', QEMU),
             ('here: 64 B there and back, CPU µs each', 'net-rr-64', 'cpu_us_io', '≤ 1.25 ×', PLAIN)]
# The same bounds on jobs that they are not for: which, the value, the bound, the base.
ELSEWHERE = [(r'disk-', 'per_second', '≥ 0.95 ×', FIO), (r'disk-', 'per_second', '≥ 1.5 ×', QEMU),
             (r'disk-.*-4k-(32|128)', 'calls', '≤ 0.08', NONE), (r'disk-.*-4k-(32|128)', 'enters', '≤ 0.08', NONE),
             (r'disk-.*-4k-(32|128)', 'exits', '≤ 0.1', NONE), (r'disk-.*-4k-(32|128)', 'interrupts', '≤ 0.1', NONE)]
# Why, for what is there: the first that fits.
REASONS = [
    (r'disk-tmpfs-.*-128k', 'the copy is the work, the same for all'),
    (r'disk-tmpfs-', 'fio has two cores for that, kring the one that a polling guest leaves'),
    (r'disk-cached-randwrite-', 'ext4 writes take a worker, one after another for a file'),
    (r'disk-cached-', 'at depth 1 the hand-over between guest and I/O thread, each way'),
    (r'disk-direct-.*-1$', "the I/O thread sleeps while the disk works, QEMU's and fio's poll"),
    (r'disk-direct-', 'the disk is full, or the core: so is fio bound to one'),
    (r'disk-.*-single', 'one request a submission: fio kicks more often'),
    (r'disk-.*-128k', 'one core for all: the copy of the data is most of the work'),
    (r'disk-', 'one core for fio, its guest and the monitor: the guest is most of the work'),
]
COLUMNS = [('calls', 'calls'), ('exits', 'exits'), ('interrupts', 'interrupts'), ('cpu_us', 'CPU µs'),
           ('per_second', 'a second')]

TITLES = {'per_second': 'a second', 'mbytes_per_second': 'MB/s', 'p50_us': '50 % below, µs', 'p99_us': '99 % below, µs',
          'cpu_us_io': 'CPU µs each, vCPUs apart', 'calls': 'system calls each', 'kicks': 'kicks each',
          'interrupts': 'interrupts each', 'enters': 'enters each', 'sqes_per_enter': 'SQEs an enter',
          'exits': 'KVM exits each',
          'exit_ms': 'exec to exit, ms', 'first_run_ms': 'to the first KVM_RUN, ms', 'marker_ms': 'to the guest, ms',
          'starts_per_second': 'starts a second', 'starts_per_second_all_cores': 'the same, as many at once as cores',
          'private_kib': 'private memory beyond RAM, KiB', 'cpu_us_a_second': 'CPU µs a second, each'}

BOOT_COLUMNS = [('exits', 'KVM exits'), ('user_exits', 'of them to the monitor'), ('boot_ms', 'ms')]


def natural(result):
    """Jobs in the order of their names, numbers by their size."""
    return [int(part) if part.isdigit() else part for part in re.split(r'(\d+)', result['bench'])]


def gather(results):
    """Values by bench, monitor and name: lists over the runs."""
    found = collections.defaultdict(lambda: collections.defaultdict(lambda: collections.defaultdict(list)))
    for result in sorted(results, key=natural):
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


def held(bound, kring, base):
    """Whether a bound holds, and what is compared: medians as they are, not as they are shown. Nothing where something
    is not measured."""
    sign, limit, *times = bound.split()
    if not kring or times and not base:
        return None, None
    value = statistics.median(kring) / (statistics.median(base) if times else 1)
    return value <= float(limit) if sign == '≤' else value >= float(limit), value


def verdict(bound, kring, base):
    """That as words, with more digits where those that are shown are the bound's."""
    holds, value = held(bound, kring, base)
    return 'yes' if holds else '**no**' + (f', {value:.5g}' if float(number(value)) == float(bound.split()[1]) else '')


def compared(found, bench, name, base):
    """What kring has, and what its base has."""
    return (found[bench][monitor][name] if bench in found else [] for monitor in ('kring', base))


def distance(results, out):
    """What kring is held to, and where it stands."""
    found = gather(results)
    lines = []
    for what, bench, name, bound, base in DISTANCE:
        kring, other = compared(found, bench, name, base)
        if held(bound, kring, other)[0] is not None:
            lines.append([what, base or '–', spread(other), spread(kring) + ratio(kring, other, True), bound,
                          verdict(bound, kring, other)])
    if lines:
        rows(out, ['', 'base', 'base has', 'kring has', 'bound', 'holds'], lines)


def elsewhere(results, out):
    """Jobs that no bound is for and that would miss it, and why."""
    found = gather(results)
    bound_already = {(bench, name, base) for _, bench, name, _, base in DISTANCE}
    bound_already |= {(bench, name, NONE) for bench, name, _ in bound_already}
    missed = collections.defaultdict(list)
    for bench in found:
        for pattern, name, bound, base in ELSEWHERE:
            kring, other = compared(found, bench, name, base)
            if (re.match(pattern, bench) and (bench, name, base) not in bound_already
                    and held(bound, kring, other)[0] is False):
                share = statistics.median(kring) / (statistics.median(other) if other else 1)
                missed[bench].append(f'{number(share)} ' + (f'of {base}' if other else TITLES[name]))
    lines = [[bench, '; '.join(what), next(why for pattern, why in REASONS if re.match(pattern, bench))]
             for bench, what in missed.items()]
    if lines:
        print('The same bounds on what they are not for, other depths, queues and sizes, and those of counts in the lab on'
              '\ncounts here: where kring would miss them.\n', file=out)
        rows(out, ['job', 'kring has', 'why'], lines)


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

What bench/run measured last, losses included; written by it, not to be edited. Medians, the monitors alternating, with
(least–most); `= N×` is the ratio to QEMU in the same job. All of a part is of one commit and machine where its head
names one.

{notes}
"""
HERE = """## On this machine's own KVM: the benchmark guest

`qemu` is QEMU's microvm with virtio-mmio, aio=io_uring and an iothread, its tap without vhost; `qemu-native` the same
with aio=native (threads where there is no O_DIRECT), `qemu-vhost` with vhost; `kring-registered` is kring with
`--registered-memory on`, whose CPU has the populating of RAM in it. `fio, no VM` (its buffers and file registered) and
`plain, no VM` do the same with no VM: the ceilings; `fio, one core` is bound to one CPU, as a monitor is that shares
two with a guest that polls. CPU each: a request or packet, of all threads but the vCPUs, whose guest polls. `tmpfs` is
a file there, `cached` one on a disk, both through the page cache on all sides; `direct` one on a disk with O_DIRECT.
`-qN`: N queues. Depth is that of all queues together. Enters, SQEs an enter and KVM exits are kring's own counts
(`--stats`, `--timings`); the guest polls, so that it takes no interrupts. `growth`: VMs that idle, with so many disks
and queues set up and all vCPUs started, each vCPU woken ten times a second by its timer, as many at once as `vms` says.
"""
LAB = """## In the nested lab: fio and iperf3 in Linux

One boot of L1, one CPU for it, its iperf3, the monitor and the guest together; a memory-backed null_blk with O_DIRECT,
and a tap. `qemu` is QEMU's microvm with virtio-pci, aio=io_uring and an iothread, vhost off; `qemu-native` with
aio=native. CPU µs: of the monitor without the time in the guest, a request or packet (both ways). A TCG machine: times
stand for the order of things, counts for themselves; interrupts are those that the guest counts. Boots: 256 MiB, one
vCPU, serial port and virtio-rng. fio submits up to 32 at once, `single` one by one.
"""


def report(there, nested, notes, plots, out):
    """All of it, with the machine and versions in it. Plots: files and titles."""
    print(HEAD.format(notes='\n'.join(f'- {note}' for note in notes)), file=out)
    print('## What kring is held to\n', file=out)
    distance(there + nested, out)
    print((pathlib.Path(__file__).parent / 'bounds.md').read_text(encoding='utf-8'), file=out)
    elsewhere(there + nested, out)
    print(HERE, file=out)
    host(there, out)
    print(LAB, file=out)
    lab(nested, out)
    if plots:
        print('## Plots\n', file=out)
        print('\n'.join(f'![{title}]({file})' for file, title in plots), file=out)
