"""One switch on any config: apply_method, load_config, and the command line around them."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from mmpretrain.registry import MODELS

import mmelr

ROOT = Path(__file__).parents[1]
CIFAR = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'


def test_mmpretrain_config_becomes_elr_and_nothing_else_changes():
    plain = mmelr.load_config(CIFAR)
    before = copy.deepcopy(plain.to_dict())
    cfg = mmelr.apply_method(plain, 'elr', noise='symmetric:0.4', beta=0.9, lam=7.0)
    assert plain.to_dict() == before, 'the given config was changed'

    head = cfg.model.head
    assert (head.type, head.base, head.beta, head.lam) == ('ELRHead', 'LinearClsHead', 0.9, 7.0)
    assert {k: head[k] for k in ('num_classes', 'in_channels', 'loss')} == {
        k: plain.model.head[k] for k in ('num_classes', 'in_channels', 'loss')
    }
    dataset = cfg.train_dataloader.dataset
    assert dataset.type == 'NoisyLabelDataset'
    assert dataset.noise == dict(type='SymmetricNoise', rate=0.4)
    assert dataset.dataset == plain.train_dataloader.dataset
    assert cfg.custom_imports['imports'] == ['mmelr']
    hooks = ['NoiseRecordHook', 'ExactResumeHook', 'MemorizationHook', 'TargetMemoryHook', 'PaddingHook']
    assert [h.type for h in cfg.custom_hooks] == hooks
    assert cfg.default_hooks.checkpoint == dict(plain.default_hooks.checkpoint, type='DurableCheckpointHook')
    for key in set(plain) - {'model', 'train_dataloader', 'custom_imports', 'custom_hooks', 'default_hooks'}:
        assert cfg[key] == plain[key], key
    assert isinstance(MODELS.build(cfg.model).head, mmelr.models.ELRHead)


def test_written_out_config_builds_the_same(tmp_path):
    cfg = mmelr.apply_method(mmelr.load_config(CIFAR), 'elr', noise='asymmetric:0.3,mapping=cifar10,seed=5')
    cfg.dump(tmp_path / 'run.py')
    assert Config.fromfile(tmp_path / 'run.py').to_dict() == cfg.to_dict()


def test_methods_replace_one_another():
    plain = mmelr.load_config(CIFAR)
    elr = mmelr.apply_method(plain, 'elr', noise='symmetric:0.4')
    back = mmelr.apply_method(elr, 'ce')
    assert back.model == plain.model
    assert back.train_dataloader.dataset.noise.rate == 0.4, 'the noise stays when the method changes'
    assert mmelr.apply_method(elr, 'elr').to_dict() == elr.to_dict()
    assert mmelr.apply_method(elr, 'elr', lam=1.0).model.head.lam == 1.0
    assert mmelr.apply_method(elr, noise='none').train_dataloader.dataset.noise is None
    assert mmelr.apply_method(elr, noise='none').model == elr.model


def test_elr_plus_wraps_the_model_and_goes_back():
    plain = mmelr.load_config(CIFAR)
    options = dict(beta=0.9, gamma=0.99, alpha=0.5, schedule='alternate')
    plus = mmelr.apply_method(plain, 'elr+', noise='symmetric:0.4', **options)
    elr = mmelr.apply_method(plain, 'elr', noise='symmetric:0.4', beta=0.9)
    model = plus.model
    assert (model.type, model.num_networks, model.teacher) == ('CoTrainingClassifier', 2, 'average')
    assert model.network == elr.model and model.mixup == dict(type='ELRMixup', alpha=0.5)
    assert plus.custom_hooks[0] == dict(type='ELREMAHook', gamma=0.99, bias_correction=True)
    assert plus.custom_hooks[1:] == elr.custom_hooks
    assert plus.train_cfg == dict(type='CoTrainingRunner', max_epochs=200, val_interval=1, schedule='alternate')
    assert plus.val_evaluator == dict(type='MemberEvaluator', metrics=plain.val_evaluator)
    for key in set(elr) - {'model', 'custom_hooks', 'train_cfg', 'val_evaluator', 'test_evaluator'}:
        assert plus[key] == elr[key], key
    assert mmelr.apply_method(plus, 'elr').to_dict() == elr.to_dict()
    assert mmelr.apply_method(plus, 'ce').to_dict() == mmelr.apply_method(elr, 'ce').to_dict()
    assert mmelr.apply_method(elr, 'elr+').model.network.head.beta == 0.9
    assert isinstance(MODELS.build(dict(model)), mmelr.models.CoTrainingClassifier)


def test_elr_plus_on_elr_plus_changes_what_is_given():
    cfg = mmelr.load_config(ROOT / 'configs/elr_plus_digits.py')
    same = mmelr.apply_method(cfg, 'elr+')
    assert same.model == cfg.model and same.custom_hooks == cfg.custom_hooks and same.train_cfg == cfg.train_cfg
    other = mmelr.apply_method(cfg, 'elr+', alpha=0, num_networks=1, lam=1.0)
    assert (other.model.mixup, other.model.num_networks, other.model.network.head.lam) == (None, 1, 1.0)
    assert other.custom_hooks == cfg.custom_hooks, 'the ramp of the config stays'
    hooks = [h['type'] for h in mmelr.apply_method(CIFAR, 'elr+', teacher='network').custom_hooks]
    assert 'ELREMAHook' not in hooks, 'nothing to average'
    assert mmelr.apply_method(cfg, noise='symmetric:0.8').train_dataloader.dataset.noise.rate == 0.8


def test_elr_plus_keeps_what_the_config_has_inside_its_model():
    cfg = mmelr.load_config(CIFAR)
    cfg.model.data_preprocessor = cfg.pop('data_preprocessor')
    cfg.model.train_cfg = dict(augments=dict(type='Mixup', alpha=0.2))
    cfg.model.head.cal_acc = True
    plus = mmelr.apply_method(cfg, 'elr+')
    assert plus.model.data_preprocessor == cfg.model.data_preprocessor and plus.model.train_cfg == cfg.model.train_cfg
    assert not {'data_preprocessor', 'train_cfg'} & set(plus.model.network)
    assert plus.model.network.head.cal_acc is False
    assert mmelr.apply_method(plus, 'ce').model.data_preprocessor == cfg.model.data_preprocessor
    by_iteration = mmelr.load_config(CIFAR)
    by_iteration.train_cfg = dict(by_epoch=False, max_iters=100)
    with pytest.raises(TypeError, match='ELR\\+ trains for a number of epochs'):
        mmelr.apply_method(by_iteration, 'elr+')


def test_custom_imports_and_hooks_of_the_config_stay():
    cfg = mmelr.load_config(CIFAR)
    cfg.custom_imports = dict(imports='mypackage', allow_failed_imports=True)
    cfg.custom_hooks = [dict(type='EMAHook'), dict(type='MemorizationHook')]
    cfg = mmelr.apply_method(cfg, 'elr')
    assert cfg.custom_imports == dict(imports=['mypackage', 'mmelr'], allow_failed_imports=True)
    kinds = [h['type'] for h in cfg.custom_hooks]
    added = ['NoiseRecordHook', 'ExactResumeHook', 'TargetMemoryHook', 'PaddingHook']
    assert kinds == ['EMAHook', 'MemorizationHook', *added]


def test_held_out_part_gets_the_same_noise():
    cfg = mmelr.apply_method(mmelr.load_config(ROOT / 'configs/elr_cifar10_sym.py'), noise='symmetric:0.8,seed=3')
    assert (
        cfg.val_dataloader.dataset.noise
        == cfg.train_dataloader.dataset.noise
        == dict(type='SymmetricNoise', rate=0.8, seed=3)
    )
    assert 'noise' not in cfg.test_dataloader.dataset


@pytest.mark.parametrize(
    'change, error, words',
    [
        (dict(method='elrr'), ValueError, "Unknown method 'elrr'; known are ce, bootstrap-soft, .*, elr, "),
        (dict(method='elr', gamma=1), TypeError, 'no option gamma; it has beta, lam, memory_dtype'),
        (dict(method='elr+', width=1), TypeError, 'no option width; it has beta, lam, .*, schedule'),
        (dict(method='elr+', num_networks=3), ValueError, 'num_networks must be 1 or 2, got 3'),
        (dict(method='elr+', teacher='me'), ValueError, "teacher must be.*got 'me'"),
        (dict(method='elr+', alpha=-1), ValueError, 'alpha of ELRMixup must be positive, got -1'),
        (dict(method='elr+', gamma=1), ValueError, r'gamma.*\[0, 1\), got 1'),
        (dict(method='elr+', schedule='both'), ValueError, "got 'both'"),
        (dict(method='ce', lam=1.0), TypeError, "Method 'ce' has no option lam"),
        (dict(method='elr', beta=1.0), ValueError, r'beta.*\[0, 1\).*got 1.0'),
        (dict(method='elr', lam=-1), ValueError, 'lam.*at least 0.*-1'),
        (dict(method='elr', noise='symmetric:1.5'), ValueError, '1.5'),
        (dict(method='elr', noise='gaussian:1'), ValueError, 'symmetric:RATE'),
    ],
)
def test_mistakes_are_told(change, error, words):
    with pytest.raises(error, match=words):
        mmelr.apply_method(mmelr.load_config(CIFAR), **change)


@pytest.mark.parametrize(
    'head, words',
    [
        (dict(type='MultiLabelLinearClsHead', num_classes=10, in_channels=512), 'one label each'),
        (dict(type='ArcFaceClsHead', num_classes=10, in_channels=512), 'margin'),
        (dict(type='MultiTaskHead', task_heads={}), 'multi-task'),
    ],
)
def test_heads_that_make_no_sense_are_refused(head, words):
    cfg = mmelr.load_config(CIFAR)
    cfg.model.head = head
    with pytest.raises(TypeError, match=words):
        mmelr.apply_method(cfg, 'elr')


def test_models_without_such_a_head_are_refused():
    cfg = mmelr.load_config('mmpretrain::_base_/models/resnet18_cifar.py')
    with pytest.raises(TypeError, match='does not train a classifier'):
        mmelr.apply_method(cfg, 'elr')
    cfg = mmelr.load_config(CIFAR)
    cfg.model = dict(type='TimmClassifier', model_name='resnet18')
    with pytest.raises(TypeError, match='TIMMBackbone'):
        mmelr.apply_method(cfg, 'elr')


def test_config_names():
    with pytest.raises(FileNotFoundError, match='Did you mean .*resnet/resnet18_8xb16_cifar10.py'):
        mmelr.load_config('mmpretrain::resnet/resnet18_cifar10.py')
    with pytest.raises(FileNotFoundError, match='mmpretrain::FOLDER/NAME.py'):
        mmelr.load_config('configs/nothing.py')
    with pytest.raises(FileNotFoundError, match="Only MMPretrain's"):
        mmelr.load_config('mmdet::faster_rcnn/x.py')


@pytest.mark.parametrize('config', sorted((ROOT / 'configs').glob('*.py')), ids=lambda p: p.stem)
def test_our_configs_build(config):
    cfg = mmelr.load_config(config)
    model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    assert isinstance(model, mmelr.models.CoTrainingClassifier) == config.stem.startswith('elr_plus')
    head = getattr(model, 'network1', model).head
    assert isinstance(head, mmelr.models.ELRHead) == config.stem.startswith('elr')
    assert cfg.train_dataloader.dataset.type == 'NoisyLabelDataset'
    assert head.num_classes == cfg.data_preprocessor.num_classes
    if 'rate' not in (cfg.train_dataloader.dataset.noise or {}):
        return
    # One --cfg-options away:
    cfg.merge_from_dict({'train_dataloader.dataset.noise.rate': 0.1, 'train_dataloader.dataset.noise.seed': 7})
    assert (cfg.train_dataloader.dataset.noise.rate, cfg.train_dataloader.dataset.noise.seed) == (0.1, 7)


@pytest.mark.parametrize(
    'arguments, words',
    [
        (['configs/nothing.py'], 'No config file configs/nothing.py'),
        (['configs/elr_digits.py', '--noise', 'symmetric:2'], 'rate'),
        (['mmpretrain::resnet/resnet18_8xb16_voc.py', '--method', 'elr'], 'no config'),
    ],
)
def test_command_line_mistakes_are_one_message(arguments, words):
    result = subprocess.run([sys.executable, 'tools/train.py', *arguments], cwd=ROOT, text=True, capture_output=True)
    assert result.returncode == 2
    assert words in result.stderr and 'Traceback' not in result.stderr


@pytest.mark.parametrize(
    'given, saving',
    [
        ({}, dict(type='DurableCheckpointHook', interval=1)),  # MMEngine's own default would be CheckpointHook
        (
            dict(checkpoint=dict(type='mmengine.CheckpointHook', interval=3, save_best='auto')),
            dict(type='DurableCheckpointHook', interval=3, save_best='auto'),
        ),
        (dict(checkpoint=dict(type='MyCheckpointHook', interval=3)), dict(type='MyCheckpointHook', interval=3)),
        (dict(checkpoint=None), None),
    ],
)
def test_checkpoints_become_durable_unless_someone_chose_another_way(given, saving):
    plain = mmelr.load_config('mmpretrain::resnet/resnet18_8xb16_cifar10.py')
    plain.pop('default_hooks')
    if given:
        plain.default_hooks = given
    assert mmelr.apply_method(plain, 'elr').default_hooks.checkpoint == saving
