"""``TransitionHook``: the transition matrix of the noise, for loss correction."""

from __future__ import annotations

import numpy as np
import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import Tensor

from ..losses import estimate_transition
from ..losses.checks import check_range
from ..models import BackwardLoss, ForwardLoss
from ..noise import NoiseRecord, transition_matrix
from ..noise.files import check_suffix
from ..noise.synthetic import read_matrix
from .predictions import loss_and_dataset, training_predictions

__all__ = ['TransitionHook', 'known_transition']

_SUFFIXES = ('.npy', '.csv', '.txt')


@HOOKS.register_module()
class TransitionHook(Hook):
    """Gives ``ForwardLoss`` or ``BackwardLoss`` its transition matrix T, T[i, j] = P(label j | true class i).

    - ``source='known'``: how often labels of class i became j in the noise of this run, from the clean labels that
      ``NoisyLabelDataset`` has of noise that it drew itself. A class without samples is taken for unharmed.
    - ``source='estimated'``: T is the identity, and the loss cross entropy, for ``warm_up`` epochs; then the network
      predicts the training set once, and T is estimated from that (:func:`mmelr.losses.estimate_transition`). Patrini
      et al. 2017 train twice, once to the end for T and then anew with it; here the same run goes on. So T is that of
      a network that has not memorised yet, if ``warm_up`` is short, and the run costs no second one.
    - ``source='matrix.csv'``, or a .npy or .txt file: that matrix, C rows that sum to one.

    T is in the checkpoints, as ``head.loss_module.transition``; a resumed run goes on with it.

    Args:
        source (str): ``'known'``, ``'estimated'`` or the path of a file. Defaults to ``'known'``.
        warm_up (int): Epochs of cross entropy before the estimate. Defaults to 10.
        quantile (float, optional): Which quantile of the probabilities of a class marks its typical sample, in
            [0, 1]; 1 is the largest. Defaults to 0.97, as published, and to 1 where a class has less than 3 % of the
            labels, for there that quantile would mark a sample of another class.

    Raises:
        ValueError: A value outside its range.
    """

    priority = 'VERY_HIGH'  # NoiseRecordHook's: what it leaves behind of a checkpoint, this sets anew

    def __init__(self, source: str = 'known', warm_up: int = 10, quantile: float | None = None) -> None:
        if not isinstance(source, str):
            raise ValueError(f"source of TransitionHook must be 'known', 'estimated' or a file, got {source!r}.")
        if not isinstance(warm_up, int) or warm_up < 0:
            raise ValueError(f'warm_up of TransitionHook must be a number of epochs, at least 0, got {warm_up!r}.')
        if quantile is not None:
            check_range('quantile', quantile, 0, 1, 'The paper uses 0.97, and 1 for CIFAR-100.')
        self.source = source
        self.warm_up = warm_up
        self.quantile = quantile
        #: The file, where it is one; it is not read before the run, for a run that tests does without.
        self.path = None if source in ('known', 'estimated') else check_suffix(source, _SUFFIXES, 'transition matrix')

    def before_run(self, runner: Runner) -> None:
        """Set T, where it is there already; a checkpoint that the run goes on from comes with its own."""
        found = loss_and_dataset(runner, (ForwardLoss, BackwardLoss), self, by_epoch=self.source == 'estimated')
        if found is None:
            return
        self._loss, self._dataset = found
        if self.source == 'estimated':
            epochs = runner.train_loop.max_epochs
            if self.warm_up >= epochs:
                runner.logger.warning(
                    f'TransitionHook estimates T after {self.warm_up} epochs, and this run has {epochs}: it never '
                    'will, and trains with cross entropy. Lower warm_up.'
                )
            return
        matrix = known_transition(self._dataset.record) if self.path is None else read_matrix(self.path)
        self._loss.set_transition(matrix)

    def before_train_epoch(self, runner: Runner) -> None:
        """Estimate T, once."""
        if self.source != 'estimated' or runner.epoch < self.warm_up or runner.message_hub.get_info('transition_from'):
            return
        positions = torch.zeros(self._dataset.num_samples, dtype=torch.int64)
        used = torch.from_numpy(self._dataset.sample_idx).unique()
        positions[used] = torch.arange(len(used))
        probabilities = None
        for indices, logits in training_predictions(runner):
            if probabilities is None:
                probabilities = torch.zeros(len(used), logits.shape[1])
            probabilities[positions[indices]] = logits.softmax(dim=1).cpu()
        all_reduce(probabilities, op='max')  # a rank's rows are zero on the others
        matrix = estimate_transition(probabilities, self._quantile())
        self._loss.set_transition(matrix)
        runner.message_hub.update_info('transition_from', runner.epoch + 1)
        error = ''
        if self._dataset.record.clean_label is not None:
            distance = (matrix.cpu().double() - known_transition(self._dataset.record)).abs().sum(dim=1).mean()
            error = f'; its rows are {distance:.3f} from the true ones (L1 distance, mean over the classes)'
        runner.logger.info(
            f'Transition matrix estimated (epochs: {runner.epoch}): {matrix.diag().mean():.3f} on the diagonal{error}.'
        )

    def _quantile(self) -> float:
        if self.quantile is not None:
            return self.quantile
        labels = self._dataset.record.noisy_label[np.unique(self._dataset.sample_idx)]
        shares = np.bincount(labels, minlength=self._dataset.record.num_classes) / len(labels)
        return 0.97 if shares.min() >= 0.03 else 1.0


def known_transition(record: NoiseRecord) -> Tensor:
    """How the labels of each class came out.

    Args:
        record (NoiseRecord): The labels of a run.

    Returns:
        Tensor: T, float64 [C, C]; a class without samples keeps its label.

    Raises:
        ValueError: The clean labels are unknown.
    """
    if record.clean_label is None:
        raise ValueError(
            'The transition matrix is not known: these labels are noisy as given, and the clean ones are not there to '
            "compare with. Let it be estimated, method 'forward-estimated', or give a file of it, "
            "apply_method(cfg, 'forward', transition='matrix.csv')."
        )
    matrix = transition_matrix(record.clean_label, record.noisy_label, record.num_classes)
    empty = matrix.sum(axis=1) == 0
    matrix[empty] = np.eye(len(matrix))[empty]
    return torch.from_numpy(matrix)
