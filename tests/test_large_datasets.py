"""The configs of Clothing1M, mini WebVision and CIFAR-10N on tiny data in the official layouts; only sizes change."""

import json
import os
import pickle
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain import ImageClassificationInferencer
from mmpretrain.datasets import CIFAR10
from mmpretrain.registry import DATASETS, HOOKS, MODELS
from runs import ROOT, train
from trees import write_clothing1m, write_imagenet_val, write_webvision

import mmelr
from mmelr.analysis import read_run
from mmelr.datasets.webvision import FOLDERS
from mmelr.noise import NoiseRecord

METHODS = ('ce', 'elr', 'elr_plus')
CONFIGS = [f'{method}_{data}' for data in ('clothing1m', 'webvision') for method in METHODS]
MEMBERS = ('network1', 'network2', 'average1', 'average2')


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> SimpleNamespace:
    """The three data sets: their folders, and what each split holds, in order."""
    root = tmp_path_factory.mktemp('data')
    roots = dict(clothing1m=root / 'clothing1m', webvision=root / 'webvision', imagenet=root / 'imagenet')
    return SimpleNamespace(
        roots=roots,
        clothing1m=write_clothing1m(roots['clothing1m'], per_class=4, noise=0.4),
        webvision=write_webvision(roots['webvision'], noise=0.4),
        imagenet=dict(test=write_imagenet_val(roots['imagenet'])),
    )


def small(name: str, roots: dict) -> dict:
    """What a config must have changed to run here in seconds: folders and sizes, nothing else."""
    network = 'model.network' if 'plus' in name else 'model'
    kind = name.rpartition('_')[2]
    changes = {
        'train_dataloader.dataset.dataset.data_root': roots[kind],
        'val_dataloader.dataset.data_root': roots[kind],
        'test_dataloader.dataset.data_root': roots['imagenet' if kind == 'webvision' else kind],
        'train_cfg.max_epochs': 2,
        'log_level': 'ERROR',
    }
    for loader in ('train', 'val', 'test'):
        changes[f'{loader}_dataloader.num_workers'] = 0
        changes[f'{loader}_dataloader.persistent_workers'] = False
        pipeline = f'{loader}_dataloader.dataset.{"dataset." * (loader == "train")}pipeline'
        changes |= {f'{pipeline}.1.scale': 36, f'{pipeline}.2.crop_size': 32}
    if kind == 'clothing1m':
        backbone = dict(depth=18, stem_channels=16, base_channels=16, init_cfg=None)
        changes |= {'train_dataloader.batch_size': 14, 'train_dataloader.sampler.num_samples': 28}
    else:
        backbone = dict(model_name='mobilenetv3_small_050')
        changes |= {'train_dataloader.batch_size': 25}
    changes |= {f'{network}.backbone.{key}': value for key, value in backbone.items()}
    changes[f'{network}.head.in_channels'] = 128 if kind == 'clothing1m' else 1024
    return {key: str(value) if isinstance(value, Path) else value for key, value in changes.items()}


def config(name, work_dir, roots, **changes):
    cfg = mmelr.load_config(ROOT / 'configs' / f'{name}.py')
    cfg.merge_from_dict(small(name, roots) | changes)
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = fresh_name()
    return cfg


def fresh_name() -> str:
    """MMEngine keeps one message hub and log for each name."""
    return f'run_{np.random.SeedSequence().entropy}'


