"""Keeping NaN and Inf out of the averages, where they would stay for the rest of the run."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .groups import flat

__all__ = ['FiniteCheck', 'copy_for_later']

_MEND = 'The network diverged: lower the learning rate, clip the gradients, or check these images.'


def copy_for_later(value: Tensor) -> Callable[[], Tensor]:
    """Begin to copy a value to the CPU, without waiting for a GPU.

    Args:
        value (Tensor): On any device.

    Returns:
        Callable: Gives the copy, and waits for it if it has not arrived.
    """
    copied = value.to('cpu', non_blocking=True)
    if not value.is_cuda:
        return lambda: copied
    arrived = torch.cuda.Event()
    arrived.record(torch.cuda.current_stream(value.device))

    def get() -> Tensor:
        arrived.synchronize()
        return copied

    return get


class FiniteCheck:
    """Finds rows that are not finite.

    On the CPU it refuses them at once. A GPU would have to be waited for; there it says which rows may be written,
    copies to the CPU which may not, and looks at that in the next step, when it has long arrived.
    """

    def __init__(self) -> None:
        self._earlier: Callable[[], Tensor] | None = None

    def __call__(self, indices: Tensor, rows: dict[str, Tensor]) -> Tensor | None:
        """Which rows may be written.

        Args:
            indices (Tensor): Samples, int64 [N].
            rows (dict[str, Tensor]): Fields of their new rows, [N, ...].

        Returns:
            Tensor | None: bool [N] on a GPU; None elsewhere, where all may.

        Raises:
            FloatingPointError: Names the samples, of this step, or on a GPU of the one before.
        """
        self._look_at_earlier()
        floating = [field for field in rows.values() if field.is_floating_point()]
        if indices.device.type == 'cpu' and all(field.isfinite().all() for field in floating):
            return None
        finite = torch.ones_like(indices, dtype=torch.bool)
        for field in floating:
            finite = finite & flat(field).isfinite().all(dim=1)
        refused = indices.masked_fill(finite, -1)
        if indices.is_cuda:
            self._earlier = copy_for_later(refused)
        elif not indices.is_meta:  # which has no values, and serves to show that none is waited for
            _raise_if_any(refused.cpu())
            return None
        return finite

    def _look_at_earlier(self) -> None:
        if self._earlier is not None:
            earlier, self._earlier = self._earlier, None
            _raise_if_any(earlier())

    def __getstate__(self) -> dict:
        return {'_earlier': None}  # an event cannot be copied, and a copied memory has refused nothing


def _raise_if_any(refused: Tensor) -> None:
    bad = refused[refused >= 0].tolist()
    if bad:
        raise FloatingPointError(
            f'The network gave NaN or Inf for {len(bad)} of {len(refused)} samples of the batch, number {bad[:5]}. '
            f'{_MEND}'
        )
