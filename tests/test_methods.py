"""The baselines in configs and runs: the loss that trains is the paper's, and the hooks give it what it needs."""

import itertools
import os
import runpy
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.optim.scheduler import CosineRestartLR
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS, MODELS, OPTIM_WRAPPERS
from runs import ROOT, digits_config, memorization, train

import mmelr
from mmelr.engine import TransitionHook, TruncationHook
from mmelr.engine.transition_hook import known_transition
from mmelr.engine.utils import bare_model
from mmelr.noise import NoiseRecord, transition_matrix

CIFAR = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
BASELINES = (
    'bootstrap-soft',
    'bootstrap-hard',
    'forward',
    'forward-estimated',
    'backward',
    'gce',
    'gce-truncated',
    'sl',
)


def in_order(cfg) -> dict:
    """A config to compare: mmelr's hooks do the same in any order."""
    return dict(cfg.to_dict(), custom_hooks=sorted(cfg.custom_hooks, key=lambda hook: hook['type']))


class TestSwitch:
    @pytest.mark.parametrize('own', [None, dict(type='LabelSmoothLoss', label_smooth_val=0.1)], ids=['ce', 'smooth'])
    def test_every_method_gives_way_to_every_other(self, own):
        plain = mmelr.load_config(CIFAR)
        if own is not None:
            plain.model.head.loss = own
        once = {method: mmelr.apply_method(plain, method, 'symmetric:0.4') for method in mmelr.METHODS}
        assert len({str(in_order(cfg)) for cfg in once.values()}) == len(mmelr.METHODS) == 12
        for first, second in itertools.product(mmelr.METHODS, repeat=2):
            again = mmelr.apply_method(once[first], second)
            assert in_order(again) == in_order(once[second]), f'{second} after {first}'
        assert once['gce'].replaced.loss == plain.model.head.loss
        assert once['ce'].model == plain.model and 'replaced' not in once['ce']
        assert once['elr+'].model.network.head.loss == plain.model.head.loss

    def test_config_of_a_baseline_without_a_loss_of_its_own(self):
        cfg = mmelr.load_config(ROOT / 'configs/gce_truncated_digits.py')
        plain = mmelr.load_config(ROOT / 'configs/ce_digits.py')
        for method in ('ce', 'elr', 'sl', 'elr+'):
            a, b = (mmelr.apply_method(c, method) for c in (cfg, plain))
            assert (a.model, a.custom_hooks) == (b.model, b.custom_hooks), method
        assert mmelr.apply_method(cfg, noise='none').model == cfg.model

    @pytest.mark.parametrize(
        'method, options, loss, hook',
        [
            ('bootstrap-soft', dict(beta=0.9), dict(type='BootstrapLoss', hard=False, beta=0.9), None),
            ('bootstrap-hard', dict(beta=0.7), dict(type='BootstrapLoss', hard=True, beta=0.7), None),
            ('forward', dict(transition=None), dict(type='ForwardLoss', num_classes=10), dict(source='known')),
            (
                'forward-estimated',
                dict(warm_up=5, quantile=1.0),
                dict(type='ForwardLoss', num_classes=10),
                dict(source='estimated', warm_up=5, quantile=1.0),
            ),
            ('gce', dict(q=0.5), dict(type='GCELoss', q=0.5), None),
            (
                'gce-truncated',
                dict(q=0.8, k=0.3, start=4, interval=2),
                dict(type='TruncatedGCELoss', q=0.8, k=0.3),
                dict(start=4, interval=2),
            ),
            (
                'sl',
                dict(alpha=6.0, beta=0.1, log_zero=-9.0),
                dict(type='SCELoss', alpha=6.0, beta=0.1, log_zero=-9.0),
                None,
            ),
        ],
    )
    def test_options(self, tmp_path, method, options, loss, hook):
        cfg = mmelr.apply_method(CIFAR, method, **options)
        assert cfg.model.head.loss == loss
        found = [{k: v for k, v in h.items() if k != 'type'} for h in cfg.custom_hooks if h.type.startswith('Tr')]
        assert found == ([] if hook is None else [hook])
        assert in_order(mmelr.apply_method(cfg, method)) == in_order(cfg), 'the options of a config stay'
        MODELS.build(dict(cfg.model))
        cfg.dump(tmp_path / 'run.py')
        assert mmelr.load_config(tmp_path / 'run.py').to_dict() == cfg.to_dict()
        one = dict([next(iter(options.items()))])
        assert in_order(mmelr.apply_method(mmelr.apply_method(CIFAR, method), method, **one)) == in_order(
            mmelr.apply_method(CIFAR, method, **one)
        )

    def test_transition_from_a_file(self, tmp_path):
        np.savetxt(tmp_path / 'm.csv', np.eye(10), delimiter=',')
        cfg = mmelr.apply_method(CIFAR, 'backward', transition=tmp_path / 'm.csv')
        [hook] = [h for h in cfg.custom_hooks if h.type == 'TransitionHook']
        assert hook.source == str(tmp_path / 'm.csv')
        assert in_order(mmelr.apply_method(cfg, 'backward')) == in_order(cfg)
        np.savetxt(tmp_path / 'm.csv', np.eye(7), delimiter=',')
        with pytest.raises(ValueError, match='has 7 classes, but there are 10'):
            mmelr.apply_method(CIFAR, 'forward', transition=tmp_path / 'm.csv')

    @pytest.mark.parametrize(
        'method, options, error, words',
        [
            ('gce', dict(k=0.5), TypeError, "Method 'gce' has no option k; it has q."),
            ('sl', dict(gamma=1), TypeError, 'no option gamma; it has alpha, beta, log_zero'),
            ('forward', dict(warm_up=1), TypeError, 'it has transition'),
            ('gce-truncated', dict(lam=1), TypeError, 'it has q, k, start, interval'),
            ('elr*', dict(gamma=1), TypeError, 'it has beta, lam, .*, T_0'),
            ('gce', dict(q=2), ValueError, 'q must be .*got 2'),
            ('bootstrap-soft', dict(beta=-1), ValueError, 'beta must be .*got -1'),
            ('gce-truncated', dict(interval=0), ValueError, 'interval of TruncationHook.*got 0'),
            ('gce-truncated', dict(start=0.5), ValueError, 'start of TruncationHook.*got 0.5'),
            ('forward-estimated', dict(warm_up=-1), ValueError, 'warm_up of TransitionHook.*got -1'),
            ('forward-estimated', dict(quantile=3), ValueError, 'quantile must be.*got 3'),
            ('forward', dict(transition='nothing.csv'), FileNotFoundError, 'nothing.csv'),
            ('forward', dict(transition='nothing.xls'), ValueError, 'cannot read files with the suffix'),
            ('elr*', dict(T_0=0), ValueError, 'T_0.*positive integer, got 0'),
        ],
    )
    def test_mistakes_are_told(self, method, options, error, words):
        with pytest.raises(error, match=words):
            mmelr.apply_method(CIFAR, method, **options)

    @pytest.mark.parametrize(
        'head, error, words',
        [
            (
                dict(type='ArcFaceClsHead', num_classes=10, in_channels=512),
                TypeError,
                'gce cannot be the loss of ArcFace',
            ),
            (dict(type='MultiTaskHead', task_heads={}), TypeError, 'gce cannot be the loss of MultiTaskHead'),
            (dict(type='NoSuchHead'), KeyError, "No head named 'NoSuchHead'"),
        ],
    )
    def test_heads_without_such_a_loss_are_refused(self, head, error, words):
        cfg = mmelr.load_config(CIFAR)
        cfg.model.head = head
        with pytest.raises(error, match=words):
            mmelr.apply_method(cfg, 'gce')

    def test_size_of_the_transition_matrix(self):
        cfg = mmelr.load_config(CIFAR)
        cfg.model.head = dict(type='ClsHead')
        assert mmelr.apply_method(cfg, 'forward').model.head.loss.num_classes == 10
        cfg.data_preprocessor.pop('num_classes')
        with pytest.raises(TypeError, match='ClsHead has no num_classes'):
            mmelr.apply_method(cfg, 'forward')

    def test_elr_star_anneals_with_restarts(self):
        cfg = mmelr.load_config(CIFAR)
        star = mmelr.apply_method(cfg, 'elr*', lam=1.0, T_0=30)
        assert star.train_cfg == cfg.train_cfg and star.model.head.lam == 1.0
        assert mmelr.apply_method(star, 'elr*', lam=2.0).param_scheduler == star.param_scheduler
        arguments = {k: v for k, v in star.param_scheduler.items() if k != 'type'}
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.02)
        schedule, rates = CosineRestartLR(optimizer, **arguments), []
        for _ in range(200):
            rates.append(optimizer.param_groups[0]['lr'])
            optimizer.step()
            schedule.step()
        n = np.arange(200) % 30
        assert rates == pytest.approx(0.001 + (0.02 - 0.001) * (1 + np.cos(np.pi * n / 30)) / 2)
        cfg.pop('param_scheduler')
        assert 'param_scheduler' not in mmelr.apply_method(mmelr.apply_method(cfg, 'elr*'), 'elr')
        cfg.train_cfg = dict(by_epoch=False, max_iters=100)
        with pytest.raises(TypeError, match='ELR\\* trains for a number of epochs'):
            mmelr.apply_method(cfg, 'elr*')

    def test_command_line(self, tmp_path):
        command = [sys.executable, 'tools/train.py', 'configs/ce_digits.py', '--method', 'gce-truncated', '--work-dir']
        command += [str(tmp_path), '--method-options', 'q=0.5', 'start=3', '--cfg-options']
        command += ['train_cfg.max_epochs=1', 'train_dataloader.dataset.dataset.indices=64']
        done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert 'prunes first after 3 epochs, and this run has 1' in done.stdout + done.stderr
        cfg = mmelr.load_config(tmp_path / 'ce_digits.py')
        assert (cfg.model.head.loss.q, cfg.custom_hooks[-1].start) == (0.5, 3)


