"""Clothing1M: a million pictures of clothes with labels taken from the text around them."""

from __future__ import annotations

import os

from mmpretrain.registry import DATASETS

from .key_list import KeyListDataset, parse_label, read_list

__all__ = ['Clothing1M']

# The list of images and the labels of each split.
_SPLITS = {
    'train': ('noisy_train_key_list.txt', 'noisy_label_kv.txt'),
    'val': ('clean_val_key_list.txt', 'clean_label_kv.txt'),
    'test': ('clean_test_key_list.txt', 'clean_label_kv.txt'),
    'clean_train': ('clean_train_key_list.txt', 'clean_label_kv.txt'),
}


@DATASETS.register_module()
class Clothing1M(KeyListDataset):
    """`Clothing1M <https://github.com/Cysu/noisy_label>`_ (Xiao et al., CVPR 2015), in its official layout:

    ::

        clothing1m
        ├── noisy_train_key_list.txt   lines `images/0/00/name.jpg`
        ├── noisy_label_kv.txt         lines `images/0/00/name.jpg 5`
        ├── clean_train_key_list.txt
        ├── clean_val_key_list.txt
        ├── clean_test_key_list.txt
        ├── clean_label_kv.txt
        └── images
            ├── 0                      from 0.tar
            │   ├── 00
            │   └── ...
            └── ...

    A sample takes 34 bytes: the longest path, 33 for names as in the official lists, and a label. That is 34 MB for the
    million, and 200 MB for a moment while the lists are read (measured; 3 to 4 s on one core, after which the
    process had grown by 40 MB).

    Args:
        split (str): ``'train'``, the 1,000,000 images with noisy labels; ``'val'`` (14,313) and ``'test'`` (10,526)
            with labels by people; or ``'clean_train'``, the training images that people labelled.
        data_root (str): Folder of the data set. Defaults to ``'data/clothing1m'``.
        **kwargs: Other arguments of MMPretrain's ``BaseDataset``, such as ``pipeline`` and ``indices``.

    Raises:
        FileNotFoundError: A list or an image is missing.
        ValueError: A list is malformed, a key has no label or two different ones.
    """

    METAINFO = {
        'classes': (
            'T-Shirt',
            'Shirt',
            'Knitwear',
            'Chiffon',
            'Sweater',
            'Hoodie',
            'Windbreaker',
            'Jacket',
            'Down Coat',
            'Suit',
            'Shawl',
            'Dress',
            'Vest',
            'Underwear',
        )
    }
    LAYOUT = (
        'Clothing1M has the files {noisy_train,clean_train,clean_val,clean_test}_key_list.txt and '
        '{noisy,clean}_label_kv.txt in data_root, and images in images/0/00 to images/9/99.'
    )

    def __init__(self, split: str = 'train', data_root: str = 'data/clothing1m', **kwargs) -> None:
        if split not in _SPLITS:
            raise ValueError(f'split of Clothing1M must be one of {", ".join(map(repr, _SPLITS))}, got {split!r}.')
        self.split = split
        super().__init__(ann_file=_SPLITS[split][0], data_root=data_root, **kwargs)

    def read_samples(self) -> tuple[list[bytes], list[int]]:
        names = [fields[0] for _, fields in read_list(self.ann_file, 'path', self.LAYOUT)]
        # One dict for both, so that a million keys are not kept twice. The file has labels of other splits too.
        labels: dict[bytes, int | None] = dict.fromkeys(names)
        label_file = os.path.join(self.data_root, _SPLITS[self.split][1])
        for number, (name, text) in read_list(label_file, 'path label', self.LAYOUT):
            label = parse_label(label_file, number, text, len(self.METAINFO['classes']))
            earlier = labels.get(name)
            if earlier not in (None, label):
                raise ValueError(
                    f'{label_file}: line {number} gives {os.fsdecode(name)!r} the label {label}, '
                    f'an earlier line {earlier}'
                )
            labels[name] = label
        missing = sum(labels[name] is None for name in names)
        if missing:
            number, name = next(
                (number, name)
                for number, (name,) in read_list(self.ann_file, 'path', self.LAYOUT)
                if labels[name] is None
            )
            raise ValueError(
                f'{self.ann_file}: the key {os.fsdecode(name)!r} of line {number} has no label in {label_file}, and '
                f'{missing} of {len(names)} keys have none. Is that file complete, and of the same release?'
            )
        return names, [labels[name] for name in names]

    def archive_of(self, name: str) -> str:
        return '/'.join(name.split('/')[:2]) + '.tar'

    def extra_repr(self) -> list[str]:
        return [f'Split: \t{self.split}', *super().extra_repr()]
