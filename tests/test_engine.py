"""Hooks in real runs: what they record, what they refuse, and what a hostile checkpoint cannot do."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner
from mmengine.runner.checkpoint import load_checkpoint
from runs import digits_config, one_by_one, shares, train

import mmelr
from mmelr.analysis import read_run
from mmelr.noise import LabelFile, NoiseRecord


def config(work_dir, name='elr_digits', epochs=1, **changes):
    cfg = digits_config(work_dir, name, epochs)
    cfg.merge_from_dict(changes)
    return cfg


def test_noise_is_left_beside_the_checkpoints(tmp_path):
    runner = train(config(tmp_path))
    dataset = runner.train_dataloader.dataset
    record = NoiseRecord.load(tmp_path / 'noise.npz')
    assert np.array_equal(record.noisy_label, dataset.record.noisy_label)
    assert np.array_equal(record.clean_label, dataset.record.clean_label)
    assert record.description == 'SymmetricNoise(rate=0.4, seed=0, include_true=True)'
    assert np.array_equal(LabelFile(str(tmp_path / 'noise.npz'))(record.clean_label, 10), record.noisy_label)
    with np.load(tmp_path / 'noise.npz', allow_pickle=False) as file:  # by any other tool
        assert file['noisy_label'].shape == (1438,)


def test_memorization_is_what_the_network_predicted(tmp_path):
    """With a learning rate of zero and no dropout, training outputs can be computed again after the run."""
    cfg = config(tmp_path, 'ce_digits', **{'optim_wrapper.optimizer.lr': 0.0, 'train_dataloader.batch_size': 128})
    one_by_one(cfg)
    runner = train(cfg)
    dataset = runner.train_dataloader.dataset
    model = runner.model.train()  # the batch statistics of the one batch that there is
    images = torch.stack([dataset[i]['inputs'] for i in range(128)]).float()
    with torch.no_grad():
        predicted = model((images - 77.8) / 95.9).argmax(1).numpy()
    given, clean = dataset.get_gt_labels(), dataset.record.clean_label[:128]
    expected = {f'memorization/{key}': share for key, share in shares(predicted, given, clean).items()}
    curves = {key: curve[1] for key, curve in read_run(tmp_path).curves.items() if key in expected}
    assert curves == pytest.approx(expected)


def test_labels_as_given_have_no_clean_ones(tmp_path):
    cfg = config(tmp_path)
    cfg.train_dataloader.dataset.noise = None
    train(cfg)
    known = {'accuracy/top1', 'memorization/agreement', 'memorization/memory_agreement'}
    assert set(read_run(tmp_path).curves) == known
    assert NoiseRecord.load(tmp_path / 'noise.npz').clean_label is None


def test_batch_augments_that_mix_labels_are_refused_before_training(tmp_path):
    mixing = dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)])
    cfg = config(tmp_path, **{'model.train_cfg': mixing})
    with pytest.raises(ValueError, match=r'\(Mixup, CutMix\).*Remove them: --cfg-options model.train_cfg=None'):
        train(cfg)
    assert not list(tmp_path.glob('*.pth'))
    train(config(tmp_path / 'ce', 'ce_digits', **{'model.train_cfg': mixing}))  # cross entropy may mix


def test_noisy_label_dataset_must_be_outermost(tmp_path):
    cfg = config(tmp_path)
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=2, dataset=cfg.train_dataloader.dataset)
    cfg.custom_hooks = [dict(type='NoiseRecordHook')]
    with pytest.raises(TypeError, match='inside of RepeatDataset. Turn them round'):
        train(cfg)


def test_head_without_noisy_label_dataset_says_what_it_needs(tmp_path):
    cfg = config(tmp_path)
    cfg.train_dataloader.dataset = cfg.train_dataloader.dataset.dataset
    cfg.custom_hooks = []
    with pytest.raises(ValueError, match='NoisyLabelDataset.*mmelr.apply_method'):
        train(cfg)


def test_works_beside_weight_averaging_and_gradient_accumulation(tmp_path):
    """MMEngine's EMAHook swaps the averaged weights into checkpoints; the memory must survive a resume with it."""
    changes = dict(
        custom_hooks=[dict(type='EMAHook'), dict(type='NoiseRecordHook'), dict(type='ExactResumeHook')],
        **{'optim_wrapper.accumulative_counts': 2, 'optim_wrapper.clip_grad': dict(max_norm=1.0)},
    )
    train(config(tmp_path / 'whole', epochs=2, **changes))
    train(config(tmp_path / 'parts', epochs=1, **changes))
    train(config(tmp_path / 'parts', epochs=2, resume=True, **changes))
    whole, parts = (torch.load(tmp_path / d / 'epoch_2.pth', weights_only=True) for d in ('whole', 'parts'))
    for key in ('state_dict', 'ema_state_dict'):
        for name, value in whole[key].items():
            assert torch.equal(value, parts[key][name]), (key, name)
    assert whole['state_dict']['head.memory.t'].any()


