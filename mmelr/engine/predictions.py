"""What a network in training makes of its training set, between two epochs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from mmengine.dist import get_dist_info
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from ..datasets import NoisyLabelDataset
from ..models.elr_head import sum_branches
from .distributed import share_statistics
from .exact_resume_hook import kept_random_state
from .utils import bare_model, noisy_dataset

__all__ = ['loss_and_dataset', 'training_predictions']


def loss_and_dataset(
    runner: Runner, kinds: tuple[type[nn.Module], ...], hook: Hook, by_epoch: bool = True
) -> tuple[nn.Module, NoisyLabelDataset] | None:
    """The loss that a hook serves, and the training data; None in a run that does not train.

    Args:
        runner (Runner): The runner.
        kinds (tuple[type]): Kinds of loss that the hook serves.
        hook (Hook): The hook.
        by_epoch (bool): Whether it counts epochs. Defaults to True.

    Returns:
        tuple[nn.Module, NoisyLabelDataset] | None: Both.

    Raises:
        TypeError: Another loss, other data, or a loop that counts iterations.
    """
    dataset, name = noisy_dataset(runner), type(hook).__name__
    if runner._train_loop is None or isinstance(runner._train_loop, dict):
        return None
    loss = getattr(getattr(bare_model(runner), 'head', None), 'loss_module', None)
    if not isinstance(loss, kinds):
        raise TypeError(
            f'{name} serves a head with the loss {" or ".join(kind.__name__ for kind in kinds)}; this one has '
            f'{type(loss).__name__}. Set model.head.loss, or remove the hook from custom_hooks.'
        )
    if dataset is None:
        raise TypeError(f'{name} needs to know the samples: wrap the training dataset in NoisyLabelDataset.')
    if by_epoch and not isinstance(runner.train_loop, EpochBasedTrainLoop):
        raise TypeError(
            f'{name} counts epochs, and this run counts iterations: train_cfg=dict(by_epoch=True, max_epochs=...).'
        )
    return loss, dataset


@torch.no_grad()
def training_predictions(runner: Runner) -> Iterator[tuple[Tensor, Tensor]]:
    """Predict the training set, each sample once, with the network as it is and the images as in this epoch.

    It is done in evaluation mode, with running statistics of BatchNorm, on images as the training pipeline makes them;
    what that draws at random follows from the run's seed and the epoch. So the outcome does not depend on whether the
    run was resumed, or how many processes and data workers it has, and the random state of the run stays as it was.

    Args:
        runner (Runner): A runner in front of a training epoch.

    Yields:
        tuple[Tensor, Tensor]: Samples of a batch, int64 [N] on the CPU, and their logits, [N, C], float32. Several
        processes share the samples out, in batches of equal size, for which some come twice.
    """
    model, dataset, loader = bare_model(runner), noisy_dataset(runner), runner.train_dataloader
    share_statistics(model)
    rank, ranks = get_dist_info()
    _, items = np.unique(dataset.sample_idx, return_index=True)
    items = np.resize(items, -(-len(items) // ranks) * ranks)  # begins anew at its end
    batches = DataLoader(
        Subset(dataset, items[rank::ranks].tolist()),
        batch_size=loader.batch_size or 128,  # None where the config has a batch sampler
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        worker_init_fn=loader.worker_init_fn,
    )
    training = model.training
    with kept_random_state(), dataset.augmentation_epoch(runner.seed, runner.epoch):
        model.eval()
        for data in batches:
            data = model.data_preprocessor(data, False)
            logits = sum_branches(model(data['inputs'], data['data_samples'], mode='tensor'))
            yield torch.tensor([sample.sample_idx for sample in data['data_samples']]), logits.float()
        model.train(training)