def tool(name: str, *arguments, folder=ROOT) -> None:
    """A command of tools/, inside of this process, which has imported torch already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, 'argv', [f'tools/{name}.py', *map(str, arguments)])
        runpy.run_path(f'tools/{name}.py', run_name='__main__')


def options(changes: dict) -> list[str]:
    return ['--cfg-options', f'experiment_name={fresh_name()}', *(f'{key}={value}' for key, value in changes.items())]


def load(path) -> dict:
    return torch.load(path, map_location='cpu', weights_only=True)


@pytest.fixture(scope='module', params=CONFIGS)
def run(request, data, tmp_path_factory) -> SimpleNamespace:
    """Two epochs of each config through tools/train.py."""
    if 'webvision' in request.param:
        pytest.importorskip('timm')
    work_dir = tmp_path_factory.mktemp(request.param)
    changes = small(request.param, data.roots)
    tool('train', f'configs/{request.param}.py', '--work-dir', work_dir, *options(changes))
    method, _, kind = request.param.rpartition('_')
    return SimpleNamespace(name=request.param, method=method, kind=kind, work_dir=work_dir, changes=changes)


def test_a_run_leaves_what_it_should(run, data):
    labels = [label for _, label in getattr(data, run.kind)['train']]
    record = NoiseRecord.load(run.work_dir / 'noise.npz')
    assert record.noisy_label.tolist() == labels and record.clean_label is None
    curves = read_run(run.work_dir).curves
    of = ['', *(f'{member}/' for member in MEMBERS)] if run.method == 'elr_plus' else ['']
    metrics = ('accuracy/top1',) if run.kind == 'clothing1m' else ('accuracy/top1', 'accuracy/top5')
    assert {key for key in curves if 'accuracy' in key} == {prefix + metric for prefix in of for metric in metrics}
    assert all(sorted(curves[prefix + metric]) == [1, 2] for prefix in of for metric in metrics)
    assert sorted(curves['memorization/agreement']) == [1, 2]

    top1 = curves['accuracy/top1']
    [best] = run.work_dir.glob('best_*.pth')
    assert best.name == f'best_accuracy_top1_epoch_{max(top1, key=top1.get)}.pth'
    state = load(run.work_dir / 'epoch_2.pth')['state_dict']
    memories = {key: value for key, value in state.items() if key.endswith('memory.t')}
    names = dict(ce=[], elr=['head.memory.t'], elr_plus=['network1.head.memory.t', 'network2.head.memory.t'])
    assert list(memories) == names[run.method]
    for t in memories.values():
        assert t.shape == (len(labels), 14 if run.kind == 'clothing1m' else 50), 'a row for every noisy sample'


def test_a_resumed_run_is_one_in_one_go(run, tmp_path):
    for epochs, more in ((1, []), (2, ['--resume'])):
        torch.manual_seed(epochs + 10)
        changes = run.changes | {'train_cfg.max_epochs': epochs}
        tool('train', f'configs/{run.name}.py', '--work-dir', tmp_path, *more, *options(changes))
    whole, parts = load(run.work_dir / 'epoch_2.pth'), load(tmp_path / 'epoch_2.pth')
    assert whole['state_dict'].keys() == parts['state_dict'].keys()
    for key, value in whole['state_dict'].items():
        assert torch.equal(value, parts['state_dict'][key]), key
    assert read_run(run.work_dir).curves == read_run(tmp_path).curves


def test_tested_and_published(run, data, tmp_path):
    """tools/test.py on the clean test set, or ImageNet's, says what the published networks predict there."""
    [checkpoint] = run.work_dir.glob('best_*.pth')
    tool(
        'test', run.work_dir / f'{run.name}.py', checkpoint, '--work-dir', tmp_path, '--out', tmp_path / 'metrics.json',
        '--out-item', 'metrics', '--cfg-options', f'experiment_name={fresh_name()}',
    )  # fmt: skip
    metrics = json.loads((tmp_path / 'metrics.json').read_text())
    root, split = ('imagenet', data.imagenet) if run.kind == 'webvision' else (run.kind, data.clothing1m)
    images = [str(data.roots[root] / ('val' * (root == 'imagenet')) / name) for name, _ in split['test']]
    labels = torch.tensor([label for _, label in split['test']])
    tested = DATASETS.build(mmelr.load_config(run.work_dir / f'{run.name}.py').test_dataloader.dataset)
    assert [tested.get_data_info(i)['img_path'] for i in range(len(tested))] == images
    assert tested.get_gt_labels().tolist() == labels.tolist()
    for member in ['ensemble', 'network2', 'average1'] if run.method == 'elr_plus' else [None]:
        choice = ['--config', run.work_dir / f'{run.name}.py', *(['--member', member] if member else [])]
        tool('publish_model', checkpoint, tmp_path / f'{member}.pth', *choice)
        [published] = tmp_path.glob(f'{member}-*.pth')
        assert not [key for key in load(published)['state_dict'] if 'memory' in key]
        infer = ImageClassificationInferencer(str(tmp_path / f'{member}.py'), pretrained=str(published), device='cpu')
        scores = torch.stack([torch.as_tensor(result['pred_scores']) for result in infer(images, batch_size=64)])
        for k in (1, 5) if run.kind == 'webvision' else (1,):
            right = (scores.topk(k).indices == labels[:, None]).any(1).float().mean().item()
            prefix = '' if member in (None, 'ensemble') else f'{member}/'
            assert metrics[f'{prefix}accuracy/top{k}'] == pytest.approx(100 * right), f'{prefix}top{k}'


# ---------------------------------------------------------------------------- what the networks see


