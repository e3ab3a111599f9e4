"""``ELRHead`` against the heads of MMPretrain that it stands in for, and against the equation."""

import copy
import math

import pytest
import torch
from mmengine.runner.checkpoint import load_state_dict
from mmpretrain.models import ClsDataPreprocessor, ImageClassifier
from mmpretrain.models.heads import ClsHead
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from mmelr import functional
from mmelr.models import ELRHead

B, N, C, D = 6, 20, 4, 8
BETA, LAM = 0.7, 3.0


def one(n=B):
    return (torch.randn(n, D),)


def tokens(n=B):
    return (torch.randn(n, D), torch.randn(n, D))


# Each head: its arguments, and what a backbone gives it.
HEADS = {
    'LinearClsHead': (dict(num_classes=C, in_channels=D), one),
    'ClsHead': (dict(), lambda n=B: (torch.randn(n, C),)),
    'VisionTransformerClsHead': (dict(num_classes=C, in_channels=D, hidden_dim=5), one),
    'StackedLinearClsHead': (dict(num_classes=C, in_channels=D, mid_channels=[7], norm_cfg=dict(type='BN1d')), one),
    'VigClsHead': (dict(num_classes=C, in_channels=D, hidden_dim=7), one),
    'LeViTClsHead': (dict(num_classes=C, in_channels=D, distillation=False), one),
    'ConformerHead': (dict(num_classes=C, in_channels=[D, D]), lambda n=B: ([*tokens(n)],)),
    'DeiTClsHead': (dict(num_classes=C, in_channels=D), lambda n=B: (tokens(n),)),
    'EfficientFormerClsHead': (dict(num_classes=C, in_channels=D, distillation=False), one),
}
LOSSES = {
    'cross entropy': dict(type='CrossEntropyLoss', loss_weight=1.0),
    'label smoothing': dict(type='LabelSmoothLoss', label_smooth_val=0.1, num_classes=C),
    'class weights': dict(type='CrossEntropyLoss', class_weight=[1.0, 0.5, 2.0, 3.0], loss_weight=0.7),
}

pytestmark = pytest.mark.filterwarnings('ignore:MMPretrain cannot train the distilled version DeiT')
all_heads = pytest.mark.parametrize('name', HEADS)


def make_pair(name='LinearClsHead', elr=(), **kwargs):
    """A head of MMPretrain, and an ELRHead in its place with the same weights."""
    kwargs = {**HEADS[name][0], **kwargs}
    base = MODELS.build(dict(type=name, **copy.deepcopy(kwargs)))
    head = MODELS.build(dict(type='ELRHead', base=name, beta=BETA, lam=LAM, **dict(elr), **copy.deepcopy(kwargs)))
    head.load_state_dict(base.state_dict())
    return base, head


def make_head(**kwargs):
    return MODELS.build(dict(type='ELRHead', **{**HEADS['LinearClsHead'][0], **kwargs}))


def make_samples(indices=None, labels=None, num_samples=N, **metainfo):
    indices = torch.randperm(N)[:B].tolist() if indices is None else indices
    labels = torch.randint(C, (len(indices),)).tolist() if labels is None else labels
    samples = []
    for i, y in zip(indices, labels, strict=True):
        sample = DataSample(metainfo=dict(sample_idx=i, **metainfo)).set_gt_label(y)
        if num_samples is not None:
            sample.set_field(num_samples, 'num_samples', field_type='metainfo')
        samples.append(sample)
    return samples


def indices_of(samples):
    return torch.tensor([s.sample_idx for s in samples])


def labels_of(samples):
    return torch.cat([s.gt_label for s in samples])


def without_memory(state):
    return {k: v for k, v in state.items() if not k.startswith('memory.')}


# ---- it is the head that it stands in for


