"""tools/benchmark.py: the grid, what a cell trains on and measures, stops and failures, tables and pictures."""

import copy
import fcntl
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from mmpretrain.registry import DATASETS, MODELS
from runs import ROOT

import mmelr
from mmelr.analysis import benchmark
from mmelr.analysis.benchmark import Cell
from mmelr.analysis.processes import Task, last_line, run_tasks
from mmelr.analysis.runs import ACCURACY, read_run
from mmelr.noise import NoiseRecord, SymmetricNoise

CONFIGS = ROOT / 'configs'
EPOCHS = 8
SMALL = [
    f'train_cfg.max_epochs={EPOCHS}', 'param_scheduler.milestones=[6]',
    'train_dataloader.dataset.dataset.indices=320', 'test_dataloader.dataset.indices=100',
]  # fmt: skip


def config(cell, dataset='digits', **kwargs):
    return benchmark.cell_config(dataset, cell, CONFIGS, **kwargs)


class TestCommandLine:
    def test_noises(self, tmp_path, monkeypatch):
        parse = benchmark.parse_noises
        monkeypatch.chdir(tmp_path)
        (tmp_path / 'a').mkdir()
        (tmp_path / 'a' / 'b.npy').touch()
        issue = ['symmetric:0.2,symmetric:0.4,asymmetric:0.4']
        assert parse(issue, 'digits') == ['symmetric:0.2', 'symmetric:0.4', 'asymmetric:0.4,mapping=mnist']
        assert parse(['asymmetric:0.4'], 'cifar10') == ['asymmetric:0.4,mapping=cifar10']
        assert parse(['asymmetric:0.4'], 'cifar100') == ['asymmetric:0.4,mapping=cifar100']
        assert parse(['asymmetric:0.4'], 'fashion_mnist_12800') == ['asymmetric:0.4,mapping=next']
        several = [
            'none,asymmetric:0.4,mapping=next,symmetric:0.2,include_true=False',
            'file:a/b.npy,key=k,none',
            'none',
        ]
        assert parse(several, 'digits') == [
            'none', 'asymmetric:0.4,mapping=next', 'symmetric:0.2,include_true=False', 'file:a/b.npy,key=k',
        ]  # fmt: skip
        for bad, words in (
            ('symmetric:0.4,seed=3', 'leave the seed out'),
            ('transition:none_of_this_name.csv', 'there is no file none_of_this_name.csv'),
            ('symmetric:1.4', 'rate'),
            ('asymetric:0.4', 'no form'),
            ('symmetric:0.2,0.4', 'is not an option'),
        ):
            with pytest.raises((ValueError, FileNotFoundError), match=words):
                parse([bad], 'digits')
        with pytest.raises(ValueError, match='mapping=NAME is missing'):
            parse(['asymmetric:0.4'], 'my_config')

    def test_seeds(self):
        assert benchmark.parse_seeds('5') == [0, 1, 2, 3, 4] and benchmark.parse_seeds('1') == [0]
        assert benchmark.parse_seeds('3,4') == [3, 4] and benchmark.parse_seeds('3,') == [3]
        for bad in ('0', '', '-1', '1.5', '0-4', ',', '20230101'):
            with pytest.raises(ValueError, match='--seeds takes'):
                benchmark.parse_seeds(bad)

    def test_methods(self):
        assert benchmark.parse_methods('all') == list(mmelr.METHODS)
        assert benchmark.parse_methods('elr+,ce,elr+') == ['elr+', 'ce']
        with pytest.raises(ValueError, match="unknown method 'elr_plus'; known are all, ce"):
            benchmark.parse_methods('ce,elr_plus')

    def test_variants(self):
        assert benchmark.variants([]) == [()]
        assert benchmark.variants(['a.b=1,2', 'c=,None']) == [
            ('a.b=1',), ('a.b=1', 'c=None'), ('a.b=2',), ('a.b=2', 'c=None'),
        ]  # fmt: skip
        assert benchmark.variants(['a=[1,2],[(3,4),5],', 'b=(1,)']) == [
            ('a=[1,2]', 'b=(1,)'), ('a=[(3,4),5]', 'b=(1,)'), ('b=(1,)',),
        ]  # fmt: skip
        for bad in ('a.b', 'a.b=', '=1'):
            with pytest.raises(ValueError, match='--vary takes'):
                benchmark.variants([bad])

    def test_grid(self):
        cells = benchmark.make_grid(['ce', 'elr'], [()], ['none', 'symmetric:0.2', 'none'], [5, 3])
        assert len(cells) == 8 and [c.seed for c in cells] == [5] * 4 + [3] * 4
        options = [(), ('a.x=1',), ('b.x=1',), ('a.x=/p/q',)]
        cells = benchmark.make_grid(mmelr.METHODS, options, ['symmetric:0.2', 'asymmetric:0.2,mapping=next'], [0, 1])
        folders = {cell.folder for cell in cells}
        assert len(folders) == len(cells) and all(len(folder.parts) == 3 for folder in folders)


