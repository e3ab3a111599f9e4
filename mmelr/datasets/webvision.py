"""Mini WebVision: 50 classes of images found by Google, and the part of ImageNet that it is tested on too."""

from __future__ import annotations

import os

from mmpretrain.datasets import ImageNet
from mmpretrain.datasets.categories import IMAGENET_CATEGORIES
from mmpretrain.registry import DATASETS

from .key_list import KeyListDataset, parse_label, read_list

__all__ = ['FOLDERS', 'ImageNet50', 'MiniWebVision']

# fmt: off
#: Class folders of the first 50 classes, in order: the numbers of their WordNet synsets.
FOLDERS = tuple(
    f'n{number:08}' for number in (
        1440764, 1443537, 1484850, 1491361, 1494475, 1496331, 1498041, 1514668, 1514859, 1518878,
        1530575, 1531178, 1532829, 1534433, 1537544, 1558993, 1560419, 1580077, 1582220, 1592084,
        1601694, 1608432, 1614925, 1616318, 1622779, 1629819, 1630670, 1631663, 1632458, 1632777,
        1641577, 1644373, 1644900, 1664065, 1665541, 1667114, 1667778, 1669191, 1675722, 1677366,
        1682714, 1685808, 1687978, 1688243, 1689811, 1692333, 1693334, 1694178, 1695060, 1697457,
    )
)
# fmt: on


class _First50(KeyListDataset):
    """The first 50 of ImageNet's 1,000 classes, from a list of lines ``path label`` for all of them."""

    METAINFO = {'classes': IMAGENET_CATEGORIES[:50]}

    def read_samples(self) -> tuple[list[bytes], list[int]]:
        names, labels = [], []
        for number, (name, text) in read_list(self.ann_file, 'path label', self.LAYOUT):
            label = parse_label(self.ann_file, number, text, len(IMAGENET_CATEGORIES))
            if label < len(self.METAINFO['classes']):
                names.append(name)
                labels.append(label)
        return names, labels


@DATASETS.register_module()
class MiniWebVision(_First50):
    """Mini WebVision: the first 50 classes of the Google part of `WebVision 1.0
    <https://data.vision.ee.ethz.ch/cvl/webvision/dataset2017.html>`_, in its official layout:

    ::

        webvision
        ├── info
        │   ├── train_filelist_google.txt   lines `google/q0001/name.jpg 0`
        │   └── val_filelist.txt            lines `val000001.jpg 0`
        ├── google                          from google_resized_256.tar
        │   ├── q0001
        │   └── ...
        └── val_images_256                  from val_images_256.tar

    The other 950 classes, listed in the same files, are left out; their images need not be there.

    Args:
        split (str): ``'train'``, with the labels that Google's search gave, or ``'val'``, checked by people.
        data_root (str): Folder of the data set. Defaults to ``'data/webvision'``.
        **kwargs: Other arguments of MMPretrain's ``BaseDataset``, such as ``pipeline`` and ``indices``.

    Raises:
        FileNotFoundError: A list or an image is missing.
        ValueError: A list is malformed.
    """

    LAYOUT = (
        'WebVision 1.0 has the lists info/train_filelist_google.txt and info/val_filelist.txt in data_root, training '
        'images in google/q0001 and so on, and validation images in val_images_256.'
    )

    def __init__(self, split: str = 'train', data_root: str = 'data/webvision', **kwargs) -> None:
        if split not in ('train', 'val'):
            raise ValueError(f"split of MiniWebVision must be 'train' or 'val', got {split!r}.")
        self.split = split
        ann_file, prefix = {
            'train': ('info/train_filelist_google.txt', ''),
            'val': ('info/val_filelist.txt', 'val_images_256'),
        }[split]
        super().__init__(ann_file=ann_file, data_root=data_root, **{'data_prefix': prefix, **kwargs})

    def archive_of(self, name: str) -> str:
        return {'train': 'google_resized_256.tar', 'val': 'val_images_256.tar'}[self.split]

    def extra_repr(self) -> list[str]:
        return [f'Split: \t{self.split}', *super().extra_repr()]


@DATASETS.register_module()
class ImageNet50(_First50):
    """ImageNet's validation images of the first 50 classes, on which mini WebVision is tested too.

    It takes the two layouts of MMPretrain's ``ImageNet``: ``meta/val.txt`` (lines ``path label``) and images in
    ``val``; or, without that file, class folders ``val/n01440764`` and so on. MMPretrain numbers class folders in
    the order found, here they are known by name: the folders of the other 950 classes may be missing.

    Args:
        data_root (str): Folder of the data set. Defaults to ``'data/imagenet'``.
        **kwargs: Other arguments of MMPretrain's ``BaseDataset``, such as ``pipeline`` and ``indices``.

    Raises:
        FileNotFoundError: There is neither list nor folders, a class folder or an image is missing.
        ValueError: The list is malformed, or a class folder has no image.
    """

    LAYOUT = (
        'ImageNet has data_root/meta/val.txt and images in data_root/val, or class folders data_root/val/n01440764 '
        'and so on.'
    )

    def __init__(self, data_root: str = 'data/imagenet', **kwargs) -> None:
        ann_file = 'meta/val.txt' if os.path.isfile(os.path.join(data_root, 'meta/val.txt')) else ''
        super().__init__(ann_file=ann_file, data_root=data_root, **{'data_prefix': 'val', **kwargs})

    def read_samples(self) -> tuple[list[bytes], list[int]]:
        return super().read_samples() if self.ann_file else self._read_folders()

    def _read_folders(self) -> tuple[list[bytes], list[int]]:
        names, labels = [], []
        missing = [folder for folder in FOLDERS if not os.path.isdir(os.path.join(self.img_prefix, folder))]
        if missing:
            raise FileNotFoundError(
                f'No such folder: {os.path.abspath(os.path.join(self.img_prefix, missing[0]))}, and {len(missing)} of '
                f'{len(FOLDERS)} class folders are missing; nor is there meta/val.txt. {self.LAYOUT}'
            )
        for label, folder in enumerate(FOLDERS):
            path = os.path.join(self.img_prefix, folder)
            files = sorted(f for f in os.listdir(path) if f.lower().endswith(ImageNet.IMG_EXTENSIONS))
            if not files:
                raise ValueError(f'{os.path.abspath(path)} has no image. Unpack {self.archive_of(folder)}.')
            names += [os.fsencode(f'{folder}/{file}') for file in files]
            labels += [label] * len(files)
        return names, labels

    def archive_of(self, name: str) -> str:
        return 'ILSVRC2012_img_val.tar'
