"""A table of small images on the device, and batches of it: gathered, cropped and flipped, all images at once."""

from __future__ import annotations

import secrets
import weakref
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ['Crop', 'Flip', 'ImageTable', 'find_table']

_tables: weakref.WeakValueDictionary[int, ImageTable] = weakref.WeakValueDictionary()


def find_table(key: int) -> ImageTable:
    """The table of this process that rows of :meth:`ImageTable.draw` speak of.

    Args:
        key (int): Its ``key``.

    Returns:
        ImageTable: The table.

    Raises:
        KeyError: It is not of this process, or gone with its dataset.
    """
    table = _tables.get(key)
    if table is None:
        raise KeyError(
            'The images of this batch are not in this process: they go with their InMemoryDataset. Keep that as long '
            'as its batches are used, and use them in the process that built it.'
        )
    return table


class Crop:
    """Crops of one size, for each image at a place of its own, after a border was added.

    Args:
        shape (tuple[int, int]): Height and width of the images.
        size (tuple[int, int]): Height and width of the crops; images that are smaller stay as they are.
        padding (tuple[int, int, int, int]): Left, top, right and bottom border, of zeros. Defaults to none.
    """

    num_drawn = 2

    def __init__(
        self, shape: tuple[int, int], size: tuple[int, int], padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    ) -> None:
        left, top, right, bottom = self.padding = tuple(padding)
        padded = (shape[0] + top + bottom, shape[1] + left + right)
        #: Height and width of the result.
        self.shape = tuple(min(have, want) for have, want in zip(padded, size, strict=True))
        #: In how many places a crop can begin, from the top and from the left.
        self.places = tuple(have - want + 1 for have, want in zip(padded, self.shape, strict=True))

    def draw(self, rng, num: int) -> np.ndarray:
        """Draw where to crop, each place equally likely.

        Args:
            rng (np.random.RandomState | module): Of NumPy's legacy interface; ``np.random`` itself has it.
            num (int): Number of images.

        Returns:
            np.ndarray: First row and first column of each crop, int64 [num, 2].
        """
        drawn = [rng.randint(0, n, num) if n > 1 else np.zeros(num, np.int64) for n in self.places]
        return np.stack(drawn, axis=1)

    def __call__(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Crop.

        Args:
            images (Tensor): [N, C, H, W].
            drawn (Tensor): As drawn, int64 [N, 2], on the device of the images.

        Returns:
            Tensor: [N, C, h, w].
        """
        left, top, right, bottom = self.padding
        if any(self.padding):
            images = F.pad(images, (left, right, top, bottom))
        if self.places == (1, 1):
            return images
        # A row of a crop is so many pixels after one another. Whole rows are copied faster than pixels are chosen.
        num, channels, padded_height, padded_width = images.shape
        height, width = self.shape
        count = partial(torch.arange, device=images.device)
        first = count(num * channels).view(num, channels) * padded_height + drawn[:, :1]
        first = (first[:, :, None] + count(height)) * padded_width + drawn[:, 1, None, None]
        return images.reshape(-1).unfold(0, width, 1).index_select(0, first.flatten()).view(num, channels, *self.shape)

    def __repr__(self) -> str:
        return f'Crop(size={self.shape}, padding={self.padding})'


class Flip:
    """Mirrors each image or does not.

    Args:
        shape (tuple[int, int]): Height and width of the images.
        prob (float): Probability, in [0, 1].
        direction (str): ``'horizontal'``, ``'vertical'`` or ``'diagonal'``, which is both. Defaults to
            ``'horizontal'``.
    """

    num_drawn = 1

    def __init__(self, shape: tuple[int, int], prob: float, direction: str = 'horizontal') -> None:
        self.shape = shape
        self.prob = prob
        self.direction = direction
        self._dims = dict(horizontal=(3,), vertical=(2,), diagonal=(2, 3))[direction]

    def draw(self, rng, num: int) -> np.ndarray:
        """Draw which images are mirrored, int64 [num, 1]; see :meth:`Crop.draw`."""
        return (rng.random_sample((num, 1)) < self.prob).astype(np.int64)

    def __call__(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Mirror the images [N, C, H, W] where ``drawn``, int64 [N, 1], is 1 and not 0."""
        both = torch.cat([images, images.flip(self._dims)])  # whole images are copied faster than pixels are chosen
        return both.index_select(0, torch.arange(len(images), device=images.device) + len(images) * drawn[:, 0])

    def __repr__(self) -> str:
        return f'Flip(prob={self.prob}, direction={self.direction!r})'


class ImageTable:
    """Images of one size, of which batches are made on any device.

    The images are copied to a device when the first batch is made there, n·C·H·W bytes, and stay there as long as the
    table lives. They are in no checkpoint, for the table is no part of the model. A copy of the table is the table.

    Args:
        images (Tensor): uint8 [n, C, H, W].
        steps (list): What is done with each batch: :class:`Crop`, :class:`Flip`.
    """

    def __init__(self, images: Tensor, steps: list) -> None:
        self.images = images
        self.steps = steps
        #: A number that no other table has, by which :func:`find_table` finds it.
        self.key = secrets.randbits(62)
        self._copies: dict[torch.device, Tensor] = {}
        _tables[self.key] = self

    def __deepcopy__(self, memo: dict) -> ImageTable:
        return self

    def __getstate__(self) -> dict:
        return self.__dict__ | {'_copies': {}}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        _tables.setdefault(self.key, self)

    def draw(self, rng, num: int) -> np.ndarray:
        """Draw all that is random in the steps, see :meth:`Crop.draw`.

        Returns:
            np.ndarray: int64 [num, P].
        """
        return np.concatenate([np.empty((num, 0), np.int64), *(step.draw(rng, num) for step in self.steps)], axis=1)

    def rows(self, which: np.ndarray, drawn: np.ndarray) -> Tensor:
        """All that :meth:`batch` must know.

        Args:
            which (np.ndarray): Places of the images in the table, int64 [N].
            drawn (np.ndarray): What was drawn for each, int64 [N, P].

        Returns:
            Tensor: The key, the place and what was drawn, int64 [N, 2 + P].
        """
        rows = np.empty((len(which), 2 + drawn.shape[1]), np.int64)
        rows[:, 0], rows[:, 1], rows[:, 2:] = self.key, which, drawn
        return torch.from_numpy(rows)

    def batch(self, rows: Tensor, device: torch.device | str) -> Tensor:
        """Images as they were drawn. Nothing waits for the device.

        Args:
            rows (Tensor): Of :meth:`rows`, int64 [N, 2 + P] on the CPU.
            device (torch.device | str): Where to make the batch.

        Returns:
            Tensor: uint8 [N, C, h, w] there.
        """
        rows = rows.to(device, non_blocking=True)
        images = self._on(torch.device(device)).index_select(0, rows[:, 1])
        for step, drawn in zip(self.steps, rows[:, 2:].split([s.num_drawn for s in self.steps], dim=1), strict=True):
            images = step(images, drawn)
        return images

    def _on(self, device: torch.device) -> Tensor:
        if device not in self._copies:
            self._copies[device] = self.images.to(device)
        return self._copies[device]