class TestCellConfig:
    @pytest.mark.parametrize('method, first', [('forward-estimated', 10), ('gce-truncated', 17)])
    def test_runs_too_short_for_their_method(self, method, first):
        cell = Cell(method, (), 'symmetric:0.4', 0)
        [text] = benchmark.idle_hooks(config(cell, options=[f'train_cfg.max_epochs={first}']))
        assert f'after {first} epochs, and a run has {first}' in text
        assert not benchmark.idle_hooks(config(cell, options=[f'train_cfg.max_epochs={first + 1}']))
        assert not benchmark.idle_hooks(config(Cell('forward', (), 'symmetric:0.4', 0)))

    def test_values_with_commas(self):
        [options] = benchmark.variants(['param_scheduler.milestones=[3,4]'])
        assert config(Cell('ce', options, 'none', 0)).param_scheduler.milestones == [3, 4]
        with pytest.raises(ValueError, match='--cfg-options takes KEY=VALUE, got lr'):
            config(Cell('ce', (), 'none', 0), options=['lr'])

    @pytest.mark.parametrize('seed', [0, 3])
    def test_holds_out_a_tenth_of_the_noisy_labels(self, seed):
        cfg = config(Cell('elr', (), 'symmetric:0.4', seed))
        train, val = (DATASETS.build(cfg[f'{part}_dataloader'].dataset) for part in ('train', 'val'))
        assert (len(train), len(val)) == (1295, 143)
        assert sorted([*train.sample_idx, *val.sample_idx]) == list(range(1438)), 'disjoint, and together all'
        assert len({*np.diff(np.sort(val.sample_idx))}) > 5, 'not one block: data may be sorted by class'
        clean = mmelr.datasets.Digits(split='train').get_gt_labels()
        noisy = SymmetricNoise(0.4, seed=seed)(clean, 10)
        for part in (train, val):
            assert np.array_equal(part.get_gt_labels(), noisy[part.sample_idx])
        assert 0.25 < (val.get_gt_labels() != clean[val.sample_idx]).mean() < 0.5
        test = DATASETS.build(cfg.test_dataloader.dataset)
        assert np.array_equal(test.get_gt_labels(), mmelr.datasets.Digits(split='test').get_gt_labels())

    def test_all_methods_get_the_same_data(self):
        data = []
        for method in mmelr.METHODS:
            cfg = config(Cell(method, (), 'asymmetric:0.4,mapping=mnist', 2))
            assert cfg.randomness.seed == cfg.train_dataloader.dataset.noise.seed == 2
            data.append([cfg[f'{part}_dataloader'].dataset.to_dict() for part in ('train', 'val', 'test')])
            assert cfg.train_cfg.max_epochs == 50
        assert all(d == data[0] for d in data)

    def test_published_values_come_from_the_configs(self):
        for dataset, method, noise, beta, lam in (
            ('cifar10', 'elr', 'symmetric:0.2', 0.7, 3.0),
            ('cifar10', 'elr', 'asymmetric:0.2,mapping=cifar10', 0.9, 1.0),
            ('cifar100', 'elr+', 'symmetric:0.2', 0.9, 7.0),
        ):
            cfg = config(Cell(method, (), noise, 0), dataset)
            head = cfg.model.get('network', cfg.model).head
            assert (head.beta, head.lam) == (beta, lam)
            assert cfg.train_dataloader.dataset.noise == cfg.val_dataloader.dataset.noise
            assert cfg.train_dataloader.dataset.noise.rate == 0.2
        sizes = [cfg[f'{part}_dataloader'].dataset.dataset.indices for part in ('train', 'val')]
        assert sizes == [45000, -5000], 'the split of the config is left alone'
        with pytest.raises(ValueError, match='holds out a part of the training data by itself'):
            config(Cell(method, (), noise, 0), dataset, hold_out=0.0)

    def test_no_augmentation_of_what_is_held_out(self):
        cfg = config(Cell('ce', (), 'symmetric:0.2', 0), 'fashion_mnist_12800')
        train, val = (cfg[f'{part}_dataloader'].dataset.dataset for part in ('train', 'val'))
        assert all('KFoldDataset' in (part.type, part.get('base')) for part in (train, val))
        assert train.dataset.indices == val.dataset.indices == 12800
        assert 'RandomFlip' in str(train.dataset.pipeline) and 'RandomFlip' not in str(val.dataset.pipeline)
        assert val.dataset.pipeline == cfg.test_dataloader.dataset.pipeline

    def test_folds_go_inside_of_a_dataset_in_memory(self):
        cfg = config(Cell('ce', (), 'symmetric:0.2', 4))
        for part, held_out in (('train', False), ('val', True)):
            fold = cfg[f'{part}_dataloader'].dataset.dataset
            assert (fold.type, fold.base, fold.seed, fold.test_mode) == ('InMemoryDataset', 'KFoldDataset', 4, held_out)
            assert fold.dataset.type == 'Digits' and 'base' not in fold.dataset

    def test_options_and_shares(self, tmp_path):
        cell = Cell('elr', ('model.head.lam=5',), 'none', 0)
        cfg = config(cell, hold_out=0.2, options=['train_cfg.max_epochs=3', 'model.head.beta=0.5'])
        assert (cfg.model.head.lam, cfg.model.head.beta, cfg.train_cfg.max_epochs) == (5, 0.5, 3)
        assert cfg.train_dataloader.dataset.noise is None and cfg.val_dataloader.dataset.dataset.num_splits == 5
        cfg = config(cell, hold_out=0.0)
        assert cfg.val_dataloader is cfg.val_cfg is cfg.val_evaluator is None
        assert cfg.train_dataloader.dataset.dataset.base == 'Digits'
        for share in (0.3, 0.9, 1.0, -0.1):
            with pytest.raises(ValueError, match='--hold-out is 0 or one part of N'):
                config(cell, hold_out=share)
        with pytest.raises(FileNotFoundError, match='ce_mnist.py. Known are cifar10, .*digits, fashion_mnist'):
            config(cell, 'mnist')
        # A config of one's own is what the method is applied to.
        (tmp_path / 'mine.py').write_text(f"_base_ = '{CONFIGS}/ce_digits.py'\n")
        cfg = config(Cell('elr+', (), 'symmetric:0.2', 1), str(tmp_path / 'mine.py'))
        assert cfg.model.type == 'CoTrainingClassifier' and cfg.val_dataloader.dataset.noise.seed == 1


