"""Medians, spread and ratios of results, as Markdown. Knows results as bench/run writes them, and no monitor."""

import collections
import statistics

# Issue-like bounds: bench, value, what kring is held to, whether that is a ratio to the first monitor.
COLUMNS = [('calls', 'calls'), ('exits', 'exits'), ('cpu_us', 'CPU µs'), ('per_second', 'a second')]


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


def lab(results, out):
    """Every job of the lab: each value of each monitor, and its ratio to the first monitor's."""
    found = gather(results)
    lines, parts = [], []
    for bench, monitors in found.items():
        base = next(iter(monitors))
        for monitor, values in monitors.items():
            ratio = {name: f' = {statistics.median(values[name]) / statistics.median(monitors[base][name]):.2f}×'
                     if monitor != base and statistics.median(monitors[base][name]) else ''
                     for name, _ in COLUMNS}
            lines.append([bench, monitor] + [spread(values[name]) + ratio[name] for name, _ in COLUMNS] +
                         [spread(values['mbytes_per_second'])])
            parts.append([bench, monitor, by_kind(results, bench, monitor, 'calls_by_name'),
                          by_kind(results, bench, monitor, 'exits_by_reason')])
    rows(out, ['job', 'monitor'] + [title for _, title in COLUMNS] + ['MB/s'], lines)
    rows(out, ['job', 'monitor', 'system calls by name', 'exits by reason'], parts)
    for result in results:
        if 'failed' in result:
            print(f"- failed: {result['monitor']} {result['bench']} run {result['run']}: {result['failed']}", file=out)
