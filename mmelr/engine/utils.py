"""What several hooks ask of a runner."""

from __future__ import annotations

from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, Runner
from torch import nn

from ..datasets import NoisyLabelDataset
from ..models import CoTrainingClassifier

__all__ = ['bare_model', 'networks', 'noisy_dataset']


def bare_model(runner: Runner) -> nn.Module:
    """The model of a runner without a wrapper for distributed training."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def networks(runner: Runner) -> dict[str, nn.Module]:
    """The networks that a runner trains, by name; a single classifier is ``'network'``."""
    model = bare_model(runner)
    if isinstance(model, CoTrainingClassifier):
        return dict(zip(model.network_names, model.networks, strict=True))
    return {'network': model}


def noisy_dataset(runner: Runner) -> NoisyLabelDataset | None:
    """The training dataset of a runner that trains, if it is a ``NoisyLabelDataset``.

    Raises:
        TypeError: There is one, but inside of another wrapper, where its samples' numbers are not the run's.
    """
    if not isinstance(runner._train_loop, BaseLoop):  # a config still: this runner validates or tests
        return None
    dataset = runner._train_loop.dataloader.dataset
    dataset = getattr(dataset, '_dataset', dataset)  # MMEngine's slice for num_batch_per_epoch
    if isinstance(dataset, NoisyLabelDataset):
        return dataset
    inside = [dataset]
    while inside:
        d = inside.pop()
        if isinstance(d, NoisyLabelDataset):
            raise TypeError(
                f'NoisyLabelDataset is inside of {type(dataset).__name__}. Turn them round, so that it numbers '
                f"all samples of the run: dict(type='NoisyLabelDataset', dataset=dict(type="
                f"'{type(dataset).__name__}', ...), noise=...)."
            )
        inside += list(getattr(d, 'datasets', [])) + [d.dataset] * hasattr(d, 'dataset')
    return None
