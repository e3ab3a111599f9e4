"""Runs that are killed, pre-empted, out of disk or out of numbers: what they leave, and how they go on."""

import math
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from runs import ROOT, digits_config, train
from torch.multiprocessing import start_processes

from mmelr.analysis import read_run
from mmelr.engine import DamagedCheckpoint, DurableCheckpointHook, ResumeRefused, find_whole_checkpoint
from mmelr.engine.stop_signal import StopSignal


def config(work_dir, name='elr_digits', epochs=2, hooks=(), **changes):
    """Three batches an epoch, with whatever draws random numbers."""
    cfg = digits_config(work_dir, name, epochs, train=192, val=32, in_memory=False)
    network = cfg.model.get('network', cfg.model)
    network.backbone.drop_path_rate = 0.2
    cfg.train_dataloader.dataset.dataset.pipeline = [dict(type='RandomFlip', prob=0.5), dict(type='PackInputs')]
    cfg.param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=4)]
    cfg.custom_hooks = [*cfg.custom_hooks, *hooks]
    cfg.merge_from_dict(changes)
    return cfg


def every(interval, **others):
    return dict(default_hooks=dict(checkpoint=dict(by_epoch=False, interval=interval, max_keep_ckpts=99, **others)))


def load(path) -> dict:
    return torch.load(path, weights_only=True)


def assert_same(a, b, name=''):
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), name
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), name
        for key in a:
            assert_same(a[key], b[key], f'{name}.{key}')
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), name
        for i, pair in enumerate(zip(a, b, strict=True)):
            assert_same(*pair, f'{name}[{i}]')
    else:
        assert a == b, name


def assert_same_run(a: Path, b: Path):
    a, b = load(a), load(b)
    for key in ('state_dict', 'optimizer', 'param_schedulers'):
        assert_same(a[key], b[key], key)
    assert (a['meta']['epoch'], a['meta']['iter']) == (b['meta']['epoch'], b['meta']['iter'])


def assert_same_validation(a: Path, b: Path):
    a, b = (read_run(d).curves['accuracy/top1'] for d in (a, b))
    assert a == b


@HOOKS.register_module()
class Interrupt(Hook):
    """SIGTERM to this process, twice, before a step of training or validation."""

    def __init__(self, train=None, val=None):
        self.at = dict(train=train, val=val)

    def _before_iter(self, runner, batch_idx, data_batch=None, mode='train'):
        if self.at[mode] == (runner.iter if mode == 'train' else runner.epoch):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)


