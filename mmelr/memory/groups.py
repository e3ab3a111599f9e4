"""Equal indices in a batch, and the batches of all ranks. Sizes are known beforehand: nothing waits for a device."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ['first_of_equal', 'flat', 'gather_rows', 'mean_of_equal', 'world_size']


def mean_of_equal(indices: Tensor, rows: Tensor, weight: Tensor | None = None) -> Tensor:
    """Give all places of the same sample the mean of their rows.

    Args:
        indices (Tensor): Which sample each row is of, int64 [N].
        rows (Tensor): [N, C].
        weight (Tensor, optional): [N], 1 for a place that counts and 0 for one that does not. Every
            sample has one that counts.

    Returns:
        Tensor: [N, C].
    """
    # On the CPU it costs little to see that there is nothing to do. A GPU would have to be waited for.
    if weight is None and indices.device.type == 'cpu' and len(set(indices.tolist())) == len(indices):
        return rows
    # Equal indices share a group: the place of the first of them in sorted order. Sorting has a fixed output size,
    # where torch.unique would have to wait for the device to tell it.
    group = torch.searchsorted(indices.sort().values, indices.contiguous())
    weight = torch.ones_like(rows[:, 0]) if weight is None else weight.to(rows.dtype)
    visits = torch.zeros_like(weight).index_add_(0, group, weight)
    total = torch.zeros_like(rows).index_add_(0, group, rows * weight[:, None])
    return total[group] / visits[group, None]


def first_of_equal(indices: Tensor) -> Tensor:
    """The first place of each place's sample, int64 [N]."""
    in_order, places = indices.sort(stable=True)
    return places[torch.searchsorted(in_order, indices.contiguous())]


def world_size() -> int:
    """Processes that train together, 1 without ``torch.distributed``."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_rows(indices: Tensor, rows: dict[str, Tensor], places: int | None) -> tuple[Tensor, dict[str, Tensor]]:
    """All ranks' indices and rows in one collective, as bytes.

    Args:
        indices (Tensor): int64 [N].
        rows (dict[str, Tensor]): Fields of N rows.
        places (int, optional): The largest N of the ranks, where they differ. Missing places come as index -1.

    Returns:
        tuple[Tensor, dict[str, Tensor]]: Indices [ranks · places] and the fields of as many rows, rank after rank.
    """
    n, places = len(indices), len(indices) if places is None else places
    if n > places:
        raise ValueError(f'The batch has {n} samples, more than places={places}, the largest of any rank.')
    parts = dict(index=indices, **rows)
    data = to_bytes(parts)
    if n < places:
        data = torch.cat([data, data.new_full((places - n, data.shape[1]), 255)])  # 255 in all bytes is -1
    gathered = data.new_empty(world_size() * places, data.shape[1])
    dist.all_gather(list(gathered.chunk(world_size())), data)
    received = from_bytes(gathered, parts)
    return received.pop('index'), received


def to_bytes(rows: dict[str, Tensor]) -> Tensor:
    """Fields of N rows side by side, uint8 [N, bytes]."""
    # Cloned, because a single column of a wider tensor passes for contiguous and still cannot be seen as bytes.
    fields = (flat(field).clone(memory_format=torch.contiguous_format) for field in rows.values())
    return torch.cat([field.view(torch.uint8) for field in fields], dim=1)


def from_bytes(data: Tensor, like: dict[str, Tensor]) -> dict[str, Tensor]:
    """What :func:`to_bytes` put together; names, shapes and dtypes are those of ``like``."""
    columns = data.split([flat(field[:0]).view(torch.uint8).shape[1] for field in like.values()], dim=1)
    return {
        name: column.contiguous().view(field.dtype).reshape(-1, *field.shape[1:])
        for (name, field), column in zip(like.items(), columns, strict=True)
    }


def flat(field: Tensor) -> Tensor:
    """A field [N, ...] as [N, numbers]."""
    return field.contiguous().view(len(field), math.prod(field.shape[1:]))
