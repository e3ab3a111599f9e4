"""ELR+ in real runs on the digits: what stays the same, what resumes, what is reported and published."""

import json
import os
import subprocess
import sys
from pathlib import Path

import mmengine
import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import EVALUATOR
from mmpretrain.registry import HOOKS, MODELS, OPTIM_WRAPPERS
from runs import ROOT, digits_config, shares, train

import mmelr
from mmelr.analysis import read_run


def config(work_dir, schedule='joint', epochs=2, **changes):
    cfg = digits_config(work_dir, 'elr_plus_digits', epochs, in_memory=False)
    cfg.train_cfg.schedule = schedule
    cfg.merge_from_dict(changes)
    return cfg


def with_random_parts(cfg):
    """Workers, augmentation, dropout, drop path and a schedule by iteration."""
    network = cfg.model.get('network', cfg.model)
    network.backbone.drop_path_rate = 0.2
    network.head.update(base='StackedLinearClsHead', mid_channels=[16], dropout_rate=0.3)
    cfg.param_scheduler = [
        dict(type='LinearLR', start_factor=0.1, by_epoch=True, begin=0, end=2, convert_to_iter_based=True),
        dict(type='CosineAnnealingLR', by_epoch=True, begin=2, end=4),
    ]
    cfg.train_dataloader.update(num_workers=1, persistent_workers=True)
    cfg.train_dataloader.dataset.dataset.pipeline = [
        dict(type='RandomCrop', crop_size=8, padding=2),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackInputs'),
    ]
    return cfg


def checkpoint(work_dir, name) -> dict:
    return torch.load(Path(work_dir) / f'{name}.pth', weights_only=True)


def assert_same_run(a: dict, b: dict):
    assert a['state_dict'].keys() == b['state_dict'].keys()
    for key, value in a['state_dict'].items():
        assert torch.equal(value, b['state_dict'][key]), key
    for name, optimizer in a['optimizer'].items():
        for x, y in zip(optimizer['state'].values(), b['optimizer'][name]['state'].values(), strict=True):
            assert torch.equal(x['momentum_buffer'], y['momentum_buffer']), name
        assert optimizer['param_groups'][0]['lr'] == b['optimizer'][name]['param_groups'][0]['lr']


@pytest.mark.parametrize('hooks', ['all', pytest.param('without ExactResumeHook', marks=pytest.mark.slow)])
def test_one_network_teaching_itself_is_plain_elr_bit_for_bit(tmp_path, hooks):
    plain = with_random_parts(digits_config(tmp_path / 'plain', 'elr_digits', epochs=3, in_memory=False))
    corner = with_random_parts(
        config(
            tmp_path / 'corner', epochs=3, **{'model.num_networks': 1, 'model.teacher': 'network', 'model.mixup': None}
        )
    )
    if hooks != 'all':
        for cfg in (plain, corner):
            cfg.custom_hooks = [hook for hook in cfg.custom_hooks if hook['type'] != 'ExactResumeHook']
    train(plain)
    train(corner)
    a, b = checkpoint(tmp_path / 'plain', 'epoch_3'), checkpoint(tmp_path / 'corner', 'epoch_3')
    weights = {k.removeprefix('network1.'): v for k, v in b['state_dict'].items() if k.startswith('network1.')}
    assert weights.keys() == a['state_dict'].keys() and 'head.memory.t' in weights
    for key, value in a['state_dict'].items():
        assert torch.equal(value, weights[key]), key
    curves, corner = (read_run(tmp_path / name).curves for name in ('plain', 'corner'))
    assert curves == {key: value for key, value in corner.items() if not key.startswith('network1')}


@pytest.mark.parametrize('schedule', ['joint', pytest.param('alternate', marks=pytest.mark.slow)])
def test_two_and_two_epochs_are_four(tmp_path, schedule):
    train(with_random_parts(config(tmp_path / 'whole', schedule, epochs=4)))
    train(with_random_parts(config(tmp_path / 'parts', schedule, epochs=2)))
    torch.manual_seed(12345)
    np.random.seed(54321)
    train(with_random_parts(config(tmp_path / 'parts', schedule, epochs=4, resume=True)))
    whole, parts = (checkpoint(tmp_path / name, 'epoch_4') for name in ('whole', 'parts'))
    assert {'network2.head.memory.t', 'average1.backbone.conv1.weight', '_extra_state'} <= whole['state_dict'].keys()
    assert_same_run(whole, parts)
    assert read_run(tmp_path / 'whole').curves == read_run(tmp_path / 'parts').curves


