"""What training costs beside what it must cost: steps, whole runs, data, memory. All contenders take turns in one run.

    python tools/benchmark_speed.py                            # everything, on CUDA or else on the CPU
    python tools/benchmark_speed.py --only step --case digits:64 --case resnet34:128 --rounds 9
    python tools/benchmark_speed.py --device cuda --amp --json speed_amp.json

Sections, for --only:

    step      a training step of cross entropy, ELR, ELR+ (both schedules), and the floor of each
    n         an ELR step with 10,000 and with 1,000,000 training samples
    variants  channels_last and torch.compile, each beside the plain step
    data      samples a second of the data pipelines, one by one and in memory, and their parts
    train     a whole run with every hook, beside a bare PyTorch loop that computes the same
    memory    peak memory of a training
    sync      on CUDA: an ELR step must not wait for the device

Times on the CPU are CPU seconds of this process, so that other programs do not count; on CUDA they are seconds of the
clock, with the device waited for. Ratios are medians over the rounds, with their quartiles.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import json
import pstats
import resource
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

import mmelr
from mmelr.cli import fail_early

SECTIONS = ('step', 'n', 'variants', 'data', 'train', 'memory', 'sync')
DEFAULT = {
    'cpu': ('digits:64', 'digits:256', 'narrow18:64', 'resnet18:16'),
    'cuda': ('narrow18:128', 'resnet18:128', 'resnet34:128', 'resnet34:512', 'preact18:128', 'resnet50:64'),
}
#: Training samples, where nothing else is said.
NUM_SAMPLES = 10_000
METHODS = ('cross entropy', 'ELR', 'ELR+ joint', 'ELR+ alternate')


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', nargs='+', choices=SECTIONS, default=list(SECTIONS), metavar='SECTION')
    parser.add_argument('--case', action='append', metavar='NETWORK:BATCH', help='default: by the device')
    parser.add_argument('--device', choices=('cpu', 'cuda'), help='default: CUDA where there is one')
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision; CUDA only')
    parser.add_argument('--rounds', type=int, default=15, help='turns of each contender; default: %(default)s')
    parser.add_argument('--compile', action='store_true', help='with torch.compile among the variants: takes minutes')
    parser.add_argument('--profile', action='store_true', help='profile the data pipelines, after their section')
    parser.add_argument('--json', metavar='OUT', help='write all numbers here')
    parser.add_argument('--quick', action='store_true', help='the smallest of everything, to see that it works')
    parser.add_argument('--peak', nargs=2, metavar=('CASE', 'METHOD'), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
    args.case = args.case or list(DEFAULT[args.device])
    if args.quick:
        args.case, args.rounds = ['digits:8'], 2
    return args


def check(args: argparse.Namespace) -> None:
    """Refuse what cannot be measured.

    Raises:
        ValueError: Names it.
    """
    from mmelr.analysis.speed import CASES

    if args.device == 'cuda' and not torch.cuda.is_available():
        raise ValueError('--device cuda: PyTorch finds no CUDA device. Leave it out to measure on the CPU.')
    if args.device == 'cpu' and 'train' in args.only and torch.cuda.is_available():
        raise ValueError(
            '--device cpu: MMEngine trains on the GPU that is here, so no whole run can be measured on the CPU. Hide '
            'it (CUDA_VISIBLE_DEVICES= python ...), or leave the section train out of --only.'
        )
    if args.amp and args.device == 'cpu':
        raise ValueError('--amp needs --device cuda: MMEngine has mixed precision for accelerators alone.')
    for case in args.case:
        name, _, batch = case.partition(':')
        if name not in CASES or not batch.isdigit() or not 2 <= int(batch) <= NUM_SAMPLES:
            raise ValueError(
                f'--case {case}: it must be NETWORK:BATCH, the network one of {", ".join(CASES)}, the batch of 2 to '
                f'{NUM_SAMPLES:,} images.'
            )
    if args.json and not Path(args.json).absolute().parent.is_dir():
        raise ValueError(f'--json {args.json}: there is no folder {Path(args.json).parent}.')
    if args.rounds < 1:
        raise ValueError(f'--rounds must be at least 1, got {args.rounds}.')


def contenders(name: str, batch: int, args: argparse.Namespace, change: Callable | None = None) -> dict:
    """Everything that steps, of one network and batch size."""
    from mmelr.analysis.speed import CASES, bare_passes, co_training, single

    case, rest = CASES[name], (args.device, args.amp, change)
    joint = co_training(case, 'joint', batch, NUM_SAMPLES, *rest)
    return {
        'cross entropy': single(case, 'LinearClsHead', batch, NUM_SAMPLES, *rest),
        'ELR': single(case, 'ELRHead', batch, NUM_SAMPLES, *rest),
        'ELR+ joint': joint['step'],
        'ELR+ alternate': co_training(case, 'alternate', batch, NUM_SAMPLES, *rest)['step'],
        'passes of cross entropy and ELR': bare_passes(case, batch, args.device, args.amp, False, change),
        'passes of ELR+': bare_passes(case, batch, args.device, args.amp, True, change),
        'weight average': joint['average'],
    }


def steps_of_a_turn(step: Callable, args: argparse.Namespace) -> int:
    """On CUDA as many as take about a tenth of a second; on a CPU one, for neighbours in time are the best compared."""
    from mmelr.analysis.speed import take_turns

    if args.device == 'cpu':
        return 1
    seconds = take_turns({'': step}, 2, 1, args.device)[''][-1]
    return max(1, min(20, round(0.1 / seconds)))


def rounds_of(step: Callable, args: argparse.Namespace) -> int:
    """``--rounds``, and on a CPU up to ten times as many of short steps."""
    from mmelr.analysis.speed import take_turns

    if args.device != 'cpu' or args.quick:
        return args.rounds
    seconds = take_turns({'': step}, 2, 1, args.device)[''][-1]
    return args.rounds * max(1, min(10, round(0.1 / seconds)))


def measure_steps(args: argparse.Namespace, change: Callable | None = None) -> list[dict]:
    """Time of a step of a network, each method beside the others and beside its floor."""
    from mmelr.analysis.speed import summary, take_turns

    rows = []
    for text in args.case:
        name, batch = text.split(':')
        runners = contenders(name, int(batch), args, change)
        times = take_turns(runners, rounds_of(runners['ELR'], args), steps_of_a_turn(runners['ELR'], args), args.device)
        to_ce = summary(times, 'cross entropy')
        to_floor = summary(times, 'passes of ELR+')
        average = {k: summary(times, k)['weight average'] for k in ('ELR+ joint', 'ELR+ alternate')}
        rows.append(dict(case=text, to_cross_entropy=to_ce, to_floor_of_elr_plus=to_floor, average=average))
        print(f'\n{text}: a step of a network, {args.rounds} rounds')
        for method, row in to_ce.items():
            floor = to_floor[method]
            print(f'  {method:32} {row["ms"]:9.3f} ms   x cross entropy {_ratio(row)}   x ELR+ passes {_ratio(floor)}')
        print(f'  the weight average is {100 * average["ELR+ joint"]["ratio"]:.2f} % of a step (joint)', flush=True)
        gc.collect()
    return rows


def measure_n(args: argparse.Namespace) -> dict:
    """The same ELR step with few and with many training samples: what it costs must not grow."""
    from mmelr.analysis.speed import CASES, single, summary, take_turns

    case, batch = ('digits', 64) if args.device == 'cpu' else ('narrow18', 128)
    sizes = (1_000, 2_000) if args.quick else (NUM_SAMPLES, 1_000_000)
    runners = {f'{n:,}': single(CASES[case], 'ELRHead', batch, n, args.device, args.amp) for n in sizes}
    first = runners[f'{sizes[0]:,}']
    times = take_turns(runners, rounds_of(first, args), steps_of_a_turn(first, args), args.device)
    rows = summary(times, f'{sizes[0]:,}')
    print(f'\n{case}:{batch}: an ELR step, by the number of training samples n')
    for name, row in rows.items():
        print(f'  n = {name:>9} {row["ms"]:9.3f} ms   x {_ratio(row)}', flush=True)
    return rows


def measure_variants(args: argparse.Namespace) -> list[dict]:
    """Plain steps beside those in channels_last, and beside compiled ones."""
    from mmelr.analysis.speed import CASES, co_training, single, summary, take_turns
    from mmelr.engine.fast_network_hook import make_fast

    variants = {'plain': None, 'channels_last': make_fast}
    if args.compile:
        variants['compiled'] = partial(make_fast, channels_last=False, compile=True)
        variants['compiled, channels_last'] = partial(make_fast, compile=True)
    rows = []
    for text in args.case:
        name, batch = text.split(':')
        rest = (int(batch), NUM_SAMPLES, args.device, args.amp)
        for method in METHODS[:3]:
            runners = {
                variant: co_training(CASES[name], 'joint', *rest, change)['step']
                if method == 'ELR+ joint'
                else single(CASES[name], 'ELRHead' if method == 'ELR' else 'LinearClsHead', *rest, change)
                for variant, change in variants.items()
            }
            plain = runners['plain']
            times = take_turns(runners, rounds_of(plain, args), steps_of_a_turn(plain, args), args.device)
            rows.append(dict(case=text, method=method, variants=summary(times, 'plain')))
            print(f'\n{text}, {method}: a step of a network')
            for variant, row in rows[-1]['variants'].items():
                print(f'  {variant:24} {row["ms"]:9.3f} ms   x plain {_ratio(row)}', flush=True)
    return rows


def measure_data(args: argparse.Namespace) -> dict:
    """Samples a second of a pass over the data, made into batches for the network, with no network behind it."""
    from mmengine.registry import init_default_scope

    from mmelr.analysis.speed_data import DataPass, data_speed
    from mmelr.analysis.speed_runs import in_memory, run_config

    init_default_scope('mmpretrain')
    result = {}
    for case in ('digits',) if args.quick else ('digits', 'narrow18'):
        passes = {
            'one by one': DataPass(run_config(case, 'unused', 1), args.device),
            'one by one, not seeded by item': DataPass(run_config(case, 'unused', 1), args.device, seeded=False),
            'in memory': DataPass(in_memory(run_config(case, 'unused', 1)), args.device),
        }
        result[case] = rows = data_speed(passes, args.rounds, args.device)
        print(f'\n{case}: a pass over the data, one process')
        for name, row in rows.items():
            parts = ', '.join(f'{part} {us:.1f} us' for part, us in row['microseconds'].items())
            print(f'  {name:32} {row["samples_per_second"]:9.0f} samples/s   time x {_ratio(row)}   {parts}')
        times = rows['in memory']['samples_per_second'] / rows['one by one']['samples_per_second']
        print(f'  in memory: {times:.1f} times as many samples a second', flush=True)
        for name, of_data in passes.items() if args.profile else ():
            print(f'\n{case}, {name}, profiled:')
            with cProfile.Profile() as profile:
                of_data()
            pstats.Stats(profile).strip_dirs().sort_stats('cumulative').print_stats(24)
    return result


def measure_train(args: argparse.Namespace) -> dict:
    """Whole runs beside bare loops, whose data is made one by one as well."""
    from mmelr.analysis.speed_runs import beside_bare_loop, in_memory

    result = {}
    for case in ('digits',) if args.quick else ('digits', 'narrow18'):
        for name, change in (('one by one', lambda cfg: cfg), ('in memory', in_memory)):
            result[f'{case}, {name}'] = run = beside_bare_loop(case, min(args.rounds, 8), args.device, change)
            print(f'\n{case}, images {name}: a run with ELR goes at {run["speed"]:.3f} of the speed of a bare loop')
            for side in ('run', 'bare'):
                parts = sorted(run[side].items(), key=lambda part: -part[1])
                total = sum(run[side].values())
                shares = ', '.join(f'{part} {100 * v / total:.1f} %' for part, v in parts if v > 0.001 * total)
                print(f'  {side}: {1000 * total / run["steps"]:.2f} ms a step: {shares}', flush=True)
    return result


def measure_memory(args: argparse.Namespace) -> list[dict]:
    """Peak memory of some steps, each method in a process of its own."""
    rows = []
    print('\npeak memory' + (' on the device' if args.device == 'cuda' else ' (resident) of the process'))
    for text in args.case:
        for method in METHODS:
            command = [sys.executable, __file__, '--device', args.device, '--peak', text, method]
            out = subprocess.run(command + ['--amp'] * args.amp, text=True, check=True, stdout=subprocess.PIPE).stdout
            rows.append(dict(case=text, method=method, bytes=int(out.splitlines()[-1])))
            print(f'  {text:14} {method:16} {rows[-1]["bytes"] / 1e6:9.1f} MB', flush=True)
    return rows


def peak(text: str, method: str, args: argparse.Namespace) -> int:
    """Of three steps, in this process."""
    from mmelr.analysis.speed import CASES, co_training, single

    name, batch = text.split(':')
    rest = (int(batch), NUM_SAMPLES, args.device, args.amp)
    if method.startswith('ELR+'):
        contender = co_training(CASES[name], method.split()[1], *rest)['step']
    else:
        contender = single(CASES[name], 'ELRHead' if method == 'ELR' else 'LinearClsHead', *rest)
    for _ in range(3):
        contender.step(contender.prepare())
    return torch.cuda.max_memory_allocated() if args.device == 'cuda' else peak_resident()


def peak_resident() -> int:
    """Bytes of memory that this process has held at most."""
    try:
        # ru_maxrss would start with that of the process that started this one.
        status = Path('/proc/self/status').read_text()
        return 1024 * int(status.partition('VmHWM:')[2].split()[0])
    except (OSError, IndexError):  # not on Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)


def check_synchronisation(args: argparse.Namespace) -> dict | None:
    """On CUDA: forward pass, loss, memory and optimizer of ELR, with an error at whatever waits for the device.

    The batch is on the device before, as it is after MMPretrain's data preprocessor, which waits for its copies.
    """
    if args.device != 'cuda':
        print('\nsync: needs --device cuda, not checked')
        return None
    from mmengine.optim import build_optim_wrapper
    from mmpretrain.registry import MODELS

    from mmelr.analysis.speed import CASES, optimizer

    case = CASES['narrow18']
    model = MODELS.build(case.model('ELRHead')).cuda().train()
    # A GradScaler asks the device whether gradients are finite: with AMP it waits, by PyTorch's design.
    wrapper = build_optim_wrapper(model, optimizer(False))
    for step in range(4):
        data = model.data_preprocessor(case.batch(64, NUM_SAMPLES), True)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode('error' if step else 'default')  # the first makes the memory
        try:
            with torch.autocast('cuda', enabled=args.amp):
                losses = model(data['inputs'], data['data_samples'], mode='loss')
            loss, _ = model.parse_losses(losses)
            wrapper.update_params(loss)
        except RuntimeError as e:
            if 'synchronizing' not in str(e):
                raise
            traceback.print_exc()
            print(f'\nsync: an ELR step WAITS for the device, {e}')
            return dict(waits=True, error=traceback.format_exc())
        finally:
            torch.cuda.set_sync_debug_mode('default')
    print('\nsync: an ELR step never waits for the device')
    return dict(waits=False, steps=3)


def _ratio(row: dict) -> str:
    return f'{row["ratio"]:6.3f} [{row["low"]:.3f}, {row["high"]:.3f}]'


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    args = parse_args(argv)
    warnings.filterwarnings('ignore')
    with fail_early():
        mmelr.require_openmmlab()
        check(args)
    torch.manual_seed(0)
    if args.peak:
        print(peak(*args.peak, args))
        return
    where = torch.cuda.get_device_name() if args.device == 'cuda' else f'CPU, {torch.get_num_threads()} thread(s)'
    print(f'mmelr {mmelr.__version__}, torch {torch.__version__}, {where}, {"AMP" if args.amp else "float32"}')
    sections = dict(
        step=measure_steps,
        n=measure_n,
        variants=measure_variants,
        data=measure_data,
        train=measure_train,
        memory=measure_memory,
        sync=check_synchronisation,
    )
    result = dict(device=where, torch=torch.__version__, amp=args.amp)
    for name in args.only:
        result[name] = sections[name](args)
        if args.json:  # after each, so that one that fails takes nothing with it
            Path(args.json).write_text(json.dumps(result, indent=1), encoding='utf-8')


if __name__ == '__main__':
    main()
