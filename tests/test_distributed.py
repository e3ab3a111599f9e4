"""Runs in several processes: they give what one process gives, resume each other, and end when one of them fails."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import distributed_checks as checks
import pytest
import torch
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.runner import Runner
from runs import ROOT, digits_config

import mmelr
from mmelr.engine.distributed import set_up
from mmelr.models import CoTrainingDistributedDataParallel
from mmelr.noise import NoiseRecord

PATIENCE = 500  # seconds until a job counts as hanging


def environment(**more):
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    python_path = os.pathsep.join([str(ROOT), str(ROOT / 'tests')])
    return os.environ | dict(PATH=path, PYTHONPATH=python_path, OMP_NUM_THREADS='1') | more


def shell(*command, code=0, **env):
    """Output of a command, which must end by itself and with this exit status (None: any but 0)."""
    done = subprocess.run(
        [str(c) for c in command], cwd=ROOT, text=True, capture_output=True, env=environment(**env), timeout=PATIENCE
    )
    out = done.stdout + done.stderr
    assert (done.returncode != 0) if code is None else (done.returncode == code), out[-6000:]
    return out


def launch(ranks, folder, *origins):
    folder.mkdir()
    shell('torchrun', '--standalone', '--nproc-per-node', ranks, 'tests/distributed_checks.py', folder, *origins)
    return folder


@pytest.fixture(scope='module')
def one(tmp_path_factory):
    """What one process gives; made when it is asked for."""
    folder = tmp_path_factory.mktemp('one')

    def result(case, ranks):
        target = folder / str(ranks)
        if not (target / case).exists():
            checks.run(target, case, ranks)
        return target

    return result


@pytest.fixture(scope='module')
def half(tmp_path_factory):
    """The first of two epochs, in one process."""
    folder = tmp_path_factory.mktemp('half')
    checks.run(folder, 'elr', 2, **{'train_cfg.max_epochs': 1})
    return folder / 'elr'


@pytest.fixture(scope='module')
def two(tmp_path_factory, half):
    return launch(2, tmp_path_factory.mktemp('jobs') / 'two', half)


@pytest.fixture(scope='module')
def four(tmp_path_factory, two):
    return launch(4, tmp_path_factory.mktemp('jobs') / 'four', first_epoch(two, tmp_path_factory.mktemp('of_two')))


def first_epoch(job, folder):
    """A work directory as if its run had been interrupted after the first epoch."""
    shutil.copytree(job / 'elr', folder / 'elr')
    (folder / 'elr' / 'epoch_2.pth').unlink()
    (folder / 'elr' / 'last_checkpoint').write_text(str(folder / 'elr' / 'epoch_1.pth'))
    return folder / 'elr'


def state(folder, case):
    return torch.load(folder / case / 'epoch_2.pth', weights_only=True)


def assert_same_run(a, b):
    """Weights, memories, momenta and rates, to the rounding of float32; and nothing has been left out."""
    a_state, b_state = a['state_dict'], b['state_dict']
    assert list(a_state) == list(b_state)
    for key, value in a_state.items():
        torch.testing.assert_close(b_state[key], value, rtol=1e-4, atol=2e-6, msg=lambda m, key=key: f'{key}: {m}')
    optimizers = [(a['optimizer'], b['optimizer'])]
    if 'param_groups' not in a['optimizer']:
        assert a['optimizer'].keys() == b['optimizer'].keys()
        optimizers = [(a['optimizer'][k], b['optimizer'][k]) for k in a['optimizer']]
    for mine, theirs in optimizers:
        assert mine['param_groups'][0]['lr'] == theirs['param_groups'][0]['lr']
        for x, y in zip(mine['state'].values(), theirs['state'].values(), strict=True):
            torch.testing.assert_close(y['momentum_buffer'], x['momentum_buffer'], rtol=1e-3, atol=2e-5)
    assert {k: a['meta'][k] for k in ('epoch', 'iter')} == {k: b['meta'][k] for k in ('epoch', 'iter')}
    assert a['noise'] == b['noise']
    mine, theirs = a['label_votes'], b['label_votes']
    assert mine.pop('method') == theirs.pop('method')
    assert all(torch.equal(theirs[key], value) for key, value in mine.items())


def visits(table, beta=0.7):
    """How often each sample has been visited: t sums to 1 - β^k after k visits."""
    return (torch.log1p(-table.double().sum(1)) / torch.tensor(beta).double().log()).round().long()


class TestSameAsOneProcess:
    """``distributed_checks.py`` itself compares memories and weights of the ranks bit for bit after every step."""

    @pytest.mark.parametrize('case', checks.CASES)
    def test_two(self, one, two, case):
        assert_same_run(state(one(case, 2), case), state(two, case))

    @pytest.mark.slow
    @pytest.mark.parametrize('case', checks.CASES_OF_FOUR)
    def test_four(self, one, four, case):
        assert_same_run(state(one(case, 4), case), state(four, case))

    @pytest.mark.parametrize('ranks', [2, 4])
    def test_every_sample_is_visited_once_in_a_pass(self, two, four, ranks):
        job, cases = {2: (two, ('elr', 'elr_empty', 'joint', 'alternate')), 4: (four, checks.CASES_OF_FOUR)}[ranks]
        for case in cases:
            n = checks.CASES[case].get('train', 101)
            for key, table in state(job, case)['state_dict'].items():
                if key.endswith('memory.t'):
                    assert visits(table[visits(table) > 0]).tolist() == [2] * n, (case, key)
            saved = [torch.load(job / f'{case}_rank{r}.pt', weights_only=True) for r in range(ranks)]
            steps = len(saved[0]['seen'])
            together = [i for rank in saved for batch in rank['seen'] for i in batch]
            assert len(together) == n * (4 if case == 'alternate' else 2) and len(set(together)) == n
            assert steps == {len(rank['seen']) for rank in saved}.pop()

    def test_curves(self, one, two):
        for case in checks.CASES:
            mine, theirs = (
                torch.load(folder / f'{case}_rank0.pt', weights_only=True)['curves'] for folder in (one(case, 2), two)
            )
            compared = [k for k in mine if 'accuracy' in k or k.startswith('memorization')]
            assert len(compared) >= (9 if checks.CASES[case].get('name') else 5), compared
            for key in compared:
                assert mine[key] == pytest.approx(theirs[key], abs=1e-4), (case, key)  # one sample more is 0.01

    def test_noise(self, one, two):
        a, b = (NoiseRecord.load(folder / 'elr' / 'noise.npz') for folder in (one('elr', 2), two))
        assert a.fingerprint == b.fingerprint


class TestResume:
    def test_one_to_two(self, one, two):
        assert_same_run(state(one('elr', 2), 'elr'), state(two, 'elr-resumed'))

    def test_two_to_four(self, one, four):
        assert_same_run(state(one('elr', 2), 'elr'), state(four, 'elr-resumed'))

    def test_two_to_one(self, one, two, tmp_path):
        first_epoch(two, tmp_path / 'work')
        (tmp_path / 'work' / 'elr').rename(tmp_path / 'elr-resumed')
        checks.run(tmp_path, 'elr-resumed', 2, resume=True, load_from=str(tmp_path / 'elr-resumed' / 'epoch_1.pth'))
        assert_same_run(state(one('elr', 2), 'elr'), state(tmp_path, 'elr-resumed'))

    def test_another_global_batch(self, half, tmp_path):
        """Plain ELR goes on, at the start of the next epoch and with a warning that says what changed."""
        shutil.copytree(half, tmp_path / 'elr')
        last = dict(resume=True, load_from=str(tmp_path / 'elr' / 'epoch_1.pth'), log_level='WARNING')
        checks.run(tmp_path, 'elr', 2, **last, **{'train_dataloader.batch_size': 16})
        assert state(tmp_path, 'elr')['meta']['iter'] == 14
        log = ''.join(f.read_text() for f in (tmp_path / 'elr').glob('*/*.log'))
        assert 'had 4 iterations' in log and 'now it has 7' in log and 'now 16 × 1' in log


class TestRanks:
    def test_only_the_first_writes(self, two):
        first, second = (torch.load(two / f'written_rank{rank}.pt', weights_only=True) for rank in range(2))
        names = {Path(path).name for _, path in first}
        # Checkpoints are written under another name first.
        assert {'elr_digits.py', '.epoch_2.pth.tmp', '.last_checkpoint.tmp', 'scalars.json'} <= names
        assert any(name.endswith('.log') for name in names) and any('noise.npz' in name for name in names)
        assert second == []

    def test_all_validate_with_the_statistics_that_are_saved(self, two):
        """Each rank's BatchNorm has seen other images; a checkpoint holds what the first one's saw."""
        first, second = (torch.load(two / f'statistics_rank{rank}.pt', weights_only=True) for rank in range(2))
        saved = torch.load(two / 'batch_norm' / 'iter_4.pth', weights_only=True)['state_dict']
        assert any('running_mean' in key for key in first)
        for key, value in first.items():
            assert torch.equal(value, second[key]) and torch.equal(value, saved.get(key, value)), key

    def test_a_checkpoint_inside_of_a_pass_has_the_random_state_of_each(self, two):
        saved = torch.load(two / 'batch_norm' / 'iter_2.pth', weights_only=True)
        assert len(saved['inside_pass']['random_states']) == 2

    def test_labels_that_differ_are_named_on_every_rank(self, four):
        for rank in range(4):
            message = (four / f'labels_rank{rank}.txt').read_text()
            assert 'those of rank 1, 2, 3 are not those of rank 0' in message and 'seed=1' in message

    def test_nan_on_one_rank_ends_all(self, four):
        messages = {(four / f'nan_rank{rank}.txt').read_text() for rank in range(4)}
        assert len(messages) == 1
        assert 'NaN or Inf for 8 of 32 samples' in messages.pop()
        assert not list((four / 'nan').glob('*.pth'))

    def test_sampler_that_could_hang_is_refused(self, two):
        for rank in range(2):
            assert 'round_up=False, and 101 samples' in (two / f'round_up_rank{rank}.txt').read_text()


class TestCommunication:
    def test_rows_of_the_batch_and_gradients_once(self, two):
        for rank in range(2):
            m = torch.load(two / f'sent_rank{rank}.pt', weights_only=True)
            assert (m['batch'], m['classes'], m['networks']) == (16, 10, 2)
            assert 0 < m['gathers'] <= 2 * 2
            assert 2 * 16 * 10 * 4 < m['gathered'] <= m['least_gathered']
            assert m['gradients'] == m['least_gradients'] > 0

    def test_gradients_that_add_up_are_sent_at_the_end(self, two):
        once = torch.load(two / 'sent_rank0.pt', weights_only=True)['gradients']
        for case, sizes in (('joint', [once] * 8), ('joint_accumulated', [0, once] * 4)):
            assert torch.load(two / f'{case}_rank0.pt', weights_only=True)['sent'] == sizes


class TestSetUp:
    def test_wrappers(self, monkeypatch):
        monkeypatch.setattr('mmelr.engine.distributed.dist.is_initialized', lambda: True)
        for name, kind in (
            ('elr_digits', 'MMDistributedDataParallel'),
            ('elr_plus_digits', 'CoTrainingDistributedDataParallel'),
        ):
            cfg = mmelr.load_config(ROOT / 'configs' / f'{name}.py')
            cfg.launcher = 'none'
            set_up(cfg)
            assert 'model_wrapper_cfg' not in cfg
            cfg.launcher, cfg.find_unused_parameters = 'pytorch', True
            set_up(cfg)
            assert cfg.model_wrapper_cfg.type == kind and cfg.model_wrapper_cfg.find_unused_parameters
            cfg.model_wrapper_cfg = dict(type='Own')
            set_up(cfg)
            assert cfg.model_wrapper_cfg == dict(type='Own')

    @pytest.mark.parametrize(
        'launcher, missing, how', [('pytorch', 'RANK', 'dist_train.sh'), ('slurm', 'SLURM_PROCID', 'slurm_train.sh')]
    )
    def test_without_its_launcher(self, monkeypatch, launcher, missing, how):
        for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'SLURM_PROCID'):
            monkeypatch.delenv(name, raising=False)
        cfg = Config(dict(launcher=launcher, model=dict(type='ImageClassifier')))
        with pytest.raises(KeyError, match=f'needs {missing} in the environment.*{how}'):
            set_up(cfg)

    def test_other_wrappers(self, tmp_path):
        runner = Runner.from_cfg(digits_config(tmp_path / 'plus', 'elr_plus_digits'))
        torch.distributed.init_process_group('gloo', store=torch.distributed.HashStore(), rank=0, world_size=1)
        try:
            with pytest.raises(TypeError, match='got Linear'):
                CoTrainingDistributedDataParallel(torch.nn.Linear(2, 2))
            runner.model = MMDistributedDataParallel(runner.model)
            with pytest.raises(TypeError, match="type='CoTrainingDistributedDataParallel'"):
                runner.train()
        finally:
            torch.distributed.destroy_process_group()


SRUN = """#!/usr/bin/env bash
# As much of srun as the test needs: the tasks on this machine, each with SLURM's variables.
while [[ $1 == --* ]]; do
    [[ $1 == --ntasks ]] && tasks=$2
    [[ $1 == --gres ]] && echo "asks for $2"
    shift 2