def command(work_dir, *arguments):
    return [
        sys.executable, 'tools/benchmark.py', '--dataset', 'digits', '--methods', 'ce,elr', '--noise', 'symmetric:0.4',
        '--jobs', '1', '--work-dir', str(work_dir), *arguments, '--cfg-options', *SMALL,
    ]  # fmt: skip


@pytest.fixture(scope='module')
def killed(tmp_path_factory):
    """A benchmark whose parent is killed in its second cell, and the same again with two variants that fail."""
    work_dir = tmp_path_factory.mktemp('benchmark')
    first, second = (work_dir / Cell(m, (), 'symmetric:0.4', 0).folder for m in ('ce', 'elr'))
    with open(work_dir / 'out', 'w') as out:
        parent = subprocess.Popen(command(work_dir), cwd=ROOT, stdout=out, stderr=out)
        while benchmark.epochs_done(second) < 2:
            assert parent.poll() is None, (work_dir / 'out').read_text()
            time.sleep(0.02)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    with open(second / '.lock') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the orphan ends by itself
    state = dict(
        unfinished=not (second / 'result.json').exists(),
        finished=(first / 'result.json').stat().st_mtime_ns,
        epochs=benchmark.epochs_done(second),
    )
    vary = ('--vary', 'optim_wrapper.optimizer.lr=,1e30')
    again = subprocess.run(command(work_dir, *vary), cwd=ROOT, capture_output=True, text=True)
    return work_dir, state, again


