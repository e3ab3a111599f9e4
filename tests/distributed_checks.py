"""Short runs on the digits, the same in one process and in several; ``test_distributed.py`` compares what they save.

Started by ``torchrun``, one argument: the folder of this job. Global batches are 32, whatever the number of processes.
"""

import gc
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from mmcv.transforms import BaseTransform
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import BATCH_AUGMENTS, HOOKS, MODELS, TRANSFORMS
from runs import ROOT, digits_config
from torch import nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm

from mmelr.analysis import read_run
from mmelr.engine.distributed import set_up, tear_down
from mmelr.models import ELRMixup

sys.path.insert(0, str(ROOT / 'tools'))
from communication import Count, measure  # noqa: E402

BATCH = 32


@MODELS.register_module()
class PlainSyncBN(_BatchNorm):
    """BatchNorm of the batches of all ranks, on a CPU, which torch's own refuses."""

    def _check_input_dim(self, x):
        assert x.dim() == 4

    def forward(self, x):
        if not self.training:
            return nn.functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)
        total = all_reduce if get_world_size() > 1 else torch.clone
        n = total(x.new_tensor(x[:, 0].numel()))
        mean = total(x.sum((0, 2, 3))) / n
        var = total(((x - mean[:, None, None]) ** 2).sum((0, 2, 3))) / n
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * n / (n - 1), self.momentum)
        scale = self.weight / (var + self.eps).sqrt()
        return x * scale[:, None, None] + (self.bias - mean * scale)[:, None, None]


@BATCH_AUGMENTS.register_module()
class BlockMixup(ELRMixup):
    """In one process, the pairs that several ranks draw: each in its own share, from random states that start alike."""

    def __init__(self, ranks, alpha=1.0):
        super().__init__(alpha)
        self.ranks, self.left = ranks, None

    def draw(self, batch_size):
        if self.left is None or not torch.equal(torch.get_rng_state(), self.left):
            self.states = [torch.get_rng_state()] * self.ranks  # a new pass
        pairing = super().draw(batch_size)
        for rank in range(self.ranks):
            torch.set_rng_state(self.states[rank])
            size = len(range(rank, batch_size, self.ranks))
            pairing.index[rank :: self.ranks] = torch.randperm(size) * self.ranks + rank
            self.states[rank] = torch.get_rng_state()
        self.left = self.states[0]
        torch.set_rng_state(self.left)
        return pairing


@HOOKS.register_module()
class CompareRanksHook(Hook):
    """After every step: the memories and weights of all ranks are equal, bit for bit."""

    priority = 'VERY_LOW'

    def before_train(self, runner):
        self.seen = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        model = getattr(runner.model, 'module', runner.model)
        self.seen.append([s.sample_idx for s in data_batch['data_samples'] if s.get('loss_weight', 1)])
        if dist.is_initialized():
            mine = torch.cat([v.detach().flatten() for v in model.state_dict().values() if v.is_floating_point()])
            theirs = [torch.empty_like(mine) for _ in range(get_world_size())]
            dist.all_gather(theirs, mine)
            assert all(torch.equal(part, mine) for part in theirs)


def config(work_dir, ranks, name='elr_digits', train=101, norm='GN', schedule='joint', **changes):
    """A small run without BatchNorm, cut to ``train`` images; as many processes as there are take their share."""
    cfg = digits_config(work_dir, name, epochs=2, train=train, in_memory=False)
    network = cfg.model.get('network', cfg.model)
    norm_cfg = dict(type='GN', num_groups=4) if norm == 'GN' else dict(type=norm)
    network.backbone.update(base_channels=8, stem_channels=8, norm_cfg=norm_cfg)
    network.head.in_channels = 64
    cfg.train_dataloader.batch_size = BATCH // get_world_size()
    cfg.val_dataloader.dataset.indices = 37
    cfg.optim_wrapper.optimizer.lr = 0.02
    cfg.param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True, T_max=2, end=2, convert_to_iter_based=True)
    cfg.custom_hooks = [*cfg.custom_hooks, dict(type='CompareRanksHook')]
    if name == 'elr_plus_digits':
        cfg.train_cfg.schedule = schedule
        if get_world_size() == 1:
            cfg.model.mixup = dict(type='BlockMixup', ranks=ranks, alpha=1.0)
    cfg.launcher = 'pytorch' if dist.is_initialized() else 'none'
    cfg.merge_from_dict(changes)
    set_up(cfg)
    return cfg


