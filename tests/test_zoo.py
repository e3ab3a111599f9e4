"""A sample of MMPretrain's model zoo, every head type in it. ``tools/zoo_coverage.py`` tries all of it."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import mmelr
from mmelr.analysis.zoo import prepare, take_steps, zoo_configs
from mmelr.models import ELRHead

CIFAR = 'resnet/resnet18_8xb16_cifar10.py'

# Config, own head, image size: small where the network permits.
SAMPLE = [
    (CIFAR, 'LinearClsHead', 32),
    ('resnet/resnet50_8xb256-rsb-a2-300e_in1k.py', 'LinearClsHead', 64),  # binary cross entropy
    ('repvgg/repvgg-A0_8xb32_in1k.py', 'LinearClsHead', 64),
    ('convnext/convnext-tiny_32xb128_in1k.py', 'LinearClsHead', 64),
    ('swin_transformer_v2/swinv2-tiny-w8_16xb64_in1k-256px.py', 'LinearClsHead', 256),  # drops buffers when it loads
    ('xcit/xcit-nano-12-p16_8xb128_in1k.py', 'LinearClsHead', 64),
    ('mlp_mixer/mlp-mixer-base-p16_64xb64_in1k.py', 'LinearClsHead', 64),
    ('inception_v3/inception-v3_8xb32_in1k.py', 'ClsHead', 96),  # the backbone makes the logits
    ('deit/deit-tiny_4xb256_in1k.py', 'VisionTransformerClsHead', 64),
    ('mae/benchmarks/vit-base-p16_8xb2048-linear-coslr-90e_in1k.py', 'VisionTransformerClsHead', 64),  # frozen backbone
    ('deit/deit-tiny-distilled_4xb256_in1k.py', 'DeiTClsHead', 64),
    ('vig/pvig-tiny_8xb128_in1k.py', 'VigClsHead', 224),
    ('conformer/conformer-tiny-p16_8xb128_in1k.py', 'ConformerHead', 64),
    ('mobilenet_v3/mobilenet-v3-small-050_8xb128_in1k.py', 'StackedLinearClsHead', 64),
]

# Heads that MMPretrain refuses to train with distillation.
DISTILLED = [
    ('levit/levit-128s_8xb256_in1k.py', 'LeViTClsHead'),
    ('efficientformer/efficientformer-l1_8xb128_in1k.py', 'EfficientFormerClsHead'),
]


def case_of(name):
    return prepare(mmelr.load_config(f'mmpretrain::{name}'))


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope='module')
def tool():
    path = Path(__file__).parents[1] / 'tools' / 'zoo_coverage.py'
    spec = importlib.util.spec_from_file_location('zoo_coverage', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(outcome):
    assert (outcome.own, outcome.elr) == ('ok', 'ok')
    assert outcome.loss_cls == pytest.approx(outcome.loss, rel=1e-5)
    assert len(outcome.loss_elr) == 2
    assert max(outcome.loss_elr) < 0


@pytest.mark.parametrize(('name', 'head', 'side'), SAMPLE)
def test_elr_takes_the_step_that_the_own_loss_takes(name, head, side):
    case = case_of(name)
    assert case.own['head']['type'] == case.elr['head']['base'] == head
    assert case.elr['head']['type'] == 'ELRHead'
    outcome = take_steps(case, side)
    check(outcome)
    assert outcome.side == side
    assert not outcome.fewer_layers


@pytest.mark.parametrize(('name', 'head'), DISTILLED)
def test_what_mmpretrain_refuses_to_train_elr_refuses_too(name, head):
    case = case_of(name)
    assert case.elr['head']['base'] == head
    refused = take_steps(case)
    assert 'NotImplementedError' in refused.own
    assert refused.own == refused.elr
    for model in (case.own, case.elr):
        model['head']['distillation'] = False
    check(take_steps(case))


def test_batch_augments_are_removed_and_onehot_labels_kept_where_the_loss_needs_them():
    case = case_of('resnet/resnet50_8xb256-rsb-a2-300e_in1k.py')
    assert case.augments and case.onehot
    assert case.own['train_cfg'] is None
    assert case.own['data_preprocessor']['to_onehot']
    plain = case_of(CIFAR)
    assert not plain.augments and not plain.onehot


def test_a_network_that_takes_no_small_images_gets_those_of_the_config():
    case = replace(case_of('inception_v3/inception-v3_8xb32_in1k.py'), side=96)
    outcome = take_steps(case, side=64)
    check(outcome)
    assert outcome.side == 96


def test_the_zoo_is_all_there():
    names = zoo_configs()
    assert len(names) == len(set(names)) == 352  # MMPretrain 1.2.0
    assert {name for name, *_ in SAMPLE + DISTILLED} <= set(names)


class TestTheCheckNoticesFaults:
    """Each fault is put into ELRHead; the config that passes above must fail."""

    @pytest.fixture
    def faulty(self, monkeypatch):
        right = ELRHead._get_loss

        def try_with(fault):
            def wrong(self, *args, **kwargs):
                losses = right(self, *args, **kwargs)
                fault(self, losses)
                return losses

            monkeypatch.setattr(ELRHead, '_get_loss', wrong)
            outcome = take_steps(case_of(CIFAR))
            assert outcome.own == 'ok'
            return outcome.elr

        return try_with

    def test_another_first_term(self, faulty):
        assert 'loss_cls is' in faulty(lambda head, losses: losses.update(loss_cls=losses['loss_cls'] * 1.001))

    def test_a_second_term_above_zero(self, faulty):
        assert 'loss_elr is' in faulty(lambda head, losses: losses.update(loss_elr=-losses['loss_elr']))

    def test_a_loss_that_is_not_finite(self, faulty):
        assert 'the loss is' in faulty(lambda head, losses: losses.update(loss_elr=losses['loss_elr'] - torch.inf))

    def test_a_gradient_that_is_not_finite(self, faulty):
        def fault(head, losses):
            losses['loss_elr'] = losses['loss_elr'] - (0 * losses['loss_cls']).sqrt()  # 0, of slope infinity

        assert 'a gradient is not finite' in faulty(fault)

    def test_a_memory_that_is_not_averaged(self, faulty):
        assert 'rows of the memory' in faulty(lambda head, losses: head.memory.t.zero_())

    def test_a_memory_of_another_size(self, faulty):
        def fault(head, losses):
            if head.memory.t.sum() > 0.9:  # after the second step
                head.memory.t = head.memory.t[:, :-1]

        assert 'the memory is' in faulty(fault)

    def test_other_parameter_names(self, monkeypatch):
        right = ELRHead.__init__

        def wrong(self, **kwargs):
            right(self, **kwargs)
            self.more = torch.nn.Linear(1, 1)

        monkeypatch.setattr(ELRHead, '__init__', wrong)
        assert 'other weights' in take_steps(case_of(CIFAR)).elr


class TestTool:
    def test_a_process_of_its_own_that_hangs(self, tool):
        context = tool.multiprocessing.get_context('fork')
        row = tool.isolated(context, case_of(CIFAR), side=32, timeout=0)
        assert row['own'] == row['elr'] == 'not done in 0 s'

    def test_one_row(self, tool):
        row = tool.describe(case_of(CIFAR), side=32)
        assert row['own'] == row['elr'] == 'ok'
        assert json.loads(json.dumps(row)) == row

    def test_what_cannot_be_read_is_told_apart(self, tool):
        clip = 'chinese_clip/cn-clip_resnet50_zeroshot-cls_cifar100.py'
        cases, rows, outside = tool.read([CIFAR, clip, 'replknet/replknet-31B_32xb64_in1k.py'])
        assert list(cases) == [CIFAR]
        assert not rows
        assert 'ChineseCLIP' in outside[clip]
        assert 'cannot read' in outside['replknet/replknet-31B_32xb64_in1k.py']

    def test_report_names_every_failure(self, tool, tmp_path):
        ok = dict(own='ok', elr='ok', head='LinearClsHead', backbone='ResNet', own_side=224, side=64, loss=1.0)
        ok.update(loss_cls=1.0, same_as=None, augments=True, onehot=False, fewer_layers=True)
        refused = {**ok, 'own': 'NotImplementedError: no', 'elr': 'TypeError: neither', 'side': 224}
        result = dict(stack=dict(torch='2'), seconds=60, outside={'c/c.py': 'none of ours'})
        result['configs'] = {'a/a.py': ok, 'b/b.py': refused}
        page = tool.report(result)
        assert '| `b/b` | NotImplementedError: no | TypeError: neither | – |' in page
        assert '`c/c`: none of ours' in page
        assert '| all | 2 | 1 | 1 |' in page
        assert '| 224 | 64 | 1 | ResNet 1 |' in page
        tool.write_json(tmp_path / 'zoo.json', result)
        assert json.loads((tmp_path / 'zoo.json').read_text()) == result


def test_the_report_in_the_repository_covers_this_zoo():
    report = json.loads((Path(__file__).parents[1] / 'docs' / 'zoo_coverage.json').read_text())
    assert set(report['configs']) | set(report['outside']) == set(zoo_configs())
    assert all(row['elr'] == 'ok' for row in report['configs'].values() if row['own'] == 'ok')