@HOOKS.register_module()
class StepRecorder(Hook):
    """Logits, labels, samples and the logged loss of every step, and the buffers of the loss that it was taken with."""

    priority = 'LOWEST'

    def __init__(self):
        self.steps = []

    def before_train(self, runner):
        runner.model.head.register_forward_hook(self._note)

    def _note(self, head, inputs, logits):
        self._logits = logits.detach()

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self._buffers = {k: v.clone() for k, v in runner.model.head.loss_module.named_buffers()}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        samples = data_batch['data_samples']
        labels = np.array([int(s.gt_label) for s in samples])
        indices = np.array([s.sample_idx for s in samples])
        loss = outputs['loss'].detach()
        assert loss.dtype == torch.float32
        self.steps.append((runner.epoch, self._logits.double().numpy(), labels, indices, float(loss), self._buffers))


def formula(method, logits, y, indices, buffers):
    """The papers' losses, written down once more."""
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    py, rows = p[np.arange(len(y)), y], np.arange(len(y))
    if method == 'bootstrap-soft':
        return np.mean(-0.95 * np.log(py) - 0.05 * (p * np.log(p)).sum(axis=1))
    if method == 'bootstrap-hard':
        return np.mean(-0.8 * np.log(py) - 0.2 * np.log(p.max(axis=1)))
    if method.startswith('forward'):
        return np.mean(-np.log((p @ buffers['transition'].double().numpy())[rows, y]))
    if method == 'backward':
        return np.mean(-(np.linalg.inv(buffers['transition'].double().numpy())[y] * np.log(p)).sum(axis=1))
    if method == 'gce':
        return np.mean((1 - py**0.7) / 0.7)
    if method == 'gce-truncated':
        return np.mean(np.where(buffers['kept'].numpy()[indices], (1 - py**0.7) / 0.7 - (1 - 0.2**0.7) / 0.7, 0))
    return np.mean(-0.1 * np.log(py) + 1.0 * 4 * (1 - py))