@HOOKS.register_module()
class Drawn(Hook):
    """The samples of every batch, in each epoch, and their labels."""

    def before_train(self, runner):
        runner.drawn, runner.labels = {}, {}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        samples = data_batch['data_samples']
        runner.drawn.setdefault(runner.epoch, []).append([int(s.sample_idx) for s in samples])
        runner.labels |= {int(s.sample_idx): int(s.gt_label) for s in samples}


def test_an_epoch_of_clothing1m_has_as_many_of_each_class(data, tmp_path):
    # The noisy set itself is out of balance, which makes this worth something.
    labels = [label for _, label in data.clothing1m['train']]
    assert len(labels) == 56 and len(set(np.bincount(labels))) > 1
    cfg = config('elr_plus_clothing1m', tmp_path, data.roots, **{'train_dataloader.num_workers': 1})
    cfg.custom_hooks = [*cfg.custom_hooks, dict(type='Drawn')]
    runner = train(cfg)
    epochs = [sum(batches, []) for batches in runner.drawn.values()]
    assert len(epochs) == 2 and set(epochs[0]) != set(epochs[1]), 'another part of the data each epoch'
    for samples in epochs:
        assert np.bincount([labels[sample] for sample in samples], minlength=14).tolist() == [2] * 14
    assert all(label == labels[sample] for sample, label in runner.labels.items())
    # Two in one batch, of a class of one sample, are one visit.
    visits = sum(np.bincount(list(set(batch)), minlength=56) for batches in runner.drawn.values() for batch in batches)
    assert (visits == 0).any()
    for network in runner.model.networks:
        sums = network.head.memory.t.sum(1).numpy()
        assert sums == pytest.approx(1 - 0.7**visits, abs=1e-4), 'rows of samples never drawn stay empty'


def test_weights_to_start_from_may_come_from_a_file(data, tmp_path):
    torchvision = pytest.importorskip('torchvision')
    weights = torchvision.models.resnet18().state_dict()
    torch.save(weights, tmp_path / 'resnet18.pth')
    for name, key in (('elr_clothing1m', 'model'), ('elr_plus_clothing1m', 'model.network')):
        cfg = mmelr.load_config(ROOT / 'configs' / f'{name}.py')
        assert cfg.model.get('network', cfg.model).backbone.init_cfg.checkpoint == 'torchvision://resnet50'
        cfg.merge_from_dict({
            f'{key}.backbone.depth': 18, f'{key}.head.in_channels': 512,
            f'{key}.backbone.init_cfg.checkpoint': str(tmp_path / 'resnet18.pth'),
        })  # fmt: skip
        model = MODELS.build(cfg.model)
        model.init_weights()
        networks = model.networks if 'plus' in name else [model]
        for network in networks:
            state = network.backbone.state_dict()
            assert state.keys() == weights.keys() - {'fc.weight', 'fc.bias'}
            assert all(torch.equal(value, weights[key]) for key, value in state.items())
        assert not torch.equal(networks[0].head.fc.weight, networks[-1].head.fc.weight) or len(networks) == 1


def test_inception_resnet_v2_takes_a_step(data, tmp_path):
    """The network of the paper, 54 million parameters, at the smallest size that it can see."""
    pytest.importorskip('timm')
    cfg = mmelr.load_config(ROOT / 'configs' / 'elr_plus_webvision.py')
    backbone, head = cfg.model.network.backbone.to_dict(), cfg.model.network.head.to_dict()
    cfg = config('elr_plus_webvision', tmp_path, data.roots, **{
        'train_cfg.max_epochs': 1, 'train_dataloader.batch_size': 2, 'train_dataloader.dataset.dataset.indices': 2,
        'val_dataloader.dataset.indices': 2, 'default_hooks.checkpoint': None,
        'train_dataloader.dataset.dataset.pipeline.1.scale': 76, 'val_dataloader.dataset.pipeline.1.scale': 76,
        'train_dataloader.dataset.dataset.pipeline.2.crop_size': 75, 'val_dataloader.dataset.pipeline.2.crop_size': 75,
    })  # fmt: skip
    cfg.model.network.backbone, cfg.model.network.head = backbone, head
    runner = train(cfg)
    assert sum(p.numel() for p in runner.model.network1.parameters()) == 54_306_464 + 1536 * 50 + 50
    assert runner.model.steps == [1, 1]
    for network in runner.model.networks:
        assert network.head.memory.t.shape == (50, 50) and network.head.memory.t.any(1).sum() == 2
        assert all(p.isfinite().all() for p in network.parameters())
    assert {'accuracy/top5', 'network2/accuracy/top5'} <= read_run(tmp_path).curves.keys()