IN_MEMORY = {
    'train_dataloader.dataset.dataset.type': 'InMemoryDataset',
    'train_dataloader.dataset.dataset.base': 'Digits',
    'train_dataloader.dataset.dataset.pipeline': [
        dict(type='RandomCrop', crop_size=8, padding=1), dict(type='RandomFlip', prob=0.5), dict(type='PackInputs')
    ],
    'data_preprocessor.type': 'InMemoryPreprocessor',
}  # fmt: skip
BALANCED = dict(type='ClassBalancedSampler', num_samples=70, _delete_=True)
CASES = {
    # 101 = 3 · 32 + 5: the last batch is uneven. 97 = 3 · 32 + 1: all ranks but one have nothing in it.
    'elr': dict(),
    'elr_empty': dict(train=97),
    'elr_accumulated': {'optim_wrapper.accumulative_counts': 2, 'optim_wrapper.clip_grad': dict(max_norm=1.0)},
    'elr_drop_last': {'train_dataloader.drop_last': True},
    'elr_balanced': {'train': 128, 'train_dataloader.sampler': BALANCED},
    'elr_in_memory': dict(train=97, **IN_MEMORY),
    'elr_sparse': {'model.head.memory_storage': 'sparse', 'model.head.memory_top_k': 4},
    'joint': dict(name='elr_plus_digits'),
    'joint_sharded': {'name': 'elr_plus_digits', 'model.network.head.memory_storage': 'sharded'},
    'joint_sync_bn': dict(name='elr_plus_digits', norm='PlainSyncBN'),
    'joint_accumulated': {'name': 'elr_plus_digits', 'optim_wrapper.accumulative_counts': 2},
    'alternate': dict(name='elr_plus_digits', train=97, schedule='alternate'),
    'reweighted': {'name': 'elr_plus_digits', 'train': 97, 'model.reweight_labels': True, 'model.lam_ramp_up': 8},
}

CASES_OF_FOUR = ('elr_empty', 'joint', 'alternate')


def run(folder, case, ranks, **changes):
    """Train; what this rank has to show goes into a file."""
    work_dir = Path(folder) / case
    cfg, count = config(work_dir, ranks, **CASES[case.split('-')[0]], **changes), Count()
    cfg.default_hooks.checkpoint.interval = 1 if case == 'elr' else 2  # what is resumed by others
    runner = Runner.from_cfg(cfg)
    if dist.is_initialized():
        runner.register_hook(count)
    runner.train()
    [hook] = [hook for hook in runner.hooks if isinstance(hook, CompareRanksHook)]
    curves = read_run(work_dir).curves if get_rank() == 0 else {}
    sent = [step['gradients'] for _, step in getattr(count, 'steps', [])]
    torch.save(dict(seen=hook.seen, curves=curves, sent=sent), Path(folder) / f'{case}_rank{get_rank()}.pt')


class Audit:
    """Which files this process opens for writing, renames or removes, below a folder."""

    def __init__(self, folder):
        self.folder, self.found, self.active = str(folder), [], True
        sys.addaudithook(self)

    def __call__(self, event, args):
        if not self.active or event not in ('open', 'os.rename', 'os.remove', 'os.truncate'):
            return
        reads = event == 'open' and not (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if not reads and isinstance(args[0], (str, os.PathLike)):
            path = os.path.abspath(os.fspath(args[0]))
            if path.startswith(self.folder):
                self.found.append((event, os.path.relpath(path, self.folder)))


@TRANSFORMS.register_module()
class PoisonOnRank(BaseTransform):
    """NaN in the images that one rank loads."""

    def __init__(self, rank):
        self.rank = rank

    def transform(self, results):
        if get_rank() == self.rank:
            results['img'] = np.full_like(results['img'], np.nan, dtype=np.float32)
        return results


def expect(folder, case, error, **changes):
    """A run that must end with this error on every rank, and leave all of them able to go on."""
    try:
        Runner.from_cfg(config(Path(folder) / case, get_world_size(), **changes)).train()
    except error as e:
        (Path(folder) / f'{case}_rank{get_rank()}.txt').write_text(str(e))


def main(folder):
    dist.init_process_group('gloo')
    gc.collect()
    gc.freeze()  # MMEngine collects garbage whenever a dataset loads, half the time of these runs
    ranks, audit = get_world_size(), Audit(Path(folder) / 'elr_empty')
    for case in CASES if ranks == 2 else CASES_OF_FOUR:
        run(folder, case, ranks)
        if case == 'elr_empty':
            audit.active = False
            torch.save(audit.found, Path(folder) / f'written_rank{get_rank()}.pt')
    for origin in sys.argv[2:]:  # a job of another number of processes has left its first epoch there
        case = Path(origin).name
        if get_rank() == 0:
            shutil.copytree(origin, Path(folder) / f'{case}-resumed')
        dist.barrier()
        run(folder, f'{case}-resumed', ranks, resume=True)
    if ranks == 2:
        cfg = config(Path(folder) / 'batch_norm', ranks, norm='BN', **{'train_cfg.max_epochs': 1})
        cfg.custom_hooks = cfg.custom_hooks[:-1]  # statistics of a batch's parts differ
        cfg.default_hooks.checkpoint.update(by_epoch=False, interval=2)
        runner = Runner.from_cfg(cfg)
        runner.train()
        torch.save(dict(runner.model.module.named_buffers()), Path(folder) / f'statistics_rank{get_rank()}.pt')
        torch.save(measure(config(folder, ranks, 'elr_plus_digits')), Path(folder) / f'sent_rank{get_rank()}.pt')
    expect(folder, 'labels', ValueError, **{'train_dataloader.dataset.noise.seed': get_rank()})
    poison = [dict(type='PoisonOnRank', rank=1), dict(type='PackInputs')]
    expect(folder, 'nan', FloatingPointError, **{'train_dataloader.dataset.dataset.pipeline': poison})
    expect(folder, 'round_up', ValueError, **{'train_dataloader.sampler.round_up': False})
    tear_down()


if __name__ == '__main__':
    np.random.seed(0)
    main(sys.argv[1])