def recorded(cfg) -> tuple[Runner, list]:
    cfg.custom_hooks = [*cfg.custom_hooks, dict(type='StepRecorder')]
    runner = train(cfg)
    [recorder] = [hook for hook in runner.hooks if isinstance(hook, StepRecorder)]
    return runner, recorder.steps


@OPTIM_WRAPPERS.register_module()
class CPUAmpWrapper(OptimWrapper):
    """What AmpOptimWrapper does on a GPU: MMEngine's own refuses to run on a CPU."""

    def optim_context(self, model):
        return torch.autocast('cpu', dtype=torch.bfloat16)


CHANGES = {
    'gce-truncated': dict(k=0.2, start=1, interval=5),
    'forward-estimated': dict(warm_up=1),
}


class TestTraining:
    @pytest.mark.parametrize('method', BASELINES)
    def test_loss_of_every_step(self, tmp_path, method):
        cfg = digits_config(tmp_path, f'{method.replace("-", "_")}_digits', epochs=2)
        cfg = mmelr.apply_method(cfg, method, **CHANGES.get(method, {}))
        runner, steps = recorded(cfg)
        assert len(steps) == 4
        for _, logits, labels, indices, loss, buffers in steps:
            assert loss == pytest.approx(formula(method, logits, labels, indices, buffers), rel=1e-5)
        record, eye = runner.train_dataloader.dataset.record, torch.eye(10)
        if method in ('forward', 'backward'):
            true = torch.from_numpy(transition_matrix(record.clean_label, record.noisy_label, 10)).float()
            assert all(torch.equal(step[-1]['transition'], true) for step in steps) and true.diag().max() < 0.8
        if method == 'forward-estimated':
            assert all(torch.equal(step[-1]['transition'], eye) == (step[0] == 0) for step in steps)
        if method == 'gce-truncated':
            assert all(step[-1]['kept'].all() == (step[0] == 0) for step in steps)
            assert len(steps[0][-1]['kept']) == len(record.noisy_label)
        # MemorizationHook goes by the prediction and the label, not by the loss.
        _, logits, labels, _, _, _ = zip(*steps[2:], strict=True)
        agreement = np.mean(np.concatenate(logits).argmax(axis=1) == np.concatenate(labels))
        assert memorization(tmp_path)[-1]['agreement'] == pytest.approx(agreement, abs=1e-6)

    @pytest.mark.parametrize(
        'method, wrapper',
        [
            ('forward', dict(type='CPUAmpWrapper')),
            ('backward', dict(type='CPUAmpWrapper')),
            ('gce-truncated', dict(type='CPUAmpWrapper')),
            ('sl', dict(type='CPUAmpWrapper')),
            ('gce-truncated', dict(type='OptimWrapper', accumulative_counts=2)),
        ],
    )
    def test_amp_and_accumulation(self, tmp_path, method, wrapper):
        cfg = digits_config(tmp_path, f'{method.replace("-", "_")}_digits')
        cfg.optim_wrapper.update(wrapper)
        cfg = mmelr.apply_method(cfg, method, **(CHANGES['gce-truncated'] if method == 'gce-truncated' else {}))
        _, steps = recorded(cfg)
        for _, logits, labels, indices, loss, buffers in steps:
            assert loss == pytest.approx(formula(method, logits, labels, indices, buffers), rel=1e-5)