@HOOKS.register_module()
class InterruptWorkers(Hook):
    """SIGTERM to the data workers alone."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        runner.workers = multiprocessing.active_children()
        for worker in runner.workers:
            os.kill(worker.pid, signal.SIGTERM)


@HOOKS.register_module()
class Fail(Hook):
    """An error where MMEngine calls this hook, in a certain epoch."""

    def __init__(self, where, epoch):
        setattr(self, where, lambda runner, *args, **kwargs: self._fail(runner.epoch == epoch))

    def _fail(self, now):
        if now:
            raise KeyboardInterrupt


@HOOKS.register_module()
class Batches(Hook):
    """Which batches a run trains on."""

    def before_train(self, runner):
        runner.batches = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        runner.batches.append((runner.iter, batch_idx, data_batch['inputs'].sum().item()))


@pytest.fixture(autouse=True)
def plain_text_of_configs(monkeypatch):
    """MMEngine formats the config for every checkpoint, which takes longer than these runs."""
    monkeypatch.setattr(Config, 'pretty_text', property(lambda self: ''))


@pytest.fixture
def signals():
    """SIGTERM as it was; a run that it ended has no need to put that right."""
    before = signal.getsignal(signal.SIGTERM)
    yield before
    signal.signal(signal.SIGTERM, before)


class TestInsideOfAnEpoch:
    @pytest.mark.parametrize('name, schedule', [('elr', None), ('elr_plus', 'joint'), ('elr_plus', 'alternate')])
    def test_goes_on_behind_the_batches_that_were_done(self, tmp_path, name, schedule):
        def make(folder, interval, **more):
            cfg = config(tmp_path / folder, f'{name}_digits', hooks=[dict(type='Batches')], **every(interval), **more)
            if schedule:
                cfg.train_cfg.schedule = schedule
            return cfg

        whole = train(make('whole', 1))
        last = 6 if schedule != 'alternate' else 12
        for start in (1, 3, 5) if schedule != 'alternate' else (4, 8, 9):  # 3 and 9 are at the end of a pass
            cfg = make(f'from_{start}', 99, resume=True, load_from=str(tmp_path / 'whole' / f'iter_{start}.pth'))
            torch.manual_seed(start)
            np.random.seed(start)
            runner = train(cfg)
            assert runner.batches == whole.batches[start:], 'numbers and images of the batches'
            assert_same_run(tmp_path / 'whole' / f'iter_{last}.pth', tmp_path / f'from_{start}' / f'iter_{last}.pth')
        curves = [read_run(tmp_path / d).curves['accuracy/top1'] for d in ('whole', f'from_{start}')]
        assert all(curves[0][epoch] == value for epoch, value in curves[1].items()) and 2 in curves[1]

    def test_another_length_of_the_pass_is_refused(self, tmp_path):
        train(config(tmp_path, epochs=1, **every(2)))
        cfg = config(tmp_path, resume=True, load_from=str(tmp_path / 'iter_2.pth'))
        cfg.train_dataloader.batch_size = 32
        with pytest.raises(ResumeRefused, match='after 2 of 3 batches, and a pass now has 6'):
            train(cfg)

    def test_co_training_asks_for_the_hook(self, tmp_path):
        train(config(tmp_path, 'elr_plus_digits', epochs=1, **every(2)))
        cfg = config(tmp_path, 'elr_plus_digits', resume=True, load_from=str(tmp_path / 'iter_2.pth'))
        cfg.custom_hooks = [hook for hook in cfg.custom_hooks if hook['type'] != 'ExactResumeHook']
        with pytest.raises(ResumeRefused, match='2 iterations into a pass .* only ExactResumeHook'):
            train(cfg)


class TestSigterm:
    @pytest.mark.parametrize('at', [dict(train=1), dict(train=3), dict(val=2)])
    def test_saves_leaves_and_goes_on(self, tmp_path, signals, at):
        """In the first epoch, at the start of the second (after epoch_1.pth), in the last validation."""
        ema = dict(type='EMAHook', momentum=0.1)
        train(config(tmp_path / 'whole', hooks=[ema]))
        with pytest.raises(SystemExit) as e:
            train(config(tmp_path / 'cut', hooks=[ema, dict(type='Interrupt', **at)]))
        assert e.value.code == 0
        names = {'train': f'iter_{at.get("train")}.pth', 'val': f'epoch_{at.get("val")}.pth'}
        name = 'epoch_1.pth' if at == dict(train=3) else names[next(iter(at))]  # that state is on the disk already
        assert Path((tmp_path / 'cut' / 'last_checkpoint').read_text()) == tmp_path / 'cut' / name
        train(config(tmp_path / 'cut', hooks=[ema], resume=True))
        assert_same_run(tmp_path / 'whole' / 'epoch_2.pth', tmp_path / 'cut' / 'epoch_2.pth')
        a, b = (load(tmp_path / d / 'epoch_2.pth')['ema_state_dict'] for d in ('whole', 'cut'))
        assert_same(a, b, 'EMA')
        assert_same_validation(tmp_path / 'whole', tmp_path / 'cut')
        assert sorted(p.name for p in (tmp_path / 'cut').glob('*.pth')) == ['epoch_1.pth', 'epoch_2.pth']

    def test_validation_with_averaged_weights_in_their_place(self, tmp_path, signals):
        """Where no regular checkpoint holds this state, it is saved from the middle of the validation."""
        ema = dict(type='EMAHook', momentum=0.1)
        changes = dict(default_hooks=dict(checkpoint=dict(interval=2)))
        train(config(tmp_path / 'whole', hooks=[ema], **changes))
        with pytest.raises(SystemExit):
            train(config(tmp_path / 'cut', hooks=[ema, dict(type='Interrupt', val=1)], **changes))
        assert (tmp_path / 'cut' / 'iter_3.pth').is_file()
        train(config(tmp_path / 'cut', hooks=[ema], resume=True, **changes))
        assert_same_run(tmp_path / 'whole' / 'epoch_2.pth', tmp_path / 'cut' / 'epoch_2.pth')
        assert not (tmp_path / 'cut' / 'iter_3.pth').exists(), 'superseded by epoch_2.pth'

    def test_no_gradients_are_lost(self, tmp_path, signals):
        add_up = {'optim_wrapper.accumulative_counts': 2}
        train(config(tmp_path / 'whole', **add_up))
        with pytest.raises(SystemExit):
            train(config(tmp_path / 'cut', hooks=[dict(type='Interrupt', train=1)], **add_up))
        assert (tmp_path / 'cut' / 'iter_2.pth').is_file(), 'it went on to the step of the optimizer'
        train(config(tmp_path / 'cut', resume=True, **add_up))
        assert_same_run(tmp_path / 'whole' / 'epoch_2.pth', tmp_path / 'cut' / 'epoch_2.pth')

    def test_data_workers_live_through_it(self, tmp_path):
        cfg = config(tmp_path, hooks=[dict(type='InterruptWorkers')])
        for loader in (cfg.train_dataloader, cfg.val_dataloader):
            loader.update(num_workers=1, persistent_workers=True)
        others = {child.pid for child in multiprocessing.active_children()}  # of tests before, whose loaders still live
        runner = train(cfg)
        assert runner.iter == 6 and len({worker.pid for worker in runner.workers} - others) == 2

    def test_ranks_agree(self, tmp_path):
        """One of two gets the signal; both stop at the same step, and both get the main process's error on resume."""
        torch.save({}, tmp_path / 'epoch_1.pth')
        start_processes(as_rank, (str(tmp_path),), nprocs=2, start_method='fork')
        assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == ['20', '20']

    @pytest.mark.slow
    def test_keeps_its_meaning_outside_of_training(self, tmp_path, signals):
        train(config(tmp_path, epochs=1))
        assert signal.getsignal(signal.SIGTERM) == signals
        assert Runner.from_cfg(config(tmp_path / 'validates')).val()
        assert signal.getsignal(signal.SIGTERM) == signals


