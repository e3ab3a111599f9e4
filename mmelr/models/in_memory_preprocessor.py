"""``InMemoryPreprocessor``: makes batches of images that are on the device already."""

from __future__ import annotations

import torch
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.registry import MODELS

from ..image_table import find_table

__all__ = ['InMemoryPreprocessor']


@MODELS.register_module()
class InMemoryPreprocessor(ClsDataPreprocessor):
    """Makes the batches of an ``InMemoryDataset``, and those of any other dataset as ``ClsDataPreprocessor`` does.

    The images are gathered, cropped and flipped on the device, all of a batch at once, then normalised as ever. Nothing
    waits for the device: indices and labels go there in two copies.

    Args:
        **kwargs: Arguments of ``ClsDataPreprocessor``.
    """

    def forward(self, data: dict, training: bool = False) -> dict:
        """Make the model's input.

        Args:
            data (dict): A batch of N items.
            training (bool): Whether to apply batch augments.

        Returns:
            dict: ``inputs``, float32 [N, C, H, W], and ``data_samples``, with labels on the device.

        Raises:
            KeyError: The images are not in this process.
            ValueError: They are of several datasets.
        """
        if 'in_memory' not in data:
            return super().forward(data, training)
        rows, samples = data['in_memory'], data['data_samples']
        rows = torch.stack(rows) if isinstance(rows, list) else rows  # pseudo_collate leaves a list
        if (rows[:, 0] != rows[0, 0]).any():
            raise ValueError(
                'The images of this batch are of several InMemoryDatasets. Put the ConcatDataset inside: '
                "dict(type='InMemoryDataset', base='ConcatDataset', datasets=[...])."
            )
        images = find_table(int(rows[0, 0])).batch(rows, self.device)
        labels = torch.cat([sample.gt_label for sample in samples]).to(self.device, non_blocking=True)
        for sample, label in zip(samples, labels[:, None].unbind(), strict=True):
            sample.gt_label = label
        if self.to_onehot:
            return super().forward(dict(inputs=images, data_samples=samples), training)
        return super().forward(dict(inputs=images), training) | dict(data_samples=samples)
