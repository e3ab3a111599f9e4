"""The target memory: the running averages t of ELR, one row for each training sample."""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor, nn

from ..functional import temporal_ensembling
from .finite import FiniteCheck
from .groups import gather_rows, mean_of_equal, world_size
from .rows import DenseRows, TopKRows

__all__ = ['DTYPES', 'STORAGES', 'TargetMemory', 'check_options']

#: Names and dtypes of the stored targets.
DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}

#: Where the table is and what of it is kept; see :class:`TargetMemory`.
STORAGES = ('device', 'host', 'sharded', 'sparse')


class TargetMemory(nn.Module):
    """The table t, [num_samples, num_classes], of each sample's averaged predictions.

    t starts at zeros, as in the paper and in its code. It goes into the state dict: without t a resumed run would start
    its averages anew.

    Where it is kept, ``storage``:

    - ``'device'``: on the module's device, whole on every rank. A buffer: ``.to()`` moves it.
    - ``'host'``: in the memory of the CPU, whole on every rank, whatever device the module is on. A thread fetches the
      rows and writes them back; :meth:`prefetch` lets it begin before they are needed.
    - ``'sharded'``: on the module's device, each rank with its share of the samples. Not in the state dict, which is
      one rank's: :func:`mmelr.memory.save_rows` writes it.
    - ``'sparse'``: on the module's device, whole on every rank, and of each row the ``top_k`` largest classes and the
      sum of the others, which is taken to be spread evenly over them. The only one that is an approximation.
    - ``'auto'``: what :func:`mmelr.memory.recommend` says for the first rank's machine; :attr:`reason` tells why.

    All give the same targets, on one process and on many, but for what ``'sparse'`` leaves out.

    A half-precision table halves the memory. Arithmetic is float32 all the same, only the stored row is rounded: to
    8 bits of mantissa in bfloat16, 11 in float16. An average moves by (1 - β)(p - t) a visit, which rounds away in
    bfloat16 once it is below t / 512: with β = 0.7 where p and t differ by less than 0.7 % of t, with β = 0.99 by less
    than 20 %. So choose float32, or float16, for a β near 1.

    Args:
        num_samples (int): Samples in the training set, n >= 1.
        num_classes (int): Classes, C >= 1.
        dtype (str | torch.dtype): Of the stored averages: float32, bfloat16 or float16. Defaults to float32.
        storage (str): See above. Defaults to ``'device'``.
        top_k (int): Classes kept of each row by ``'sparse'``, k >= 1. Defaults to 16.
    """

    #: The storage, one of :data:`STORAGES`.
    storage = 'device'
    #: Why ``storage='auto'`` chose this one.
    reason: str | None = None
    #: Whether the state dict holds the table. A run that initialises its weights keeps it out, for these are broadcast.
    in_state_dict = True

    def __new__(cls, num_samples=None, num_classes=None, dtype='float32', storage='device', top_k=16):
        if cls is not TargetMemory:  # a subclass, or one that is copied
            return super().__new__(cls)
        from .host import HostMemory
        from .plan import choose
        from .sharded import ShardedMemory

        check_options(dtype, storage, top_k)
        reason = None
        if storage == 'auto':
            _check_sizes(num_samples=num_samples, num_classes=num_classes)
            storage, reason = choose(num_samples, num_classes, _dtype(dtype), top_k)
        memory = super().__new__({'host': HostMemory, 'sharded': ShardedMemory}.get(storage, cls))
        object.__setattr__(memory, 'storage', storage)
        object.__setattr__(memory, 'reason', reason)
        return memory

    def __init__(
        self,
        num_samples: int,
        num_classes: int,
        dtype: str | torch.dtype = 'float32',
        storage: str = 'device',
        top_k: int = 16,
    ) -> None:
        super().__init__()
        _check_sizes(num_samples=num_samples, num_classes=num_classes)
        dtype = _dtype(dtype)
        self.num_samples = int(num_samples)
        self.num_classes = int(num_classes)
        self._form = TopKRows(num_classes, dtype, top_k) if self.storage == 'sparse' else DenseRows(num_classes, dtype)
        self._finite = FiniteCheck()
        self._make_table()

    def _make_table(self) -> None:
        for name, (shape, dtype) in self._form.fields.items():
            self.register_buffer(name, torch.zeros(self.num_samples, *shape, dtype=dtype))

    @property
    def held(self) -> range:
        """range: The samples whose rows this rank holds."""
        return range(self.num_samples)

    @property
    def table(self) -> dict[str, Tensor]:
        """dict[str, Tensor]: The rows that this rank holds, as they are stored: ``t``, or what ``'sparse'`` keeps."""
        return {name: getattr(self, name) for name in self._form.fields}

    def stored(self) -> dict[str, Tensor]:
        """:attr:`table`, once all that was given to :meth:`update` has been written."""
        return self.table

    def state_table(self) -> dict[str, Tensor]:
        """What a state dict holds of it: nothing of a table that is shared out."""
        return {} if self.storage == 'sharded' else self.stored()

    @property
    def nbytes(self) -> int:
        """int: Size of the whole table, on all ranks together where it is sharded."""
        return self.num_samples * sum(field[:1].nbytes for field in self.table.values())

    @torch.no_grad()
    def update(self, indices: Tensor, p: Tensor, beta: float, places: int | None = None) -> Tensor:
        """Average new probabilities into the rows of a batch, and return these rows.

        A sample that stands in the batch several times (repeated augmentation, a padded last batch) is visited once,
        with the mean of its probabilities; all its places get the same target. Nothing here waits for an accelerator.

        Under torch.distributed every rank calls this with its part of the batch, and what is new is gathered in one
        collective: all ranks then hold the same table, the one that a single process with the whole batch would hold.

        Args:
            indices (Tensor): Which sample each row of ``p`` belongs to, [N], integers in [0, num_samples). Indices
                on the CPU, where a data loader puts them, are checked at once; those on an accelerator by an assertion
                on the device, which stops the program later and with less grace.
            p (Tensor): Probabilities, [N, num_classes], each row summing to one.
            beta (float): Momentum β of the average, in [0, 1).
            places (int, optional): The largest N of the ranks, where they differ. A rank may then have N = 0.

        Returns:
            Tensor: t of the batch after the update, [N, num_classes], as stored, in float32 (float64 if t is).

        Raises:
            IndexError: An index outside the memory.
            ValueError: Shapes that do not fit, or a batch of more than ``places``.
            FloatingPointError: NaN or Inf among the probabilities of any rank; the table is left as it was. On an
                accelerator it is raised by the call after, so as not to wait.
        """
        self._check(indices, p)
        device = self._device(p)
        p = p.to(device, self._arithmetic)
        old = self._form.decode(self._read(indices, device))
        indices = indices.to(device, torch.int64, non_blocking=True)
        rows = self._form.encode(mean_of_equal(indices, temporal_ensembling(old, p, beta)), self.table)
        own = slice(0, len(p))
        if world_size() > 1:
            places = len(p) if places is None else places
            own = slice(torch.distributed.get_rank() * places, torch.distributed.get_rank() * places + len(p))
            indices, rows, real = _without_gaps(*gather_rows(indices, rows, places))
            rows = self._form.merge(indices, rows, real)
        self._write(indices, rows, self._finite(indices, rows))
        return self._form.decode({name: field[own] for name, field in rows.items()})

    def forward(self, indices: Tensor) -> Tensor:
        """The rows t of some samples, without changing them. With ``'sharded'`` all ranks call it together.

        Args:
            indices (Tensor): [N], integers in [0, num_samples); the same N on every rank with ``'sharded'``.

        Returns:
            Tensor: [N, num_classes], float32 (float64 if t is).
        """
        self._check(indices)
        return self._form.decode(self._read(indices, self._device(indices)))

    def prefetch(self, indices: Tensor, device: torch.device | str = 'cpu') -> None:
        """Begin to fetch the rows that the next :meth:`update` will need. Only ``'host'`` has something to do.

        Args:
            indices (Tensor): This rank's indices of the coming batch, [N], on the CPU.
            device (torch.device | str): Where the probabilities will be.
        """

    def _device(self, like: Tensor) -> torch.device:
        """Where rows are worked on: where the table is."""
        return next(iter(self.table.values())).device

    def _read(self, indices: Tensor, device: torch.device) -> dict[str, Tensor]:
        indices = indices.to(device, torch.int64, non_blocking=True)
        return {name: field[indices] for name, field in self.table.items()}

    def _write(self, indices: Tensor, rows: dict[str, Tensor], fine: Tensor | None) -> None:
        """Equal indices come with equal rows, so their order does not matter."""
        for name, field in self.table.items():
            row = rows[name]
            if fine is not None:  # on an accelerator always: to ask whether all are would be to wait
                row = torch.where(fine.view(-1, *[1] * (row.dim() - 1)), row, field[indices])
            field[indices] = row

    @property
    def _arithmetic(self) -> torch.dtype:
        fields = self.table
        return torch.promote_types(fields['t' if 't' in fields else 'values'].dtype, torch.float32)

    def _check(self, indices: Tensor, p: Tensor | None = None) -> None:
        if not isinstance(indices, Tensor):
            raise ValueError(f'indices must be a tensor, got a {type(indices).__name__}: torch.as_tensor makes one.')
        if indices.dim() != 1 or indices.is_floating_point() or indices.dtype == torch.bool:
            raise ValueError(
                f'indices must be a 1-D integer tensor, got shape {tuple(indices.shape)} of {indices.dtype}.'
            )
        if p is not None and p.shape != (len(indices), self.num_classes):
            raise ValueError(
                f'The memory has {self.num_classes} classes and the batch {len(indices)} indices, so '
                f'probabilities must be {(len(indices), self.num_classes)}; got {tuple(p.shape)}. '
                'Is num_classes the number of outputs of the network?'
            )
        on_cpu = indices.device.type == 'cpu'
        if on_cpu and (not len(indices) or (int(indices.min()) >= 0 and int(indices.max()) < self.num_samples)):
            return
        indices = indices.long()  # num_samples may not fit into a narrow type
        held = (indices >= 0) & (indices < self.num_samples)
        mend = (
            'Give the number of samples in the training set as num_samples, and as indices '
            'positions in that set, not in a subset or a batch.'
        )
        if on_cpu:
            raise IndexError(
                f'Sample index {int(indices[~held][0])} is outside the memory, which holds '
                f'{self.num_samples} samples (0 to {self.num_samples - 1}). {mend}'
            )
        torch._assert_async(held.all(), f'A sample index is outside the memory of {self.num_samples}. {mend}')

    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
        if self.in_state_dict:
            super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        # Raised, not reported: loaders with strict=False, MMEngine's among them, only warn of a wrong shape.
        self.check_saved({name: state_dict.get(prefix + name) for name in ('t', 'values')}, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def check_saved(
        self, saved: dict[str, Tensor | None], prefix: str = '', num_samples: int | None = None
    ) -> None:
        """Refuse the table of another run.

        Args:
            saved (dict[str, Tensor | None]): Its fields ``'t'`` or ``'values'``, with a row for each sample; None or
                left out where it has no such field.
            prefix (str): What the memory is called where it was saved, for the message.
            num_samples (int, optional): Rows that there should be. Defaults to those of all samples.

        Raises:
            ValueError: Names what differs.
        """
        mend = (
            'To resume, use the dataset, classes and storage of that run; to start anew from its weights, '
            'publish the checkpoint first (tools/publish_model.py leaves the memory out).'
        )
        mine = 'values' if self.storage == 'sparse' else 't'
        for name, field in saved.items():
            if field is None:
                continue
            width = self._form.fields[mine][0][0]
            what = None
            if name != mine:
                what = f"one of storage='sparse', this run has {self.storage!r}"
                if name == 't':
                    what = "a dense table, this run has storage='sparse'"
            elif field.dim() != 2:
                what = f'a tensor of shape {tuple(field.shape)}, and not one row for each sample'
            elif len(field) != (num_samples or self.num_samples):
                what = f'{len(field)} samples, the training set has {self.num_samples}'
            elif field.shape[1] != width:
                what = f'{field.shape[1]} classes{" of each row" * (name != "t")}, the model has {width}'
            if what:
                raise ValueError(
                    f'The target memory in the checkpoint ({prefix}{name}) is of another run: it holds {what}. {mend}'
                )

    def extra_repr(self) -> str:
        fields = self.table
        text = f'num_samples={self.num_samples}, num_classes={self.num_classes}'
        if self.storage != 'device':
            text += f', storage={self.storage!r}'
        if self.storage == 'sparse':
            return f'{text}, top_k={self._form.k}, dtype={fields["values"].dtype}'
        return f'{text}, dtype={fields["t"].dtype}'


def check_options(dtype: str | torch.dtype, storage: str, top_k: int) -> None:
    """Refuse options that no :class:`TargetMemory` takes.

    Raises:
        ValueError: Names the value.
    """
    _dtype(dtype)
    _check_sizes(top_k=top_k)
    if storage not in (*STORAGES, 'auto'):
        names = ', '.join(STORAGES)
        raise ValueError(f'storage of a TargetMemory must be one of {names} or auto, got {storage!r}.')


def _check_sizes(**sizes: int) -> None:
    for name, value in sizes.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            raise ValueError(f'{name} must be a positive integer, got {value!r}.')


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    named = DTYPES.get(dtype, dtype)
    if named not in DTYPES.values():
        raise ValueError(f'dtype of a TargetMemory must be one of {", ".join(DTYPES)}, got {dtype!r}.')
    return named


def _without_gaps(indices: Tensor, rows: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Let places that no rank filled, index -1, repeat the first that one did; and which places are real."""
    real = indices >= 0
    first = real.int().argmax().view(1)
    place = torch.where(real, torch.arange(len(indices), device=indices.device), first)
    return indices[place], {name: field[place] for name, field in rows.items()}, real