@pytest.mark.slow
def test_run_resumes_between_the_turns_of_the_networks(tmp_path):
    every = {'default_hooks.checkpoint': dict(by_epoch=False, interval=2, max_keep_ckpts=9)}  # two batches a pass
    train(with_random_parts(config(tmp_path / 'whole', 'alternate', epochs=2, **every)))
    for turn in (2, 6):  # network 1 has had its turn of the first epoch, or of the second
        runner = with_random_parts(config(tmp_path / f'from_{turn}', 'alternate', epochs=2, resume=True, **every))
        runner.load_from = str(tmp_path / 'whole' / f'iter_{turn}.pth')
        torch.manual_seed(turn)
        train(runner)
        assert_same_run(checkpoint(tmp_path / 'whole', 'iter_8'), checkpoint(tmp_path / f'from_{turn}', 'iter_8'))


@HOOKS.register_module()
class Visits(Hook):
    """Which samples each network sees, in order."""

    def before_train(self, runner):
        runner.visits = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        order = [int(sample.sample_idx) for sample in data_batch['data_samples']]
        runner.visits.append((runner.epoch, runner.train_loop.active, order, data_batch['inputs']))


@pytest.mark.parametrize('schedule', ['joint', 'alternate'])
def test_passes_over_the_data(tmp_path, schedule):
    cfg = with_random_parts(config(tmp_path, schedule, epochs=2))
    cfg.custom_hooks = [*cfg.custom_hooks, dict(type='Visits')]
    runner = train(cfg)
    passes = {}
    for epoch, active, order, images in runner.visits:
        orders, stacks = passes.setdefault((epoch, active), ([], []))
        orders += order
        stacks.append(images)
    both = ('network1', 'network2')
    turns = [both] if schedule == 'joint' else [('network1',), ('network2',)]
    assert list(passes) == [(epoch, turn) for epoch in range(2) for turn in turns]
    assert len({tuple(orders) for orders, _ in passes.values()}) == len(passes), 'every pass has an order of its own'
    images = [torch.cat(stacks)[np.argsort(orders)] for orders, stacks in passes.values()]
    assert all(sorted(orders) == sorted(passes[0, turns[0]][0]) for orders, _ in passes.values())
    assert not any(torch.equal(a, b) for i, a in enumerate(images) for b in images[:i]), 'and augmentation of its own'
    assert runner.model.steps == [4, 4] and runner.iter == 4 * len(turns)


def test_gradients_add_up_before_weights_and_averages_move(tmp_path):
    changes = {'optim_wrapper.accumulative_counts': 4, 'train_dataloader.batch_size': 32}
    runner = train(config(tmp_path, epochs=3, **changes))
    assert runner.iter == 12 and runner.model.steps == [3, 3]


def test_validation_interval_early_stopping_and_best_checkpoint(tmp_path):
    cfg = config(tmp_path, epochs=9, **{'train_cfg.val_interval': 2, 'default_hooks.checkpoint.save_best': 'auto'})
    cfg.custom_hooks = [
        *cfg.custom_hooks, dict(type='EarlyStoppingHook', monitor='accuracy/top1', patience=1, min_delta=200)
    ]  # fmt: skip
    runner = train(cfg)
    assert sorted(read_run(tmp_path).curves['accuracy/top1']) == [2, 4]
    assert runner.epoch == 4
    [best] = tmp_path.glob('best_accuracy_top1_epoch_*.pth')
    curves = read_run(tmp_path).curves['accuracy/top1']
    assert best.stem == f'best_accuracy_top1_epoch_{max(curves, key=curves.get)}'


def test_log_names_the_networks(tmp_path):
    train(config(tmp_path, **{'default_hooks.logger.interval': 1}))
    [file] = tmp_path.glob('*/vis_data/scalars.json')
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    names = {'loss', 'network1.loss', 'network2.loss_cls', 'network2.loss_elr', 'network1.lr', 'network2.lr'}
    assert names <= entries[0].keys()
    validated = {'accuracy/top1', *(f'{m}/accuracy/top1' for m in ('network1', 'network2', 'average1', 'average2'))}
    assert validated <= set().union(*entries)


