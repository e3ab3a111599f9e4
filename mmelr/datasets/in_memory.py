"""``InMemoryDataset``: small images that stay on the device, and are cropped and flipped there, a batch at a time."""

from __future__ import annotations

import pickle
import random

import numpy as np
import torch
from mmcv.transforms import RandomFlip
from mmengine.dataset import force_full_init
from mmpretrain.datasets.transforms import PackInputs, RandomCrop
from mmpretrain.registry import DATASETS
from mmpretrain.structures import DataSample
from torch import Tensor

from ..image_table import Crop, Flip, ImageTable
from .identity import SampleMap, check_kind, map_samples

__all__ = ['InMemoryDataset']


@DATASETS.register_module()
class InMemoryDataset:
    """Stands in for a dataset of images of one size, and keeps them all in one uint8 tensor.

    Its config is that of the ``base`` dataset, pipeline included. Of the pipeline, everything before the first
    ``RandomCrop`` or ``RandomFlip`` is run once for each image, when the dataset is loaded. The crops and flips are
    drawn for each item as ever, and made by ``InMemoryPreprocessor``, which must be the model's ``data_preprocessor``:
    where the network is, for a whole batch at once. What reaches the network is what MMPretrain's own transforms make
    of the same draws, pixel by pixel.

    The tensor takes n·C·H·W bytes (CIFAR-10: 50,000 images, 154 MB), once in the host's memory and once on each device
    that makes batches. Every process of a distributed run has its own.

    Use it directly inside of ``NoisyLabelDataset``, or by itself. Wrappers go inside:
    ``dict(type='InMemoryDataset', base='RepeatDataset', times=2, dataset=...)``; a repeated image is kept once.

    The meta information of a ``DataSample`` is that of the part of the pipeline that runs once (``img_path``, say),
    without ``flip`` and the shape of the crop. By itself, an item that repeats an image has the ``sample_idx`` of the
    first one with it.

    Args:
        base (str): The dataset to stand in for, e.g. ``'CIFAR10'``.
        lazy_init (bool): Whether to load annotations and images later, at the first use. Defaults to False.
        **kwargs: Arguments of the base dataset.

    Raises:
        TypeError: A kind of dataset whose samples cannot be told apart, or a pipeline that cannot be run this way.
        ValueError: Images of different sizes.

    Examples:
        >>> dataset = dict(type='InMemoryDataset', base='CIFAR10', data_root='data/cifar10', pipeline=pipeline)
        >>> data_preprocessor = dict(type='InMemoryPreprocessor', num_classes=10, mean=mean, std=std)
    """

    def __init__(self, base: str, lazy_init: bool = False, **kwargs) -> None:
        self.dataset = DATASETS.build(dict(kwargs, type=base, **dict(lazy_init=True) if lazy_init else {}))
        check_kind(self.dataset)
        self._drawn: tuple = (None, None)
        self._fully_initialized = False
        if not lazy_init:
            self.full_init()

    def full_init(self) -> None:
        """Load the annotations and the images."""
        if self._fully_initialized:
            return
        self.dataset.full_init()
        #: Which sample each item is.
        self.map: SampleMap = map_samples(self.dataset)
        _, first, self._places = np.unique(self.map.sample_idx, return_index=True, return_inverse=True)
        self._labels = self.map.gt_labels()[self.map.sample_idx]
        pipelines = {id(leaf): _Pipeline(leaf) for leaf in self.map.leaves}
        images, self._metainfos, own_idx = None, [], []
        for place, item in enumerate(first.tolist()):
            # MMPretrain packs labels of Python's int alone.
            info = dict(self.dataset.get_data_info(item), gt_label=int(self._labels[item]))
            image, metainfo = pipelines[id(self.map.leaf(item))].run(info, item)
            if images is None:
                images = torch.empty((len(first), *image.shape), dtype=torch.uint8)
            if image.shape != images.shape[1:]:
                raise ValueError(
                    f'InMemoryDataset needs images of one size. {_name(metainfo, item)} has the shape '
                    f'{tuple(image.shape)}, {_name(self._metainfos[0], int(first[0]))} {tuple(images.shape[1:])}. Put '
                    'a Resize in front of the pipeline, or use the dataset as it is.'
                )
            images[place] = image
            own_idx.append(metainfo.pop('sample_idx', item))
            # For most datasets it is the same for all.
            same = place and metainfo == self._metainfos[-1]
            self._metainfos.append(self._metainfos[-1] if same else metainfo)
        if images is None:
            raise ValueError(f'{type(self.dataset).__name__} is empty: there are no images to keep in memory.')
        self._own_idx = np.array(own_idx)
        steps = [pipeline.steps(tuple(images.shape[2:])) for pipeline in pipelines.values()]
        if any(repr(other) != repr(steps[0]) for other in steps):
            raise TypeError(
                'InMemoryDataset crops and flips all images in the same way, but the datasets inside of '
                f'{type(self.dataset).__name__} have different pipelines.'
            )
        self.table = ImageTable(images, steps[0])
        self._fully_initialized = True

    @property
    def metainfo(self) -> dict:
        """dict: Meta information of the base dataset."""
        return self.dataset.metainfo

    @force_full_init
    def __len__(self) -> int:
        return len(self._places)

    @force_full_init
    def get_gt_labels(self) -> np.ndarray:
        """np.ndarray: The label of every item, int64 [len(self)]."""
        return self._labels

    def get_cat_ids(self, idx: int) -> list[int]:
        """list[int]: The label of an item, in a list as MMPretrain has it."""
        return [int(self.get_gt_labels()[idx])]

    def get_data_info(self, idx: int) -> dict:
        """dict: Annotation of an item, from the base dataset."""
        return self.dataset.get_data_info(idx)

    def __getitem__(self, idx: int) -> dict:
        return self.__getitems__([idx])[0]

    @force_full_init
    def __getitems__(self, items: list[int]) -> list[dict]:
        """Several items at once, as PyTorch's loader asks for a batch."""
        items = np.asarray(items)
        identities = [dict(sample_idx=i) for i in self._own_idx[self._places[items]].tolist()]
        return self.fetch(items, self._labels[items], identities)

    def fetch(
        self, items: np.ndarray, labels: np.ndarray, identities: list[dict], epoch: tuple[int, int] | None = None
    ) -> list[dict]:
        """Items with labels and meta information from outside.

        Args:
            items (np.ndarray): Which items, int64 [N].
            labels (np.ndarray): Their labels, int64 [N].
            identities (list[dict]): Meta information of each.
            epoch (tuple[int, int], optional): Seed and epoch; what is random about an item is then a function of the
                two and the item. None draws from NumPy's global state.

        Returns:
            list[dict]: Of each item a row for ``InMemoryPreprocessor``, ``in_memory``, and ``data_samples``.
        """
        drawn = self.table.draw(np.random, len(items)) if epoch is None else self._draw_epoch(epoch)[items]
        places = self._places[items].tolist()
        rows = self.table.rows(places, drawn).unbind()
        metainfos = [self._metainfos[place] | identity for place, identity in zip(places, identities, strict=True)]
        samples = map(_data_sample, torch.from_numpy(labels)[:, None].unbind(), metainfos)
        return [_Item(in_memory=row, data_samples=sample) for row, sample in zip(rows, samples, strict=True)]

    def _draw_epoch(self, epoch: tuple[int, int]) -> np.ndarray:
        if self._drawn[0] != epoch:
            # RandomState, because NumPy has frozen its stream. The spawn key parts it from the draws of samplers.
            sequence = np.random.SeedSequence(epoch, spawn_key=(0,))
            rng = np.random.RandomState(sequence.generate_state(4))
            self._drawn = epoch, self.table.draw(rng, len(self))
        return self._drawn[1]

    def __repr__(self) -> str:
        body = '\n'.join('    ' + line for line in repr(self.dataset).splitlines())
        held = 'not loaded yet'
        if self._fully_initialized:
            images = self.table.images
            held = f'{len(images):,} images of shape {tuple(images.shape[1:])}, {images.nbytes / 1e6:.0f} MB'
        return f'{type(self).__name__}: {held}\n{body}'


