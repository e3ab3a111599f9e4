"""Compare methods on the same data, noise, network and budget: a grid of runs, two tables and a picture.

    python tools/benchmark.py --dataset digits --methods all --noise symmetric:0.2,symmetric:0.4,asymmetric:0.4 --seeds 5

Every run has a process of its own, several at a time. It trains with the config of its method and data set, so with their
published schedule and hyperparameters, on nine tenths of the noisy training data. The last tenth, as noisy, picks an
epoch. Then the test set is looked at twice: with the weights of the last epoch, and of the picked one.

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

from rich.console import Console

import mmelr
from mmelr.cli import fail_early

CONFIGS = Path(__file__).resolve().parent.parent / 'configs'
#: What a run would import: MMPretrain, and what MMEngine's visualizer and the digits import when they are first used.
PRELOAD = ('mmelr.analysis.benchmark', 'matplotlib.backends.backend_agg', 'matplotlib.figure', 'sklearn.datasets')


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--dataset', required=True, help='digits, fashion_mnist, cifar10, ...; or a config file')
    parser.add_argument('--methods', default='all', help='all, or NAME,NAME,...; default: all')
    parser.add_argument(
        '--noise', nargs='+', required=True, help='as for tools/train.py, without a seed; several with commas or spaces'
    )
    parser.add_argument('--seeds', default='1', help='how many, 5 for 0 to 4; or a list with a comma: 3,4 or 3,')
    parser.add_argument('--vary', nargs='+', default=[], metavar='KEY=V1,V2', help='values to combine, for every method')
    parser.add_argument('--hold-out', type=float, metavar='SHARE', help='of the training data, to pick an epoch on; 0: none')
    parser.add_argument('--jobs', type=int, help='runs at a time; default: one a core, or four a GPU')
    parser.add_argument('--threads', type=int, default=1, help='CPU threads of each run')
    parser.add_argument('--work-dir', type=Path, help='default: work_dirs/benchmark/DATASET')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='further options of every run')
    args = parser.parse_args()
    args.name = Path(args.dataset.rpartition('::')[2]).stem
    args.work_dir = args.work_dir or Path('work_dirs/benchmark') / args.name
    return args


def lock(work_dir: Path):
    """Keep a second benchmark out, for as long as this process lives."""
    work_dir.mkdir(parents=True, exist_ok=True)
    file = open(work_dir / '.lock', 'a+')
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


def main() -> None:
    """Run the grid, and say what came out."""
    args = parse_args()
    with fail_early():
        mmelr.require_openmmlab()
        from mmelr.analysis import benchmark
        from mmelr.analysis.processes import Task, last_line, run_tasks, visible_gpus

        cells = benchmark.make_grid(
            benchmark.parse_methods(args.methods),
            benchmark.variants(args.vary),
            benchmark.parse_noises(args.noise, args.name),
            benchmark.parse_seeds(args.seeds),
        )
        gpus = visible_gpus()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
        jobs = args.jobs or max(1, min(cores // args.threads, 4 * len(gpus) or cores))
        if min(jobs, args.threads) < 1:
            raise ValueError(f'--jobs and --threads are at least 1, got {args.jobs} and {args.threads}.')
        held = lock(args.work_dir)
        configs, results = {}, {}
        for cell in cells:  # all are read before any is run, so that a mistake costs nothing
            configs[cell] = benchmark.cell_config(args.dataset, cell, CONFIGS, args.hold_out, args.cfg_options)
            benchmark.check_settings(args.work_dir / cell.folder, benchmark.settings_of(configs[cell]))
            result = benchmark.read_result(args.work_dir / cell.folder / benchmark.RESULT)
            if result is not None:
                results[cell] = result
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    console = Console()
    failed: dict = {}
    tasks = {
        cell: Task(benchmark.run_cell, (cell, cfg, args.work_dir / cell.folder, not gpus), args.work_dir / cell.folder / 'log.txt')
        for cell, cfg in configs.items()
        if cell not in results
    }
    queued, began = set(tasks), {}
    with benchmark.BenchmarkProgress(len(cells), console) as progress:
        progress.done = len(results)
        if results:
            progress.say(f'{len(results)} of {len(cells)} runs are finished already, in {args.work_dir}.')

        def ended(cell, status: int) -> None:
            folder = args.work_dir / cell.folder
            result = benchmark.read_result(folder / benchmark.RESULT) if status == 0 else None
            queued.discard(cell)
            began.pop(cell, None)
            if result is None:
                reason = f'killed by signal {-status}' if status < 0 else last_line(folder / 'log.txt')
                failed[cell] = reason if status else f'it was stopped before its end ({reason})'
                progress.result(f'{cell}: FAILED, {failed[cell]}; see {folder / "log.txt"}', ok=False)
                return
            results[cell] = result
            picked = result['picked_accuracy']
            text = f'last {result["last_accuracy"]:.2f} %'
            text += f', picked {picked:.2f} % (epoch {result["picked_epoch"]})' if picked is not None else ''
            progress.result(f'{cell}: {text}, {result["seconds"]:.0f} s')

        def waiting(running) -> None:
            now, finished = time.monotonic(), {}
            for cell in running:
                queued.discard(cell)
                first = benchmark.epochs_done(args.work_dir / cell.folder) if cell not in began else 0
                began.setdefault(cell, (now, first))
            for cell, result in results.items():
                if not result['resumed']:
                    finished.setdefault(cell.row, []).append(result['seconds'])
            shares = []
            for cell in running:
                start, first = began[cell]
                left = max(configs[cell].train_cfg.max_epochs - first, 1)
                done = benchmark.epochs_done(args.work_dir / cell.folder) - first
                shares.append((cell.row, now - start, max(done, 0) / left))
            progress.show(len(running), benchmark.time_left([cell.row for cell in queued], shares, finished, jobs))

        try:
            run_tasks(tasks, ended, waiting, jobs, args.threads, gpus, PRELOAD)
            status = int(bool(failed))
        except KeyboardInterrupt:
            progress.say('Stopped. The same command goes on from here.')
            status = 130
    report(args, cells, results, failed)
    held.close()
    sys.exit(status)


def report(args: argparse.Namespace, cells: list, results: dict, failed: dict) -> None:
    """Write what there is so far, and print the tables."""
    from mmelr.analysis import benchmark
    from mmelr.engine.durable_files import DurableBackend

    results = {cell: results[cell] for cell in cells if cell in results}
    content = dict(
        dataset=args.dataset,
        versions=benchmark.versions(),
        settings=dict(hold_out=args.hold_out, cfg_options=args.cfg_options, vary=args.vary, threads=args.threads),
        seeds=list(dict.fromkeys(cell.seed for cell in cells)),
        missing=[dict(cell=str(cell), reason=failed.get(cell, 'not run')) for cell in cells if cell not in results],
        cells=list(results.values()),
    )
    DurableBackend().put_text(json.dumps(content, indent=2) + '\n', args.work_dir / 'results.json')
    for cell, reason in failed.items():
        print(f'{cell} failed: {reason}', file=sys.stderr)
    if not results:
        return
    text = benchmark.tables(results, cells, args.name)
    DurableBackend().put_text(text, args.work_dir / 'table.md')
    benchmark.plot_benchmark(results, args.work_dir / 'plot.png', args.name)
    if benchmark.grid_of_two(cells):
        benchmark.plot_heat_map(results, cells, args.work_dir / 'heat_map.png', args.name)
    print(f'\n{text}\nIn {args.work_dir}: results.json, table.md, plot.png')


if __name__ == '__main__':
    main()