@HOOKS.register_module()
class Witness(Hook):
    """What the network says of the training images just before an epoch is learned from, without our helper."""

    priority = 'HIGHEST'

    def __init__(self):
        self.p, self.all = {}, {}

    def before_train_epoch(self, runner):
        dataset, model = runner.train_dataloader.dataset, bare_model(runner)
        items = [dataset[i] for i in range(len(dataset))]
        mode, state = model.training, torch.get_rng_state()
        model.eval()
        with torch.no_grad():
            images = model.data_preprocessor(default_collate(items), False)
            logits = model(images['inputs'], mode='tensor')
        model.train(mode)
        torch.set_rng_state(state)
        given = torch.tensor([int(item['data_samples'].gt_label) for item in items])
        self.all[runner.epoch] = logits.softmax(dim=1)
        self.p[runner.epoch] = self.all[runner.epoch][torch.arange(len(items)), given]
        self.samples = [item['data_samples'].sample_idx for item in items]


class TestTruncation:
    def test_keeps_what_the_network_believes(self, tmp_path):
        """Of a subset with repetitions, every second epoch from the third on."""
        cfg = digits_config(tmp_path, 'gce_truncated_digits', epochs=6, train=192, in_memory=False)
        inner = cfg.train_dataloader.dataset.dataset
        cfg.train_dataloader.dataset.dataset = dict(type='RepeatDataset', times=2, dataset=inner)
        cfg = mmelr.apply_method(cfg, 'gce-truncated', k=0.3, start=2, interval=2)
        cfg.train_cfg.val_interval = 99  # validation leaves the network in evaluation mode
        cfg.custom_hooks = [*cfg.custom_hooks, dict(type='Witness')]
        runner, steps = recorded(cfg)
        [witness] = [hook for hook in runner.hooks if isinstance(hook, Witness)]
        for epoch, *_, buffers in steps:
            expected = torch.ones(1438, dtype=torch.bool)
            if epoch >= 2:
                expected[witness.samples] = witness.p[epoch - epoch % 2] > 0.3
                assert not expected.all() and expected[witness.samples].any()
            assert torch.equal(buffers['kept'], expected), epoch
        saved = torch.load(tmp_path / 'epoch_6.pth', weights_only=True)
        assert saved['message_hub']['runtime_info']['pruned_before_epoch'] == 4

    def test_that_keeps_all_changes_nothing(self, tmp_path):
        """The pass over the data leaves random numbers alone: those of augmentation and dropout, without any hook."""
        states = []
        for start in (1, 99):
            cfg = random_config(tmp_path / str(start), 'gce-truncated', epochs=3, k=1e-9, start=start, interval=1)
            cfg.custom_hooks = [hook for hook in cfg.custom_hooks if hook.type in ('TruncationHook', 'NoiseRecordHook')]
            states.append(train(cfg).model.state_dict())
        assert states[0]['head.loss_module.kept'].all()
        assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())

    def test_warns_where_nothing_is_left(self, tmp_path):
        cfg = digits_config(tmp_path, 'gce_truncated_digits')
        cfg.log_level = 'INFO'
        train(mmelr.apply_method(cfg, 'gce-truncated', k=0.999, start=0))
        log = next(tmp_path.glob('*/*.log')).read_text()
        assert 'Truncation: 0 of 128 samples kept' in log and 'left no sample to learn from' in log
        assert 'wrong labels' in log

    def test_needs_its_hook_and_its_loss(self, tmp_path):
        cfg = digits_config(tmp_path, 'gce_truncated_digits')
        hooks = cfg.custom_hooks
        cfg.custom_hooks = [hook for hook in hooks if hook.type != 'TruncationHook']
        with pytest.raises(ValueError, match="does not know which training samples.*type='TruncationHook'"):
            train(cfg)
        cfg.custom_hooks, cfg.model.head.loss = hooks, dict(type='GCELoss')
        with pytest.raises(TypeError, match='the loss TruncatedGCELoss; this one has GCELoss'):
            train(cfg)
        with pytest.raises(ValueError, match='interval'):
            TruncationHook(interval=0)