# ------------------------------------------------------------------------------ what was published


def published(name):
    cfg = mmelr.load_config(ROOT / 'configs' / f'{name}.py')
    plus = cfg.model.type == 'CoTrainingClassifier'
    assert plus == ('plus' in name)
    return cfg, cfg.model.network if plus else cfg.model


def check_method(cfg, network, method, gamma, alpha):
    head, [*hooks] = network.head, cfg.custom_hooks
    assert head.type == ('LinearClsHead' if method == 'ce' else 'ELRHead')
    assert method == 'ce' or (head.beta, head.lam) == (0.7, 3.0)
    assert cfg.train_dataloader.dataset.type == 'NoisyLabelDataset' and cfg.train_dataloader.dataset.noise is None
    assert cfg.default_hooks.checkpoint.save_best == 'accuracy/top1'
    if method == 'elr_plus':
        assert (cfg.model.num_networks, cfg.model.teacher) == (2, 'average')
        assert cfg.model.mixup == dict(type='ELRMixup', alpha=alpha)
        assert hooks[-1] == dict(type='ELREMAHook', gamma=gamma, bias_correction=True)
        assert cfg.train_cfg.type == 'CoTrainingRunner' and cfg.val_evaluator.type == 'MemberEvaluator'
        assert cfg.test_evaluator == cfg.val_evaluator
    else:
        assert 'ELREMAHook' not in {hook.type for hook in hooks} and cfg.train_cfg.by_epoch


@pytest.mark.parametrize('method', METHODS)
def test_published_settings_of_clothing1m(method):
    cfg, network = published(f'{method}_clothing1m')
    check_method(cfg, network, method, gamma=0.9999, alpha=1.0)
    assert (network.backbone.type, network.backbone.depth) == ('ResNet', 50) and network.head.num_classes == 14
    loader = cfg.train_dataloader
    assert (loader.batch_size, cfg.train_cfg.max_epochs) == (64, 15)
    assert loader.sampler == dict(type='ClassBalancedSampler', num_samples=3000 * 64)
    assert cfg.optim_wrapper.optimizer == dict(type='SGD', lr=0.002, momentum=0.9, weight_decay=1e-3)
    assert cfg.param_scheduler == dict(type='MultiStepLR', by_epoch=True, milestones=[7], gamma=0.1)
    assert cfg.data_preprocessor.num_classes == 14 and cfg.data_preprocessor.to_rgb
    assert cfg.data_preprocessor.mean == pytest.approx([255 * v for v in (0.6959, 0.6537, 0.6371)], abs=0.006)
    assert cfg.data_preprocessor.std == pytest.approx([255 * v for v in (0.3113, 0.3192, 0.3214)], abs=0.006)
    pipeline = loader.dataset.dataset.pipeline
    assert [t.type for t in pipeline] == ['LoadImageFromFile', 'ResizeEdge', 'RandomCrop', 'RandomFlip', 'PackInputs']
    assert (pipeline[1].scale, pipeline[1].edge, pipeline[2].crop_size, pipeline[3].prob) == (256, 'short', 224, 0.5)
    splits = [d.split for d in (loader.dataset.dataset, cfg.val_dataloader.dataset, cfg.test_dataloader.dataset)]
    assert splits == ['train', 'val', 'test']


@pytest.mark.parametrize('method', METHODS)
def test_published_settings_of_webvision(method):
    cfg, network = published(f'{method}_webvision')
    check_method(cfg, network, method, gamma=0.997, alpha=1.5)
    assert network.backbone == dict(type='TIMMBackbone', model_name='inception_resnet_v2', pretrained=False)
    assert network.head.num_classes == 50
    loader = cfg.train_dataloader
    assert (loader.batch_size, cfg.train_cfg.max_epochs) == (32, 100)
    assert loader.sampler == dict(type='DefaultSampler', shuffle=True)
    assert cfg.optim_wrapper.optimizer == dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=5e-4)
    assert cfg.param_scheduler == dict(type='MultiStepLR', by_epoch=True, milestones=[50], gamma=0.1)
    assert cfg.data_preprocessor.num_classes == 50 and cfg.data_preprocessor.to_rgb
    assert cfg.data_preprocessor.mean == pytest.approx([255 * v for v in (0.485, 0.456, 0.406)], abs=0.006)
    assert cfg.data_preprocessor.std == pytest.approx([255 * v for v in (0.229, 0.224, 0.225)], abs=0.006)
    pipeline = loader.dataset.dataset.pipeline
    assert [t.type for t in pipeline] == ['LoadImageFromFile', 'ResizeEdge', 'RandomCrop', 'RandomFlip', 'PackInputs']
    assert (pipeline[2].crop_size, pipeline[3].prob) == (227, 0.5)
    metrics = cfg.val_evaluator.get('metrics', cfg.val_evaluator)
    assert metrics == dict(type='Accuracy', topk=(1, 5))
    assert (cfg.val_dataloader.dataset.type, cfg.test_dataloader.dataset.type) == ('MiniWebVision', 'ImageNet50')


