"""Runs that stop and go on: bit for bit the run that never stopped, or a refusal that says why."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from runs import ROOT, digits_config, train

from mmelr.analysis import read_run
from mmelr.noise import NoiseRecord


def small_config(work_dir, epochs=4, workers=2, **changes) -> Config:
    """Digits with everything that draws random numbers: workers, augmentation, dropout, drop path, a schedule."""
    cfg = digits_config(work_dir, epochs=epochs, train=192, val=64, in_memory=False)
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
    loader.dataset.dataset.pipeline = [
        dict(type='RandomCrop', crop_size=8, padding=2),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackInputs'),
    ]
    cfg.merge_from_dict(changes)
    return cfg


def checkpoint(work_dir, epoch) -> dict:
    return torch.load(Path(work_dir) / f'epoch_{epoch}.pth', weights_only=True)


def assert_same(a: dict, b: dict):
    assert a.keys() == b.keys()
    for key, value in a.items():
        assert torch.equal(value, b[key]), key


def test_two_and_two_epochs_are_four(tmp_path):
    train(small_config(tmp_path / 'whole'))
    train(small_config(tmp_path / 'parts', epochs=2))
    torch.manual_seed(12345)  # whatever state the new process would start in
    np.random.seed(54321)
    train(small_config(tmp_path / 'parts', resume=True))

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


@pytest.mark.slow
def test_the_test_above_can_fail(tmp_path):
    """Without ExactResumeHook a resumed run is another run."""
    hooks = [dict(type='NoiseRecordHook')]
    train(small_config(tmp_path / 'whole', custom_hooks=hooks))
    train(small_config(tmp_path / 'parts', epochs=2, custom_hooks=hooks))
    train(small_config(tmp_path / 'parts', resume=True, custom_hooks=hooks))
    a, b = checkpoint(tmp_path / 'whole', 4)['state_dict'], checkpoint(tmp_path / 'parts', 4)['state_dict']
    assert not torch.equal(a['head.memory.t'], b['head.memory.t'])


def test_number_of_workers_does_not_matter(tmp_path):
    for workers in (0, 2):
        train(small_config(tmp_path / str(workers), epochs=2, workers=workers))
    states = [checkpoint(tmp_path / str(w), 2)['state_dict'] for w in (0, 2)]
    assert_same(*states)


@pytest.mark.slow
def test_seed_that_mmengine_chose_is_kept(tmp_path):
    """Without a seed in the config MMEngine draws one; the run that goes on must shuffle by it, not by a new one."""
    train(small_config(tmp_path / 'parts', epochs=1, workers=0, randomness=dict(seed=None)))
    seed = checkpoint(tmp_path / 'parts', 1)['meta']['seed']
    train(small_config(tmp_path / 'parts', epochs=2, workers=0, randomness=dict(seed=None), resume=True))
    train(small_config(tmp_path / 'whole', epochs=2, workers=0, randomness=dict(seed=seed)))
    a, b = checkpoint(tmp_path / 'whole', 2)['state_dict'], checkpoint(tmp_path / 'parts', 2)['state_dict']
    assert torch.equal(a['head.memory.t'], b['head.memory.t'])


@pytest.mark.parametrize(
    'changes, words',
    [
        ({'train_dataloader.dataset.noise.rate': 0.2}, r'other labels.*fingerprint.*rate=0.4.*rate=0.2'),
        ({'train_dataloader.dataset.noise.seed': 1}, r'other labels.*seed=0.*seed=1'),
        ({'train_dataloader.dataset.dataset.indices': -192}, r'another part of the dataset'),
        ({'train_dataloader.dataset.dataset.split': 'test'}, r'another dataset \(number of samples\).*1438.*359'),
    ],
)
def test_resume_with_other_noise_or_data_is_refused(tmp_path, changes, words):
    train(small_config(tmp_path, epochs=1, workers=0))
    before = (tmp_path / 'noise.npz').read_bytes()
    with pytest.raises(ValueError, match='Cannot resume.*' + words):
        train(small_config(tmp_path, epochs=2, workers=0, resume=True, **changes))
    assert (tmp_path / 'noise.npz').read_bytes() == before
    train(small_config(tmp_path, epochs=2, workers=0, resume=True))  # nothing was lost


def test_resume_with_the_noise_file_of_the_run(tmp_path):
    train(small_config(tmp_path, epochs=1, workers=0))
    noise = dict(_delete_=True, type='LabelFile', path=str(tmp_path / 'noise.npz'))
    cfg = small_config(tmp_path, epochs=2, workers=0, resume=True)
    cfg.merge_from_dict(dict(train_dataloader=dict(dataset=dict(noise=noise))))
    assert train(cfg).epoch == 2


def test_checkpoint_without_noise_cannot_be_resumed_but_be_loaded(tmp_path):
    train(small_config(tmp_path / 'a', epochs=1, workers=0))
    path = tmp_path / 'a' / 'epoch_1.pth'
    saved = torch.load(path, weights_only=True)
    del saved['noise']
    torch.save(saved, path)
    with pytest.raises(ValueError, match='does not say which noise.*load_from'):
        train(small_config(tmp_path / 'a', epochs=2, workers=0, resume=True))


def test_load_from_takes_the_weights_and_a_new_memory(tmp_path):
    """Fine-tuning on another dataset must not stumble over, or use, the memory of the first."""
    train(small_config(tmp_path / 'a', epochs=2, workers=0))
    saved = checkpoint(tmp_path / 'a', 2)['state_dict']
    cfg = small_config(
        tmp_path / 'b', epochs=1, workers=0, load_from=str(tmp_path / 'a' / 'epoch_2.pth'),
        **{'train_dataloader.dataset.dataset.split': 'test', 'optim_wrapper.optimizer.lr': 0.0},
    )  # fmt: skip
    runner = train(cfg)
    assert torch.equal(runner.model.backbone.conv1.weight, saved['backbone.conv1.weight'])
    t = runner.model.head.memory.t
    assert len(t) == 359
    visited = t.sum(1)[t.sum(1) > 0]
    assert torch.allclose(visited, torch.tensor(0.3)), 'one visit from zero: sum 1 - beta'


def test_tools_train_resumes(tmp_path):
    """The same through the command line, on this torch, which refuses MMEngine's checkpoints by default."""
    small = ['train_dataloader.dataset.dataset.indices=64', 'val_dataloader.dataset.indices=32']
    for epochs, resume in ((1, []), (2, ['--resume'])):
        command = [sys.executable, 'tools/train.py', 'configs/elr_digits.py', '--work-dir', str(tmp_path), *resume]
        command += ['--cfg-options', f'train_cfg.max_epochs={epochs}', *small]
        result = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
        assert result.returncode == 0, result.stderr
    assert 'resumed epoch: 1' in result.stdout + result.stderr
    assert sorted(read_run(tmp_path).curves['accuracy/top1']) == [1, 2]