def random_config(work_dir, method, epochs, workers=0, **options):
    """Digits with everything that draws random numbers."""
    cfg = digits_config(work_dir, 'ce_digits', epochs=epochs, train=192, in_memory=False)
    cfg.model.head = dict(
        type='StackedLinearClsHead', num_classes=10, in_channels=64, mid_channels=[32], dropout_rate=0.3
    )
    cfg.train_dataloader.update(num_workers=workers, persistent_workers=workers > 0)
    cfg.train_dataloader.dataset.dataset.pipeline = [
        dict(type='RandomCrop', crop_size=8, padding=2),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackInputs'),
    ]
    return mmelr.apply_method(cfg, method, **options)


class TestResume:
    @pytest.mark.parametrize(
        'method, options, hidden',
        [
            ('gce-truncated', dict(k=0.1, start=2, interval=9, workers=2), 'kept'),
            pytest.param('forward-estimated', dict(warm_up=2), 'transition', marks=pytest.mark.slow),
        ],
    )
    def test_before_and_after_the_look_at_the_data(self, tmp_path, method, options, hidden):
        """Three batches an epoch: after 6 the look is still to come, after 7 it is done."""

        def config(name, **changes):
            cfg = random_config(tmp_path / name, method, 3, **options)
            cfg.default_hooks.checkpoint.update(by_epoch=False, interval=1, max_keep_ckpts=99)
            cfg.update(changes, log_level='INFO')
            return cfg

        whole = train(config('whole')).model.state_dict()
        first = whole[f'head.loss_module.{hidden}']
        assert 0 < first[:192].sum() < 192 if hidden == 'kept' else not torch.equal(first, torch.eye(10))
        for start in (6, 7):
            torch.manual_seed(start)
            parts = train(
                config(f'from_{start}', resume=True, load_from=str(tmp_path / 'whole' / f'iter_{start}.pth'))
            ).model.state_dict()
            log = next((tmp_path / f'from_{start}').glob('*/*.log')).read_text()
            assert ('Truncation: ' in log or 'matrix estimated' in log) == (start == 6), 'once is enough'
            assert parts.keys() == whole.keys()
            for key, value in whole.items():
                assert torch.equal(value, parts[key]), f'{key} after {start}'

    def test_new_run_from_old_weights_begins_with_its_own_tables(self, tmp_path):
        cfg = digits_config(tmp_path / 'a', 'gce_truncated_digits')
        train(mmelr.apply_method(cfg, 'gce-truncated', k=0.999, start=0))
        path = tmp_path / 'a' / 'epoch_1.pth'
        saved = torch.load(path, weights_only=True)
        assert not saved['state_dict']['head.loss_module.kept'][:128].any()
        cfg = digits_config(tmp_path / 'b', 'gce_truncated_digits')
        cfg.train_dataloader.dataset.dataset.split = 'test'
        cfg.load_from = str(path)
        runner = train(cfg)
        assert len(runner.model.head.loss_module.kept) == 359 and runner.model.head.loss_module.kept.all()
        publish = runpy.run_path(str(ROOT / 'tools' / 'publish_model.py'))
        names = publish['plain_checkpoint'](path, None)['state_dict']
        assert 'head.fc.weight' in names and not [name for name in names if 'loss_module' in name]
        plain = publish['plain_config'](mmelr.load_config(tmp_path / 'a' / 'gce_truncated_digits.py'), None)
        assert 'loss' not in plain.model.head and 'custom_imports' not in plain

    def test_checkpoint_predicts_elsewhere(self, tmp_path):
        """A model that only predicts takes the tables as they come."""
        cfg = digits_config(tmp_path, 'gce_truncated_digits')
        state = train(cfg).model.state_dict()
        model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
        assert model.load_state_dict(state) and len(model.head.loss_module.kept) == 1438


