"""``PreActResNet``: the pre-activation ResNets that ELR+ and DivideMix train on CIFAR."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from mmpretrain.models.utils import build_norm_layer
from mmpretrain.registry import MODELS
from torch import Tensor, nn

__all__ = ['PreActResNet']


class PreActBlock(nn.Module):
    """Two 3x3 convolutions, each after a norm and a ReLU; the shortcut leaves after the first norm and ReLU.

    Args:
        in_channels (int): Width of the input.
        channels (int): Width of the output.
        stride (int): Stride of the first convolution and of the shortcut.
        norm_cfg (dict): Config of the norm layers.

    Shape:
        Input (N, in_channels, H, W), output (N, channels, ⌈H / stride⌉, ⌈W / stride⌉).
    """

    def __init__(self, in_channels: int, channels: int, stride: int, norm_cfg: dict) -> None:
        super().__init__()
        self.bn1 = build_norm_layer(norm_cfg, in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = build_norm_layer(norm_cfg, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != channels:
            self.shortcut.append(nn.Conv2d(in_channels, channels, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        # The norm made a new tensor: x, perhaps an output of the backbone, stays as it is.
        x = F.relu(self.bn1(x), inplace=True)
        out = F.relu(self.bn2(self.conv1(x)), inplace=True)
        return self.conv2(out) + self.shortcut(x)


@MODELS.register_module()
class PreActResNet(BaseBackbone):
    """Pre-activation ResNet for small images: the network of the CIFAR experiments of ELR+ and DivideMix.

    The stem is a 3x3 convolution, norm and ReLU, without pooling. Four stages follow, of widths 1, 2, 4 and 8 times
    ``base_channels`` and strides 1, 2, 2 and 2.

    The idea is that of `Identity Mappings in Deep Residual Networks <https://arxiv.org/abs/1603.05027>`_ (He et al.,
    2016). Two things differ, as in the code of `Early-Learning Regularization Prevents Memorization of Noisy Labels
    <https://arxiv.org/abs/2007.00151>`_ (Liu et al., 2020): every shortcut, the identity too, carries the input
    *after* the block's first norm and ReLU, where their identity carries the input itself; and no norm and ReLU follow
    the last stage, so features can be negative. A shortcut that changes size is a 1x1 convolution without norm.

    That code has two functions ``PreActResNet34``, one of them of post-activation blocks, and no published config uses
    either; here both depths are pre-activation. Layers are named as there, so weights load.

    Weights keep PyTorch's own initialisation: the published learning rates were found with it. For the whole
    classifier to keep it, give ``LinearClsHead`` (or ``ELRHead``) ``init_cfg=None`` too.

    Args:
        depth (int): 18 or 34.
        in_channels (int): Channels of the images. Defaults to 3.
        base_channels (int): Width of the stem and of the first stage. Defaults to 64.
        out_indices (Sequence[int]): Stages to return, from 0 to 3. Defaults to ``(3,)``, the last.
        norm_cfg (dict): Config of the norm layers. Defaults to ``dict(type='BN')``.
        init_cfg (dict, optional): Config of an initialisation. Defaults to None, PyTorch's own.

    Raises:
        ValueError: Another depth, or a stage that does not exist.

    Examples:
        >>> model = dict(
        ...     type='ImageClassifier',
        ...     backbone=dict(type='PreActResNet', depth=18),
        ...     neck=dict(type='GlobalAveragePooling'),
        ...     head=dict(type='LinearClsHead', num_classes=10, in_channels=512, init_cfg=None))
    """

    arch_settings = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}

    def __init__(
        self,
        depth: int,
        in_channels: int = 3,
        base_channels: int = 64,
        out_indices: Sequence[int] = (3,),
        norm_cfg: dict = dict(type='BN'),  # noqa: B006  never changed
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if depth not in self.arch_settings:
            raise ValueError(f'PreActResNet has no depth {depth!r}; it has {", ".join(map(str, self.arch_settings))}.')
        if not out_indices or not set(out_indices) <= {0, 1, 2, 3}:
            raise ValueError(f'out_indices={out_indices!r} must name stages of PreActResNet, from 0 to 3.')
        self.out_indices = out_indices

        self.conv1 = nn.Conv2d(in_channels, base_channels, 3, padding=1, bias=False)
        self.bn1 = build_norm_layer(norm_cfg, base_channels)
        width = base_channels
        for stage, num_blocks in enumerate(self.arch_settings[depth]):
            blocks = []
            for i in range(num_blocks):
                stride = 2 if stage > 0 and i == 0 else 1
                blocks.append(PreActBlock(width, base_channels * 2**stage, stride, norm_cfg))
                width = base_channels * 2**stage
            self.add_module(f'layer{stage + 1}', nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Features of the stages in ``out_indices``.

        Args:
            x (Tensor): Images of shape (N, in_channels, H, W).

        Returns:
            tuple[Tensor]: In the order of the stages; those of stage i have shape
            (N, base_channels · 2^i, ⌈H / 2^i⌉, ⌈W / 2^i⌉).
        """
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        outs = []
        for stage in range(4):
            x = getattr(self, f'layer{stage + 1}')(x)
            if stage in self.out_indices:
                outs.append(x)
        return tuple(outs)
