"""What MemorizationHook measures, writes and warns of, and what is read and drawn of it."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.image import imread
from mmengine.hooks import Hook
from mmengine.visualization import BaseVisBackend
from mmpretrain.registry import HOOKS, VISBACKENDS
from runs import ROOT, digits_config, memorization, train

from mmelr.analysis import plot_memorization, read_run
from mmelr.functional import elr_loss, probabilities, sigmoid_ramp_up
from mmelr.memorization import COLUMNS, LOSS_BIN_WIDTH, LOSS_BINS, add_up, describe, observe

TERMS = ('label', 'regularizer', 'sum')


@torch.enable_grad()
def gradients(logits, given, at, t, lam):
    """p - y and λ g of each sample at one class, by autograd."""
    logits = logits.clone().requires_grad_()
    whole, part = (
        torch.autograd.grad(len(logits) * elr_loss(logits, given, t, factor), logits)[0].gather(1, at[:, None])[:, 0]
        for factor in (lam, 0.0)
    )
    return part, whole - part


class TestMeasures:
    def batch(self):
        torch.manual_seed(0)
        given, at = torch.randint(5, (2, 64))
        return 4 * torch.randn(64, 5), given, at, 0.8 * torch.randn(64, 5).softmax(1)

    def test_rows_are_the_gradients_that_autograd_gives(self):
        logits, given, at, t = self.batch()
        rows = dict(zip(COLUMNS, observe(logits, given, at, t, 3.0).T, strict=True))
        label, regularizer = gradients(logits, given, at, t, 3.0)
        torch.testing.assert_close(rows['label'], label, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(rows['regularizer'], regularizer, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(rows['loss'], F.cross_entropy(logits, given, reduction='none'), atol=1e-5, rtol=1e-4)
        assert torch.equal(rows['predicted'], logits.argmax(1).float())
        assert torch.equal(rows['memory'], t.argmax(1).float()) and (rows['seen'] == 1).all()
        each = torch.linspace(0, 5, 64)
        torch.testing.assert_close(observe(logits, given, at, t, each)[:, -1], rows['regularizer'] * each / 3)

    def test_without_a_memory(self):
        logits, given, at, _ = self.batch()
        rows = dict(zip(COLUMNS, observe(1e30 * logits, given, at).T, strict=True))
        assert (rows['memory'] == -1).all() and (rows['regularizer'] == 0).all() and rows['loss'].isfinite().all()

    def test_numbers(self):
        logits, given, at, t = self.batch()
        rows = observe(logits, given, at, t, 3.0).numpy()
        rows[::4] = 0  # without a visit
        given, clean, seen = given.numpy(), at.numpy(), rows[:, 0] > 0
        sums, classes = add_up(rows, given, clean, 5)
        numbers = describe(sums)
        assert numbers['samples'] == 48
        assert numbers['agreement'] == pytest.approx((rows[:, 1] == given)[seen].mean())
        assert numbers['memory_agreement'] == pytest.approx((rows[:, 2] == given)[seen].mean())
        wrong = given != clean
        for name, of in (('correct', seen & ~wrong), ('wrong', seen & wrong)):
            assert numbers[f'{name}_true'] == pytest.approx((rows[:, 1] == clean)[of].mean())
            values = [rows[of, 4], rows[of, 5], rows[of, 4] + rows[of, 5]]
            for term, value in zip(TERMS, values, strict=True):
                assert numbers[f'{name}_{term}_mean'] == pytest.approx(value.mean(), abs=1e-6)
                assert numbers[f'{name}_{term}_std'] == pytest.approx(value.std(), abs=1e-6)
            edges = [*np.arange(LOSS_BINS) * LOSS_BIN_WIDTH, np.inf]
            assert numbers[f'{name}_losses'] == pytest.approx(np.histogram(rows[of, 3], edges)[0] / of.sum())
        assert numbers['losses'] == pytest.approx(np.histogram(rows[seen, 3], edges)[0] / 48)
        assert numbers['wrong_true'] + numbers['wrong_memorized'] + numbers['wrong_neither'] == pytest.approx(1)
        assert np.array_equal(classes[0], np.bincount(rows[seen, 1].astype(int), minlength=5))
        assert np.array_equal(classes[1], np.bincount(given[seen], minlength=5))

        halves = [np.where((np.arange(64) < 20)[:, None] == first, rows, 0) for first in (True, False)]
        together = describe(sum(add_up(half, given, clean, 5)[0] for half in halves))
        assert together.keys() == numbers.keys(), 'sums add up over processes'
        assert all(together[key] == pytest.approx(number) for key, number in numbers.items())

    def test_what_is_not_known_is_left_out(self):
        logits, given, at, t = self.batch()
        rows = observe(logits, given, at, t, 3.0).numpy()
        unknown = describe(add_up(rows, given.numpy(), None, 5)[0])
        assert unknown.keys() == {'samples', 'agreement', 'memory_agreement', 'losses'}
        all_correct = describe(add_up(rows, given.numpy(), given.numpy(), 5)[0])
        assert 'correct_sum_mean' in all_correct and not [key for key in all_correct if key.startswith('wrong')]
        plain = describe(add_up(observe(logits, given, at).numpy(), given.numpy(), at.numpy(), 5)[0])
        assert {'correct_label_mean', 'wrong_label_std'} <= plain.keys()
        assert not [key for key in plain if 'regularizer' in key or 'sum' in key or 'memory' in key]
        assert describe(add_up(0 * rows, given.numpy(), None, 5)[0]) == {}


def one_step(work_dir, name, **changes):
    """A run of one step on 128 images that changes no weights, and what can be computed again after it."""
    cfg = digits_config(work_dir, name, epochs=1, in_memory=False)
    cfg.merge_from_dict({'optim_wrapper.optimizer.lr': 0.0, 'train_dataloader.batch_size': 128} | changes)
    runner = train(cfg)
    dataset = runner.train_dataloader.dataset
    images = torch.stack([dataset[i]['inputs'] for i in range(128)]).float()
    given, clean = torch.from_numpy(dataset.get_gt_labels()), torch.from_numpy(dataset.record.clean_label[:128])
    return runner, (images - 77.8) / 95.9, given, clean


def expected(logits, given, clean, beta, lam):
    p = probabilities(logits)
    label, regularizer = gradients(logits, given, clean, (1 - beta) * p / p.sum(1, keepdim=True), lam)
    found = {}
    for name, of in (('correct', given == clean), ('wrong', given != clean)):
        for term, value in zip(TERMS, (label, regularizer, label + regularizer), strict=True):
            mean, std = value[of].mean().item(), value[of].std(correction=0).item()
            found |= {f'{name}_{term}_mean': mean, f'{name}_{term}_std': std}
    return found


class TestRuns:
    def test_gradient_of_the_training_step(self, tmp_path):
        runner, images, given, clean = one_step(tmp_path, 'elr_digits', **{'model.head.lam': 300.0})
        with torch.no_grad():
            logits = runner.model.train()(images)
        [line] = memorization(tmp_path)
        numbers = expected(logits, given, clean, 0.7, 300.0)
        assert {key: line[key] for key in numbers} == pytest.approx(numbers, rel=1e-3, abs=1e-5)
        assert (line['epoch'], line['samples'], line['loss_bin_width']) == (1, 128, LOSS_BIN_WIDTH)
        curves = read_run(tmp_path).curves
        assert all(curves[f'memorization/{key}'] == {1: line[key]} for key in numbers)

    def test_gradient_of_elr_plus_is_at_the_teachers_prediction(self, tmp_path):
        """Of the clean image; λ is that of the step."""
        changes = {'model.network.head.lam': 300.0, 'model.lam_ramp_up': 3}
        runner, images, given, clean = one_step(tmp_path, 'elr_plus_digits', **changes)
        with torch.no_grad():
            of_networks = [
                expected(average(images, mode='tensor'), given, clean, 0.7, 300.0 * sigmoid_ramp_up(1, 3))
                for average in runner.model.train().averages
            ]
        [line] = memorization(tmp_path)
        numbers = {key: np.mean([of[key] for of in of_networks]) for key in of_networks[0]}
        assert {key: line[key] for key in numbers} == pytest.approx(numbers, rel=1e-3, abs=1e-5)

    def test_steps_may_wait(self, tmp_path, monkeypatch):
        """Whether the outputs of many steps are looked at together or each at once."""
        train(digits_config(tmp_path / 'together', 'elr_plus_digits', epochs=2))
        monkeypatch.setattr('mmelr.engine.memorization_hook._WAITING', 1)
        train(digits_config(tmp_path / 'each', 'elr_plus_digits', epochs=2))
        a, b = ((tmp_path / name / 'memorization.jsonl').read_text() for name in ('together', 'each'))
        assert a == b and a.count('\n') == 2

    @pytest.mark.parametrize('name', ['ce_digits', 'elr_digits'])
    def test_repeated_samples_count_once(self, tmp_path, name):
        cfg = digits_config(tmp_path, name, in_memory=False)
        dataset = cfg.train_dataloader.dataset
        dataset.dataset = dict(type='RepeatDataset', times=2, dataset=dataset.dataset)
        train(cfg)
        [line] = memorization(tmp_path)
        assert line['samples'] == 128 and sum(line['losses']) == pytest.approx(1, abs=1e-4)


def every_step(work_dir, name, **changes):
    cfg = digits_config(work_dir, name, epochs=2)  # of three steps
    cfg.train_dataloader.batch_size = 48
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=1, max_keep_ckpts=20)
    cfg.merge_from_dict(changes)
    return cfg


class TestResume:
    @pytest.mark.parametrize('name', ['ce_digits', 'elr_digits', 'elr_plus_digits'])
    def test_lines_are_those_of_a_run_in_one_go(self, tmp_path, name):
        schedule = {'train_cfg.schedule': 'alternate'} if name == 'elr_plus_digits' else {}
        steps = train(every_step(tmp_path / 'whole', name, **schedule)).iter // 2
        whole = (tmp_path / 'whole' / 'memorization.jsonl').read_text()
        for step in (steps, 2 * steps - 2):  # between the epochs, and inside of the second
            again = tmp_path / f'from_{step}'
            again.mkdir()
            # Killed while it wrote the second line.
            (again / 'memorization.jsonl').write_text(whole[: whole.index('{"epoch": 2') + 99])
            cfg = every_step(again, name, resume=True, **schedule)
            cfg.load_from = str(tmp_path / 'whole' / f'iter_{step}.pth')
            train(cfg)
            assert (again / 'memorization.jsonl').read_text() == whole, step

    def test_lines_that_are_repeated_or_damaged_are_taken_out(self, tmp_path):
        train(digits_config(tmp_path, epochs=2))
        file = tmp_path / 'memorization.jsonl'
        lines = file.read_text().splitlines(keepends=True)
        file.write_text(lines[0] + '\x00\x00\n' + lines[1] + lines[1].replace('"epoch": 2', '"epoch": 3'))
        cfg = digits_config(tmp_path, epochs=3)
        cfg.merge_from_dict(dict(resume=True, log_level='WARNING'))
        train(cfg)
        assert [line['epoch'] for line in memorization(tmp_path)] == [1, 2, 3]
        assert file.read_text().startswith(''.join(lines))
        log = ''.join(path.read_text() for path in tmp_path.glob('*/*.log'))
        assert f'{file}: line 2 is damaged, and was taken out' in log
        train(digits_config(tmp_path, epochs=1))
        assert [line['epoch'] for line in memorization(tmp_path)] == [1], 'a new run in the same folder begins anew'

    def test_epochs_are_saved_without_what_was_seen(self, tmp_path):
        train(digits_config(tmp_path))
        assert 'memorization' not in torch.load(tmp_path / 'epoch_1.pth', weights_only=True)


@HOOKS.register_module()
class LoseClasses(Hook):
    """Keeps the network from ever predicting them."""

    def before_train(self, runner):
        with torch.no_grad():
            runner.model.head.fc.bias[[3, 8]] = -1e4


def warnings_of_lost_classes(work_dir, name, epochs):
    cfg = digits_config(work_dir, name, epochs=epochs)
    cfg.merge_from_dict({'optim_wrapper.optimizer.lr': 0.0, 'log_level': 'WARNING'})
    cfg.custom_hooks = [*cfg.custom_hooks, dict(type='LoseClasses')]
    cfg.train_dataloader.dataset.dataset.metainfo = dict(classes=['zero', *'12', '<three>', *'4567', 'eight', '9'])
    train(cfg)
    log = ''.join(path.read_text() for path in Path(work_dir).glob('*/*.log'))
    return [line for line in log.splitlines() if 'No training sample was predicted' in line]


def test_lost_classes_are_warned_of_once(tmp_path):
    # The network that has learned nothing may leave out others as well.
    [warning] = [w for w in warnings_of_lost_classes(tmp_path / 'elr', 'elr_digits', epochs=4) if '<three>' in w]
    assert 'in epoch 2,' in warning and '<three> (3), ' in warning and 'eight (8)' in warning
    assert 'lower lam, now 3,' in warning
    assert warnings_of_lost_classes(tmp_path / 'first', 'elr_digits', epochs=1) == []
    assert warnings_of_lost_classes(tmp_path / 'ce', 'ce_digits', epochs=3) == [], 'λ is not to blame'


@VISBACKENDS.register_module()
class Scalars(BaseVisBackend):
    """Keeps what a visualizer is given."""

    given = []

    def _init_env(self):
        pass

    @property
    def experiment(self):
        return self

    def add_scalars(self, scalar_dict, step=0, file_path=None, **kwargs):
        self.given.append((step, scalar_dict))


def test_every_backend_of_the_visualizer_gets_the_scalars(tmp_path):
    Scalars.given.clear()
    cfg = digits_config(tmp_path, epochs=2)
    cfg.visualizer.vis_backends = [dict(type='Scalars')]
    train(cfg)
    for line, (step, scalars) in zip(
        memorization(tmp_path), [g for g in Scalars.given if 'memorization/agreement' in g[1]], strict=True
    ):
        assert step == line['epoch']
        assert scalars == {
            f'memorization/{key}': value for key, value in line.items() if type(value) is float and 'bin' not in key
        }
        assert {f'memorization/{group}_{t}_mean' for group in ('correct', 'wrong') for t in TERMS} <= scalars.keys()


def test_tensorboard(tmp_path):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    cfg = digits_config(tmp_path, epochs=2)
    cfg.visualizer.vis_backends = [dict(type='TensorboardVisBackend')]
    train(cfg)
    [file] = tmp_path.rglob('events.out.*')
    events = EventAccumulator(str(file)).Reload()
    for key in ('wrong_memorized', 'wrong_sum_mean', 'memory_agreement'):
        points = [(e.step, e.value) for e in events.Scalars(f'memorization/{key}')]
        assert points == [(line['epoch'], pytest.approx(line[key])) for line in memorization(tmp_path)]


RANKS = """
import sys, torch, torch.distributed as dist
from mmelr.engine import MemorizationHook
rank = int(sys.argv[2])
dist.init_process_group('gloo', init_method='file://' + sys.argv[1] + '/join', rank=rank, world_size=2)
hook = MemorizationHook()
hook._waiting = {'network': []}
rows = torch.zeros(6, 6)
rows[[0, 2, 5] if rank else [0, 1, 2]] = rank + 1.0
hook._rows = {'network': rows}
own = hook._seen('network')
hook.before_write_checkpoint(None)
torch.save((own, hook._together['network']), f'{sys.argv[1]}/{rank}.pt')
dist.barrier()
"""


def test_a_sample_that_two_ranks_see_counts_once(tmp_path):
    """Without an ELRHead the samples that pad the last batch stay in it."""
    command = [sys.executable, '-c', RANKS, str(tmp_path)]
    processes = [subprocess.Popen([*command, str(rank)], cwd=ROOT) for rank in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    (first, together), (second, same) = (torch.load(tmp_path / f'{rank}.pt', weights_only=True) for rank in range(2))
    assert first[:, 0].tolist() == [1, 1, 1, 0, 0, 0] and second[:, 0].tolist() == [0, 0, 0, 0, 0, 2]
    assert together[:, 3].tolist() == [1, 1, 1, 0, 0, 2] and torch.equal(together, same)


@pytest.fixture(scope='module')
def two_runs(tmp_path_factory):
    """One with clean labels, one without."""
    folder = tmp_path_factory.mktemp('runs')
    train(digits_config(folder / 'known', epochs=3))
    cfg = digits_config(folder / 'unknown', epochs=2)
    cfg.train_dataloader.dataset.noise = None
    train(cfg)
    return folder


class TestPicture:
    def test_files_that_are_damaged(self, two_runs, tmp_path):
        run = tmp_path / 'run'
        scalars = run / '1' / 'vis_data' / 'scalars.json'
        scalars.parent.mkdir(parents=True)
        scalars.write_text('{"accuracy/top1": 50.0, "step": 1}\n')
        line = (two_runs / 'unknown' / 'memorization.jsonl').read_text().splitlines(keepends=True)[0]
        (run / 'memorization.jsonl').write_text(line + line[:-20])
        assert read_run(run).losses == {'losses': {1: json.loads(line)['losses']}}, 'killed while it wrote'
        for bad in (line[:-20], '[]', line.replace('0.25', '0.25, "losses": [1]'), line.replace('"epoch": 1,', '')):
            (run / 'memorization.jsonl').write_text(f'{line}{bad.strip()}\n')
            with pytest.raises(ValueError, match='memorization.jsonl, line 2: malformed'):
                read_run(run)

    def test_rows_are_those_that_are_known(self, two_runs, tmp_path):
        known, unknown = (read_run(two_runs / name) for name in ('known', 'unknown'))
        sizes = []
        for runs in ([known], [unknown], [known, unknown]):
            plot_memorization(runs, tmp_path / 'picture.svg')
            text = (tmp_path / 'picture.svg').read_text()
            assert ('#d55e00' in text, '<image' in text) == (True, unknown in runs)
            plot_memorization(runs, tmp_path / 'picture.png')
            sizes.append(imread(tmp_path / 'picture.png').shape[:2])
        assert sizes[1][0] < sizes[0][0] < sizes[2][0] and sizes[0][1] < sizes[2][1]
        plot_memorization([known], tmp_path / 'picture.png', panels=['wrong'])
        assert imread(tmp_path / 'picture.png').shape[0] < sizes[1][0]

    def test_command(self, two_runs, tmp_path, monkeypatch, capsys):
        def command(*args):
            monkeypatch.setattr(sys, 'argv', ['plot_memorization.py', *map(str, args)])
            runpy.run_path(str(ROOT / 'tools' / 'plot_memorization.py'), run_name='__main__')

        runs = two_runs / 'known', two_runs / 'unknown'
        command(*runs, '--out', tmp_path / 'a' / 'b.png')
        assert imread(tmp_path / 'a' / 'b.png').std() > 0 and 'b.png' in capsys.readouterr().out
        with pytest.raises(SystemExit) as end:
            command(*runs, tmp_path)
        assert end.value.code == 2 and f'in {tmp_path}: not the work directory of a run' in capsys.readouterr().err
        assert not (two_runs / 'known' / 'memorization.png').exists()