class TestRuns:
    def test_what_is_finished_is_not_repeated(self, killed):
        work_dir, state, again = killed
        assert state['unfinished'] and state['epochs'] < EPOCHS
        assert '1 of 4 runs are finished already' in again.stdout
        first = work_dir / Cell('ce', (), 'symmetric:0.4', 0).folder
        assert (first / 'result.json').stat().st_mtime_ns == state['finished']

    def test_what_was_cut_off_goes_on_exactly(self, killed, tmp_path):
        work_dir, state, _ = killed
        cell = Cell('elr', (), 'symmetric:0.4', 0)
        result = benchmark.read_result(work_dir / cell.folder / 'result.json')
        assert result['resumed']
        benchmark.run_cell(cell, config(cell, options=SMALL), tmp_path / 'w', True)  # in one go
        whole = benchmark.read_result(tmp_path / 'w' / 'result.json')
        times = ('seconds', 'cpu_seconds', 'resumed')
        assert not whole['resumed'] and {k: v for k, v in whole.items() if k not in times} == {
            k: v for k, v in result.items() if k not in times
        }
        a, b = (torch.load(d / f'epoch_{EPOCHS}.pth')['state_dict'] for d in (work_dir / cell.folder, tmp_path / 'w'))
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)

    def test_a_failed_run_stops_no_other(self, killed):
        work_dir, _, again = killed
        assert again.returncode == 1, again.stdout + again.stderr
        for method in ('ce', 'elr'):
            cell = Cell(method, ('optim_wrapper.optimizer.lr=1e30',), 'symmetric:0.4', 0)
            [line] = [line for line in again.stdout.splitlines() if str(cell) in line and 'FAILED' in line]
            log = work_dir / cell.folder / 'log.txt'
            assert str(log) in line and last_line(log) in line and 'nan' in line.lower()
            assert not (work_dir / cell.folder / 'result.json').exists(), 'it will be tried again'
        content = json.loads((work_dir / 'results.json').read_text())
        assert (
            len(content['cells']) == len(content['missing']) == 2 and content['versions']['mmelr'] == mmelr.__version__
        )
        assert '2 of 4 runs are missing' in (work_dir / 'table.md').read_text()
        assert (work_dir / 'plot.png').read_bytes().startswith(b'\x89PNG')

    @pytest.mark.parametrize('method', ['ce', 'elr'])
    def test_both_figures(self, killed, method):
        """Computed again from the checkpoints, without MMEngine."""
        work_dir = killed[0]
        cell = Cell(method, (), 'symmetric:0.4', 0)
        folder, cfg = work_dir / cell.folder, config(cell, options=SMALL)
        result = benchmark.read_result(folder / 'result.json')

        def accuracy(checkpoint, images, labels):
            model = MODELS.build(copy.deepcopy(cfg.model) | dict(data_preprocessor=cfg.data_preprocessor)).eval()
            weights = torch.load(checkpoint)['state_dict']
            model.load_state_dict({k: v for k, v in weights.items() if 'memory' not in k})
            with torch.no_grad():
                inputs = model.data_preprocessor(dict(inputs=torch.from_numpy(images)[:, None]))['inputs']
                predicted = model(inputs).argmax(dim=1).numpy()
            return 100 * (predicted == labels).mean()

        def digits(split):
            data = mmelr.datasets.Digits(split=split)
            return np.stack([data.get_data_info(i)['img'] for i in range(len(data))]), np.array(data.get_gt_labels())

        images, labels = (part[:100] for part in digits('test'))
        curve = read_run(folder).curves[ACCURACY]
        assert sorted(curve) == list(range(1, EPOCHS + 1))
        epoch = min(curve, key=lambda e: (-curve[e], e))  # the first of the best
        assert result['picked_epoch'] == epoch and result['epochs'] == EPOCHS
        last, picked = folder / f'epoch_{EPOCHS}.pth', folder / f'best_accuracy_top1_epoch_{epoch}.pth'
        assert result['last_accuracy'] == pytest.approx(accuracy(last, images, labels))
        assert result['picked_accuracy'] == pytest.approx(accuracy(picked, images, labels))
        # By the noisy labels of the images that were not trained on.
        images, labels = digits('train')
        record = NoiseRecord.load(folder / 'noise.npz')
        order = list(range(320))
        np.random.default_rng(0).shuffle(order)
        by = accuracy(picked, images[order[:32]], record.noisy_label[order[:32]])
        assert result['picked_by'] == pytest.approx(by) == pytest.approx(curve[epoch])

    def test_same_noise_for_all_methods(self, killed):
        records = [
            NoiseRecord.load(killed[0] / Cell(m, (), 'symmetric:0.4', 0).folder / 'noise.npz') for m in ('ce', 'elr')
        ]
        assert records[0].fingerprint == records[1].fingerprint

    def test_other_settings_are_refused(self, killed):
        cell = Cell('ce', (), 'symmetric:0.4', 0)
        folder, before = killed[0] / cell.folder, (killed[0] / cell.folder / 'result.json').read_bytes()
        benchmark.check_settings(folder, benchmark.settings_of(config(cell, options=SMALL)))
        for options, words in (
            (SMALL[1:], rf'train_cfg.max_epochs was {EPOCHS} and is 50'),
            ([*SMALL, 'optim_wrapper.optimizer.lr=0.2'], 'lr was 0.1 and is 0.2'),
        ):
            other = config(cell, options=options)
            with pytest.raises(ValueError, match=words):
                benchmark.check_settings(folder, benchmark.settings_of(other))
            with pytest.raises(ValueError, match=words):  # in its own process, too: someone may have been faster
                benchmark.run_cell(cell, other, folder, True)
        assert (folder / 'result.json').read_bytes() == before

    def test_no_second_benchmark_in_the_folder(self, tmp_path):
        lock = runpy.run_path(str(ROOT / 'tools/benchmark.py'))['lock']
        with lock(tmp_path / 'a'):
            with pytest.raises(ValueError, match=rf'Another benchmark runs in .*/a \(process {os.getpid()}\)'):
                lock(tmp_path / 'a')
            lock(tmp_path / 'b').close()
        lock(tmp_path / 'a').close()

    def test_elr_plus_without_validation(self, tmp_path):
        cell = Cell('elr+', (), 'none', 0)
        options = ['train_cfg.max_epochs=1', *SMALL[1:]]
        benchmark.run_cell(cell, config(cell, hold_out=0.0, options=options), tmp_path, True)
        result = benchmark.read_result(tmp_path / 'result.json')
        assert result['picked_accuracy'] is result['picked_epoch'] is result['wrong_labels_memorized'] is None
        assert 0 <= result['last_accuracy'] <= 100 and not list(tmp_path.glob('best*'))
        assert ACCURACY not in read_run(tmp_path).curves, 'the test set is not looked at on the way'


