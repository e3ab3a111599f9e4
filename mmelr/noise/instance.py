"""Label noise that depends on the image."""

from __future__ import annotations

import numpy as np

from .checks import check_labels, check_rate, check_seed


class InstanceNoise:
    """Noise that depends on the image: part-dependent noise of Xia et al. 2020.

    Sample i flips with its own probability ``q_i``, from a normal distribution with mean ``rate``
    truncated to [0, 1]. Where it flips to depends on a random projection of its image: the softmax
    over the other classes of ``x_i @ W[y_i]``, with W [C, d, C] standard normal and x_i [d] the
    flattened image divided by 255.

    Args:
        rate (float): Mean of the normal distribution, in [0, 1]. Truncation pulls the expected
            share of flips a little towards 1/2 where ``rate`` is near 0 or 1.
        seed (int): Seed in [0, 2**32). Defaults to 0.
        std (float): Standard deviation of the normal distribution, in [0, 1]. Defaults to 0.1.
    """

    needs_images = True

    def __init__(self, rate: float, seed: int = 0, std: float = 0.1) -> None:
        self.rate = check_rate(rate)
        self.seed = check_seed(seed)
        self.std = check_rate(std, 'std')

    def __call__(self, labels: np.ndarray, num_classes: int, images: np.ndarray | None = None) -> np.ndarray:
        """Draws noisy labels.

        Args:
            labels (np.ndarray): Clean labels, integers in [0, num_classes), shape [n].
            num_classes (int): Number of classes C.
            images (np.ndarray): The images, all of one size, shape [n, ...]: uint8, or floats in
                [0, 255].

        Returns:
            np.ndarray: Noisy labels, int64, shape [n].

        Raises:
            ValueError: If the labels or the images are invalid, or there are no images.
        """
        labels = check_labels(labels, num_classes)
        images = _check_images(images, len(labels))
        noisy = np.empty_like(labels)

        # The order of the draws is part of the definition: rates, uniforms, then W[0], W[1], ...
        rng = np.random.RandomState(self.seed)
        rates = _truncated_normal(rng, self.rate, self.std, len(labels))
        uniform = rng.random_sample(len(labels))
        for label in range(num_classes):
            # One class at a time, so that memory holds [d, C] of W. It is drawn for classes
            # without samples too: the next class's projection must not depend on them.
            projection = rng.standard_normal((images.shape[1], num_classes))
            rows = np.flatnonzero(labels == label)
            scores = images[rows].astype(np.float64) / 255 @ projection
            scores[:, label] = -np.inf
            scores -= scores.max(axis=1, keepdims=True)
            flip = np.exp(scores)
            flip *= (rates[rows] / flip.sum(axis=1))[:, None]
            flip[:, label] = 1 - rates[rows]
            noisy[rows] = sample_rows(flip, uniform[rows])
        return noisy

    def __repr__(self) -> str:
        return f'InstanceNoise(rate={self.rate}, seed={self.seed}, std={self.std})'


def sample_rows(probabilities: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Draws a class for every uniform number in [0, 1) by inverting the cumulative distribution.

    ``probabilities`` is [C], for all, or [n, C].
    """
    cumulative = probabilities.cumsum(axis=-1)
    # Ends at exactly 1 in spite of rounding, so that the draw cannot fall off the end, nor on a
    # last class of probability 0.
    cumulative /= cumulative[..., -1:]
    return (uniform[:, None] >= cumulative).sum(axis=1)


def _truncated_normal(rng: np.random.RandomState, mean: float, std: float, n: int) -> np.ndarray:
    """Draws n numbers from a normal distribution truncated to [0, 1], by rejection.

    With a mean in [0, 1] and a std of at most 1, a third of the draws are accepted at least.
    """
    draws = rng.normal(mean, std, size=n)
    while True:
        outside = np.flatnonzero((draws < 0) | (draws > 1))
        if outside.size == 0:
            return draws
        draws[outside] = rng.normal(mean, std, size=outside.size)


def _check_images(images: np.ndarray | None, n: int) -> np.ndarray:
    """Validates images and flattens them to [n, d]."""
    if images is None:
        raise ValueError('InstanceNoise depends on the images, but got none: pass images=, an array of shape [n, ...]')
    try:
        images = np.asarray(images)
    except ValueError as error:
        raise ValueError(f'images must all have one size ({error})') from error
    if images.dtype.kind not in 'uif' or images.ndim < 2 or 0 in images.shape:
        raise ValueError(
            'images must be an array of numbers of shape [n, ...], but have dtype '
            f'{images.dtype} and shape {images.shape}'
        )
    if len(images) != n:
        raise ValueError(f'there are {len(images)} images for {n} labels: pass one per label')
    low, high = images.min(), images.max()
    if not (low >= 0 and high <= 255):  # also where they are NaN
        raise ValueError(f'images must be in [0, 255], but are in [{low}, {high}]: pass them before normalisation')
    if images.dtype.kind == 'f' and 0 < high <= 1:
        # They would be divided by 255 once more, which leaves noise that no image influences.
        raise ValueError(
            f'images are floats in [{low}, {high}], but must be in [0, 255]: pass them before they are scaled to [0, 1]'
        )
    return images.reshape(n, -1)
