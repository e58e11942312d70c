"""What a run was made on and with: machine, kernel, versions, commit, date."""

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


def lines(there, nested, kring, took):
    """One line for each thing."""
    probe = subprocess.run([kring, 'probe'], capture_output=True, text=True, check=False).stdout
    ring0 = re.search(r'ring0 +(\w+)', probe)
    yield (f"machine: {os.cpu_count()} CPUs ({found('/proc/cpuinfo', 'model name.*: (.*)')}),"
           f" {int(found('/proc/meminfo', 'MemTotal: *([0-9]+)')) >> 20} GiB, KVM with guest kernels"
           f" {ring0[1] if ring0 else 'unknown'}; load average at the end {os.getloadavg()[0]:.1f}")
    yield f'kernel: Linux {os.uname().release}; in the lab Debian 6.1 for the host, the minimal kernel for guests'
    yield (f"versions: {said('qemu-system-x86_64', '--version').replace('emulator version ', '')},"
           f" {said('fio', '--version')}, {' '.join(said('iperf3', '--version').split()[:2])}")
    for where, results in (('on this machine', there), ('in the lab', nested)):
        commits = ', '.join(dict.fromkeys(result['kring'] for result in results))
        if results:
            yield (f"{where}: kring {commits}, {results[0]['date']} to {results[-1]['date']} UTC,"
                   f" {len(results)} measurements of {len({result['bench'] for result in results})} jobs,"
                   f" up to {max(result['run'] for result in results)} runs")
    if took:
        yield f'it took {took / 60:.0f} minutes'
