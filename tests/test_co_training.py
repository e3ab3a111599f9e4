"""ELR+ against a literal re-derivation of the paper's Algorithm 2 in plain PyTorch, for every cell of its ablation."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.datasets import BaseDataset
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from mmpretrain.registry import BATCH_AUGMENTS, DATASETS, HOOKS, MODELS, TRANSFORMS
from mmpretrain.structures import DataSample
from runs import ROOT
from torch import nn

import mmelr
from mmelr import TargetMemory

N, DIM, CLASSES, BATCH, EPOCHS, SEED = 22, 12, 4, 6, 3, 5
LR, MOMENTUM, DECAY, BETA, LAM, ALPHA = 0.3, 0.9, 1e-2, 0.6, 2.5, 0.8
CELLS = list(itertools.product((1, 2), ('network', 'average'), (False, True)))


def points():
    rng = np.random.RandomState(3)
    return rng.randn(N, DIM), rng.randint(CLASSES, size=N)


@DATASETS.register_module()
class Points(BaseDataset):
    """Random points as float64 'images'."""

    METAINFO = dict(classes=tuple('abcd'))

    def load_data_list(self):
        return [dict(img=x, gt_label=int(y)) for x, y in zip(*points(), strict=True)]

    def prepare_data(self, idx):
        return self.pipeline(self.get_data_info(idx))


@MODELS.register_module()
class Layer(BaseBackbone):
    """A linear layer under BatchNorm."""

    def __init__(self, norm=True):
        super().__init__()
        self.fc, self.bn = nn.Linear(DIM, 8), nn.BatchNorm1d(8) if norm else nn.Identity()

    def forward(self, x):
        return (F.relu(self.bn(self.fc(x))),)


@HOOKS.register_module()
class Snapshot(Hook):
    """The weights before the first step."""

    priority = 'VERY_HIGH'

    def before_train(self, runner):
        runner.initial = {k: v.clone() for k, v in runner.model.state_dict().items()}


@TRANSFORMS.register_module()
class PackPoint:
    """``PackInputs`` for float64."""

    def __call__(self, results):
        sample = DataSample(metainfo={key: results[key] for key in ('sample_idx', 'num_samples')})
        return dict(inputs=torch.from_numpy(results['img']), data_samples=sample.set_gt_label(results['gt_label']))


def config(
    work_dir, num_networks=2, teacher='average', mixup=True, schedule='joint', epochs=EPOCHS, **changes
) -> Config:
    cfg = Config(dict(
        default_scope='mmpretrain',
        model=dict(
            type='CoTrainingClassifier',
            network=dict(
                type='ImageClassifier',
                backbone=dict(type='Layer'),
                head=dict(type='ELRHead', num_classes=CLASSES, in_channels=8, beta=BETA, lam=LAM),
            ),
            num_networks=num_networks,
            teacher=teacher,
            mixup=dict(type='ELRMixup', alpha=ALPHA) if mixup else None,
            data_preprocessor=dict(type='BaseDataPreprocessor'),
        ),
        train_dataloader=dict(
            batch_size=BATCH,
            num_workers=0,
            collate_fn=dict(type='default_collate'),
            sampler=dict(type='DefaultSampler', shuffle=True),
            dataset=dict(
                type='NoisyLabelDataset',
                dataset=dict(type='Points', ann_file='', pipeline=[dict(type='PackPoint')]),
                noise=None,
            ),
        ),
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=LR, momentum=MOMENTUM, weight_decay=DECAY), clip_grad=dict(max_norm=0.5)
        ),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.5, by_epoch=False, begin=0, end=6),
            dict(type='MultiStepLR', by_epoch=True, milestones=[2], gamma=0.1),
        ],
        train_cfg=dict(type='CoTrainingRunner', max_epochs=epochs, schedule=schedule),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', interval=1), param_scheduler=dict(type='ParamSchedulerHook')
        ),
        custom_hooks=[
            dict(type='ExactResumeHook'),
            dict(type='ELREMAHook', gamma=0.9, ramp_up=7),
            dict(type='Snapshot'),
        ],
        randomness=dict(seed=SEED),
        log_level='ERROR',
        work_dir=str(work_dir),
        experiment_name=f'co_training_{np.random.SeedSequence().entropy}',
    ))  # fmt: skip
    cfg.merge_from_dict(changes)
    return cfg


def train(cfg) -> Runner:
    """Run in float64, memories included."""
    runner = Runner.from_cfg(cfg)
    runner.model.double()
    for network in getattr(runner.model, 'networks', [runner.model]):
        network.head.memory = TargetMemory(N, CLASSES).double()
    runner.train()
    return runner


class Net:
    """The network again, as a dictionary of tensors and a few lines."""

    def __init__(self, weights, prefix):
        self.w = {k.removeprefix(prefix): v.clone() for k, v in weights.items() if k.startswith(prefix)}
        self.names = ['backbone.fc.weight', 'backbone.fc.bias', 'backbone.bn.weight', 'backbone.bn.bias']
        self.names += ['head.fc.weight', 'head.fc.bias']

    def __call__(self, x, statistics):
        """``'train'``: by the batch, running statistics follow; ``'batch'``: they do not; ``'running'``: by them."""
        w, bn = self.w, 'backbone.bn.'
        running = (None, None) if statistics == 'batch' else (w[bn + 'running_mean'], w[bn + 'running_var'])
        h = x @ w['backbone.fc.weight'].T + w['backbone.fc.bias']
        h = F.batch_norm(h, *running, w[bn + 'weight'], w[bn + 'bias'], training=statistics != 'running', momentum=0.1)
        return h.relu() @ w['head.fc.weight'].T + w['head.fc.bias']


def derive(initial, num_networks, teacher, mixup, schedule, batch_norm='batch', gamma=None, lam=None, reweight=False):
    """Algorithm 2, sample by sample where the paper speaks of samples."""
    x, y = (torch.from_numpy(v) for v in points())
    gamma = gamma or (lambda s: 0.9 * (math.exp(-5 * (1 - (s + 1) / 7) ** 2) if s + 1 < 7 else 1.0))
    lam = lam or (lambda s: LAM)
    nets = [Net(initial, f'network{k + 1}.') for k in range(num_networks)]
    averages = [Net(initial, f'network{k + 1}.') for k in range(num_networks)]
    t = [torch.zeros(N, CLASSES, dtype=torch.float64) for _ in nets]
    velocity = [{name: torch.zeros_like(net.w[name]) for name in net.names} for net in nets]
    steps = [0] * num_networks

    def teach(k, i):
        other = (k + 1) % num_networks
        with torch.no_grad():
            if teacher == 'average':
                z = averages[other](x[i], 'train' if batch_norm == 'batch' else 'running')
            else:
                z = nets[other](x[i], 'batch')
        for row, sample in enumerate(i.tolist()):
            p = (z[row].exp() / z[row].exp().sum()).clamp(1e-4, 1 - 1e-4)
            t[k][sample] = BETA * t[k][sample] + (1 - BETA) * p / p.sum()

    def learn(k, i, epoch):
        net, s = nets[k], steps[k] + 1
        x_mixed, y_mixed, t_mixed = x[i], F.one_hot(y[i], CLASSES).double(), t[k][i]
        if mixup:
            ratio = np.random.beta(ALPHA, ALPHA)
            ratio = max(ratio, 1 - ratio)
            j = torch.randperm(len(i))
            x_mixed, y_mixed, t_mixed = (ratio * v + (1 - ratio) * v[j] for v in (x_mixed, y_mixed, t_mixed))
        if reweight:
            y_mixed = y_mixed * t_mixed / (y_mixed * t_mixed).sum(dim=1, keepdim=True)
        for name in net.names:
            net.w[name].requires_grad_(True).grad = None
        z = net(x_mixed, 'train')
        p = z.exp() / z.exp().sum(dim=1, keepdim=True)
        agreement = (p.clamp(1e-4, 1 - 1e-4) * t_mixed).sum(dim=1)
        loss = (-(y_mixed * p.log()).sum(dim=1) + lam(s) * (1 - agreement).log()).mean()
        loss.backward()
        norm = math.sqrt(sum((net.w[name].grad ** 2).sum().item() for name in net.names))
        lr = LR * (0.5 + 0.5 * min(s - 1, 5) / 5) * (0.1 if epoch >= 2 else 1)
        for name in net.names:
            w, g = net.w[name].detach(), net.w[name].grad
            g = g * min(1, 0.5 / (norm + 1e-6)) + DECAY * w
            velocity[k][name] = MOMENTUM * velocity[k][name] + g
            net.w[name] = w - lr * velocity[k][name]
        steps[k] += 1

    def average(k):
        for name in nets[k].names:
            averages[k].w[name] = gamma(steps[k]) * averages[k].w[name] + (1 - gamma(steps[k])) * nets[k].w[name]
        if batch_norm == 'copy':
            for name in ('backbone.bn.running_mean', 'backbone.bn.running_var'):
                averages[k].w[name] = nets[k].w[name].clone()

    everyone = list(range(num_networks))
    turns = [[k] for k in everyone] if schedule == 'alternate' else [everyone]
    for epoch in range(EPOCHS):
        for number, learners in enumerate(turns, start=epoch * len(turns)):
            _, b, c = np.random.SeedSequence((SEED, number, 0)).generate_state(3)
            order = torch.randperm(N, generator=torch.Generator().manual_seed(SEED + number))
            np.random.seed(b)
            torch.manual_seed(int(c))
            for i in order.split(BATCH):
                if num_networks == 1 and teacher == 'network' and not mixup:
                    teach(0, i)
                    learn(0, i, epoch)
                    continue
                for k in learners:
                    teach(k, i)
                for k in learners:
                    learn(k, i, epoch)
                for k in learners:
                    average(k)
    return nets, averages, t


def assert_equal(model, nets, averages, t):
    found, derived = model.state_dict(), {}
    for kind, members in (('network', nets), ('average', averages if model.averages else [])):
        for k, net in enumerate(members):
            for name in [*net.names, 'backbone.bn.running_mean', 'backbone.bn.running_var']:
                derived[f'{kind}{k + 1}.{name}'] = net.w[name].detach()
    derived |= {f'network{k + 1}.head.memory.t': rows for k, rows in enumerate(t)}
    for key, value in derived.items():
        torch.testing.assert_close(found[key], value, rtol=1e-9, atol=1e-11, msg=f'{key} differs')


@pytest.mark.parametrize('schedule', ['joint', 'alternate'])
@pytest.mark.parametrize('num_networks, teacher, mixup', CELLS)
def test_equals_algorithm_2(tmp_path, num_networks, teacher, mixup, schedule):
    """Weights, statistics, averages, memories after three epochs with momentum, decay, clipping and two schedules."""
    cell = dict(num_networks=num_networks, teacher=teacher, mixup=mixup, schedule=schedule)
    runner = train(config(tmp_path, **cell))
    assert_equal(runner.model, *derive(runner.initial, **cell))


@pytest.mark.parametrize('schedule', ['joint', 'alternate'])
@pytest.mark.parametrize(
    'changes, derivation',
    [
        ({'custom_hooks.1.batch_norm': 'copy'}, dict(batch_norm='copy')),
        ({'custom_hooks.1.gamma': 0.7, 'custom_hooks.1.ramp_up': 0}, dict(gamma=lambda s: 0.7)),
        (
            {'custom_hooks.1': dict(gamma=0.8, ramp_up=0, bias_correction=True)},
            dict(gamma=lambda s: [1 / 2, 2 / 3, 3 / 4][s - 1] if s <= 3 else 0.8),
        ),
        (
            {'model.lam_ramp_up': 8, 'model.reweight_labels': True},
            dict(lam=lambda s: LAM * (math.exp(-5 * (1 - s / 8) ** 2) if s < 8 else 1), reweight=True),
        ),
    ],
    ids=['statistics copied', 'constant gamma', 'bias correction', 'extras of CIFAR-100'],
)
def test_options_equal_their_derivation(tmp_path, changes, derivation, schedule):
    runner = train(config(tmp_path, schedule=schedule, **changes))
    assert_equal(runner.model, *derive(runner.initial, 2, 'average', True, schedule, **derivation))


class TestParts:
    def model(self, training=True, **changes):
        cfg = config('unused', **changes)
        return MODELS.build(cfg.model).train(training)

    @pytest.mark.parametrize('num_networks, teacher, mixup', CELLS)
    def test_cells_are_one_line_each(self, num_networks, teacher, mixup):
        cfg = mmelr.load_config(ROOT / 'configs' / 'elr_plus_digits.py')
        cfg.merge_from_dict({'model.num_networks': num_networks})
        cfg.merge_from_dict({'model.teacher': teacher})
        if not mixup:
            cfg.merge_from_dict({'model.mixup': None})
        model = MODELS.build(cfg.model)
        assert len(model.networks) == num_networks and (model.mixup is not None) == mixup
        assert len(model.averages) == (num_networks if teacher == 'average' else 0)

    def test_networks_share_no_weights_and_averages_take_no_gradient(self):
        model = self.model()
        first, second = (network.backbone.fc.weight for network in model.networks)
        assert not torch.equal(first, second)
        assert not any(p.requires_grad for average in model.averages for p in average.parameters())
        assert len({p.data_ptr() for p in model.parameters()}) == len(list(model.parameters()))

    def test_average_has_no_dropout_and_normalises_as_told(self):
        network = dict(type='StackedLinearClsHead', num_classes=4, in_channels=8, mid_channels=[8], dropout_rate=0.5)
        network = {'model.network.head': dict(network, type='ELRHead', base='StackedLinearClsHead')}
        for batch_norm in ('batch', 'copy'):
            model = self.model(**network)
            model.batch_norm = batch_norm
            model.train()
            kinds = {type(m) for average in model.averages for m in average.modules() if m.training}
            assert kinds == ({nn.BatchNorm1d} if batch_norm == 'batch' else set())
            assert any(isinstance(m, nn.Dropout) and m.training for m in model.network1.modules())
            assert not any(m.training for m in model.eval().modules())

    def test_frozen_norm_layers_of_an_average_stay_frozen(self):
        cfg = mmelr.apply_method('mmpretrain::resnet/resnet18_8xb16_cifar10.py', 'elr+')
        cfg.model.network.backbone.norm_eval = True
        model = MODELS.build(cfg.model).train()
        assert not any(m.training for average in model.averages for m in average.modules())

    def test_prediction_is_the_mean_of_logits_and_members_are_told(self):
        model = self.model(training=False)
        x = torch.randn(5, DIM)
        logits = [network(x, mode='tensor') for network in model.networks]
        assert torch.equal(model(x), (logits[0] + logits[1]) / 2)
        samples = model(x, mode='predict')
        for i, sample in enumerate(samples):
            assert torch.allclose(sample.pred_score, model(x)[i].softmax(0))
            assert sample.members == ('network1', 'network2', 'average1', 'average2')
            assert torch.allclose(sample.member_scores[1], logits[1][i].softmax(0))

    def test_single_checkpoint_is_for_every_network(self):
        model, single = self.model(), self.model().network1
        single.backbone.fc.weight.data.fill_(7)
        found = model.load_state_dict(single.state_dict(), strict=True)
        assert not found.missing_keys and not found.unexpected_keys
        for member in (*model.networks, *model.averages):
            assert (member.backbone.fc.weight == 7).all()

    def test_weight_averages_of_a_network_without_norm_layers(self):
        model = self.model(**{'model.network.backbone': dict(type='Layer', norm=False)})
        assert not list(model.buffers())
        for batch_norm in ('batch', 'copy'):
            model.batch_norm = batch_norm
            model.network1.backbone.fc.weight.data.fill_(2)
            model.start_averages()
            model.network1.backbone.fc.weight.data.fill_(4)
            model.update_average('network1', 0.75)
            assert model.average1.backbone.fc.weight.unique().tolist() == pytest.approx([2.5])

    def test_state_dict_goes_round(self):
        model, other = self.model(), self.model()
        model.steps = [3, 4]
        other.load_state_dict(model.state_dict())
        assert other.steps == [3, 4]
        for key, value in model.state_dict().items():
            assert torch.equal(value, other.state_dict()[key]), key

    @pytest.mark.parametrize(
        'changes, error, words',
        [
            ({'model.num_networks': 3}, ValueError, 'num_networks must be 1 or 2, got 3'),
            ({'model.teacher': 'self'}, ValueError, "'network' or 'average'.*got 'self'"),
            ({'model.lam_ramp_up': -1}, ValueError, 'lam_ramp_up.*-1'),
            ({'model.mixup.alpha': 0}, ValueError, 'alpha of ELRMixup must be positive, got 0'),
            ({'model.network.type': 'TimmClassifier'}, Exception, ''),
            ({'train_cfg.schedule': 'both'}, ValueError, "'joint' or 'alternate', got 'both'"),
            ({'custom_hooks.1.gamma': 1.0}, ValueError, r'gamma.*\[0, 1\), got 1.0'),
            ({'custom_hooks.1.ramp_up': -3}, ValueError, 'ramp_up.*-3'),
            ({'custom_hooks.1.bias_correction': True}, ValueError, 'two ways to warm up'),
            ({'custom_hooks.1.batch_norm': 'own'}, ValueError, "'batch' or 'copy', got 'own'"),
            ({'custom_hooks': []}, ValueError, "nothing keeps one. Add dict\\(type='ELREMAHook'"),
            ({'train_cfg': dict(_delete_=True, by_epoch=True, max_epochs=1)}, TypeError, 'CoTrainingRunner'),
            ({'model.network.head.type': 'LinearClsHead'}, TypeError, "head is a LinearClsHead.*'elr\\+'"),
        ],
    )
    def test_mistakes_are_told(self, tmp_path, changes, error, words):
        cfg = config(tmp_path, epochs=1)
        cfg.merge_from_dict({k: v for k, v in changes.items() if '_delete_' not in str(v)})
        if 'train_cfg' in changes:
            cfg.train_cfg = dict(by_epoch=True, max_epochs=1)
        if changes.get('model.network.head.type'):
            cfg.model.network.head = dict(type='LinearClsHead', num_classes=CLASSES, in_channels=8)
        with pytest.raises(error, match=words):
            Runner.from_cfg(cfg).train()
        assert not list(tmp_path.glob('*.pth'))

    @pytest.mark.parametrize('part', ['loop', 'hook'])
    def test_parts_want_their_model(self, tmp_path, part):
        cfg = config(tmp_path, epochs=1)
        cfg.model = cfg.model.network
        if part == 'hook':
            cfg.train_cfg = dict(by_epoch=True, max_epochs=1)
        with pytest.raises(TypeError, match='CoTrainingClassifier, got ImageClassifier'):
            Runner.from_cfg(cfg).train()


class TestMixup:
    def test_ratio_and_partners(self):
        mixup = BATCH_AUGMENTS.build(dict(type='ELRMixup', alpha=0.5))
        x, y = torch.randn(6, 3, 4, 4), F.one_hot(torch.arange(6), 7)
        ratios = []
        for _ in range(200):
            mixed, score = mixup(x, y)
            ratio, partner = score[0, 0], score[0, 1:].argmax() + 1
            if not score[0, 1:].any():
                continue  # a sample may be its own partner
            ratios.append(float(ratio))
            assert 0.5 <= ratio <= 1 and score.sum(1) == pytest.approx(torch.ones(6))
            torch.testing.assert_close(mixed[0], ratio * x[0] + (1 - ratio) * x[partner])
        assert len(set(ratios)) > 100
        # The mean of max(l, 1-l) for Beta(0.5, 0.5), the arcsine law: 1/2 + 1/pi.
        assert np.mean(ratios) == pytest.approx(0.5 + 1 / math.pi, abs=0.04)

    def test_is_the_mixup_of_mmpretrain_but_for_the_larger_share(self):
        x, y = torch.randn(6, 3, 4, 4), F.one_hot(torch.arange(6), 7)
        ours, theirs = (BATCH_AUGMENTS.build(dict(type=kind, alpha=1.0)) for kind in ('ELRMixup', 'Mixup'))
        compared = 0
        for seed in range(10):
            results = []
            for mixup in (ours, theirs):
                np.random.seed(seed)
                torch.manual_seed(seed)
                results.append(mixup(x, y))
            np.random.seed(seed)
            if np.random.beta(1.0, 1.0) >= 0.5:
                compared += 1
                torch.testing.assert_close(results[0], results[1])
        assert compared > 2

    def test_is_a_batch_augment_of_any_classifier(self):
        model = MODELS.build(dict(
            type='ImageClassifier', backbone=dict(type='Layer'),
            head=dict(type='LinearClsHead', num_classes=CLASSES, in_channels=8),
            data_preprocessor=dict(num_classes=CLASSES), train_cfg=dict(augments=dict(type='ELRMixup', alpha=1.0)),
        ))  # fmt: skip
        data = dict(inputs=torch.randn(4, DIM), data_samples=[DataSample().set_gt_label(i) for i in range(4)])
        mixed = model.data_preprocessor(data, training=True)
        score = torch.stack([sample.gt_score for sample in mixed['data_samples']])
        assert score.amax(1).min() >= 0.5 and score.sum(1) == pytest.approx(torch.ones(4))


class TestGamma:
    def test_as_published(self):
        hook = HOOKS.build(dict(type='ELREMAHook', gamma=0.997, ramp_up=40000))
        for step in (1, 100, 20000, 39998, 39999, 50000):
            expected = 0.997 * math.exp(-5 * (1 - min(step + 1, 40000) / 40000) ** 2)
            assert hook.gamma_at(step) == pytest.approx(expected, rel=1e-12)
        hook = HOOKS.build(dict(type='ELREMAHook', gamma=0.9999, bias_correction=True))
        assert [hook.gamma_at(s) for s in (1, 2, 9, 20000)] == pytest.approx([1 / 2, 2 / 3, 0.9, 0.9999])
        assert HOOKS.build(dict(type='ELREMAHook')).gamma_at(1) == 0.997