def test_metrics_are_those_of_the_members_alone(tmp_path):
    runner = train(config(tmp_path, epochs=3))
    dataset = runner.val_dataloader.dataset
    images = torch.stack([dataset[i]['inputs'] for i in range(len(dataset))]).float()
    labels = torch.tensor(dataset.get_gt_labels())
    with torch.no_grad():
        scores = runner.model.eval().scores((images - 77.8) / 95.9)
    assert scores.keys() == {'network1', 'network2', 'average1', 'average2', 'ensemble'}
    metrics = runner.val_loop.run()
    for name, logits in scores.items():
        key = 'accuracy/top1' if name == 'ensemble' else f'{name}/accuracy/top1'
        assert metrics[key] == pytest.approx(100 * (logits.argmax(1) == labels).float().mean().item())


def test_memorization_is_what_the_teachers_say_of_the_clean_images(tmp_path):
    cfg = config(tmp_path, epochs=1, **{'optim_wrapper.optimizer.lr': 0.0, 'train_dataloader.batch_size': 128})
    runner = train(cfg)
    dataset = runner.train_dataloader.dataset
    images = torch.stack([dataset[i]['inputs'] for i in range(128)]).float()
    given, clean = dataset.get_gt_labels(), dataset.record.clean_label[:128]
    of_networks = []
    with torch.no_grad():
        for average in runner.model.train().averages:
            predicted = average((images - 77.8) / 95.9, mode='tensor').argmax(1).numpy()
            of_networks.append(shares(predicted, given, clean))
    expected = {f'memorization/{key}': np.mean([s[key] for s in of_networks]) for key in of_networks[0]}
    curves = {key: curve[1] for key, curve in read_run(tmp_path).curves.items() if key in expected}
    assert curves == pytest.approx(expected)


def test_load_from_takes_the_weights_alone(tmp_path):
    train(config(tmp_path / 'first'))
    path = str(tmp_path / 'first' / 'epoch_2.pth')
    runner = train(config(tmp_path / 'second', epochs=1, load_from=path, **{'optim_wrapper.optimizer.lr': 0.0}))
    old = checkpoint(tmp_path / 'first', 'epoch_2')['state_dict']
    new = runner.model.state_dict()
    assert runner.model.steps == [2, 2], 'counted from the start'
    for name in ('network1', 'network2'):
        key = 'backbone.conv1.weight'
        assert torch.equal(new[f'{name}.{key}'], old[f'{name}.{key}'])
        average = new[f'{name.replace("network", "average")}.{key}']
        assert torch.allclose(average, old[f'{name}.{key}'], atol=1e-6), 'averages start from the networks'
        sums = new[f'{name}.head.memory.t'].sum(1)
        assert sums.max() == pytest.approx(0.3, abs=1e-4), 'the memory begins anew'


@OPTIM_WRAPPERS.register_module()
class Bfloat16OnCPU(OptimWrapper):
    """What AmpOptimWrapper does on a GPU: MMEngine's own refuses to run on a CPU."""

    def optim_context(self, model):
        return torch.autocast('cpu', dtype=torch.bfloat16)


def test_mixed_precision(tmp_path):
    runner = train(config(tmp_path, epochs=1, **{'optim_wrapper.type': 'Bfloat16OnCPU'}))
    exact = train(config(tmp_path / 'exact', epochs=1))
    for network, reference in zip(runner.model.networks, exact.model.networks, strict=True):
        assert network.head.memory.t.dtype == torch.float32
        assert torch.allclose(network.head.memory.t, reference.head.memory.t, atol=0.02)
        assert not torch.equal(network.head.memory.t, reference.head.memory.t), 'autocast reached the teachers'


def test_layer_wise_learning_rates_and_own_schedules(tmp_path):
    """An optimizer constructor of MMPretrain sees each network as it would see a classifier."""
    cfg = config(tmp_path, epochs=1)
    cfg.optim_wrapper.paramwise_cfg = dict(custom_keys={'.backbone.conv1': dict(lr_mult=0.1)}, norm_decay_mult=0.0)
    runner = train(cfg)
    for name in ('network1', 'network2'):
        groups = runner.optim_wrapper[name].optimizer.param_groups
        assert {group['weight_decay'] for group in groups} == {0.0, 1e-3}
        parameters = {id(p) for group in groups for p in group['params']}
        assert parameters == {id(p) for p in getattr(runner.model, name).parameters()}
    assert len(runner.param_schedulers) == 2
    a, b = (schedulers[0] for schedulers in runner.param_schedulers.values())
    assert a is not b and a.optimizer is not b.optimizer


