"""Which sample is the item of a wrapped, repeated, concatenated or cut-out dataset?"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import mmcv
import numpy as np
from mmengine.dataset import ClassBalancedDataset, ConcatDataset, RepeatDataset
from mmengine.dataset.base_dataset import BaseDataset
from mmpretrain.datasets import KFoldDataset

__all__ = ['SampleMap', 'balances_classes', 'check_kind', 'map_samples']


@dataclass
class SampleMap:
    """Items of a dataset, traced to samples of the full datasets underneath.

    Attributes:
        leaves (list[BaseDataset]): The full datasets, without subset, one after the other.
        offsets (np.ndarray): Number of the first sample of each leaf, and the total, int64 [len(leaves) + 1].
        sample_idx (np.ndarray): Sample of each item, int64 [len(dataset)].
    """

    leaves: list[BaseDataset]
    offsets: np.ndarray
    sample_idx: np.ndarray

    @property
    def num_samples(self) -> int:
        return int(self.offsets[-1])

    def _leaf(self, sample: int) -> int:
        return int(np.searchsorted(self.offsets, sample, side='right')) - 1

    def leaf(self, idx: int) -> BaseDataset:
        """The full dataset that an item comes from."""
        return self.leaves[self._leaf(self.sample_idx[idx])]

    def get_data_info(self, idx: int) -> dict:
        """The annotation of an item."""
        sample = int(self.sample_idx[idx])
        leaf = self._leaf(sample)
        return self.leaves[leaf].get_data_info(sample - int(self.offsets[leaf]))

    def gt_labels(self) -> np.ndarray:
        """Labels of all samples, int64 [num_samples]."""
        labels = [_labels(leaf) for leaf in self.leaves]
        return np.concatenate(labels)

    def images(self, size: int = 32) -> np.ndarray:
        """All samples' images, uint8 [num_samples, size, size, channels], for noise that depends on them."""
        return np.stack([_image(leaf.get_data_info(i), size) for leaf in self.leaves for i in range(len(leaf))])


def map_samples(dataset) -> SampleMap:
    """Trace every item of a dataset to its sample.

    Args:
        dataset (BaseDataset | wrapper): An initialised MMPretrain or MMEngine dataset or wrapper of them.

    Returns:
        SampleMap: The map.

    Raises:
        TypeError: A kind of dataset whose samples cannot be told apart.
    """
    if isinstance(dataset, (RepeatDataset, ClassBalancedDataset)):
        inner = map_samples(dataset.dataset)
        items = [dataset._get_ori_dataset_idx(i) for i in range(len(dataset))]
        return SampleMap(inner.leaves, inner.offsets, inner.sample_idx[items])
    if isinstance(dataset, KFoldDataset):
        # It has cut its dataset already; the folds count the dataset as it was before.
        inner = map_samples(_reload(dataset.dataset, dataset.dataset._indices))
        return SampleMap(inner.leaves, inner.offsets, inner.sample_idx[dataset._ori_indices])
    if isinstance(dataset, ConcatDataset):
        parts = [map_samples(d) for d in dataset.datasets]
        starts = np.cumsum([0] + [p.num_samples for p in parts])
        return SampleMap(
            leaves=[leaf for p in parts for leaf in p.leaves],
            offsets=np.concatenate(
                [p.offsets[:-1] + s for p, s in zip(parts, starts[:-1], strict=True)] + [starts[-1:]]
            ),
            sample_idx=np.concatenate([p.sample_idx + s for p, s in zip(parts, starts[:-1], strict=True)]),
        )
    check_kind(dataset)
    full = dataset if dataset._indices is None else _reload(dataset, None)
    sample_idx = np.arange(len(full))
    if isinstance(dataset._indices, int):  # the first so many, or for a negative number the last
        sample_idx = sample_idx[: dataset._indices] if dataset._indices >= 0 else sample_idx[dataset._indices :]
    elif dataset._indices is not None:
        sample_idx = sample_idx[list(dataset._indices)]
    if len(sample_idx) != len(dataset):
        raise TypeError(
            f'This {type(dataset).__name__} is a subset made by get_subset(), which does not keep the numbers of its '
            'samples. Make the subset with the argument indices= instead.'
        )
    return SampleMap([full], np.array([0, len(full)]), sample_idx)


def balances_classes(dataset) -> bool:
    """Whether a ``ClassBalancedDataset`` is among the wrappers."""
    if isinstance(dataset, ClassBalancedDataset):
        return True
    inside = getattr(dataset, 'datasets', None) or [d for d in [getattr(dataset, 'dataset', None)] if d is not None]
    return any(balances_classes(d) for d in inside)


def check_kind(dataset) -> None:
    """Refuse a kind of dataset whose samples cannot be told apart.

    Raises:
        TypeError: Names the kind, and those that will do.
    """
    if not isinstance(dataset, (BaseDataset, RepeatDataset, ClassBalancedDataset, ConcatDataset, KFoldDataset)):
        raise TypeError(
            f'NoisyLabelDataset cannot tell which sample an item of {type(dataset).__name__} is. It knows '
            'datasets derived from BaseDataset, and RepeatDataset, ConcatDataset, ClassBalancedDataset and '
            'KFoldDataset around them, and InMemoryDataset around all of that. Wrap the dataset inside instead.'
        )


def _reload(dataset: BaseDataset, indices) -> BaseDataset:
    """The dataset with another subset; BaseDataset forgets what a subset leaves out, so annotations are read again."""
    full = copy.copy(dataset)
    full._indices, full._fully_initialized = indices, False
    full.full_init()
    return full


def _labels(dataset: BaseDataset) -> np.ndarray:
    try:
        labels = np.asarray(
            dataset.get_gt_labels()
            if hasattr(dataset, 'get_gt_labels')
            else [dataset.get_data_info(i)['gt_label'] for i in range(len(dataset))]
        )
    except ValueError as e:  # lists of labels of different lengths make no array
        raise _no_single_label(dataset, 'lists of different lengths') from e
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise _no_single_label(dataset, f'of shape {labels.shape} and type {labels.dtype}')
    return labels.astype(np.int64)


def _no_single_label(dataset: BaseDataset, found: str) -> TypeError:
    return TypeError(
        f'NoisyLabelDataset needs one integer label for each sample; those of {type(dataset).__name__} are {found}. '
        'Multi-label data cannot be used.'
    )


def _image(info: dict, size: int) -> np.ndarray:
    image = np.asarray(info['img']) if 'img' in info else mmcv.imread(info['img_path'])
    image = image if image.shape[:2] == (size, size) else mmcv.imresize(image, (size, size))
    return image.reshape(size, size, -1)