class TestTransition:
    def test_of_a_file(self, tmp_path):
        matrix = np.full((10, 10), 0.05) + 0.5 * np.eye(10)
        np.save(tmp_path / 'm.npy', matrix)
        cfg = digits_config(tmp_path / 'run', 'ce_digits')
        cfg.train_dataloader.dataset.noise = None
        cfg = mmelr.apply_method(cfg, 'forward', transition=tmp_path / 'm.npy')
        runner = train(cfg)
        assert torch.equal(runner.model.head.loss_module.transition, torch.from_numpy(matrix).float())

    def test_unknown_is_refused_before_training(self, tmp_path):
        cfg = digits_config(tmp_path, 'forward_digits')
        cfg.train_dataloader.dataset.noise = None
        with pytest.raises(ValueError, match="'forward-estimated', or give a file"):
            train(cfg)
        assert not list(tmp_path.glob('*.pth'))

    def test_class_that_nobody_has_counts_as_unharmed(self, tmp_path):
        """And noise that leaves no inverse is refused by the backward correction alone."""
        record = NoiseRecord(np.array([0, 1, 1, 1]), np.array([0, 0, 1, 1]), 3)
        assert known_transition(record).tolist() == [[0.5, 0.5, 0], [0, 1, 0], [0, 0, 1]]
        cfg = mmelr.apply_method(digits_config(tmp_path, 'ce_digits'), 'backward')
        merged = np.eye(10)
        merged[3] = merged[5]  # all threes become fives, which stay
        cfg.train_dataloader.dataset.noise = dict(type='TransitionNoise', matrix=merged.tolist())
        with pytest.raises(ValueError, match='has no inverse'):
            train(cfg)

    def test_estimate_is_near_the_truth(self, tmp_path):
        """T of 40 % symmetric noise, from the whole training set after six epochs of cross entropy."""
        cfg = digits_config(tmp_path, 'forward_estimated_digits', epochs=7, train=1438)
        cfg = mmelr.apply_method(cfg, 'forward-estimated', warm_up=6)
        cfg.train_cfg.val_interval = 99
        cfg.default_hooks.checkpoint.interval = 99
        cfg.log_level = 'INFO'
        runner = train(cfg)
        T, record = runner.model.head.loss_module.transition, runner.train_dataloader.dataset.record
        true = torch.from_numpy(transition_matrix(record.clean_label, record.noisy_label, 10))
        error = (T - true).abs().sum(dim=1).mean()
        assert error < 0.5 < (torch.eye(10) - true).abs().sum(dim=1).mean()
        log = next(tmp_path.glob('*/*.log')).read_text()
        assert f'its rows are {error:.3f} from the true ones' in log

    @pytest.mark.parametrize(
        'noise, quantile',
        [('symmetric:0.4', 0.97), (dict(type='AsymmetricNoise', rate=1, mapping={7: 8}), 1.0)],
        ids=['published', 'rare'],
    )
    def test_quantile_that_is_published_unless_classes_are_rare(self, tmp_path, noise, quantile):
        """A quantile of 97 % would mark, for a class with 1 % of the labels, a sample of another class."""
        cfg = digits_config(tmp_path, 'ce_digits', epochs=2, train=400)
        cfg = mmelr.apply_method(cfg, 'forward-estimated', noise, warm_up=1)
        cfg.train_cfg.val_interval = 99
        cfg.custom_hooks = [*cfg.custom_hooks, dict(type='Witness')]
        runner = train(cfg)
        [witness] = [hook for hook in runner.hooks if isinstance(hook, Witness)]
        expected = mmelr.estimate_transition(witness.all[1], quantile)
        assert torch.allclose(runner.model.head.loss_module.transition.double(), expected, atol=1e-5)

    def test_warns_and_refuses(self, tmp_path):
        cfg = digits_config(tmp_path, 'forward_estimated_digits')
        cfg.log_level = 'WARNING'
        train(cfg)
        assert 'estimates T after 10 epochs, and this run has 1' in next(tmp_path.glob('*/*.log')).read_text()
        cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=2)
        with pytest.raises(TypeError, match='TransitionHook counts epochs'):
            train(cfg)
        with pytest.raises(ValueError, match='source'):
            TransitionHook(source=None)