PREDICT = """
import json, sys
import numpy as np
from mmpretrain import ImageClassificationInferencer
config, checkpoint, images, out = sys.argv[1:]
inferencer = ImageClassificationInferencer(config, pretrained=checkpoint, device='cpu')
results = inferencer(list(np.load(images)), batch_size=8)
json.dump([r['pred_scores'].tolist() for r in results], open(out, 'w'))
"""


@pytest.mark.slow
def test_published_members_predict_as_in_the_run(tmp_path):
    cfg = config(tmp_path / 'run', epochs=2, **{'model.network.backbone.base_channels': 4})
    cfg.model.network.backbone.stem_channels, cfg.model.network.head.in_channels = 4, 32
    runner = train(cfg)
    cfg.dump(tmp_path / 'run' / 'config.py')
    for extra in [file for file in (tmp_path / 'run').glob('*.py') if file.name != 'config.py']:
        extra.unlink()
    dataset = mmelr.datasets.Digits(split='test', indices=8)
    images = np.stack([dataset.get_data_info(i)['img'] for i in range(8)])
    np.save(tmp_path / 'images.npy', images)
    with torch.no_grad():
        scores = runner.model.eval().scores((torch.from_numpy(images).float()[:, None] - 77.8) / 95.9)
    (tmp_path / 'predict.py').write_text(PREDICT)
    env = os.environ | {'OMP_NUM_THREADS': '1'}
    for member in ('ensemble', 'average2', None):
        name = member or 'default'
        command = [sys.executable, 'tools/publish_model.py', tmp_path / 'run' / 'epoch_2.pth', tmp_path / f'{name}.pth']
        choice = ['--member', member] if member else []
        subprocess.run(command + choice, cwd=ROOT, check=True, capture_output=True, env=env)
        [published] = tmp_path.glob(f'{name}-*.pth')
        state = torch.load(published, weights_only=True)['state_dict']
        assert not [key for key in state if 'memory' in key or 'average' in key or 'extra' in key]
        written = mmelr.load_config(tmp_path / f'{name}.py')
        if member == 'average2':
            assert written.model.type == 'ImageClassifier' and 'custom_imports' not in written
            assert not [key for key in state if 'network' in key]
        else:
            assert written.model.type == 'CoTrainingClassifier' and written.custom_imports.imports == ['mmelr']
        if member:
            files = [tmp_path / f'{name}.py', published, tmp_path / 'images.npy', tmp_path / f'{name}.json']
            subprocess.run([sys.executable, tmp_path / 'predict.py', *files], check=True, capture_output=True, env=env)
            predicted = torch.tensor(json.loads((tmp_path / f'{name}.json').read_text()))
            assert torch.allclose(predicted, scores[member].softmax(1), atol=1e-5)
    assert (tmp_path / 'default.py').read_text() == (tmp_path / 'ensemble.py').read_text()
    wrong = subprocess.run([*command, '--member', 'network3'], cwd=ROOT, capture_output=True, text=True, env=env)
    assert wrong.returncode == 2 and 'ensemble, network1, network2, average1, average2' in wrong.stderr
    assert isinstance(MODELS.build(mmelr.load_config(tmp_path / 'average2.py').model), torch.nn.Module)


@pytest.mark.parametrize(
    'changes, words',
    [
        ({'train_cfg.schedule': 'alternate'}, "schedule='joint'.*schedule='alternate'"),
        ({'train_dataloader.batch_size': 32}, 'iterations_of_a_pass=2.*iterations_of_a_pass=4'),
        ({'train_dataloader.batch_size': 128}, 'iterations_of_a_pass=2.*iterations_of_a_pass=1'),
        ({'model.num_networks': 1}, 'num_networks=2.*num_networks=1'),
        ({'model.teacher': 'network'}, "teacher='average'.*teacher='network'"),
    ],
)
def test_run_of_another_kind_is_not_resumed(tmp_path, changes, words):
    train(config(tmp_path, epochs=1))
    saved = (tmp_path / 'epoch_1.pth').read_bytes()
    with pytest.raises(mmelr.engine.ResumeRefused, match=words):
        train(config(tmp_path, epochs=2, resume=True, **changes))
    assert (tmp_path / 'epoch_1.pth').read_bytes() == saved