# ---------------------------------------------------------------------------- what a user may meet


def test_no_data_is_said_in_the_last_line(tmp_path):
    """In a process of its own: whatever is printed before, this is what a user sees."""
    config = ROOT / 'configs/elr_plus_clothing1m.py'
    command = [sys.executable, ROOT / 'tools/train.py', config, '--work-dir', tmp_path / 'work']
    env = os.environ | {'OMP_NUM_THREADS': '1'}
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=env)
    last = result.stderr.strip().splitlines()[-1]
    assert result.returncode != 0
    assert f'No such file: {tmp_path / "data/clothing1m/noisy_train_key_list.txt"}. Clothing1M has the files' in last
    assert 'ownloading' not in result.stdout + result.stderr, 'before any weights are fetched'


def test_an_archive_that_is_not_unpacked(data, tmp_path):
    pytest.importorskip('timm')
    roots = {kind: tmp_path / kind for kind in ('clothing1m', 'webvision', 'imagenet')}
    for kind, root in roots.items():
        shutil.copytree(data.roots[kind], root)
    shutil.rmtree(roots['clothing1m'] / 'images' / '1')
    with pytest.raises(FileNotFoundError, match=r'Unpack images/1\.tar\.$'):
        train(config('elr_clothing1m', tmp_path / 'run', roots))
    shutil.rmtree(roots['webvision'] / 'google' / f'q{1:04}')
    with pytest.raises(FileNotFoundError, match=r'Unpack google_resized_256\.tar\.$'):
        train(config('elr_webvision', tmp_path / 'run', roots))
    shutil.rmtree(roots['imagenet'])
    cfg = config('elr_webvision', tmp_path / 'run', roots)
    with pytest.raises(FileNotFoundError, match=f'No such folder: .*{FOLDERS[0]}.* nor is there meta/val.txt'):
        Runner.from_cfg(cfg).test()


def test_weights_that_are_not_there(data, tmp_path):
    cfg = config('elr_plus_clothing1m', tmp_path, data.roots)
    cfg.model.network.backbone.init_cfg = dict(type='Pretrained', checkpoint='data/resnet50.pth')
    with pytest.raises(FileNotFoundError, match=r'data/resnet50\.pth can not be found'):
        train(cfg)


# ---------------------------------------------------------------------------------------- the page