@pytest.mark.parametrize('text', ['', '{"seconds": 1', '[]', '{"last_accuracy": "5"}', '\xff'])
def test_damaged_results(tmp_path, text):
    (tmp_path / 'result.json').write_bytes(text.encode('latin1'))
    with pytest.raises(ValueError, match='result.json'):
        benchmark.read_result(tmp_path / 'result.json')


PRINT = 'import os, torch; print(os.environ["CUDA_VISIBLE_DEVICES"], torch.get_num_threads(), flush=True)'


def test_tasks(tmp_path):
    """Statuses, logs, GPUs in turn; and an exception, as Ctrl-C is one, ends what runs."""
    bodies = dict(a=PRINT, b=PRINT, c='raise SystemExit(3)', d='import os; os.kill(os.getpid(), 9)', e='1 / 0')
    tasks = {name: Task(exec, (body,), tmp_path / name) for name, body in bodies.items()}
    ended = {}
    run_tasks(tasks, ended.__setitem__, jobs=2, threads=1, gpus=['GPU-x', '7'])
    assert ended == dict(a=0, b=0, c=3, d=-9, e=1)
    assert {(tmp_path / name).read_text() for name in 'ab'} == {'GPU-x 1\n', '7 1\n'}
    assert last_line(tmp_path / 'e') == 'ZeroDivisionError: division by zero'

    body = f'import time; open({str(tmp_path / "up")!r}, "w").close(); time.sleep(600)'
    pids = []

    def stop(running):
        if (tmp_path / 'up').exists():
            pids.extend(running.values())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tasks({'f': Task(exec, (body,), tmp_path / 'f')}, ended.__setitem__, stop)
    [pid] = pids
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert 'f' not in ended


