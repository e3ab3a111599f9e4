"""tools/benchmark_speed.py, and what a step may do: counts instead of times, which no machine can promise."""

import importlib.util
import inspect
import io
import json
import subprocess
import sys
import warnings
from collections import Counter
from contextlib import redirect_stdout

import pytest
import torch
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from runs import ROOT, digits_config, train
from torch.utils._python_dispatch import TorchDispatchMode

from mmelr.analysis.speed import CASES, summary
from mmelr.analysis.speed_data import DataPass
from mmelr.analysis.speed_runs import in_memory, run_config
from mmelr.datasets import NoisyLabelDataset
from mmelr.engine import FastNetworkHook
from mmelr.engine.fast_network_hook import make_fast

TOOL = ROOT / 'tools' / 'benchmark_speed.py'


def load():
    spec = importlib.util.spec_from_file_location('benchmark_speed', TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


def run(*flags):
    """The command, in this process: starting one takes longer than what it does here."""
    with warnings.catch_warnings():
        load().main([str(flag) for flag in flags])


@pytest.fixture(scope='module')
def quick(tmp_path_factory):
    out = tmp_path_factory.mktemp('speed') / 'out.json'
    printed = io.StringIO()
    with redirect_stdout(printed):
        run('--quick', '--only', 'step', 'n', 'variants', 'data', 'train', 'sync', '--json', out)
    return json.loads(out.read_text()), printed.getvalue()


def test_quick_run_measures_everything(quick):
    result, printed = quick
    (step,) = result['step']
    assert step['case'] == 'digits:8'
    assert {'cross entropy', 'ELR', 'ELR+ joint', 'ELR+ alternate', 'weight average'} < step['to_cross_entropy'].keys()
    for rows in (step['to_cross_entropy'], step['to_floor_of_elr_plus'], result['n'], result['data']['digits']):
        assert all(row['ms'] > 0 and row['low'] <= row['ratio'] <= row['high'] for row in rows.values())
    assert step['to_cross_entropy']['cross entropy']['ratio'] == 1
    assert step['to_floor_of_elr_plus']['passes of ELR+']['ratio'] == 1
    assert {row['method'] for row in result['variants']} == {'cross entropy', 'ELR', 'ELR+ joint'}
    if torch.cuda.is_available():
        assert not result['sync']['waits'], result['sync']
    else:
        assert result['sync'] is None and 'not checked' in printed
    for whole in result['train'].values():
        assert whole['speed'] == pytest.approx(sum(whole['bare'].values()) / sum(whole['run'].values()), rel=0.5)
        assert {'data', 'forward and loss', 'backward and optimizer', 'validation'} <= whole['run'].keys()
        assert {'DurableCheckpointHook', 'MemorizationHook'} < whole['run'].keys()


def test_parts_of_a_pass_over_data_are_the_whole(quick):
    rows = quick[0]['data']['digits']
    assert list(rows) == ['one by one', 'one by one, not seeded by item', 'in memory']
    for row in rows.values():
        assert list(row['microseconds']) == ['dataset', 'collate', 'preprocessor']
        assert all(part > 0 for part in row['microseconds'].values())
        # Medians of two rounds are means, so this holds to rounding.
        assert sum(row['microseconds'].values()) == pytest.approx(1e6 / row['samples_per_second'])


def test_what_is_timed_makes_every_image_once_and_the_same_both_ways(tmp_path):
    made = []
    for change in (lambda cfg: cfg, in_memory):
        data = DataPass(change(run_config('digits', str(tmp_path), 1)), 'cpu')
        whole, batches = data.preprocessor, []
        data.preprocessor = lambda batch, training, whole=whole, to=batches: to.append(whole(batch, training))
        data()
        order = [sample.sample_idx for batch in batches for sample in batch['data_samples']]
        assert sorted(order) == list(range(1438)) != order and len(batches) == 23
        wrong = data.loader.dataset.get_gt_labels() != data.loader.dataset.own_labels
        assert 0.3 < wrong.mean() < 0.42
        made.append((order, torch.cat([batch['inputs'] for batch in batches])))
    assert made[0][0] == made[1][0] and torch.equal(made[0][1], made[1][1])


@pytest.mark.parametrize(
    'flags, message',
    [
        (['--case', 'digits'], '--case digits: it must be NETWORK:BATCH'),
        (['--case', 'lenet:64'], 'one of digits, narrow18'),
        (['--case', 'digits:10001'], 'of 2 to 10,000 images'),
        (['--json', 'no/such/out.json'], 'there is no folder no/such'),
        (['--amp', '--device', 'cpu', '--only', 'step'], '--amp needs --device cuda'),
        (['--rounds', '0'], '--rounds must be at least 1'),
    ],
)
def test_refused_at_once(flags, message, capsys):
    with pytest.raises(SystemExit) as e:
        run(*flags)
    printed = capsys.readouterr()
    assert e.value.code == 2 and message in printed.err and not printed.out


def test_a_whole_run_is_not_measured_on_the_cpu_beside_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    with pytest.raises(SystemExit):
        run('--device', 'cpu', '--only', 'train')
    assert '(CUDA_VISIBLE_DEVICES= python ...)' in capsys.readouterr().err


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='of /proc')
def test_peak_memory_is_that_of_the_process_alone():
    """A process begins with the ``ru_maxrss`` of the one that started it, and that is this one, with PyTorch in it."""
    function = inspect.getsource(load().peak_resident)
    code = f'import resource, sys\nfrom pathlib import Path\n{function}\nprint(peak_resident())'
    small, large = (
        int(subprocess.run([sys.executable, '-c', more + code], stdout=subprocess.PIPE, check=True).stdout)
        for more in ('', 'x = bytearray(90_000_000); del x\n')
    )
    assert small < 60e6 and 80e6 < large - small < 100e6