RANKS = """
import sys, torch
sys.path.insert(0, 'tests')
from mmengine.runner import Runner
from test_methods import Witness, bare_model, digits_config, mmelr
from mmelr.engine.distributed import set_up

folder, rank = sys.argv[1], sys.argv[2]
found = {}
for method, options in (('gce-truncated', dict(k=0.1, start=1)), ('forward-estimated', dict(warm_up=1))):
    cfg = mmelr.apply_method(digits_config(f'{folder}/{method}', 'ce_digits', epochs=2, train=131), method, **options)
    cfg.train_dataloader.batch_size = 32
    cfg.experiment_name, cfg.launcher = method, 'pytorch'
    cfg.custom_hooks = [*cfg.custom_hooks, dict(type='Witness')]
    set_up(cfg)
    runner = Runner.from_cfg(cfg)
    runner.train()
    [witness] = [hook for hook in runner.hooks if isinstance(hook, Witness)]
    found |= {f'{method} p': witness.p[1], f'{method} all': witness.all[1]}
    found |= {f'{method} {key}': value for key, value in bare_model(runner).head.loss_module.state_dict().items()}
torch.save(found, f'{folder}/{rank}.pt')
torch.distributed.barrier()
"""


@pytest.mark.slow
def test_two_processes_share_the_work_and_agree(tmp_path):
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    env = os.environ | dict(
        WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT)
    )
    command = [sys.executable, '-c', RANKS, str(tmp_path)]
    processes = [
        subprocess.Popen([*command, str(rank)], cwd=ROOT, env=env | dict(RANK=str(rank), LOCAL_RANK=str(rank)))
        for rank in range(2)
    ]
    assert [process.wait(timeout=170) for process in processes] == [0, 0]
    first, second = (torch.load(tmp_path / f'{rank}.pt', weights_only=True) for rank in range(2))
    kept, T = first['gce-truncated kept'], first['forward-estimated transition']
    assert torch.equal(kept, second['gce-truncated kept']) and torch.equal(T, second['forward-estimated transition'])
    # What the first rank, whose statistics of BatchNorm are those that count, says of all samples by itself.
    assert torch.equal(kept[:131], first['gce-truncated p'] > 0.1) and kept[131:].all()
    assert 0 < kept[:131].sum() < 131
    expected = mmelr.estimate_transition(first['forward-estimated all'])
    assert torch.allclose(T.double(), expected, atol=1e-5) and T.diag().min() < 0.9