def test_time_left():
    left = benchmark.time_left
    assert left(['a'], [], {}, 1) is None
    assert left(['a', 'a', 'b'], [], {'a': [10, 20], 'b': [60]}, 1) == 90
    assert left(['a', 'a', 'b'], [], {'a': [10, 20], 'b': [60]}, 3) == 30
    assert left([], [('a', 5, 0.0)], {'a': [20]}, 2) == 15, 'the last run ends no sooner'
    assert left(['a'], [('a', 10, 0.5)], {}, 1) == 30, 'by how far it is'
    assert left(['c'], [], {'a': [10], 'b': [30]}, 1) == 20, 'an unknown kind is like the others'
    assert benchmark.duration(3900) == '1 h 05 min' and benchmark.duration(125) == '2 min'


def result(last, picked=None, memorized=0.5, resumed=False, seconds=10.0):
    return dict(
        last_accuracy=last, picked_accuracy=picked, wrong_labels_memorized=memorized, resumed=resumed, seconds=seconds,
    )  # fmt: skip


class TestReport:
    def test_tables(self):
        cells = benchmark.make_grid(['ce', 'elr'], [()], ['symmetric:0.2', 'none'], [0, 1])
        of = dict(zip(cells, map(result, (60.0, 70.0, 80.0, 90.0, 62.0, 70.0, 84.0), [50.0] * 7), strict=False))
        of[cells[0]]['resumed'] = True  # of which only a part was timed
        text = benchmark.tables(of, cells, 'digits')
        rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in text.splitlines() if line[:1] == '|']
        assert rows[:4] == [
            ['method', 'symmetric:0.2', 'none'],
            ['---'] * 3,
            ['cross entropy', '61.00 ± 1.41', '70.00 ± 0.00'],
            ['ELR', '**82.00 ± 2.83**', '**90.00 (1 of 2)**'],
        ]
        assert rows[6][1] == '**50.00 ± 0.00**' and rows[7][1] == '**50.00 ± 0.00**'
        assert '1 of 8 runs are missing' in text and '10 (1 of 2)' in text
        assert re.findall('^## (.*)', text, re.M)[1] == (
            'Test accuracy of the epoch picked on the noisy validation split [%]'
        )

    def test_two_keys_make_a_matrix(self, tmp_path):
        options = benchmark.variants(['model.head.beta=0.5,0.9', 'model.head.lam=1,3,7'])
        cells = benchmark.make_grid(['elr'], options, ['symmetric:0.4'], [0, 1])
        assert benchmark.grid_of_two(cells) == ('model.head.beta', 'model.head.lam')
        of = {cell: result(50.0 + 6 * cell.seed + i % 6, 40.0) for i, cell in enumerate(cells)}
        text = benchmark.tables(of, cells, 'digits')
        assert 'ELR, symmetric:0.4\n\n| beta | lam = 1 | lam = 3 | lam = 7 |\n' in text
        assert '| 0.9 | 56.00 ± 4.24 | 57.00 ± 4.24 | **58.00 ± 4.24** |' in text
        benchmark.plot_heat_map(of, cells, tmp_path / 'heat_map.png')
        assert (tmp_path / 'heat_map.png').read_bytes().startswith(b'\x89PNG')
        assert benchmark.grid_of_two(benchmark.make_grid(['elr'], benchmark.variants(['a=1,2']), ['none'], [0])) is None
        assert (
            benchmark.grid_of_two(benchmark.make_grid(['elr'], benchmark.variants(['a=,2', 'b=1']), ['none'], [0]))
            is None
        )

    def test_plot_of_everything_there_can_be(self, tmp_path):
        methods = [*mmelr.METHODS, *(f'method-{i}' for i in range(12 - len(mmelr.METHODS)))]
        noises = [
            'none',
            *(f'symmetric:{r}' for r in (0.2, 0.4, 0.6, 0.8)),
            'asymmetric:0.4,mapping=mnist',
            'file:a.npy',
        ]
        cells = benchmark.make_grid(methods, [()], noises, range(3))
        rng = np.random.default_rng(0)
        of = {
            cell: result(100 - 8.0 * noises.index(cell.noise) - 2 * methods.index(cell.method) + rng.normal(), 60.0)
            for cell in cells
        }
        benchmark.plot_benchmark(of, tmp_path / 'plot.png', 'digits')
        assert (tmp_path / 'plot.png').read_bytes().startswith(b'\x89PNG')
