"""Compare methods on the same data, noise, network and budget: a grid of runs, two tables and a picture.

    python tools/benchmark.py --dataset digits --methods all \\
        --noise symmetric:0.2,symmetric:0.4,asymmetric:0.4 --seeds 5

Every run has a process of its own, several at a time. It trains with the config of its method and data set, so with
their published schedule and hyperparameters, on nine tenths of the noisy training data. The last tenth, as noisy, picks
an epoch. Then the test set is looked at twice: with the weights of the last epoch, and of the picked one.

Killed at any moment, or stopped by Ctrl-C, the same command goes on where it was. WORK_DIR gets results.json, table.md,
plot.png and a folder for each run. docs/benchmark.md tells more.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TextIO

from rich.console import Console

import mmelr
from mmelr.cli import fail_early

CONFIGS = Path(__file__).resolve().parent.parent / 'configs'
#: What a run would import: MMPretrain, and what MMEngine's visualizer and the digits import when they are first used.
PRELOAD = ('mmelr.analysis.benchmark', 'matplotlib.backends.backend_agg', 'matplotlib.figure', 'sklearn.datasets')


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--dataset', required=True, help='digits, fashion_mnist, cifar10, ...; or a config file')
    add('--methods', default='all', help='all, or NAME,NAME,...; default: all')
    add(
        '--noise', nargs='+', required=True, help='as for tools/train.py, without a seed; several with commas or spaces'
    )
    add('--seeds', default='1', help='how many, 5 for 0 to 4; or a list with a comma: 3,4 or 3,')
    add('--vary', nargs='+', default=[], metavar='KEY=V1,V2', help='values to combine, for every method')
    add('--hold-out', type=float, metavar='SHARE', help='of the training data, to pick an epoch on; 0: none')
    add('--jobs', type=int, help='runs at a time; default: one a core, but no more than four a GPU')
    add('--threads', type=int, default=1, help='CPU threads of each run')
    add('--work-dir', type=Path, help='default: work_dirs/benchmark/DATASET')
    add('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='further options of every run')
    args = parser.parse_args()
    args.name = Path(args.dataset.rpartition('::')[2]).stem
    args.work_dir = args.work_dir or Path('work_dirs/benchmark') / args.name
    return args


def lock(work_dir: Path) -> TextIO:
    """Keep a second benchmark out, for as long as this process lives and the file is open."""
    work_dir.mkdir(parents=True, exist_ok=True)
    file = open(work_dir / '.lock', 'a+')  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise ValueError(
            f'Another benchmark runs in {work_dir} (process {file.read().strip() or "unknown"}). Wait for it, or take '
            'another --work-dir.'
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


class Board:
    """What has come of the cells so far, and the lines that say so.

    Args:
        configs (dict): Config of each cell.
        results (dict): Of those that were finished before.
        work_dir (Path): Of the benchmark.
        jobs (int): Runs at a time.
    """

    def __init__(self, configs: dict, results: dict, work_dir: Path, jobs: int) -> None:
        from mmelr.analysis.benchmark import BenchmarkProgress

        self.configs, self.results, self.failed = configs, results, {}
        self._work_dir, self._jobs = work_dir, jobs
        self._began: dict = {}  # cell -> (time, epochs that it had done then)
        self.progress = BenchmarkProgress(len(configs), Console())
        self.progress.done = len(results)

    def folder(self, cell) -> Path:
        """Where a cell is run."""
        return self._work_dir / cell.folder

    def ended(self, cell, status: int) -> None:
        """Take in the result of a run, or the reason why there is none."""
        from mmelr.analysis.benchmark import RESULT, read_result
        from mmelr.analysis.processes import last_line

        log = self.folder(cell) / 'log.txt'
        self._began.pop(cell, None)
        result = self.folder(cell) / RESULT
        if status or not result.is_file():
            reason = last_line(log) if status >= 0 else f'killed by signal {-status}'
            self.failed[cell] = reason if status else f'stopped before its end ({reason})'
            self.progress.result(f'{cell}: FAILED, {self.failed[cell]}; see {log}', ok=False)
            return
        self.results[cell] = result = read_result(result)
        text = f'last {result["last_accuracy"]:.2f} %'
        if result['picked_accuracy'] is not None:
            text += f', picked {result["picked_accuracy"]:.2f} % (epoch {result["picked_epoch"]})'
        self.progress.result(f'{cell}: {text}, {result["seconds"]:.0f} s')

    def waiting(self, running: dict) -> None:
        """Say how long it will still take."""
        from mmelr.analysis.benchmark import epochs_done, time_left

        now, finished, under_way = time.monotonic(), {}, []
        for cell, result in self.results.items():
            if not result['resumed']:
                finished.setdefault(cell.row, []).append(result['seconds'])
        for cell in running:
            done = epochs_done(self.folder(cell))
            start, first = self._began.setdefault(cell, (now, done))
            to_do = max(self.configs[cell].train_cfg.max_epochs - first, 1)
            under_way.append((cell.row, now - start, max(done - first, 0) / to_do))
        ended = {*self.results, *self.failed, *running}
        queued = [cell.row for cell in self.configs if cell not in ended]
        self.progress.show(len(running), time_left(queued, under_way, finished, self._jobs))


def main() -> None:
    """Run the grid, and say what came out."""
    args = parse_args()
    with fail_early():
        mmelr.require_openmmlab()
        from mmelr.analysis import benchmark
        from mmelr.analysis.processes import Task, run_tasks, visible_gpus

        cells = benchmark.make_grid(
            benchmark.parse_methods(args.methods),
            benchmark.variants(args.vary),
            benchmark.parse_noises(args.noise, args.name),
            benchmark.parse_seeds(args.seeds),
        )
        gpus = visible_gpus()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
        if args.threads < 1 or (args.jobs is not None and args.jobs < 1):
            raise ValueError(f'--jobs and --threads are at least 1, got {args.jobs} and {args.threads}.')
        jobs = args.jobs or max(1, min(cores // args.threads, 4 * len(gpus) or cores))
        held = lock(args.work_dir)
        configs, results = {}, {}
        for cell in cells:  # all are read before any is run, so that a mistake costs nothing
            configs[cell] = benchmark.cell_config(args.dataset, cell, CONFIGS, args.hold_out, args.cfg_options)
            benchmark.check_settings(args.work_dir / cell.folder, benchmark.settings_of(configs[cell]))
            result = args.work_dir / cell.folder / benchmark.RESULT
            if result.is_file():
                results[cell] = benchmark.read_result(result)
    board = Board(configs, results, args.work_dir, jobs)
    tasks = {
        cell: Task(benchmark.run_cell, (cell, cfg, board.folder(cell), not gpus), board.folder(cell) / 'log.txt')
        for cell, cfg in configs.items()
        if cell not in results
    }
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    with board.progress as progress:
        if results:
            progress.say(f'{len(results)} of {len(cells)} runs are finished already, in {args.work_dir}.')
        idle = [f'{" ".join(cell.row)}: {text}' for cell in cells for text in benchmark.idle_hooks(configs[cell])]
        for line in dict.fromkeys(idle):
            progress.say(line)
        try:
            run_tasks(tasks, board.ended, board.waiting, jobs, args.threads, gpus, PRELOAD)
            status = int(bool(board.failed))
        except KeyboardInterrupt:
            progress.say('Stopped. The same command goes on from here.')
            status = 130
    report(args, board)
    held.close()
    sys.exit(status)


def report(args: argparse.Namespace, board: Board) -> None:
    """Write what there is so far, and print the tables."""
    from mmelr.analysis import benchmark
    from mmelr.engine.durable_files import DurableBackend

    cells = list(board.configs)
    results = {cell: board.results[cell] for cell in cells if cell in board.results}
    missing = {str(cell): board.failed.get(cell, 'not finished') for cell in cells if cell not in results}
    content = dict(
        dataset=args.dataset,
        seeds=list(dict.fromkeys(cell.seed for cell in cells)),
        settings=dict(hold_out=args.hold_out, vary=args.vary, cfg_options=args.cfg_options, threads=args.threads),
        versions=benchmark.versions(),
        missing=missing,
        cells=list(results.values()),
    )
    DurableBackend().put_text(json.dumps(content, indent=2) + '\n', args.work_dir / 'results.json')
    for cell, reason in board.failed.items():
        print(f'{cell} failed: {reason}', file=sys.stderr)
    if not results:
        return
    text = benchmark.tables(results, cells, args.name)
    DurableBackend().put_text(text, args.work_dir / 'table.md')
    benchmark.plot_benchmark(results, args.work_dir / 'plot.png', args.name)
    files = ['results.json', 'table.md', 'plot.png']
    if benchmark.grid_of_two(cells):
        benchmark.plot_heat_map(results, cells, args.work_dir / 'heat_map.png', args.name)
        files.append('heat_map.png')
    print(f'\n{text}\nIn {args.work_dir}: {", ".join(files)}')


if __name__ == '__main__':
    main()
