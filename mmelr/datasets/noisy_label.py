"""``NoisyLabelDataset``: noisy labels and stable sample identities over any MMPretrain dataset."""

from __future__ import annotations

import copy
import random
from contextlib import contextmanager

import numpy as np
import torch
from mmengine.dataset import force_full_init
from mmengine.dataset.base_dataset import BaseDataset
from mmpretrain.registry import DATASETS

from ..noise import NoiseRecord, parse_noise
from ..registry import build_noise
from .identity import SampleMap, balances_classes, check_kind, map_samples
from .in_memory import InMemoryDataset

__all__ = ['NoisyLabelDataset']


@DATASETS.register_module()
class NoisyLabelDataset:
    """Wraps a dataset: draws noisy labels, and says of every item which sample it is.

    Items are the wrapped dataset's, with

    - ``gt_label``: the noisy label, put in before the pipeline runs, so that no transform sees another one;
    - ``sample_idx``: the sample's position in the whole dataset. An item of a ``RepeatDataset``,
      ``ClassBalancedDataset``, ``ConcatDataset``, ``KFoldDataset`` or of a subset (``indices=``) keeps the number that
      the sample has in the full data, so a subset's noise is the full set's noise and a label file fits both;
    - ``num_samples``: the size of that whole dataset, the number of rows of a target memory;
    - ``clean_label``: the wrapped dataset's own label, where ``noise`` replaces it, and is not a file of corrections
      (see ``LabelFile``). It is meta information for diagnosis: no loss reads it.

    A subset must be made with ``indices=``: one taken by ``get_subset()`` forgets what it is a part of.

    On a ``DataSample`` the last three are meta information. Use it as the outermost wrapper.

    Args:
        dataset (dict | BaseDataset): The dataset, or wrapper of datasets, single-label.
        noise (dict | str | None): A noise model of ``mmelr.registry.NOISES``, e.g. ``dict(type='SymmetricNoise',
            rate=0.4)``, or in the words of the command line, ``'symmetric:0.4'``.
            None keeps the labels as they are, for data whose labels are noisy already.
        lazy_init (bool): Whether to load annotations later, at the first use. Defaults to False.

    Raises:
        TypeError: A dataset whose samples cannot be told apart, or with several labels a sample.
        ValueError: Labels outside the classes, or noise that does not fit.
    """

    def __init__(self, dataset: dict | BaseDataset, noise: dict | str | None = None, lazy_init: bool = False) -> None:
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        noise = parse_noise(noise) if isinstance(noise, str) else noise
        self.noise = build_noise(noise) if isinstance(noise, dict) else noise
        self._in_memory = isinstance(self.dataset, InMemoryDataset)
        if not self._in_memory:
            check_kind(self.dataset)
        self._metainfo = self.dataset.metainfo
        # (seed, epoch) in memory that data workers share, so that persistent ones learn of a new epoch.
        self._augmentation = torch.full((2,), -1, dtype=torch.int64).share_memory_()
        self._fully_initialized = False
        if not lazy_init:
            self.full_init()

    def full_init(self) -> None:
        """Load the annotations, number the samples and draw the noise."""
        if self._fully_initialized:
            return
        self.dataset.full_init()
        self._metainfo = self.dataset.metainfo
        self._map: SampleMap = self.dataset.map if self._in_memory else map_samples(self.dataset)
        if self.noise is not None and balances_classes(self.dataset):
            raise TypeError(
                'ClassBalancedDataset repeats samples by the labels of the dataset inside: by the clean ones, which '
                'the noise is to hide. Leave it out, or put the noisy labels into the dataset and use noise=None.'
            )
        num_classes = self._num_classes()
        given = self._map.gt_labels()
        outside = np.flatnonzero((given < 0) | (given >= num_classes))
        if len(outside):
            raise ValueError(
                f'Sample {outside[0]} of {type(self.dataset).__name__} has label {given[outside[0]]}, '
                f'outside [0, {num_classes}). Does `classes` name every class?'
            )
        if self.noise is None:
            self.record = NoiseRecord(given, None, num_classes, 'labels as given')
        else:
            images = self._map.images() if self.noise.needs_images else None
            noisy = self.noise(given, num_classes, images)
            corrected = hasattr(self.noise, 'corrects') and self.noise.corrects(given)
            self.record = NoiseRecord(noisy, None if corrected else given, num_classes, repr(self.noise))
        self._fully_initialized = True

    def _num_classes(self) -> int:
        classes = self._metainfo.get('classes')
        if not classes:
            raise ValueError(
                f'{type(self.dataset).__name__} does not name its classes. Give it '
                'metainfo=dict(classes=[...]) or classes=[...].'
            )
        return len(classes)

    @property
    def metainfo(self) -> dict:
        """dict: Meta information of the wrapped dataset."""
        return copy.deepcopy(self._metainfo)

    @property
    def CLASSES(self):
        """tuple[str] | None: Names of the classes."""
        return self._metainfo.get('classes')

    @property
    def class_to_idx(self) -> dict:
        """dict: From a class's name to its index."""
        return {name: i for i, name in enumerate(self.CLASSES)}

    @property
    @force_full_init
    def num_samples(self) -> int:
        """int: Samples in the whole dataset, which ``sample_idx`` counts; a subset or repetition has another length."""
        return self._map.num_samples

    @property
    @force_full_init
    def own_labels(self) -> np.ndarray:
        """np.ndarray: The labels of the wrapped dataset itself, int64 [num_samples]."""
        return self._map.gt_labels()

    @property
    @force_full_init
    def sample_idx(self) -> np.ndarray:
        """np.ndarray: Which sample each item is, int64 [len(self)] in [0, num_samples)."""
        return self._map.sample_idx

    @force_full_init
    def __len__(self) -> int:
        return len(self._map.sample_idx)

    @force_full_init
    def get_gt_labels(self) -> np.ndarray:
        """np.ndarray: The noisy label of every item, int64 [len(self)]."""
        return self.record.noisy_label[self._map.sample_idx]

    @force_full_init
    def get_cat_ids(self, idx: int) -> list[int]:
        """list[int]: The noisy label of an item, in a list as MMPretrain has it."""
        return [int(self.record.noisy_label[self._map.sample_idx[idx]])]

    @force_full_init
    def get_data_info(self, idx: int) -> dict:
        """dict: Annotation of an item: the wrapped dataset's with the four entries above."""
        info = self._map.get_data_info(idx)
        info.update(self._identities([idx])[0], gt_label=self.get_cat_ids(idx)[0])
        return info

    def __getitem__(self, idx: int) -> dict:
        return self.__getitems__([idx])[0]

    @force_full_init
    def __getitems__(self, items: list[int]) -> list[dict]:
        """Several items at once, as PyTorch's loader asks for a batch: what a batch needs once is done once."""
        if not self._in_memory:
            with self._kept_random_state():
                return [self._item(idx) for idx in items]
        seed, epoch = self._augmentation.tolist()
        labels = self.record.noisy_label[self._map.sample_idx[items]]
        return self.dataset.fetch(
            np.asarray(items), labels, self._identities(items), None if epoch < 0 else (seed, epoch)
        )

    def _item(self, idx: int) -> dict:
        # As BaseDataset does, but when a pipeline rejects an image the next one comes with its own number and label.
        leaf = self._map.leaf(idx)
        for attempt in range(1 if leaf.test_mode else leaf.max_refetch + 1):
            self._seed_augmentation(idx, attempt)
            data = self._map.leaf(idx).pipeline(self.get_data_info(idx))
            if data is not None:
                break
            rejected, idx = idx, np.random.randint(len(self))
        else:
            raise RuntimeError(
                f'The pipeline of {type(leaf).__name__} rejects its images, the last one item {rejected}. '
                'Check the image paths and the pipeline.'
            )
        if 'data_samples' in data:
            data['data_samples'].set_metainfo(self._identities([idx])[0])
        return data

    def _identities(self, items: list[int]) -> list[dict]:
        samples, clean = self._map.sample_idx[items], self.record.clean_label
        identities = [dict(sample_idx=sample, num_samples=self._map.num_samples) for sample in samples.tolist()]
        if clean is not None:
            for identity, label in zip(identities, clean[samples].tolist(), strict=True):
                identity['clean_label'] = label
        return identities

    def set_augmentation_epoch(self, seed: int, epoch: int) -> None:
        """Draw the pipeline's random numbers from (seed, epoch, item) from now on, in every data worker.

        Without this they come from the workers' own random state, which no checkpoint holds.
        """
        self._augmentation.copy_(torch.tensor([seed, epoch]))

    @contextmanager
    def augmentation_epoch(self, seed: int, epoch: int):
        """Within this context, as after :meth:`set_augmentation_epoch`."""
        before = self._augmentation.tolist()
        self.set_augmentation_epoch(seed, epoch)
        try:
            yield
        finally:
            self.set_augmentation_epoch(*before)

    def _seed_augmentation(self, idx: int, attempt: int) -> None:
        seed, epoch = self._augmentation.tolist()
        if epoch < 0:
            return
        a, b, c = np.random.SeedSequence((seed, epoch, idx % len(self), attempt)).generate_state(3)
        random.seed(int(a))
        np.random.seed(b)
        torch.default_generator.manual_seed(int(c))

    @contextmanager
    def _kept_random_state(self):
        """Give the main process back its random state. That of a data worker serves nothing else."""
        if self._augmentation[1] < 0 or torch.utils.data.get_worker_info() is not None:
            yield
            return
        saved = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
        try:
            yield
        finally:
            random.setstate(saved[0])
            np.random.set_state(saved[1])
            torch.default_generator.set_state(saved[2])

    def __repr__(self) -> str:
        record = self.record.summary() if self._fully_initialized else f'noise={self.noise!r}, not loaded yet'
        body = '\n'.join('    ' + line for line in repr(self.dataset).splitlines())
        return f'{type(self).__name__}: {record}\n{body}'