class _Item(dict):
    """Says what is wrong to a data preprocessor that looks for images. MMEngine's collate functions keep the class."""

    def __missing__(self, key: str):
        if key == 'inputs':
            raise TypeError(
                "A batch of InMemoryDataset has no images in it; they are put in by the model's data preprocessor. Set "
                "data_preprocessor=dict(type='InMemoryPreprocessor', ...), with the arguments of ClsDataPreprocessor."
            )
        raise KeyError(key)


def _data_sample(label: Tensor, metainfo: dict) -> DataSample:
    # What DataSample(metainfo=...).set_gt_label(...) leaves, which takes longer than all else here together.
    sample = DataSample.__new__(DataSample)
    sample.__dict__.update(metainfo, gt_label=label, _metainfo_fields=set(metainfo), _data_fields={'gt_label'})
    return sample


def _name(metainfo: dict, item: int) -> str:
    return metainfo.get('img_path') or f'Item {item}'


class _Pipeline:
    """The pipeline of a dataset in three parts: what runs once, what is drawn for each item, and ``PackInputs``."""

    def __init__(self, dataset) -> None:
        transforms = list(dataset.pipeline.transforms)
        if not transforms or type(transforms[-1]) is not PackInputs:
            last = type(transforms[-1]).__name__ if transforms else 'nothing'
            raise TypeError(
                f'InMemoryDataset needs a pipeline that ends with PackInputs; that of {type(dataset).__name__} ends '
                f'with {last}.'
            )
        *transforms, self._pack = transforms
        kinds = [type(t) in (RandomCrop, RandomFlip) for t in transforms]
        cut = kinds.index(True) if True in kinds else len(kinds)
        self._once, self._drawn, self._tried = transforms[:cut], transforms[cut:], False
        for transform in self._once:
            if getattr(transform, '_methods_with_randomness', None):
                raise _cannot_run(transform, _RANDOM)
        for transform in self._drawn:
            if type(transform) not in (RandomCrop, RandomFlip):
                raise _cannot_run(transform, 'it stands behind a crop or a flip')

    def run(self, info: dict, item: int) -> tuple[Tensor, dict]:
        """The image, uint8 [C, H, W], and the meta information of an item."""
        where = _name(info, item)
        for transform in self._once:
            before = None if self._tried else _random_states()
            info = transform(info)
            # Not all that draw say so beforehand: not those of torchvision, and not a Compose with others inside.
            if before is not None and before != _random_states():
                raise _cannot_run(transform, _RANDOM)
            if info is None:
                raise ValueError(f'{where}: {type(transform).__name__} of the pipeline rejects this image.')
        self._tried = True
        packed = self._pack(info)
        image, sample = packed.get('inputs'), packed['data_samples']
        if not isinstance(image, Tensor) or image.dtype != torch.uint8 or image.dim() != 3:
            found = f'{image.dtype} {tuple(image.shape)}' if isinstance(image, Tensor) else type(image).__name__
            raise TypeError(
                f'InMemoryDataset keeps images of 8 bits, [C, H, W]; {where} comes out of the pipeline as {found}.'
            )
        more = sorted(set(sample.keys()) - {'gt_label'})
        if more:
            raise TypeError(f'InMemoryDataset carries labels; {where} comes with {", ".join(more)} besides.')
        return image, sample.metainfo

    def steps(self, shape: tuple[int, int]) -> list[Crop | Flip]:
        """What is drawn, for images of height and width ``shape``."""
        steps = []
        for transform in self._drawn:
            steps.append(_crop(transform, shape) if type(transform) is RandomCrop else _flip(transform, shape))
            shape = steps[-1].shape
        return steps


