"""How many images a second come out of a data pipeline: one by one, or from memory."""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch
from mmengine.dataset import default_collate
from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS, MODELS

__all__ = ['WAYS', 'build_pipelines', 'make_batches', 'pipeline_speed']

#: The ways to make a batch: MMPretrain's pipeline, image by image, and ``InMemoryDataset``.
WAYS = ('per sample', 'in memory')


@DATASETS.register_module()
class PipelineImages(BaseDataset):
    """Images of random pixels in ten classes."""

    METAINFO = {'classes': tuple('0123456789')}

    def __init__(self, num: int, side: int, channels: int, pipeline: list) -> None:
        self._shape = (num, side, side, channels)
        super().__init__(ann_file='', pipeline=pipeline)

    def load_data_list(self) -> list[dict]:
        """``img`` and ``gt_label`` of every image."""
        images = np.random.RandomState(0).randint(0, 256, self._shape).astype(np.uint8)
        return [dict(img=image, gt_label=i % 10) for i, image in enumerate(images)]


def build_pipelines(side: int = 32, channels: int = 3, augment: bool = True, device: str = 'cpu') -> dict[str, tuple]:
    """Both ways to make batches of the same 4,096 images of random pixels, with noisy labels.

    Args:
        side (int): Height and width of the images. Defaults to 32.
        channels (int): 1 or 3. Defaults to 3.
        augment (bool): Whether to crop, with a border of an eighth of the side, and to flip. Defaults to True.
        device (str): Where the batches are wanted. Defaults to ``'cpu'``.

    Returns:
        dict[str, tuple]: For each of :data:`WAYS` the dataset and the data preprocessor.
    """
    pipeline = [dict(type='PackInputs')]
    if augment:
        crop = dict(type='RandomCrop', crop_size=side, padding=side // 8)
        pipeline = [crop, dict(type='RandomFlip', prob=0.5), *pipeline]
    images = dict(num=4096, side=side, channels=channels, pipeline=pipeline)
    parts = (
        (dict(type='PipelineImages', **images), 'ClsDataPreprocessor'),
        (dict(type='InMemoryDataset', base='PipelineImages', **images), 'InMemoryPreprocessor'),
    )
    built = {}
    for way, (dataset, kind) in zip(WAYS, parts, strict=True):
        dataset = DATASETS.build(dict(type='NoisyLabelDataset', dataset=dataset, noise='symmetric:0.4'))
        dataset.set_augmentation_epoch(0, 0)  # as ExactResumeHook does
        preprocessor = MODELS.build(dict(type=kind, num_classes=10, mean=[127.0] * channels, std=[64.0] * channels))
        built[way] = dataset, preprocessor.to(device)
    return built


def pipeline_speed(
    built: dict[str, tuple], batch_size: int = 128, repeats: int = 9, batches: int = 8
) -> dict[str, dict[str, float]]:
    """Time the making of batches: dataset, collation and data preprocessor, in one process without workers.

    Both ways take turns, so that whatever else the machine does meets both; figures are medians over the turns. On a
    CPU the time is that of the process, elsewhere that of the clock, with the device waited for at the end of a turn.

    Args:
        built (dict[str, tuple]): What :func:`build_pipelines` gives.
        batch_size (int): Images in a batch. Defaults to 128.
        repeats (int): Turns. Defaults to 9.
        batches (int): Batches a turn; from memory it is eight times as many. Defaults to 8.

    Returns:
        dict[str, dict[str, float]]: For each of :data:`WAYS`: ``samples_per_second``, and microseconds for each image
        spent in the ``dataset``, in ``collate`` and in the ``preprocessor``; and of ``'in memory'`` the ``ratio``, how
        many times as many images a second.
    """
    many = dict(zip(WAYS, (batches, 8 * batches), strict=True))
    seconds = {way: [] for way in WAYS}
    for repeat in range(repeats + 1):
        for way in WAYS:
            turn = make_batches(*built[way], batch_size, many[way] if repeat else 2)
            if repeat:  # the first turn warms up
                seconds[way].append(turn / (many[way] * batch_size))
    result = {}
    for way, turns in seconds.items():
        parts = np.median(turns, axis=0) * 1e6
        result[way] = dict(zip(('dataset', 'collate', 'preprocessor'), parts.tolist(), strict=True))
        result[way]['samples_per_second'] = 1 / statistics.median(turn.sum() for turn in turns)
    ratios = [slow.sum() / fast.sum() for slow, fast in zip(*seconds.values(), strict=True)]
    result['in memory']['ratio'] = statistics.median(ratios)
    return result


def make_batches(dataset, preprocessor, batch_size: int, batches: int) -> np.ndarray:
    """Make batches of items drawn at random.

    Returns:
        np.ndarray: Seconds spent in the dataset, in collation and in the preprocessor, float64 [3].
    """
    on_cpu = preprocessor.device.type == 'cpu'
    clock = time.process_time if on_cpu else time.perf_counter
    seconds = np.zeros(3)
    for items in np.random.RandomState(batches).randint(len(dataset), size=(batches, batch_size)).tolist():
        marks = [clock()]
        batch = dataset.__getitems__(items)
        marks.append(clock())
        batch = default_collate(batch)
        marks.append(clock())
        preprocessor(batch, True)
        marks.append(clock())
        seconds += np.diff(marks)
    if not on_cpu:
        start = clock()
        torch.cuda.synchronize()
        seconds[2] += clock() - start
    return seconds
