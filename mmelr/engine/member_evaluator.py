"""``MemberEvaluator``: metrics of the ensemble, and of each of its members."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from mmengine.evaluator import DumpResults, Evaluator
from mmengine.registry import EVALUATOR
from mmpretrain.structures import DataSample

__all__ = ['MemberEvaluator']


@EVALUATOR.register_module()
class MemberEvaluator(Evaluator):
    """Any metrics, of the predictions of a ``CoTrainingClassifier`` and of its members.

    A metric of the ensemble keeps its name, e.g. ``accuracy/top1``, so that ``save_best`` and early stopping go by it.
    Those of the members have the member's name before: ``network1/accuracy/top1``, ``network2/...`` and, where the
    teachers are weight averages, ``average1/...``, ``average2/...``. Under test-time augmentation the members are left
    out: it averages the ensemble's scores alone.

    Args:
        metrics (dict | list[dict]): Configs of the metrics.
    """

    def __init__(self, metrics: dict | list[dict]) -> None:
        super().__init__(copy.deepcopy(metrics))
        # Predictions are dumped into one file, and those are the ensemble's.
        self._of_members = [m for m in copy.deepcopy(self.metrics) if not isinstance(m, DumpResults)]
        self._members: dict[str, Evaluator] = {}

    def process(self, data_samples: Sequence[DataSample], data_batch: dict | None = None) -> None:
        """Take in a batch of predictions.

        Args:
            data_samples (Sequence[DataSample]): With ``member_scores`` and ``members``, see ``CoTrainingClassifier``.
            data_batch (dict, optional): The batch that they were made from.
        """
        super().process(data_samples, data_batch)
        first = data_samples[0]
        if 'members' not in first or not torch.equal(first.member_scores[-1], first.pred_score):
            return  # not of such a model, or something changed the prediction afterwards
        for i, name in enumerate(first.members):
            if name not in self._members:
                self._members[name] = Evaluator(copy.deepcopy(self._of_members))
                self._members[name].dataset_meta = self.dataset_meta
            predictions = []
            for sample in data_samples:
                score = sample.member_scores[i]
                label = score.argmax(dim=0, keepdim=True)
                predictions.append(sample.to_dict() | dict(pred_score=score, pred_label=label))
            self._members[name].process(predictions, data_batch)

    def evaluate(self, size: int) -> dict[str, float]:
        """All metrics of the ensemble, then those of the members.

        Args:
            size (int): Samples of the whole dataset.

        Returns:
            dict[str, float]: By name.
        """
        metrics = super().evaluate(size)
        for name, evaluator in self._members.items():
            metrics |= {f'{name}/{key}': value for key, value in evaluator.evaluate(size).items()}
        return metrics
