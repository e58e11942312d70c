"""What a run was made on and with: machine, kernel, versions, commit, date."""

import collections
import datetime
import os
import pathlib
import re
import subprocess


def said(*argv, cwd=None):
    """The first line that a command prints, or nothing."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=cwd)
    except OSError:
        return ''
    return (done.stdout.strip().splitlines() or [''])[0]


def found(path, pattern):
    """What a pattern finds in a file."""
    match = re.search(pattern, pathlib.Path(path).read_text(encoding='utf-8'))
    return match[1] if match else 'unknown'


def commit(root):
    """The checkout's commit, and whether there is more in it."""
    dirty = said('git', 'status', '--porcelain', '--untracked-files=no', '--', ':!bench/RESULTS.md', ':!bench/plots',
                 cwd=root)
    return said('git', 'rev-parse', '--short=12', 'HEAD', cwd=root) + (' and changes' if dirty else '')


def now():
    """The time, to the minute."""
    return f'{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M}'


def about(root, kring):
    """What all results of a run have in common."""
    probe = subprocess.run([kring, 'probe'], capture_output=True, text=True, check=False).stdout
    ring0 = re.search(r'ring0 +(\w+)', probe)
    return {'machine': (f"{os.cpu_count()} CPUs ({found('/proc/cpuinfo', 'model name.*: (.*)')}),"
                        f" {int(found('/proc/meminfo', 'MemTotal: *([0-9]+)')) >> 20} GiB, KVM with guest kernels"
                        f" {ring0[1] if ring0 else 'unknown'}"),
            'kernel': f'Linux {os.uname().release}',
            'versions': (f"{said('qemu-system-x86_64', '--version').replace('emulator version ', '')},"
                         f" {said('fio', '--version')}, {' '.join(said('iperf3', '--version').split()[:2])}"),
            'kring': commit(root)}


def moment():
    """What is another in each result."""
    return {'date': now(), 'load': os.getloadavg()[0]}


def each(results, *names):
    """The different values of such fields, and which jobs have them."""
    jobs = collections.defaultdict(dict)
    for result in results:
        jobs[tuple(result.get(name, 'unknown') for name in names)][result['bench']] = None
    return jobs


def footer(results):
    """One line for a plot."""
    made = [', '.join(dict.fromkeys(result.get(name, 'unknown') for result in results))
            for name in ('machine', 'kernel', 'versions', 'kring')]
    made[2] = re.sub(r' \(.*?\)|, fio.*', '', made[2])  # QEMU's alone
    days = sorted({result['date'][:10] for result in results})
    return ', '.join(made[:3]) + f', kring {made[3]}, {days[0]}' + (f' to {days[-1]}' if days[1:] else '')


def lines(there, nested, took):
    """One line for each thing, as the results have it; where a part is of several commits, which jobs are of which."""
    for name in ('machine', 'kernel', 'versions'):
        yield f'{name}: ' + '; or '.join(value for value, in each(there + nested, name))
    yield 'in the lab: Debian 6.1 for the host, the minimal kernel for guests, one CPU'
    for where, results in (('on this machine', there), ('in the lab', nested)):
        commits = sorted(each(results, 'kring').items(), key=lambda item: -len(item[1]))
        for n, ((made,), jobs) in enumerate(commits):
            of_it = [result for result in results if result.get('kring') == made]
            dates = [result['date'] for result in of_it]
            loads = [result['load'] for result in of_it if 'load' in result]
            yield (f"{where}: kring {made}, {min(dates)} to {max(dates)} UTC,"
                   f" {len(of_it)} measurements of {len(jobs)} jobs,"
                   f" up to {max(result['run'] for result in of_it)} runs"
                   + (f', load average {min(loads):.1f} to {max(loads):.1f}' if loads else '')
                   + (f": {', '.join(jobs)}" if n else ': all but those below' if commits[1:] else ''))
    if took:
        yield f'it took {took / 60:.0f} minutes'