@all_heads
def test_is_an_instance_of_both(name):
    base, head = make_pair(name)
    assert isinstance(head, ELRHead) and isinstance(head, type(base))
    assert [k for k, _ in head.named_parameters()] == [k for k, _ in base.named_parameters()]
    assert list(head.state_dict()) == list(base.state_dict())


@all_heads
def test_weights_load_both_ways(name):
    base, head = make_pair(name)
    base.load_state_dict(head.state_dict())
    head.loss(HEADS[name][1](), make_samples())
    trained = head.state_dict()
    assert set(trained) - set(base.state_dict()) == {'memory.t'}
    base.load_state_dict(without_memory(trained))
    assert all(torch.equal(base.state_dict()[k], trained[k]) for k in base.state_dict())
    # And back into one that has trained: the memory alone is missing.
    assert head.load_state_dict(base.state_dict(), strict=False).missing_keys == ['memory.t']


@all_heads
@pytest.mark.parametrize('loss', LOSSES)
def test_first_term_is_the_heads_own_loss(name, loss):
    base, head = make_pair(name, loss=LOSSES[loss], cal_acc=True, topk=(1, 2))
    for _ in range(2):
        feats, samples = HEADS[name][1](), make_samples()
        expected, losses = base.loss(feats, samples), head.loss(feats, samples)
        assert set(losses) == {'loss_cls', 'loss_elr', 'accuracy_top-1', 'accuracy_top-2'}
        assert torch.equal(losses['loss_cls'], expected['loss'])
        assert losses['loss_elr'] < 0
        for k in ('accuracy_top-1', 'accuracy_top-2'):
            assert losses[k] == expected[k]


@all_heads
def test_predictions_are_the_heads(name):
    base, head = make_pair(name)
    head.loss(HEADS[name][1](), make_samples())
    base.load_state_dict(without_memory(head.state_dict()))
    base.eval(), head.eval()
    feats, t = HEADS[name][1](), head.memory.t.clone()
    for mine, theirs in zip(head.predict(feats, make_samples()), base.predict(feats), strict=True):
        assert torch.equal(mine.pred_score, theirs.pred_score)
        assert torch.equal(mine.pred_label, theirs.pred_label)
    assert torch.equal(head.memory.t, t)  # prediction is no visit


def test_initialisation_is_the_heads():
    base, head = make_pair('VisionTransformerClsHead')
    torch.manual_seed(1)
    base.init_weights()
    torch.manual_seed(1)
    head.init_weights()
    assert not head.layers.head.weight.any()
    assert all(torch.equal(a, b) for a, b in zip(base.parameters(), head.parameters(), strict=True))


def test_stands_in_for_linear_head_by_default():
    head = make_head()
    assert type(head).__name__ == 'ELRLinearClsHead'
    assert (head.base, head.beta, head.lam, head.memory) == ('LinearClsHead', 0.7, 3.0, None)


# ---- the loss


@all_heads
def test_second_term_is_the_equation(name):
    """lam * mean log(1 - <p, t>) over several steps, literally; t from the prediction that the head would make."""
    _, head = make_pair(name)
    for module in head.modules():  # so that a second look at the same features sees the same logits
        if isinstance(module, torch.nn.BatchNorm1d):
            module.eval()
    table = [[0.0] * C for _ in range(N)]
    for _ in range(4):
        feats, samples = HEADS[name][1](), make_samples()
        scores = head(feats)
        branches = [s.double().tolist() for s in (scores if isinstance(scores, tuple) else (scores,))]
        assert len(branches) == (2 if name == 'ConformerHead' else 1)
        predicted = [s.pred_score.tolist() for s in head.predict(feats)]
        total = 0.0
        for place, i in enumerate(indices_of(samples).tolist()):
            p = [min(max(v, 1e-4), 1 - 1e-4) for v in predicted[place]]
            table[i] = [BETA * t + (1 - BETA) * v / sum(p) for t, v in zip(table[i], p, strict=True)]
            for branch in branches:
                exps = [math.exp(v) for v in branch[place]]
                p = [min(max(e / sum(exps), 1e-4), 1 - 1e-4) for e in exps]
                total += math.log(1 - sum(a * b for a, b in zip(p, table[i], strict=True)))
        assert head.loss(feats, samples)['loss_elr'].item() == pytest.approx(LAM * total / B, rel=1e-5)
    assert torch.allclose(head.memory.t, torch.tensor(table), atol=1e-6)