done
export SLURM_NTASKS=$tasks SLURM_NODELIST=node[1-1]
for ((i = 0; i < tasks; i++)); do SLURM_PROCID=$i SLURM_LOCALID=$i "$@" & done
for ((i = 0; i < tasks; i++)); do wait -n || exit 1; done
"""

FAILING = """
_base_ = '{root}/configs/elr_plus_digits.py'
custom_imports = dict(imports=['mmelr', 'failing_parts'], allow_failed_imports=False)
pipeline = [dict(type='FailOnRank', rank=1), dict(type='PackInputs')]
train_dataloader = dict(dataset=dict(dataset=dict(_delete_=True, type='Digits', pipeline=pipeline)))
"""

FAIL_ON_RANK = """
from mmcv.transforms import BaseTransform
from mmengine.dist import get_rank
from mmpretrain.registry import TRANSFORMS

@TRANSFORMS.register_module()
class FailOnRank(BaseTransform):
    def __init__(self, rank):
        self.rank = rank

    def transform(self, results):
        if get_rank() == self.rank:
            raise OSError('no such image on this node')
        return results
"""


class TestCommands:
    SMALL = (
        'train_dataloader.dataset.dataset.indices=101',
        'val_dataloader.dataset.indices=37',
        'test_dataloader.dataset.indices=37',
        'train_cfg.max_epochs=1',
        'train_dataloader.batch_size=16',
        # Statistics of BatchNorm would be each rank's own.
        'model.network.backbone.norm_cfg.type=GN',
        'model.network.backbone.norm_cfg.num_groups=4',
    )

    @pytest.mark.slow
    def test_slurm_then_test_in_two(self, tmp_path):
        for name, text in dict(srun=SRUN, scontrol='#!/bin/sh\necho 127.0.0.1\necho other\n').items():
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o755)
        tools = dict(PATH=f'{tmp_path}{os.pathsep}{environment()["PATH"]}', GPUS='2', GPUS_PER_NODE='2', GRES='')
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            tools['MASTER_PORT'] = str(free.getsockname()[1])
        work_dir = tmp_path / 'run'
        out = shell('tools/slurm_train.sh', 'part', 'job', 'configs/elr_plus_digits.py', work_dir, '--cfg-options',
                    *self.SMALL, 'train_cfg.schedule=alternate', **tools)  # fmt: skip
        assert 'asks for' not in out and 'destroy_process_group' not in out
        saved = torch.load(work_dir / 'epoch_1.pth', weights_only=True)
        assert saved['meta']['iter'] == 8 and 'network1.backbone.conv1.weight' in saved['state_dict']
        assert len(list(work_dir.glob('*/*.log'))) == 1

        metrics = tmp_path / 'metrics.json'
        shell('tools/dist_test.sh', 'configs/elr_plus_digits.py', work_dir / 'epoch_1.pth', 2, '--work-dir',
              tmp_path / 'test', '--out', metrics, '--out-item', 'metrics', '--cfg-options', *self.SMALL)  # fmt: skip
        validated = [json.loads(line) for f in work_dir.glob('*/vis_data/scalars.json') for line in f.open()]
        validated = [line for line in validated if 'accuracy/top1' in line][-1]
        tested = json.loads(metrics.read_text())
        assert {'accuracy/top1', 'network2/accuracy/top1', 'average1/accuracy/top1'} <= set(tested)
        assert tested == pytest.approx({key: validated[key] for key in tested})

    def test_error_of_one_rank_ends_the_run(self, tmp_path):
        (tmp_path / 'failing_parts.py').write_text(FAIL_ON_RANK)
        (tmp_path / 'failing.py').write_text(FAILING.format(root=ROOT))
        path = os.pathsep.join([environment()['PYTHONPATH'], str(tmp_path)])
        out = shell('tools/dist_train.sh', tmp_path / 'failing.py', 2, '--work-dir', tmp_path / 'run', '--cfg-options',
                    *self.SMALL, code=None, PYTHONPATH=path)  # fmt: skip
        assert 'no such image on this node' in out.split('Root Cause')[1], out[-3000:]