_RANDOM = 'it is random, and would be drawn once and for all'


def _random_states() -> tuple:
    """Of all that transforms draw from, to be compared."""
    return random.getstate(), pickle.dumps(np.random.get_state()), torch.get_rng_state().numpy().tobytes()


def _crop(transform: RandomCrop, shape: tuple[int, int]) -> Crop:
    padding = transform.padding or 0
    padding = (padding,) * 4 if isinstance(padding, int) else tuple(padding) * (4 // len(padding))
    if transform.pad_if_needed or transform.pad_val != 0:
        raise _cannot_run(transform, 'it has pad_if_needed or a pad_val')
    return Crop(shape, tuple(transform.crop_size), padding)


def _flip(transform: RandomFlip, shape: tuple[int, int]) -> Flip:
    if not isinstance(transform.prob, float) or not isinstance(transform.direction, str):
        raise _cannot_run(transform, 'it has more than one direction')
    return Flip(shape, transform.prob, transform.direction)


def _cannot_run(transform, why: str) -> TypeError:
    return TypeError(
        f'InMemoryDataset cannot run {type(transform).__name__} of this pipeline: {why}. It draws RandomCrop and '
        'RandomFlip (with a black border) for each item; what is not random stands before these. Leave the transform '
        'out, or take the images one by one: make the base the type of the dataset, and leave InMemoryDataset out '
        '(with _delete_=True where the config inherits it). InMemoryPreprocessor can stay.'
    )