@pytest.mark.parametrize('scale', [1, 30], ids=['plain', 'saturated'])
def test_sum_of_the_terms_is_the_elr_loss(scale):
    _, head = make_pair()
    head = head.double()
    t = torch.zeros(N, C, dtype=torch.float64)
    for _ in range(3):
        feats, samples = (scale * torch.randn(B, D, dtype=torch.float64),), make_samples()
        i, y = indices_of(samples), labels_of(samples)
        losses = head.loss(feats, samples)
        logits = head.fc(feats[0])
        p = functional.probabilities(logits.detach())
        # The memory is made in float32 at the first step, whatever the weights are.
        t[i] = functional.temporal_ensembling(t[i], p / p.sum(dim=1, keepdim=True), BETA).float().double()
        assert sum(losses.values()).item() == pytest.approx(functional.elr_loss(logits, y, t[i], LAM).item(), rel=1e-6)

        # Lemma 2, pulled through the linear layer.
        head.zero_grad()
        sum(losses.values()).backward()
        g = functional.elr_gradient(logits.detach(), y, t[i], LAM)
        assert torch.allclose(head.fc.weight.grad, g.T @ feats[0], rtol=0, atol=1e-6 * scale)
        assert torch.allclose(head.fc.bias.grad, g.sum(dim=0), rtol=0, atol=1e-6)


def test_conformer_regularises_both_branches():
    _, head = make_pair('ConformerHead')
    feats, samples = HEADS['ConformerHead'][1](), make_samples()
    loss = head.loss(feats, samples)['loss_elr']
    conv, trans = head(feats)
    p = functional.probabilities((conv + trans).detach())
    t = (1 - BETA) * p / p.sum(dim=1, keepdim=True)
    expected = LAM * sum((1 - (functional.probabilities(s) * t).sum(dim=1)).log().mean() for s in (conv, trans))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    assert head.conv_cls_head.weight.grad.any() and head.trans_cls_head.weight.grad.any()


@all_heads
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_losses_are_single_precision_inside_autocast(name, dtype):
    _, head = make_pair(name)
    with torch.autocast('cpu', dtype=dtype):
        losses = head.loss(HEADS[name][1](), make_samples())
    assert losses['loss_cls'].dtype == losses['loss_elr'].dtype == torch.float32
    assert head.memory.t.dtype == torch.float32
    if list(head.parameters()):
        sum(losses.values()).backward()
        assert all(p.grad.isfinite().all() for p in head.parameters() if p.grad is not None)


@all_heads
@pytest.mark.parametrize('autocast', [False, True])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_rounds_the_logits_and_nothing_else(name, autocast, dtype):
    _, head = make_pair(name, loss=LOSSES['label smoothing'])
    other = copy.deepcopy(head)
    feats, samples = HEADS[name][1](), make_samples()
    scores = head(feats)
    half = tuple(s.to(dtype) for s in scores) if isinstance(scores, tuple) else scores.to(dtype)
    head.forward = lambda feats: half
    other.forward = lambda feats: tuple(s.float() for s in half) if isinstance(half, tuple) else half.float()
    with torch.autocast('cpu', dtype=dtype, enabled=autocast):
        losses = head.loss(feats, samples)
    expected = other.loss(feats, samples)
    for k in expected:
        assert losses[k].dtype == torch.float32
        assert torch.equal(losses[k], expected[k])
    assert torch.equal(head.memory.t, other.memory.t)