def test_ratios_are_within_rounds():
    """A machine that is ten times slower in one round moves no ratio."""
    rows = summary({'a': [1.0, 10.0, 1.0], 'b': [1.5, 15.0, 1.5]}, 'a')
    assert rows['b'] == dict(ms=1500, ratio=1.5, low=1.5, high=1.5)


class Counted(TorchDispatchMode):
    """Operations, and the largest tensor that any of them reads without picking rows, or makes."""

    def __init__(self):
        super().__init__()
        self.calls, self.largest = Counter(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.calls[name] += 1
        reads = () if name in ('index', 'index_put_', 'detach', 'index_select') else args
        for tensor in (*reads, out):
            if isinstance(tensor, torch.Tensor) and name not in ('index_put_', 'detach'):
                self.largest = max(self.largest, tensor.numel())
        return out


def counted_step(head, num_samples):
    torch.manual_seed(0)
    model = MODELS.build(CASES['digits'].model(head)).train()
    for _ in range(2):  # the first makes the memory
        data = model.data_preprocessor(CASES['digits'].batch(8, num_samples), True)
        with Counted() as counted:
            losses = model(data['inputs'], data['data_samples'], mode='loss')
            sum(losses.values()).backward()
    return counted


def test_elr_step_does_not_grow_with_n():
    few, many = counted_step('ELRHead', 1_000), counted_step('ELRHead', 1_000_000)
    assert few.calls == many.calls
    assert few.largest == many.largest < 100_000


def test_elr_step_takes_one_softmax_and_waits_for_nothing():
    elr, ce = counted_step('ELRHead', 1_000), counted_step('LinearClsHead', 1_000)
    assert elr.calls['_softmax'] == 1 and ce.calls['_softmax'] == 0
    # On the CPU the indices, and whether rows are finite, are looked at; no other value comes to Python.
    assert elr.calls['_local_scalar_dense'] - ce.calls['_local_scalar_dense'] == 3
    more = sum(elr.calls.values()) - sum(ce.calls.values())
    assert more <= 60, elr.calls - ce.calls


def test_a_batch_draws_what_its_items_draw(monkeypatch):
    pipeline = [dict(type='RandomCrop', crop_size=8, padding=2), dict(type='PackInputs')]
    dataset = NoisyLabelDataset(dict(type='Digits', indices=20, pipeline=pipeline), 'symmetric:0.4')
    dataset.set_augmentation_epoch(3, 1)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    together = dataset.__getitems__([4, 1, 4, 7])
    assert torch.equal(torch.get_rng_state(), before)
    for item, alone in zip(together, [dataset[i] for i in (4, 1, 4, 7)], strict=True):
        assert torch.equal(item['inputs'], alone['inputs'])
        assert item['data_samples'].sample_idx == alone['data_samples'].sample_idx
    assert any(not torch.equal(a['inputs'], b['inputs']) for a, b in zip(together, together[1:], strict=False))


@pytest.mark.parametrize('name', ['elr_digits', 'elr_plus_digits'])
def test_channels_last_trains_the_same(name, tmp_path):
    runs = []
    for hooks in ([], [dict(type='FastNetworkHook')]):
        cfg = digits_config(tmp_path / str(len(hooks)), name, train=128)
        cfg.custom_hooks = [*cfg.custom_hooks, *hooks]
        runs.append(train(cfg))
    plain, fast = (runner.model.state_dict() for runner in runs)
    assert plain.keys() == fast.keys()
    key = next(key for key in fast if key.endswith('layer1.0.conv1.weight'))
    assert fast[key].is_contiguous(memory_format=torch.channels_last) and not fast[key].is_contiguous()
    for key, value in plain.items():
        torch.testing.assert_close(fast[key], value, rtol=1e-3, atol=1e-4, msg=lambda m, key=key: f'{key}: {m}')
    # Its checkpoint resumes without the hook, and the other way round.
    cfg = digits_config(tmp_path / '0', name, epochs=2, train=128)
    cfg.load_from = str(tmp_path / '1' / 'epoch_1.pth')
    resumed = Runner.from_cfg(cfg)
    resumed.load_or_resume()
    assert all(torch.equal(v, fast[k]) for k, v in resumed.model.state_dict().items() if 'memory' not in k)


@pytest.mark.parametrize('method', ['ELRHead', 'ELR+'])
def test_compiled_backbones_compute_the_same(method):
    case = CASES['digits']
    cfg = case.model('ELRHead')
    if method == 'ELR+':
        cfg = dict(type='CoTrainingClassifier', network=cfg)
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    keys = list(model.state_dict())
    x = torch.randn(4, 1, 8, 8)
    expected = model.eval()(x)
    make_fast(model, channels_last=False, compile=dict(backend='eager'))
    assert list(model.state_dict()) == keys
    networks = model.networks + model.averages if method == 'ELR+' else [model]
    assert all(network.backbone._compiled_call_impl is not None for network in networks)
    assert torch.equal(model(x), expected)


def test_fast_network_hook_refuses_other_values():
    with pytest.raises(TypeError, match="channels_last of FastNetworkHook must be True or False, got 'yes'"):
        FastNetworkHook(channels_last='yes')
    with pytest.raises(TypeError, match='must be a bool or a dict for torch.compile, got'):
        FastNetworkHook(compile='inductor')
