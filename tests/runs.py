"""Short training runs on the digits, for the tests that need real ones."""

import json
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.runner import Runner

import mmelr

ROOT = Path(__file__).parents[1]


def digits_config(work_dir, name='elr_digits', epochs=1, train=128, val=32, in_memory=True) -> Config:
    """A config of ours, cut down to a few images and epochs.

    ``in_memory=False`` takes the images one by one, as tests need that put any transform, dataset or wrapper into
    the config, or look at the images of its items.
    """
    cfg = mmelr.load_config(ROOT / 'configs' / f'{name}.py')
    cfg.work_dir = str(work_dir)
    # MMEngine keeps one message hub and log for each name; two runs must not share them.
    cfg.experiment_name = f'{Path(work_dir).name}_{np.random.SeedSequence().entropy}'
    cfg.train_cfg.max_epochs = epochs
    cfg.train_dataloader.dataset.dataset.indices = train
    cfg.val_dataloader.dataset.indices = val
    cfg.log_level = 'ERROR'
    return cfg if in_memory else one_by_one(cfg)


def one_by_one(cfg) -> Config:
    """The config without ``InMemoryDataset`` and ``InMemoryPreprocessor``, in place."""
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        dataset = loader.dataset.get('dataset', loader.dataset)
        dataset.type = dataset.pop('base')
    cfg.data_preprocessor.type = 'ClsDataPreprocessor'
    return cfg


def train(cfg) -> Runner:
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def shares(predicted, given, clean) -> dict[str, float]:
    """The shares of the paper's Figure 1, of predictions for all samples."""
    wrong = given != clean
    return dict(
        correct_true=(predicted == clean)[~wrong].mean(),
        wrong_true=(predicted == clean)[wrong].mean(),
        wrong_memorized=(predicted == given)[wrong].mean(),
        wrong_neither=((predicted != clean) & (predicted != given))[wrong].mean(),
    )


def memorization(work_dir) -> list[dict]:
    """The lines that MemorizationHook wrote."""
    return [json.loads(line) for line in (Path(work_dir) / 'memorization.jsonl').read_text().splitlines()]