@all_heads
def test_clean_labels_never_change_the_loss(name):
    _, head = make_pair(name)
    other = copy.deepcopy(head)
    for _ in range(3):
        feats, samples = HEADS[name][1](), make_samples()
        expected = head.loss(feats, samples)
        told = [s.clone() for s in samples]
        for s in told:
            s.set_field((int(s.gt_label) + 1) % C, 'clean_label', field_type='metainfo')
        losses = other.loss(feats, told)
        assert all(torch.equal(losses[k], expected[k]) for k in expected)
    assert torch.equal(head.memory.t, other.memory.t)


def test_in_an_image_classifier():
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='LeNet5'),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='ELRHead', num_classes=C, in_channels=120),
        )
    )
    assert isinstance(model, ImageClassifier)
    samples = make_samples()
    losses = model(torch.randn(B, 1, 32, 32), samples, mode='loss')
    total, log = model.parse_losses(losses)
    assert total.item() == pytest.approx((losses['loss_cls'] + losses['loss_elr']).item())
    assert set(log) == {'loss', 'loss_cls', 'loss_elr'}
    assert model.head.memory.num_samples == N


# ---- the memory


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
def test_memory_takes_its_size_from_the_data(dtype):
    head = make_head(memory_dtype=dtype)
    assert head.memory is None and 'memory.t' not in head.state_dict()
    samples = make_samples()
    head.loss(one(), samples)
    assert head.memory.t.shape == (N, C) and head.memory.t.dtype == getattr(torch, dtype)
    assert sorted(head.memory.t.any(dim=1).nonzero().flatten().tolist()) == sorted(indices_of(samples).tolist())
    memory = head.memory
    head.loss(one(), make_samples())
    assert head.memory is memory


def test_memory_takes_its_size_from_the_argument():
    head = make_head(num_samples=N + 7)
    head.loss(one(), make_samples(num_samples=None))
    assert head.memory.t.shape == (N + 7, C)


@pytest.mark.parametrize('missing', ['num_samples', 'sample_idx'])
def test_data_that_does_not_tell_its_samples(missing):
    head, samples = make_head(), make_samples()
    for s in samples:
        delattr(s, missing)
    with pytest.raises(ValueError, match='NoisyLabelDataset') as error:
        head.loss(one(), samples)
    assert 'num_samples' in str(error.value) and 'sample_idx' in str(error.value)
    assert head.memory is None


def test_index_outside_of_the_training_set():
    with pytest.raises(IndexError, match=f'index {N} is outside the memory'):
        make_head().loss(one(1), make_samples([N]))


def test_repeated_samples_share_their_target():
    _, head = make_pair()
    feats = one()
    head.loss(feats, make_samples([5, 5, 5, 2, 2, 9]))
    p = head.fc(feats[0]).detach().softmax(dim=1)
    assert torch.allclose(head.memory.t[5], 0.3 * p[:3].mean(dim=0), atol=1e-6)
    assert torch.allclose(head.memory.t[2], 0.3 * p[3:5].mean(dim=0), atol=1e-6)


LOADERS = dict(
    strict=lambda module, state: module.load_state_dict(state),
    mmengine=lambda module, state: load_state_dict(module, state, strict=False),
)


@all_heads
@pytest.mark.parametrize('load', LOADERS.values(), ids=LOADERS)
def test_memory_of_a_checkpoint_is_adopted(name, load):
    _, head = make_pair(name)
    steps = [(HEADS[name][1](), make_samples()) for _ in range(4)]
    for step in steps[:2]:
        head.loss(*step)
    _, resumed = make_pair(name)
    load(resumed, copy.deepcopy(head.state_dict()))
    assert torch.equal(resumed.memory.t, head.memory.t)
    for step in steps[2:]:
        expected, losses = head.loss(*step), resumed.loss(*step)
        assert all(torch.equal(losses[k], expected[k]) for k in expected)
    assert torch.equal(resumed.memory.t, head.memory.t)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
def test_adopted_memory_keeps_its_storage(dtype):
    head, resumed = make_head(memory_dtype=dtype), make_head(memory_dtype=dtype)
    head.loss(one(), make_samples())
    resumed.load_state_dict(head.state_dict())
    assert resumed.memory.t.dtype == getattr(torch, dtype)
    assert torch.equal(resumed.memory.t, head.memory.t)


@pytest.mark.parametrize('load', LOADERS.values(), ids=LOADERS)
def test_memory_of_another_dataset_is_refused_at_the_first_step(load):
    head, resumed = make_head(), make_head()
    head.loss(one(), make_samples())
    load(resumed, head.state_dict())
    t = resumed.memory.t.clone()
    with pytest.raises(ValueError, match=f'holds {N} samples, but the training set has {N + 5}.*publish'):
        resumed.loss(one(), make_samples(num_samples=N + 5))
    assert torch.equal(resumed.memory.t, t)


@pytest.mark.parametrize('load', LOADERS.values(), ids=LOADERS)
def test_memory_of_another_dataset_is_refused_when_the_own_is_there(load):
    head, other = make_head(), make_head(num_samples=N + 5)
    head.loss(one(), make_samples())
    other.loss(one(), make_samples(num_samples=None))
    with pytest.raises(ValueError, match=f'holds {N + 5} samples, the training set has {N}'):
        load(head, other.state_dict())


def test_memory_of_other_classes_is_refused():
    head, other = make_head(), make_head(num_classes=C + 1)
    other.loss(one(), make_samples())
    load_state_dict(head, without_memory(head.state_dict()) | {'memory.t': other.memory.t}, strict=False)
    with pytest.raises(ValueError, match=f'{C + 1} classes'):
        head.loss(one(), make_samples())


@all_heads
def test_deepcopy_is_independent(name):
    _, head = make_pair(name)
    untrained = copy.deepcopy(head)
    assert type(untrained) is type(head) and untrained.memory is None
    head.loss(HEADS[name][1](), make_samples())
    twin = copy.deepcopy(head)
    t = head.memory.t.clone()
    twin.loss(HEADS[name][1](), make_samples())
    assert torch.equal(head.memory.t, t)
    assert not torch.equal(twin.memory.t, t)


# ---- soft and mixed labels


def with_scores(samples, scores):
    return [s.set_gt_score(score) for s, score in zip(samples, scores, strict=True)]


def test_mixed_labels_are_refused():
    samples = make_samples(labels=[0, 1, 2, 3, 0, 1])
    scores = functional.soft_labels(labels_of(samples), C)
    scores[4] = 0.8 * scores[4] + 0.2 * scores[5]
    head = make_head()
    with pytest.raises(RuntimeError, match='Mixup.*Remove it from the config .*train_cfg.*batch_augments'):
        head.loss(one(), with_scores(samples, scores))


@pytest.mark.parametrize('augment', ['Mixup', 'CutMix'])
def test_batch_augments_of_mmpretrain_are_refused(augment):
    preprocessor = ClsDataPreprocessor(
        num_classes=C, batch_augments=dict(augments=dict(type=augment, alpha=1.0), probs=1.0)
    )
    samples = make_samples(labels=[0, 1, 2, 3, 0, 1])
    data = preprocessor(dict(inputs=list(torch.rand(B, 3, 8, 8)), data_samples=samples), training=True)
    with pytest.raises(RuntimeError, match='batch augment'):
        make_head().loss(one(), data['data_samples'])


def test_one_hot_labels_are_accepted():
    _, head = make_pair()
    other = copy.deepcopy(head)
    feats, samples = one(), make_samples()
    scored = with_scores([s.clone() for s in samples], functional.soft_labels(labels_of(samples), C))
    expected, losses = head.loss(feats, samples), other.loss(feats, scored)
    assert all(torch.allclose(losses[k], expected[k]) for k in expected)
    assert torch.equal(head.memory.t, other.memory.t)


def test_one_hot_labels_of_the_preprocessor_are_accepted():
    # They are integers, which MMPretrain's own plain cross entropy does not take.
    _, head = make_pair(loss=LOSSES['label smoothing'])
    other = copy.deepcopy(head)
    feats, samples = one(), make_samples()
    preprocessor = ClsDataPreprocessor(num_classes=C, to_onehot=True)
    data = preprocessor(dict(inputs=list(torch.rand(B, 3, 8, 8)), data_samples=[s.clone() for s in samples]))
    assert 'gt_score' in data['data_samples'][0]
    expected, losses = head.loss(feats, samples), other.loss(feats, data['data_samples'])
    assert all(torch.allclose(losses[k], expected[k]) for k in expected)
    assert torch.equal(head.memory.t, other.memory.t)


def test_soft_labels_alone_are_accepted():
    # Somebody's own soft labels of each sample, which no augmentation mixed.
    _, head = make_pair()
    feats, samples = one(), make_samples()
    scores = torch.randn(B, C).softmax(dim=1)
    for s in samples:
        del s.gt_label
    losses = head.loss(feats, with_scores(samples, scores))
    t = head.memory(indices_of(samples))
    expected = functional.elr_loss(head.fc(feats[0]), scores, t, LAM)
    assert sum(losses.values()).item() == pytest.approx(expected.item(), rel=1e-5)


def test_several_labels_are_refused():
    samples = make_samples()
    for s in samples:
        s.set_gt_label([0, 1]).set_gt_score(torch.tensor([1.0, 1.0, 0, 0]))
    with pytest.raises(ValueError, match='exactly one label'):
        make_head().loss(one(), samples)


# ---- what is refused


@pytest.mark.parametrize(
    'name, kwargs, message',
    [
        ('ArcFaceClsHead', dict(num_classes=C, in_channels=D), 'margin.*Use LinearClsHead'),
        ('MultiLabelLinearClsHead', dict(num_classes=C, in_channels=D), 'one label each.*ClsHead'),
        (
            'MultiTaskHead',
            dict(task_heads=dict(a=dict(type='LinearClsHead', num_classes=C))),
            'one label each.*ClsHead',
        ),
    ],
)
def test_heads_that_elr_cannot_stand_in_for(name, kwargs, message):
    with pytest.raises(TypeError, match=f'cannot stand in for {name}: .*{message}'):
        MODELS.build(dict(type='ELRHead', base=name, **kwargs))


def test_unknown_head():
    with pytest.raises(KeyError, match="No head named 'NoSuchHead' .*custom_imports"):
        MODELS.build(dict(type='ELRHead', base='NoSuchHead', num_classes=C, in_channels=D))


def test_head_with_a_loss_of_its_own(monkeypatch):
    class HeadOfItsOwn(ClsHead):
        def loss(self, feats, data_samples, **kwargs):
            return dict(loss=feats[-1].sum())

    monkeypatch.setitem(MODELS.module_dict, 'HeadOfItsOwn', HeadOfItsOwn)
    head = MODELS.build(dict(type='ELRHead', base='HeadOfItsOwn'))
    with pytest.raises(TypeError, match='cannot stand in for HeadOfItsOwn.*_get_loss'):
        head.loss((torch.randn(B, C),), make_samples())


@pytest.mark.parametrize('bad', [dict(beta=1.0), dict(beta=-0.1), dict(lam=-1), dict(lam=float('nan'))], ids=str)
def test_hyperparameters_outside_their_range(bad):
    ((key, value),) = bad.items()
    with pytest.raises(ValueError, match=f'{key}.* got {value}'):
        make_head(**bad)


def test_argument_that_the_base_does_not_have():
    with pytest.raises(TypeError, match='hidden_dim'):
        make_head(hidden_dim=3)
