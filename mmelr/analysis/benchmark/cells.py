"""One cell of a benchmark: train, then measure on the test set; and the files that it leaves."""

from __future__ import annotations

import copy
import fcntl
import json
import os
import re
import time
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.runner import Runner, find_latest_checkpoint

from ...engine.durable_files import DurableBackend
from ...serialization import load_json, shorten
from ..runs import ACCURACY, MEMORIZED, read_run
from .grid import Cell, differences

__all__ = ['RESULT', 'check_settings', 'epochs_done', 'read_result', 'run_cell', 'settings_of']

#: What a finished cell leaves in its folder.
RESULT = 'result.json'
SETTINGS, LOG = 'settings.json', 'log.txt'
#: What a result must hold; with None where there may be nothing.
_NUMBERS = ('last_accuracy', 'epochs', 'seconds', 'cpu_seconds')
_NUMBERS_OR_NONE = ('picked_accuracy', 'picked_epoch', 'picked_by', 'wrong_labels_memorized')


def settings_of(cfg: Config) -> dict:
    """A config as JSON has it."""
    return json.loads(json.dumps(cfg.to_dict(), default=str))


def check_settings(folder: Path, settings: dict) -> None:
    """Refuse a folder whose run had other settings.

    Args:
        folder (Path): Of a cell.
        settings (dict): Those of now, see :func:`settings_of`.

    Raises:
        ValueError: Names what differs.
    """
    file = folder / SETTINGS
    if not file.is_file():
        if (folder / RESULT).is_file():
            raise ValueError(f'{folder} has a {RESULT}, but no {SETTINGS} that says what it is of. Delete the folder.')
        return
    found = load_json(file)
    differ = differences(found, settings) if isinstance(found, dict) else ['it is no object']
    if differ:
        more = f', and {len(differ) - 3} more' if len(differ) > 3 else ''
        raise ValueError(
            f'{folder} holds a run with other settings: {shorten("; ".join(differ[:3]), 400)}{more}. Take another '
            '--work-dir, or delete that folder.'
        )


def read_result(file: Path) -> dict:
    """What a cell that is finished measured.

    Args:
        file (Path): Its ``result.json``.

    Raises:
        OSError: There is no such file.
        ValueError: The file is no result.
    """
    result = load_json(file)
    if (
        not isinstance(result, dict)
        or not all(_is_number(result.get(key)) for key in _NUMBERS)
        or not all(result.get(key, '') is None or _is_number(result.get(key)) for key in _NUMBERS_OR_NONE)
        or type(result.get('resumed')) is not bool
    ):
        raise ValueError(f'{file} is not the result of a run. Delete it, and the run goes on from its last checkpoint.')
    return result


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value < 1e9


def epochs_done(folder: Path) -> int:
    """Epochs that a cell has trained so far, from what ``MemorizationHook`` wrote."""
    file = folder / 'memorization.jsonl'
    return file.read_bytes().count(b'\n') if file.is_file() else 0


def run_cell(cell: Cell, cfg: Config, folder: Path, in_process: bool) -> None:
    """Train and test a cell, and leave ``result.json``; go on from the last checkpoint if there is one.

    Another process that runs the same cell is waited for, and its result is taken.

    Args:
        cell (Cell): The cell.
        cfg (Config): From :func:`mmelr.analysis.benchmark.cell_config`.
        folder (Path): Where it runs.
        in_process (bool): Whether the process loads its data by itself: where several processes share the CPU, data
            workers would only take turns with them.

    Raises:
        ValueError: The folder holds a run with other settings; or the metrics of the config have no accuracy.
        FileNotFoundError: The checkpoint of the picked epoch is gone.
    """
    start, cpu = time.perf_counter(), time.process_time()
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / '.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until this process ends, in whatever way
        settings = settings_of(cfg)
        check_settings(folder, settings)
        if (folder / RESULT).is_file():
            return
        _write(folder / SETTINGS, settings)
        cfg = _for_one_run(cfg, folder, in_process)
        resumed = find_latest_checkpoint(str(folder)) is not None
        if resumed:
            cfg.resume, cfg.load_from = True, None
        runner = Runner.from_cfg(cfg)
        runner.train()
        picked = None if cfg.get('val_dataloader') is None else folder / _picked(runner, folder)
        last = folder / f'epoch_{cfg.train_cfg.max_epochs}.pth'
        accuracy = _test(cfg, last)
        memorized = read_run(folder).final(MEMORIZED)
        result = dict(
            method=cell.method,
            options=cell.options,
            noise=cell.noise,
            seed=cell.seed,
            last_accuracy=accuracy,
            picked_accuracy=picked and _test(cfg, picked),
            picked_epoch=picked and int(re.search(r'epoch_(\d+)\.pth$', picked.name)[1]),
            picked_by=picked and float(runner.message_hub.get_info('best_score')),
            epochs=cfg.train_cfg.max_epochs,
            wrong_labels_memorized=memorized if memorized is None or np.isfinite(memorized) else None,
            seconds=round(time.perf_counter() - start, 1),
            cpu_seconds=round(time.process_time() - cpu, 1),
            resumed=resumed,
        )
        _write(folder / RESULT, result)


def _for_one_run(cfg: Config, folder: Path, in_process: bool) -> Config:
    """The config as it is run: nothing in this changes what a run learns or measures."""
    # Every checkpoint has the config as text; to format it takes as long as ten training steps of a small network.
    cfg = Config(copy.deepcopy(cfg._cfg_dict), filename=cfg.filename, format_python_code=False)
    cfg.work_dir, cfg.launcher = str(folder), 'none'
    cfg.experiment_name = '_'.join(folder.parts[-3:])
    saving = cfg.default_hooks.checkpoint
    saving.update(interval=max(1, cfg.train_cfg.max_epochs // 10), by_epoch=True, save_last=True, max_keep_ckpts=1)
    saving.update(save_best=ACCURACY if cfg.get('val_dataloader') is not None else None, rule=None)
    if in_process:
        for loader in filter(None, (cfg.get(f'{part}_dataloader') for part in ('train', 'val', 'test'))):
            loader.update(num_workers=0, persistent_workers=False)
            loader.pop('prefetch_factor', None)
    return cfg


def _picked(runner: Runner, folder: Path) -> str:
    """The file of the epoch with the best accuracy on the held-out noisy labels, the first of several alike."""
    best = runner.message_hub.get_info('best_ckpt')
    name = os.path.basename(best or 'best')
    if not (folder / name).is_file():
        # On a GPU a repeated epoch may come out a little worse than the one that took the place of an earlier best.
        raise FileNotFoundError(
            f'{folder / name}, the checkpoint of the picked epoch, is gone. Delete {folder}, and rerun.'
        )
    return name


def _test(cfg: Config, checkpoint: Path) -> float:
    """Accuracy on the test set: what ``tools/test.py CONFIG CHECKPOINT`` says."""
    cfg = copy.deepcopy(cfg)
    cfg.load_from, cfg.resume = str(checkpoint), False
    cfg.work_dir = str(checkpoint.parent / 'test')
    cfg.test_dataloader.persistent_workers = False  # for one pass
    cfg.experiment_name += f'_{checkpoint.stem}'
    metrics = Runner.from_cfg(cfg).test()
    if ACCURACY not in metrics:
        raise ValueError(f"The metrics are {', '.join(metrics)}. Set test_evaluator=dict(type='Accuracy', topk=(1, )).")
    return float(metrics[ACCURACY])


def _write(file: Path, content: dict) -> None:
    DurableBackend().put_text(json.dumps(content, indent=2) + '\n', file)
