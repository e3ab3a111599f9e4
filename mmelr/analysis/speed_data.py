"""How many samples a second a data pipeline makes into batches, and where the time goes."""

from __future__ import annotations

import time

import numpy as np
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS, MODELS

from .speed import Contender, summary, take_turns

__all__ = ['DataPass', 'RandomImages', 'data_speed']


@DATASETS.register_module()
class RandomImages(BaseDataset):
    """Noise in place of images: what a pipeline and a network cost does not depend on what is in them.

    Args:
        number (int): Images.
        shape (tuple[int, int, int]): Channels, height, width.
        **kwargs: Other arguments of MMPretrain's ``BaseDataset``, such as ``pipeline``.
    """

    METAINFO = {'classes': tuple('0123456789')}

    def __init__(self, number: int, shape: tuple[int, int, int], **kwargs) -> None:
        self.number, self.shape = number, tuple(shape)
        super().__init__(ann_file='', **kwargs)

    def load_data_list(self) -> list[dict]:
        """``img``, uint8 [H, W] or [H, W, channels], and ``gt_label`` of every sample."""
        channels, *size = self.shape
        size += [channels] * (channels > 1)
        images = np.random.default_rng(0).integers(256, size=(self.number, *size), dtype=np.uint8)
        return [dict(img=image, gt_label=i % 10) for i, image in enumerate(images)]


class DataPass:
    """A pass over the training data, made into batches for the network, in one process and with no network behind it.

    Args:
        cfg (Config): Of a run whose training data is a ``NoisyLabelDataset``.
        device (str): Where the batches are wanted.
        seeded (bool): Whether the augmentation of each item is seeded, as ``ExactResumeHook`` has it. Defaults to True.
    """

    def __init__(self, cfg: Config, device: str, seeded: bool = True) -> None:
        self.loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
        if seeded:
            self.loader.dataset.set_augmentation_epoch(0, 0)
        self.preprocessor = MODELS.build(cfg.data_preprocessor).to(device)
        #: Seconds of each pass until now in the dataset (and its sampler), and in collation.
        self.seconds: list[np.ndarray] = []
        self._clock = time.process_time if device == 'cpu' else time.perf_counter

    def __call__(self, _=None) -> None:
        """Do what PyTorch's loader does without workers, with a look at the clock between its parts."""
        clock, seconds = self._clock, np.zeros(2)
        start = clock()
        for items in self.loader.batch_sampler:
            items = self.loader.dataset.__getitems__(items)
            read = clock()
            batch = self.loader.collate_fn(items)
            collated = clock()
            seconds += read - start, collated - read
            self.preprocessor(batch, True)
            start = clock()
        self.seconds.append(seconds)


def data_speed(passes: dict[str, DataPass], rounds: int, device: str) -> dict[str, dict]:
    """Time passes over data, which take turns.

    Args:
        passes (dict[str, DataPass]): By name; times are compared with those of the first.
        rounds (int): Passes of each.
        device (str): Of the passes.

    Returns:
        dict[str, dict]: By name what :func:`mmelr.analysis.speed.summary` gives, ``samples_per_second``, and
        ``microseconds`` of a sample in the ``dataset``, in ``collate`` and in the ``preprocessor``. The last is all
        that the others leave, so that on an accelerator the wait for it is there.
    """
    times = take_turns({name: Contender(of_data) for name, of_data in passes.items()}, rounds, 1, device)
    rows = summary(times, next(iter(passes)))
    for name, of_data in passes.items():
        samples, parts = len(of_data.loader.dataset), np.array(of_data.seconds[-rounds:])
        parts = np.column_stack([parts, np.array(times[name]) - parts.sum(axis=1)])
        micro = (1e6 * np.median(parts, axis=0) / samples).tolist()
        rows[name]['samples_per_second'] = samples / rows[name]['ms'] * 1000
        rows[name]['microseconds'] = dict(zip(('dataset', 'collate', 'preprocessor'), micro, strict=True))
    return rows
