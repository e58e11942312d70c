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


def lines(root, kring, took):
    """One line for each thing."""
    probe = subprocess.run([kring, 'probe'], capture_output=True, text=True, check=False).stdout
    ring0 = re.search(r'ring0 +(\w+)', probe)
    dirty = said('git', 'status', '--porcelain', '--untracked-files=no', '--', ':!bench/RESULTS.md', ':!bench/plots',
                 cwd=root)
    commit = said('git', 'rev-parse', '--short=12', 'HEAD', cwd=root)
    yield (f"machine: {os.cpu_count()} CPUs ({found('/proc/cpuinfo', 'model name.*: (.*)')}),"
           f" {int(found('/proc/meminfo', 'MemTotal: *([0-9]+)')) >> 20} GiB, KVM with guest kernels"
           f" {ring0[1] if ring0 else 'unknown'}; load average at the end {os.getloadavg()[0]:.1f}")
    yield f'kernel: Linux {os.uname().release}; in the lab Debian 6.1 for the host, the minimal kernel for guests'
    yield (f"versions: kring {commit}{' and changes' if dirty else ''},"
           f" {said('qemu-system-x86_64', '--version').replace('emulator version ', '')}, {said('fio', '--version')},"
           f" {' '.join(said('iperf3', '--version').split()[:2])}")
    when = datetime.datetime.now(datetime.timezone.utc)
    yield f"date: {when:%Y-%m-%d %H:%M} UTC" + (f', took {took / 60:.0f} minutes' if took else '')
