"""Plots of results as SVG, by gnuplot: medians, with the least and the most. Knows results as bench/run writes them."""

import re
import shutil
import statistics
import subprocess

import run_table

LAB_JOBS = r'(disk-(randread|randwrite|read|write)-|net-(tcp|udp)-)'
# File, jobs, value, title, scale.
BARS = [
    *((f'here-disk-{place}', f'disk-{place}-', 'per_second', f'{what} on this machine: requests a second', 'log')
      for place, what in (('tmpfs', 'file on tmpfs'), ('cached', 'cached file'), ('direct', 'file with O_DIRECT'))),
    ('here-net', r'net-(tx|rx|rr)-', 'cpu_us_io', 'packets on this machine: CPU µs each, vCPUs apart', 'log'),
    ('lab-calls', LAB_JOBS, 'calls', 'in the lab: system calls each', 'log'),
    ('lab-exits', LAB_JOBS, 'exits', 'in the lab: KVM exits each', 'log'),
    ('lab-disk', r'disk-(randread|randwrite|read|write)-', 'per_second', 'in the lab: requests a second', 'log'),
    ('lab-net', r'net-(tcp|udp)-', 'mbytes_per_second', 'in the lab: MB a second', 'log'),
]
# File, jobs (the group is what grows), value, title.
LINES = [
    *((f'{what}-cpu', rf'growth-{what}-(\d+)', 'cpu_us_a_second', f'{what}: CPU µs a second of an idle VM')
      for what in ('disks', 'vcpus', 'queues')),
    *((f'{what}-memory', rf'growth-{what}-(\d+)', 'private_kib', f'{what}: private KiB of an idle VM, beyond RAM')
      for what in ('disks', 'vcpus', 'queues')),
    ('vms-memory', r'growth-vms-(\d+)', 'private_kib', 'idle VMs at once: private KiB each, beyond RAM'),
    ('vms-cpu', r'growth-vms-(\d+)', 'cpu_us_a_second', 'idle VMs at once: CPU µs a second, each'),
    ('vcpus-start', r'growth-vcpus-(\d+)', 'exit_ms', 'vCPUs: exec to exit, ms'),
    ('disks-start', r'growth-disks-(\d+)', 'exit_ms', 'disks: exec to exit, ms'),
]
BAR = """set style data histograms
set style histogram errorbars gap 1 lw 1
set style fill solid 0.8
set xtics rotate by -40 scale 0
set logscale y
"""
LINE = """set bmargin 4
set yrange [0:]
"""


def block(lines):
    """A table for gnuplot."""
    return '\n'.join(lines) + '\ne\n'


def bars(found, value):
    """Rows of jobs, one plot a monitor."""
    monitors = list(dict.fromkeys(monitor for jobs in found.values() for monitor in jobs))
    plots, blocks = [], []
    for monitor in monitors:
        lines = []
        for bench, jobs in found.items():
            taken = jobs[monitor][value] if monitor in jobs else []
            numbers = f'{statistics.median(taken)} {min(taken)} {max(taken)}' if taken else 'NaN NaN NaN'
            lines.append(f'"{bench}" {numbers}')
        plots.append(f"'-' using 2:3:4:xtic(1) title '{monitor}'")
        blocks.append(block(lines))
    return plots, blocks


def lines_of(found, value, pattern):
    """A line a monitor, over what grows."""
    plots, blocks = [], []
    for monitor in dict.fromkeys(monitor for jobs in found.values() for monitor in jobs):
        points = sorted((int(re.search(pattern, bench)[1]), jobs[monitor][value]) for bench, jobs in found.items()
                        if monitor in jobs and jobs[monitor][value])
        plots.append(f"'-' using 1:2:3:4 with yerrorlines title '{monitor}'")
        blocks.append(block(f'{x} {statistics.median(taken)} {min(taken)} {max(taken)}' for x, taken in points))
    return plots, blocks


def draw(results, made, directory):
    """All of them that there are values for, with how they were made; their names and titles. None without gnuplot."""
    drawn = []
    if not shutil.which('gnuplot'):
        return drawn
    directory.mkdir(exist_ok=True)
    for old in directory.glob('*.svg'):
        old.unlink()
    found = run_table.gather(results)
    for name, pattern, value, title, *log in BARS + LINES:
        jobs = {bench: monitors for bench, monitors in found.items()
                if re.match(pattern, bench) and any(values[value] for values in monitors.values())}
        if not jobs:
            continue
        plots, blocks = bars(jobs, value) if log else lines_of(jobs, value, pattern)
        script = ('set terminal svg size 1100,500 dynamic noenhanced background "white" font "sans,11"\n'
                  f"set output '{directory / name}.svg'\nset key outside\nset grid ytics\n"
                  f"set title '{title}'\nset label '{made}' at screen 0.01, 0.025 font ',9'\n"
                  + (BAR if log else LINE) + 'plot ' + ', '.join(plots) + '\n' + ''.join(blocks))
        subprocess.run(['gnuplot'], input=script, text=True, check=True)
        drawn.append((f'{directory.name}/{name}.svg', title))
    return drawn