def as_rank(rank, folder):
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    stop = StopSignal()
    stop.install()
    for step in range(1, 40):
        if rank == 1 and step == 13:
            os.kill(os.getpid(), signal.SIGTERM)
        if stop.agreed(step):
            break
    try:
        DurableCheckpointHook().before_run(SimpleNamespace(work_dir=folder, _load_from=None, _resume=True))
    except DamagedCheckpoint as e:
        assert 'does not say which iteration' in str(e)
        Path(folder, str(rank)).write_text(str(step))


class TestAtEveryInstant:
    """Whatever a run does to its folder, one thing at a time: a whole checkpoint is there."""

    watch = None

    @classmethod
    def listen(cls, event, args):
        if cls.watch is None or event not in ('os.rename', 'os.remove', 'open'):
            return
        folder, seen = cls.watch
        path = str(args[0])
        if not path.startswith(str(folder)) or (event == 'open' and not (isinstance(args[1], str) and 'w' in args[1])):
            return
        cls.watch = None  # looking must not be looked at
        seen.append((event, Path(path).name, find_whole_checkpoint(str(folder))))
        cls.watch = folder, seen

    @pytest.mark.parametrize('kind', ['DurableCheckpointHook', 'CheckpointHook'])
    def test_something_whole_is_there(self, tmp_path, kind):
        changes = dict(default_hooks=dict(checkpoint=dict(type=kind, max_keep_ckpts=1, save_best='auto')))
        if not hasattr(sys, '_mmelr_listens'):
            sys.addaudithook(lambda event, args: TestAtEveryInstant.listen(event, args))
            sys._mmelr_listens = True
        seen = []
        type(self).watch = tmp_path, seen
        try:
            train(config(tmp_path, epochs=4, **changes))
        except ValueError:
            assert kind == 'CheckpointHook', 'a last_checkpoint that names nothing'
            return
        finally:
            type(self).watch = None
        first = next((i for i, (_, _, whole) in enumerate(seen) if whole), len(seen))
        always = all(whole for _, _, whole in seen[first:])
        assert always == (kind == 'DurableCheckpointHook'), 'else this test could not fail'
        if always:
            assert len(seen) > first + 10 and [e for e, _, _ in seen].count('os.remove') >= 3
            assert len(list(tmp_path.glob('*.pth'))) == 2 and not list(tmp_path.glob('.*'))


