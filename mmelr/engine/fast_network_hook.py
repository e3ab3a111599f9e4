"""``FastNetworkHook``: another layout of the weights in memory, and compiled backbones."""

from __future__ import annotations

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import nn

from ..models import CoTrainingClassifier
from .utils import bare_model

__all__ = ['FastNetworkHook', 'make_fast']


def make_fast(model: nn.Module, channels_last: bool = True, compile: bool | dict = False) -> None:
    """Change how a classifier computes, in place: not what, not its parameters' names, and not their values.

    Args:
        model (nn.Module): A classifier, or a ``CoTrainingClassifier``, whose networks and averages are all changed.
        channels_last (bool): Keep weights and features as N, H, W, C in memory. Defaults to True.
        compile (bool | dict): Compile the backbones by ``torch.compile``, with these arguments. What handles samples,
            targets and labels stays in Python, so nothing is compiled again from step to step. Defaults to False.
    """
    networks = model.networks + model.averages if isinstance(model, CoTrainingClassifier) else [model]
    for network in networks:
        if channels_last:
            network.to(memory_format=torch.channels_last)
        if compile is not False:
            network.backbone.compile(**({} if compile is True else compile))


@HOOKS.register_module()
class FastNetworkHook(Hook):
    """Trains with another memory layout, or compiled backbones, in any config.

    Checkpoints hold the same names and shapes; they load with the hook and without. Sums are taken in another order, so
    results agree to rounding, not to the bit.

    Args:
        channels_last (bool): Keep weights and features as N, H, W, C in memory, which the convolutions of CPUs and of
            GPUs with tensor cores prefer. Defaults to True.
        compile (bool | dict): Compile the backbones by ``torch.compile``; a dict holds its arguments, e.g.
            ``dict(mode='max-autotune')``. It needs a C++ compiler, and on a GPU Triton. Defaults to False.

    Raises:
        TypeError: A value of another type.
    """

    def __init__(self, channels_last: bool = True, compile: bool | dict = False) -> None:
        if not isinstance(channels_last, bool):
            raise TypeError(f'channels_last of FastNetworkHook must be True or False, got {channels_last!r}.')
        if not isinstance(compile, (bool, dict)):
            raise TypeError(
                f'compile of FastNetworkHook must be a bool or a dict for torch.compile, got {compile!r}.'
            )
        self.channels_last = channels_last
        self.compile = compile

    def before_train(self, runner: Runner) -> None:
        """Change the model, once it has its weights: random ones are drawn in the order in which they lie in memory."""
        make_fast(bare_model(runner), self.channels_last, self.compile)