@pytest.mark.slow
def test_the_commands_of_the_page(data, tmp_path, monkeypatch, capsys):
    """docs/clothing1m.md, from the links on, with sizes changed at the end of each command."""
    page = (ROOT / 'docs/clothing1m.md').read_text(encoding='utf-8')
    (tmp_path / 'data').mkdir()
    for name, target in {'configs': ROOT / 'configs', 'tools': ROOT / 'tools'}.items():
        (tmp_path / name).symlink_to(target)
    for name, target in data.roots.items():
        (tmp_path / 'data' / name).symlink_to(target)
    weights = 'data/resnet50-0676ba61.pth'
    torchvision = pytest.importorskip('torchvision')
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / weights)

    commands = [shlex.split(line) for line in re.findall(r'^python (tools/.+)$', page, re.M)]
    rows = re.findall(r'^\| [^|]+ \| `((?:[\w.]+=[\w.]+ ?)+)` \|$', page, re.M)
    assert len(commands) == 14 and len(rows) == 7
    for i, row in enumerate(rows):
        command = f'tools/train.py configs/elr_plus_clothing1m.py --work-dir work_dirs/row{i} --cfg-options {row}'
        commands.append(command.split())
    for script, *arguments in commands:
        parts = [[str(f) for f in tmp_path.glob(part)] if '*' in part else [part] for part in arguments]
        assert all(len(part) == 1 for part in parts), arguments
        arguments = [part.replace('epoch_100', 'epoch_1') for [part] in parts]
        if 'publish' not in script:
            changes = {k: v for k, v in small(Path(arguments[0]).stem, data.roots).items() if 'data_root' not in k}
            changes |= {'train_cfg.max_epochs': 2 if '--resume' in arguments else 1, 'log_level': 'INFO'}
            if any(weights in argument for argument in arguments):
                changes = {k: v for k, v in changes.items() if not re.search('init_cfg|base_ch|stem_ch|in_ch', k)}
                changes[f'model.{"network." * ("plus" in arguments[0])}head.in_channels'] = 512
            arguments += options(changes)[0 if '--cfg-options' not in arguments else 1 :]
        tool(Path(script).stem, *arguments, folder=tmp_path)
    assert {file.name.rpartition('-')[0] for file in (tmp_path / 'published').glob('*.pth')} == {
        'clothing1m', 'clothing1m_network1'
    }  # fmt: skip
    [log] = tmp_path.glob('work_dirs/first_check/*/*.log')
    said = log.read_text()
    assert 'labels as given: 56 labels, the clean ones are unknown' in said and 'Epoch(train) [1][2/2]' in said
    assert 'agreement with the given labels' in said

    [code] = re.findall(r'^```python\n(# checkpoint_size.py\n.*?)^```$', page, re.M | re.S)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(compile(code, 'checkpoint_size.py', 'exec'), {})
    assert capsys.readouterr().out.strip().splitlines()[-1] == '678 MB' and 'measured | 678 |' in page


# --------------------------------------------------------------------------------------- CIFAR-10N


@pytest.fixture
def cifar10n(tmp_path, monkeypatch) -> dict:
    """CIFAR-10 of 200 images as on disk, its labels, and CIFAR-10N's file of labels by people for them."""
    rng = np.random.RandomState(0)
    labels = rng.randint(10, size=200)
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    for number, part in enumerate([*np.split(np.arange(200), 5), np.arange(40)], 1):
        entry = dict(data=rng.randint(256, size=(40, 3072)).astype(np.uint8), labels=labels[part].tolist())
        (folder / (f'data_batch_{number}' if number < 6 else 'test_batch')).write_bytes(pickle.dumps(entry))
    for files in ('train_list', 'test_list'):  # of these images MMPretrain knows no checksum
        monkeypatch.setattr(CIFAR10, files, [[name, None] for name, _ in getattr(CIFAR10, files)])
    file = {key: rng.randint(10, size=200).astype(np.int64) for key in (
        'aggre_label', 'worse_label', 'random_label1', 'random_label2', 'random_label3'
    )} | {'clean_label': labels.astype(np.int64)}  # fmt: skip
    torch.save(file, tmp_path / 'CIFAR-10_human.pt')
    return file


@pytest.mark.parametrize(
    'method, key', [*((method, None) for method in METHODS), ('elr', 'aggre_label'), ('elr_plus', 'random_label3')]
)
def test_cifar10n(cifar10n, tmp_path, method, key):
    cfg = mmelr.load_config(ROOT / 'configs' / f'{method}_cifar10n.py')
    sizes = []
    for part, size in (('train', 180), ('val', -20)):
        dataset = cfg[f'{part}_dataloader'].dataset
        assert dataset.noise == dict(type='LabelFile', path='data/cifar10/CIFAR-10_human.pt', key='worse_label')
        dataset.noise.path = str(tmp_path / 'CIFAR-10_human.pt')
        sizes.append(dataset.dataset.indices)
        dataset.dataset.update(indices=size, data_root=str(tmp_path))
        if key:
            dataset.noise.key = key
    assert sizes == [45000, -5000]
    train, held_out = (DATASETS.build(cfg[f'{part}_dataloader'].dataset) for part in ('train', 'val'))
    labels = cifar10n[key or 'worse_label']
    assert train.get_gt_labels().tolist() == labels[:180].tolist()
    assert held_out.get_gt_labels().tolist() == labels[180:].tolist()
    for dataset, first in ((train, 0), (held_out, 180)):
        item = dataset[3]['data_samples']
        assert (item.sample_idx, item.num_samples) == (first + 3, 200)
        assert item.gt_label.item() == labels[first + 3] and item.clean_label == cifar10n['clean_label'][first + 3]
    assert DATASETS.build(cfg.test_dataloader.dataset | dict(data_root=str(tmp_path))).get_gt_labels().tolist() == (
        cifar10n['clean_label'][:40].tolist()
    ), 'the test set keeps its own labels'