def test_killed_before_validation_and_before_deleting(tmp_path):
    """What was owed when the run was cut off is done when it resumes: the validation, the best one, the old files."""
    changes = dict(default_hooks=dict(checkpoint=dict(max_keep_ckpts=1, save_best='auto')))
    train(config(tmp_path / 'whole', epochs=3, **changes))
    (tmp_path / 'cut').mkdir()
    (tmp_path / 'cut' / '.epoch_7.pth.tmp').write_bytes(b'left by a killed run')
    for epoch in (1, 3):  # counted up before the validation
        with pytest.raises(KeyboardInterrupt):
            fail = dict(type='Fail', where='before_val', epoch=epoch)
            train(config(tmp_path / 'cut', epochs=3, hooks=[fail], resume=True, **changes))
    train(config(tmp_path / 'cut', epochs=3, resume=True, **changes))
    assert_same_validation(tmp_path / 'whole', tmp_path / 'cut')
    whole, cut = ({p.name for p in (tmp_path / d).iterdir() if p.is_file()} for d in ('whole', 'cut'))
    assert whole == cut
    assert_same_run(tmp_path / 'whole' / 'epoch_3.pth', tmp_path / 'cut' / 'epoch_3.pth')


class TestFullDisk:
    def test_file_too_large(self, tmp_path):
        """A limit on the size of files, which every system has."""
        train(config(tmp_path, epochs=1))
        before, (soft, hard) = (tmp_path / 'epoch_1.pth').read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
        cfg = config(tmp_path, resume=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
        try:
            with pytest.raises(OSError, match=r'epoch_2.pth could not be written.*needs [\d,]+ bytes; the disk has .* '
                               r'free.*epoch_1.pth is whole.*--resume'):  # fmt: skip
                train(cfg)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (tmp_path / 'epoch_1.pth').read_bytes() == before and not list(tmp_path.glob('.*'))
        assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_1.pth')
        assert train(config(tmp_path, resume=True)).epoch == 2

    @pytest.mark.slow
    def test_small_disk(self, tmp_path):
        """A tmpfs that fills up, grows, and lets the run go on; in a namespace of its own."""
        space = ['unshare', '--user', '--map-root-user', '--mount']
        if not shutil.which('unshare') or subprocess.run([*space, 'true'], capture_output=True).returncode:
            pytest.skip('unshare is not permitted here')
        env = os.environ | dict(PYTHONPATH=f'{ROOT}:{ROOT / "tests"}', OMP_NUM_THREADS='1')
        result = subprocess.run(
            [*space, sys.executable, '-c', SMALL_DISK, str(tmp_path)], env=env, text=True, capture_output=True
        )
        assert result.returncode == 0 and 'as it should be' in result.stdout, result.stdout + result.stderr


SMALL_DISK = """
import errno, subprocess, sys
from pathlib import Path
from test_durable_runs import config, train
from mmelr.engine import find_whole_checkpoint

disk = Path(sys.argv[1])
def mount(options):
    subprocess.run(['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', str(disk)], check=True)
mount('size=2500k')  # room for one checkpoint
try:
    train(config(disk / 'run'))
except OSError as e:
    assert e.errno == errno.ENOSPC, e
    assert 'epoch_1.pth is whole' in str(e), e
else:
    raise AssertionError('it fitted')
assert find_whole_checkpoint(str(disk / 'run')) == str(disk / 'run' / 'epoch_1.pth')
assert not list((disk / 'run').glob('.*'))
mount('remount,size=64m')
assert train(config(disk / 'run', resume=True)).epoch == 2
print('as it should be')
"""


class TestNotANumber:
    @HOOKS.register_module(name='PoisonImages')
    class Poison(Hook):
        """A batch with an image of NaN."""

        def __init__(self, at):
            self.at = at

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter == self.at:
                data_batch['inputs'] = data_batch['inputs'].float()
                data_batch['inputs'][0] = math.nan
                runner.poisoned = [sample.sample_idx for sample in data_batch['data_samples']]

    def diverge(self, cfg):
        runner = Runner.from_cfg(cfg)
        with pytest.raises(FloatingPointError) as e:
            runner.train()
        return runner, str(e.value)

    def test_loss(self, tmp_path):
        """Cross entropy has no memory that would refuse it first."""
        runner, said = self.diverge(config(tmp_path, 'ce_digits', hooks=[dict(type='PoisonImages', at=4)]))
        assert 'The loss is nan in iteration 5 (epoch 2)' in said
        assert f'samples number {[int(n) for n in runner.poisoned[:5]]} and 59 more' in said
        assert f'last good checkpoint is {tmp_path / "epoch_1.pth"}' in said and 'learning rate' in said
        assert find_whole_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_1.pth')

    @pytest.mark.parametrize('name', ['elr_digits', 'elr_plus_digits'])
    def test_memory(self, tmp_path, name):
        runner, said = self.diverge(config(tmp_path, name, hooks=[dict(type='PoisonImages', at=4)]))
        assert 'NaN or Inf for' in said and 'iteration 5 (epoch 2)' in said
        assert str(runner.poisoned[0]) in said and f'last good checkpoint is {tmp_path / "epoch_1.pth"}' in said
        network = getattr(runner.model, 'network1', runner.model)
        assert network.head.memory.t.isfinite().all()

    def test_weights_are_not_saved(self, tmp_path):
        @HOOKS.register_module(force=True)
        class PoisonWeights(Hook):
            def after_train_epoch(self, runner):
                if runner.epoch == 1:
                    runner.model.backbone.conv1.weight.data[0] = math.inf

        _, said = self.diverge(config(tmp_path, hooks=[dict(type='PoisonWeights')]))
        assert 'After iteration 6 there is NaN or Inf in 1 weights or buffers, backbone.conv1.weight' in said
        assert [p.name for p in tmp_path.glob('*.pth')] == ['epoch_1.pth']

    def test_buffers_that_are_masks(self, tmp_path):
        @HOOKS.register_module(force=True)
        class Mask(Hook):
            priority = 'VERY_HIGH'

            def before_train(self, runner):
                runner.model.register_buffer('mask', torch.tensor([0.0, -math.inf]))

        train(config(tmp_path, epochs=1, hooks=[dict(type='Mask')]))
        assert (tmp_path / 'epoch_1.pth').is_file()


def test_other_storages_are_used_as_mmengine_uses_them(tmp_path):
    changes = dict(default_hooks=dict(checkpoint=dict(file_client_args=dict(backend='disk'), max_keep_ckpts=1)))
    train(config(tmp_path, epochs=1, **changes))
    assert train(config(tmp_path, resume=True, **changes)).epoch == 2
    assert [p.name for p in tmp_path.glob('*.pth')] == ['epoch_2.pth']


@pytest.mark.slow
def test_killed_again_and_again(tmp_path):
    """The short form of what docs/when_things_go_wrong.md reports."""
    command = [sys.executable, 'tools/kill_and_resume.py', '--kills', '3', '--epochs', '3', '--work-dir', str(tmp_path)]
    env = os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1')
    result = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, env=env)
    assert result.returncode == 0, result.stdout + result.stderr
    assert '3 kills' in result.stdout and 'all equal, bit for bit' in result.stdout
