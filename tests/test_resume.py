"""Runs that stop and go on: bit for bit the run that never stopped, or a refusal that says why."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

import mmelr
from mmelr.analysis import read_run
from mmelr.noise import NoiseRecord

ROOT = Path(__file__).parents[1]


def small_config(work_dir, epochs=4, workers=2, **changes) -> Config:
    """Digits with everything that draws random numbers: workers, augmentation, dropout, drop path, a schedule."""
    cfg = mmelr.load_config(ROOT / 'configs' / 'elr_digits.py')
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = f'{Path(work_dir).name}_{epochs}_{np.random.SeedSequence().entropy}'
    cfg.train_cfg.max_epochs = epochs
    cfg.model.backbone.drop_path_rate = 0.2
    cfg.model.head = dict(
        type='ELRHead',
        base='StackedLinearClsHead',
        num_classes=10,
        in_channels=64,
        mid_channels=[32],
        dropout_rate=0.3,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, num_classes=10),
    )
    cfg.param_scheduler = [
        dict(type='LinearLR', start_factor=0.1, by_epoch=True, begin=0, end=2, convert_to_iter_based=True),
        dict(type='CosineAnnealingLR', by_epoch=True, begin=2, end=4),
    ]
    loader = cfg.train_dataloader
    loader.update(num_workers=workers, persistent_workers=workers > 0)
    loader.dataset.dataset.indices = 192
    loader.dataset.dataset.pipeline = [
        dict(type='RandomCrop', crop_size=8, padding=2),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackInputs'),
    ]
    cfg.val_dataloader.dataset.indices = 64
    cfg.log_level = 'ERROR'
    cfg.merge_from_dict(changes)
    return cfg


def train(cfg) -> Runner:
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def checkpoint(work_dir, epoch) -> dict:
    return torch.load(Path(work_dir) / f'epoch_{epoch}.pth', weights_only=True)


def assert_same(a: dict, b: dict):
    assert a.keys() == b.keys()
    for key, value in a.items():
        assert torch.equal(value, b[key]), key


@pytest.mark.parametrize('workers', [0, 2])
def test_two_and_two_epochs_are_four(tmp_path, workers):
    train(small_config(tmp_path / 'whole', workers=workers))
    train(small_config(tmp_path / 'parts', epochs=2, workers=workers))
    torch.manual_seed(12345)  # whatever state the new process would start in
    np.random.seed(54321)
    train(small_config(tmp_path / 'parts', resume=True, workers=workers))

    whole, parts = checkpoint(tmp_path / 'whole', 4), checkpoint(tmp_path / 'parts', 4)
    assert 'head.memory.t' in whole['state_dict']
    assert_same(whole['state_dict'], parts['state_dict'])
    for a, b in zip(whole['optimizer']['state'].values(), parts['optimizer']['state'].values(), strict=True):
        assert torch.equal(a['momentum_buffer'], b['momentum_buffer'])
    assert whole['optimizer']['param_groups'][0]['lr'] == parts['optimizer']['param_groups'][0]['lr']
    assert whole['noise'] == parts['noise']
    assert read_run(tmp_path / 'whole').curves == read_run(tmp_path / 'parts').curves
    a, b = (NoiseRecord.load(tmp_path / d / 'noise.npz') for d in ('whole', 'parts'))
    assert np.array_equal(a.noisy_label, b.noisy_label)


def test_the_test_above_can_fail(tmp_path):
    """Without ExactResumeHook a resumed run is another run."""
    hooks = [dict(type='NoiseRecordHook')]
    train(small_config(tmp_path / 'whole', custom_hooks=hooks))
    train(small_config(tmp_path / 'parts', epochs=2, custom_hooks=hooks))
    train(small_config(tmp_path / 'parts', resume=True, custom_hooks=hooks))
    a, b = checkpoint(tmp_path / 'whole', 4)['state_dict'], checkpoint(tmp_path / 'parts', 4)['state_dict']
    assert not torch.equal(a['head.memory.t'], b['head.memory.t'])


def test_number_of_workers_does_not_matter(tmp_path):
    for workers in (0, 1, 3):
        train(small_config(tmp_path / str(workers), epochs=2, workers=workers))
    states = [checkpoint(tmp_path / str(w), 2)['state_dict'] for w in (0, 1, 3)]
    assert_same(states[0], states[1])
    assert_same(states[0], states[2])
