"""Short training runs on the digits, for the tests that need real ones."""

from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.runner import Runner

import mmelr

ROOT = Path(__file__).parents[1]


def digits_config(work_dir, name='elr_digits', epochs=1, train=128, val=32) -> Config:
    """A config of ours, cut down to a few images and epochs."""
    cfg = mmelr.load_config(ROOT / 'configs' / f'{name}.py')
    cfg.work_dir = str(work_dir)
    # MMEngine keeps one message hub and log for each name; two runs must not share them.
    cfg.experiment_name = f'{Path(work_dir).name}_{np.random.SeedSequence().entropy}'
    cfg.train_cfg.max_epochs = epochs
    cfg.train_dataloader.dataset.dataset.indices = train
    cfg.val_dataloader.dataset.indices = val
    cfg.log_level = 'ERROR'
    return cfg


def train(cfg) -> Runner:
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner
