"""``PreActResNet`` against its description in plain functions, and both networks of ELR+ in a classifier with ELR."""

import math

import pytest
import torch
import torch.nn.functional as F
from mmengine.optim import OptimWrapper
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from mmelr.models.preact_resnet import PreActResNet

BLOCKS = {18: [2, 2, 2, 2], 34: [3, 4, 6, 3]}
depths = pytest.mark.parametrize('depth', BLOCKS)


def classifier(backbone, head='LinearClsHead', num_classes=10, in_channels=512, **kwargs):
    return MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=backbone,
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type=head, num_classes=num_classes, in_channels=in_channels, **kwargs),
        )
    )


def num_parameters(module):
    return sum(p.numel() for p in module.parameters())


def step(model, batch_size, size):
    """One training step as MMEngine takes it."""
    samples = [DataSample(metainfo=dict(sample_idx=i, num_samples=9)).set_gt_label(i) for i in range(batch_size)]
    images = [torch.randint(256, (3, size, size), dtype=torch.uint8) for _ in samples]
    optim = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9))
    return model.train_step(dict(inputs=images, data_samples=samples), optim)


def randomise(model):
    """Norms that do something of their own: as they are made, many of them could be left out or swapped."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(std=0.5)
            module.running_mean.normal_(std=0.5)
            module.running_var.uniform_(0.5, 1.5)
    return model


def features(images, state, num_blocks, training):
    """The outputs of all four stages, from the description of the network."""

    def bn_relu(x, name):
        mean, var = (None, None) if training else (state[f'{name}.running_mean'], state[f'{name}.running_var'])
        return F.relu(F.batch_norm(x, mean, var, state[f'{name}.weight'], state[f'{name}.bias'], training))

    x = bn_relu(F.conv2d(images, state['conv1.weight'], padding=1), 'bn1')
    outs = []
    for stage, n in enumerate(num_blocks, start=1):
        for block in range(n):
            name = f'layer{stage}.{block}'
            stride = 2 if stage > 1 and block == 0 else 1
            shortcut = y = bn_relu(x, f'{name}.bn1')
            if stride == 2:
                shortcut = F.conv2d(y, state[f'{name}.shortcut.0.weight'], stride=2)
            y = F.conv2d(y, state[f'{name}.conv1.weight'], stride=stride, padding=1)
            y = F.conv2d(bn_relu(y, f'{name}.bn2'), state[f'{name}.conv2.weight'], padding=1)
            x = y + shortcut
        outs.append(x)
    return outs


# ---- PreActResNet


@depths
@pytest.mark.parametrize('training', [False, True])
def test_is_the_network_described(depth, training):
    model = randomise(PreActResNet(depth, base_channels=8, out_indices=(0, 1, 2, 3)).double())
    model.train(training)
    images = torch.randn(4, 3, 19, 16, dtype=torch.float64)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    for name, p in model.named_parameters():
        state[name].requires_grad_(p.requires_grad)

    outs, expected = model(images), features(images, state, BLOCKS[depth], training)
    for out, e in zip(outs, expected, strict=True):
        torch.testing.assert_close(out, e, rtol=1e-9, atol=1e-9)

    # Training goes by the gradients, and an operation in place could spoil them alone.
    sum(out.square().sum() for out in outs).backward()
    sum(e.square().sum() for e in expected).backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, state[name].grad, rtol=1e-7, atol=1e-7)


@depths
def test_number_of_parameters(depth):
    total = 9 * 3 * 64 + 2 * 64  # the stem: 3x3 weights of each pair of channels, two numbers for each normed channel
    width = 64
    for stage, n in enumerate(BLOCKS[depth]):
        for _ in range(n):
            new = 64 * 2**stage
            total += 2 * width + 9 * width * new + 2 * new + 9 * new * new
            total += width * new if width != new else 0
            width = new
    total += 512 * 10 + 10
    # Of depth 18 also known from elsewhere: 11 171 146 of the widely used network without a norm in the stem.
    assert total == {18: 11_171_146 + 2 * 64, 34: 21_279_434}[depth]

    assert num_parameters(classifier(dict(type='PreActResNet', depth=depth))) == total


def test_out_indices():
    images = torch.randn(2, 3, 32, 32)
    every = PreActResNet(18, base_channels=16, out_indices=(0, 1, 2, 3))
    outs = every(images)
    assert [tuple(out.shape) for out in outs] == [(2, 16, 32, 32), (2, 32, 16, 16), (2, 64, 8, 8), (2, 128, 4, 4)]

    for chosen in [(3,), (1, 3), [0]]:
        model = PreActResNet(18, base_channels=16, out_indices=chosen)
        model.load_state_dict(every.state_dict())
        got = model(images)
        assert isinstance(got, tuple) and len(got) == len(chosen)
        assert all(torch.equal(a, outs[i]) for a, i in zip(got, chosen, strict=True))
    [last] = PreActResNet(18, base_channels=16)(images)
    assert last.shape == outs[3].shape


def test_grey_images_and_another_norm():
    model = PreActResNet(18, in_channels=1, base_channels=16, norm_cfg=dict(type='GN', num_groups=4))
    assert [out.shape for out in model(torch.randn(2, 1, 28, 28))] == [(2, 128, 4, 4)]
    norms = [m for m in model.modules() if 'Norm' in type(m).__name__]
    assert len(norms) == 1 + 2 * 8 and all(isinstance(m, torch.nn.GroupNorm) for m in norms)


@pytest.mark.parametrize('depth', [50, '18', None])
def test_refuses_other_depths(depth):
    with pytest.raises(ValueError, match=rf'no depth {depth!r}; it has 18, 34'):
        MODELS.build(dict(type='PreActResNet', depth=depth))


@pytest.mark.parametrize('out_indices', [(4,), (0, -1), ()])
def test_refuses_stages_that_do_not_exist(out_indices):
    with pytest.raises(ValueError, match='from 0 to 3'):
        PreActResNet(18, out_indices=out_indices)


@pytest.mark.parametrize('head', ['LinearClsHead', 'ELRHead'])
def test_keeps_the_initialisation_of_pytorch(head):
    model = classifier(dict(type='PreActResNet', depth=18, base_channels=16), head, in_channels=128, init_cfg=None)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.init_weights()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    # PyTorch draws weights evenly up to 1 / sqrt(inputs of a unit).
    for weight in (model.backbone.layer4[1].conv2.weight, model.head.fc.weight):
        assert weight.abs().max().item() == pytest.approx(1 / math.sqrt(weight[0].numel()), rel=0.01)


def test_init_cfg():
    model = PreActResNet(18, base_channels=4, init_cfg=dict(type='Constant', layer='Conv2d', val=0.5))
    model.init_weights()
    assert (model.layer2[0].shortcut[0].weight == 0.5).all() and (model.conv1.weight == 0.5).all()


@depths
@pytest.mark.parametrize('head', ['LinearClsHead', 'ELRHead'])
def test_trains(depth, head):
    model = classifier(dict(type='PreActResNet', depth=depth, base_channels=8), head, in_channels=64)
    before = {k: v.clone() for k, v in model.named_parameters()}
    losses = step(model, batch_size=4, size=32)
    assert losses['loss'].isfinite() and ('loss_elr' in losses) == (head == 'ELRHead')
    unchanged = {k for k, v in model.named_parameters() if torch.equal(v, before[k])}
    # Until the biases of the stem's norm are nonzero, the next norm undoes its weights.
    assert unchanged <= {'backbone.bn1.weight'}


# ---- InceptionResNetV2, their network for WebVision, which timm has


@pytest.mark.parametrize('head', ['LinearClsHead', 'ELRHead'])
def test_inception_resnet_v2_of_timm(head):
    pytest.importorskip('timm')
    backbone = dict(type='TIMMBackbone', model_name='inception_resnet_v2')
    model = classifier(backbone, head, num_classes=50, in_channels=1536, init_cfg=None)
    # The published total with 1000 classes, with 50 instead.
    assert num_parameters(model) == 55_843_464 - 1537 * 1000 + 1537 * 50

    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.init_weights()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())

    losses = step(model, batch_size=2, size=227)
    assert losses['loss'].isfinite() and ('loss_elr' in losses) == (head == 'ELRHead')
    assert not torch.equal(
        model.backbone.timm_model.conv2d_1a.conv.weight, before['backbone.timm_model.conv2d_1a.conv.weight']
    )
