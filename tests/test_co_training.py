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
from mmpretrain.registry import DATASETS, HOOKS, MODELS, TRANSFORMS
from mmpretrain.structures import DataSample
from torch import nn

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

    def __init__(self):
        super().__init__()
        self.fc, self.bn = nn.Linear(DIM, 8), nn.BatchNorm1d(8)

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
