"""scikit-learn's handwritten digits: real data that needs no download."""

from __future__ import annotations

import numpy as np
from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS

__all__ = ['Digits']


@DATASETS.register_module()
class Digits(BaseDataset):
    """The 1,797 handwritten digits (8x8, grey) that scikit-learn ships, from the UCI repository.

    scikit-learn has no official split. Here, of every class, 80 % (chosen once and for all) are for training, 1,438
    in total, and 359 for testing.

    Args:
        split (str): ``'train'`` or ``'test'``. Defaults to ``'train'``.
        data_root (str): Unused, the data comes with scikit-learn. Defaults to ``''``.
        **kwargs: Other arguments of MMPretrain's ``BaseDataset``, such as ``pipeline`` and ``indices``.
    """

    METAINFO = {'classes': tuple('0123456789')}

    def __init__(self, split: str = 'train', data_root: str = '', **kwargs) -> None:
        if split not in ('train', 'test'):
            raise ValueError(f"split of Digits must be 'train' or 'test', got {split!r}.")
        self.split = split
        super().__init__(ann_file='', data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict]:
        """``img``, uint8 [8, 8] in [0, 255], and ``gt_label`` of every sample."""
        try:
            from sklearn.datasets import load_digits
        except ImportError as e:
            raise ImportError(
                "Digits comes with scikit-learn, which is not installed: pip install 'mmelr[demo]'."
            ) from e
        images, labels = load_digits(return_X_y=True)
        images = np.round(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
        rng = np.random.RandomState(0)
        chosen = []
        for c in range(10):
            members = rng.permutation(np.flatnonzero(labels == c))
            cut = round(0.8 * len(members))
            chosen.append(members[:cut] if self.split == 'train' else members[cut:])
        return [dict(img=images[i], gt_label=int(labels[i])) for i in np.sort(np.concatenate(chosen))]

    def extra_repr(self) -> list[str]:
        return [f'Split: \t{self.split}']