class Touch:
    """Unpickles by running a command."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


class GetAttr:
    """Unpickles by looking up an attribute, a first step to running anything."""

    def __init__(self, owner, name):
        self.call = (getattr, (owner, name))

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize('bad', [lambda p: Touch(p), lambda p: GetAttr(HistoryBuffer, '__init__')])
def test_hostile_checkpoints_are_refused(tmp_path, bad):
    marker = tmp_path / 'executed'
    torch.save(dict(state_dict={}, meta={}, extra=bad(marker)), tmp_path / 'bad.pth')
    with pytest.raises(pickle.UnpicklingError):
        load_checkpoint(torch.nn.Linear(1, 1), str(tmp_path / 'bad.pth'))
    assert not marker.exists()


def test_log_buffers_of_mmengine_load(tmp_path):
    buffer = HistoryBuffer([1.0, 2.0], [1, 1])
    torch.save(dict(state_dict={}, message_hub=buffer), tmp_path / 'good.pth')
    loaded = load_checkpoint(torch.nn.Linear(1, 1), str(tmp_path / 'good.pth'))['message_hub']
    assert (loaded.statistics('mean'), loaded.statistics('max')) == (1.5, 2.0)


def test_config_text_in_a_checkpoint_is_not_executed_on_resume(tmp_path):
    """MMEngine's Runner.resume would run meta['config'] as Python."""
    train(config(tmp_path))
    path, marker = tmp_path / 'epoch_1.pth', tmp_path / 'executed'
    checkpoint = torch.load(path, weights_only=True)
    checkpoint['meta']['config'] = f'import pathlib\npathlib.Path({str(marker)!r}).touch()\n'
    torch.save(checkpoint, path)
    train(config(tmp_path, epochs=2, resume=True))
    assert not marker.exists()


def test_curves_of_a_resumed_run_are_one(tmp_path):
    for start, steps in (('20200101_000000', (1, 2, 3)), ('20200102_000000', (3, 4))):
        (tmp_path / start / 'vis_data').mkdir(parents=True)
        lines = [json.dumps({'accuracy/top1': 10.0 * s + len(steps), 'step': s}) for s in steps]
        (tmp_path / start / 'vis_data' / 'scalars.json').write_text('\n'.join(lines + ['{"loss": 1.0, "step": 9}']))
    run = read_run(tmp_path, 'name')
    assert run.curves == {'accuracy/top1': {1: 13.0, 2: 23.0, 3: 32.0, 4: 42.0}}
    assert (run.final('accuracy/top1'), run.best('accuracy/top1'), run.final('nothing')) == (42.0, 42.0, None)
    with pytest.raises(FileNotFoundError, match='not the work directory of a run'):
        read_run(tmp_path / 'nothing')


def test_the_advice_about_batch_augments_keeps_the_normalisation(tmp_path):
    """The option that the message names must remove the augments and nothing else."""
    cfg = mmelr.load_config('mmpretrain::resnet/resnet18_8xb16_cifar10.py')
    plain = mmelr.apply_method(cfg, 'elr')
    for option in ('model.train_cfg', 'data_preprocessor.batch_augments'):
        cfg = mmelr.apply_method(cfg, 'elr')
        cfg.merge_from_dict({option: dict(augments=[dict(type='Mixup', alpha=0.8)])})
        small = one_by_one(config(tmp_path))
        for key in ('train_dataloader', 'val_dataloader', 'test_dataloader', 'work_dir'):
            cfg[key] = small[key]
        cfg.experiment_name = f'{option}_{np.random.SeedSequence().entropy}'
        with pytest.raises(ValueError, match=rf'--cfg-options {option}=None$'):
            train(cfg)
        cfg.merge_from_dict({option: None})
        cfg.experiment_name += '_mended'
        preprocessor = Runner.from_cfg(cfg).model.data_preprocessor
        assert preprocessor.batch_augments is None
        assert preprocessor.mean.flatten().tolist() == pytest.approx(plain.data_preprocessor.mean)
        cfg = mmelr.load_config('mmpretrain::resnet/resnet18_8xb16_cifar10.py')


def test_head_with_too_few_classes_is_refused_before_training(tmp_path):
    with pytest.raises(ValueError, match='num_classes=5, but the training set has 10 classes'):
        train(config(tmp_path, **{'model.head.num_classes': 5}))
    assert not (tmp_path / 'noise.npz').exists()


def test_checkpoints_of_other_labels_are_not_overwritten(tmp_path):
    train(config(tmp_path))
    before = (tmp_path / 'noise.npz').read_bytes()
    with pytest.raises(ValueError, match='holds the checkpoints of a run on other labels.*rate=0.4.*--work-dir'):
        train(config(tmp_path, **{'train_dataloader.dataset.noise.rate': 0.2}))
    assert (tmp_path / 'noise.npz').read_bytes() == before
    train(config(tmp_path))  # the same noise may start anew


def test_truncated_checkpoint_is_named(tmp_path):
    train(config(tmp_path))
    path = tmp_path / 'epoch_1.pth'
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match='epoch_1.pth is damaged: '):
        train(config(tmp_path, epochs=2, resume=True))