def test_single_network_and_pair_do_not_resume_each_other(tmp_path):
    for name, other in (('elr_digits', 'elr_plus_digits'), ('elr_plus_digits', 'elr_digits')):
        work_dir = tmp_path / name
        train(digits_config(work_dir, name))
        cfg = digits_config(work_dir, other, epochs=2)
        cfg.resume = True
        with pytest.raises(mmelr.engine.ResumeRefused, match='a single network.*CoTraining|CoTraining.*a single net'):
            train(cfg)
    cfg = digits_config(tmp_path / 'start', 'elr_digits')
    cfg.load_from = str(tmp_path / 'elr_plus_digits' / 'epoch_1.pth')
    with pytest.raises(ValueError, match='--member network1'):
        train(cfg)


@pytest.mark.parametrize('teacher', ['average', pytest.param('network', marks=pytest.mark.slow)])
def test_works_beside_emahook_of_mmengine(tmp_path, teacher):
    def with_ema(name, epochs, **changes):
        cfg = config(tmp_path / name, epochs=epochs, **{'model.teacher': teacher}, **changes)
        cfg.custom_hooks = [dict(type='EMAHook', momentum=0.1), *cfg.custom_hooks]
        return cfg

    train(with_ema('whole', 2))
    train(with_ema('parts', 1))
    train(with_ema('parts', 2, resume=True))
    whole, parts = (checkpoint(tmp_path / name, 'epoch_2') for name in ('whole', 'parts'))
    assert_same_run(whole, parts)
    for key, value in whole['ema_state_dict'].items():
        assert torch.equal(value, parts['ema_state_dict'][key]), key
    assert whole['state_dict']['network2.head.memory.t'].any()


def test_test_time_augmentation_reports_the_ensemble_alone(tmp_path):
    runner = train(config(tmp_path, epochs=1))
    evaluator = EVALUATOR.build(dict(type='MemberEvaluator', metrics=[
        dict(type='Accuracy'), dict(type='DumpResults', out_file_path=str(tmp_path / 'out.pkl'))
    ]))  # fmt: skip
    evaluator.dataset_meta = runner.val_dataloader.dataset.metainfo
    with torch.no_grad():
        for batch in runner.val_dataloader:
            outputs = runner.model.eval().val_step(batch)
            evaluator.process(outputs, batch)
    assert 'average2/accuracy/top1' in evaluator.evaluate(32)
    dumped = mmengine.load(tmp_path / 'out.pkl')
    assert torch.equal(dumped[0]['pred_score'], outputs[0].pred_score), 'the ensemble, not its last member'
    views = [[sample.clone() for sample in outputs]]  # predictions are written into the samples of the batch
    views.append(runner.model.val_step({**batch, 'inputs': batch['inputs'].flip(-1)}))
    tta = MODELS.build(dict(type='AverageClsScoreTTA', module=runner.model))
    evaluator = EVALUATOR.build(dict(type='MemberEvaluator', metrics=dict(type='Accuracy')))
    evaluator.process(tta.merge_preds(list(zip(*views, strict=True))), batch)
    assert set(evaluator.evaluate(32)) == {'accuracy/top1'}


def test_mixing_twice_is_refused(tmp_path):
    cfg = config(tmp_path, epochs=1)
    cfg.custom_hooks = [hook for hook in cfg.custom_hooks if hook['type'] != 'NoiseRecordHook']
    cfg.model.train_cfg = dict(augments=dict(type='Mixup', alpha=1.0))
    with pytest.raises(RuntimeError, match='mixed the labels before ELRHead saw them'):
        train(cfg)


def test_published_network_of_our_own_backbone_says_what_it_needs(tmp_path):
    cfg = config(tmp_path / 'run', epochs=1)
    cfg.model.network.backbone = dict(type='PreActResNet', depth=18, in_channels=1, base_channels=4)
    cfg.model.network.head.in_channels = 32
    train(cfg)
    cfg.dump(tmp_path / 'config.py')
    command = [sys.executable, 'tools/publish_model.py', tmp_path / 'run' / 'epoch_1.pth', tmp_path / 'out.pth']
    command += ['--member', 'network1', '--config', tmp_path / 'config.py']
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=os.environ | {'OMP_NUM_THREADS': '1'})
    written = mmelr.load_config(tmp_path / 'out.py')
    assert written.custom_imports.imports == ['mmelr'] and written.model.type == 'ImageClassifier'
