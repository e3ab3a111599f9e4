"""Every storage of ``TargetMemory`` against the dense table: in one process, in several, and in files."""

import copy
import io
import os
import re
import threading

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing

from mmelr import ELRLoss, TargetMemory
from mmelr.memory import STORAGES, load_rows, plans, recommend, save_rows

N, C, K = 23, 12, 3
EXACT = ['device', 'host', 'sharded']


def distributions(n, num_classes=C, generator=None):
    return torch.randn(n, num_classes, generator=generator).mul(2).softmax(dim=1)


def literal_sparse(t, k):
    """One row as the sparse storage keeps it, on plain lists: the k largest, the others at their mean."""
    order = sorted(range(len(t)), key=lambda c: -t[c])
    kept, others = order[:k], order[k:]
    mean = sum(t[c] for c in others) / len(others) if others else 0.0
    return [t[c] if c in kept else mean for c in range(len(t))]


def visit(memory, steps=12, beta=0.7, seed=0, batch=7):
    generator, rows = torch.Generator().manual_seed(seed), []
    for _ in range(steps):
        indices = torch.randperm(memory.num_samples, generator=generator)[:batch]
        memory.prefetch(indices)
        rows.append(memory.update(indices, distributions(len(indices), memory.num_classes, generator), beta))
    return torch.stack(rows)


def table_of(memory):
    return memory(torch.arange(memory.num_samples))


# ---- in one process


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
@pytest.mark.parametrize('storage', EXACT)
def test_exact_storages_are_the_dense_table_bit_for_bit(storage, dtype):
    dense, memory = TargetMemory(N, C, dtype), TargetMemory(N, C, dtype, storage)
    assert isinstance(memory, TargetMemory) and memory.storage == storage
    assert torch.equal(visit(memory), visit(dense))
    assert torch.equal(table_of(memory), table_of(dense))
    assert memory.t.dtype == dense.t.dtype and torch.equal(memory.t, dense.t)
    assert memory.nbytes == dense.nbytes == N * C * dense.t.element_size()


@pytest.mark.parametrize('top_k', [1, K, C - 1])
def test_sparse_is_the_literal_truncation_after_every_visit(top_k):
    memory = TargetMemory(N, C, storage='sparse', top_k=top_k).double()
    table = [[0.0] * C for _ in range(N)]
    for _ in range(8):
        indices, p, beta = torch.randperm(N)[:9], distributions(9).double(), 0.8
        t = memory.update(indices, p, beta)
        for place, i in enumerate(indices.tolist()):
            new = [beta * a + (1 - beta) * b for a, b in zip(table[i], p[place].tolist(), strict=True)]
            table[i] = literal_sparse(new, top_k)
        expected = torch.tensor(table, dtype=torch.float64)
        assert torch.allclose(t, expected[indices], atol=1e-7)  # the remaining mass is float32 at first: zeros
    assert torch.allclose(table_of(memory), expected, atol=1e-7)


@pytest.mark.parametrize('top_k', [C, C + 5])
def test_sparse_with_all_classes_leaves_nothing_out(top_k):
    dense, memory = TargetMemory(N, C), TargetMemory(N, C, storage='sparse', top_k=top_k)
    assert torch.allclose(visit(memory), visit(dense), atol=1e-7)
    assert memory._form.k == C


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
def test_sparse_keeps_the_sum_of_a_row(dtype):
    """After k visits from zero it is 1 - beta^k; rounding and truncation move mass, they lose none."""
    memory = TargetMemory(N, C, dtype, 'sparse', K)
    for step in range(1, 6):
        t = memory.update(torch.arange(N), distributions(N), 0.7)
        assert torch.allclose(t.sum(dim=1), torch.full((N,), 1 - 0.7**step), atol=2e-3 if dtype == 'bfloat16' else 1e-4)


@pytest.mark.parametrize('top_k', [1, 2, 4, 8])
@pytest.mark.parametrize('beta', [0.5, 0.9])
def test_errors_of_sparse_stay_below_the_bound_of_the_docs(top_k, beta):
    """|t - t'| <= e and |<q, t - t'>| <= e for any distribution q, with e <- beta e + the largest value dropped."""
    sparse, dense = TargetMemory(N, C, storage='sparse', top_k=top_k).double(), TargetMemory(N, C).double()
    bound = torch.zeros(N, dtype=torch.float64)
    for _ in range(40):
        p = distributions(N).double()
        before = table_of(sparse)
        t, exact = (m.update(torch.arange(N), p, beta) for m in (sparse, dense))
        dropped = (beta * before + (1 - beta) * p).sort(dim=1, descending=True).values[:, top_k]
        bound = beta * bound + dropped
        assert ((t - exact).abs().amax(dim=1) <= bound + 1e-6).all()
        q = distributions(N).double()
        assert ((q * (t - exact)).sum(dim=1).abs() <= bound + 1e-6).all()
        assert (dropped <= 1 / (top_k + 1) + 1e-12).all() and (bound <= 1 / ((top_k + 1) * (1 - beta)) + 1e-9).all()


@pytest.mark.parametrize('storage', STORAGES)
def test_a_sample_that_comes_several_times_is_visited_once(storage):
    memory, single = (TargetMemory(N, C, storage=storage, top_k=K) for _ in range(2))
    p = distributions(4)
    t = memory.update(torch.tensor([5, 9, 5, 5]), p, 0.7)
    single.update(torch.tensor([5, 9]), torch.stack([p[[0, 2, 3]].mean(dim=0), p[1]]), 0.7)
    assert torch.allclose(table_of(memory), table_of(single), atol=1e-6)
    assert torch.equal(t[0], t[2]) and torch.equal(t[0], t[3])


@pytest.mark.parametrize('storage', STORAGES)
def test_nan_changes_nothing(storage):
    memory = TargetMemory(N, C, storage=storage, top_k=K)
    visit(memory)
    before, p = table_of(memory).clone(), distributions(3)
    p[1, 2] = float('nan')
    with pytest.raises(FloatingPointError, match=r'for 1 of 3 samples of the batch, number \[8\]'):
        memory.update(torch.tensor([3, 8, 1]), p, 0.7)
    assert torch.equal(table_of(memory), before)
    with pytest.raises(IndexError, match='outside the memory'):
        memory.update(torch.tensor([0, N]), distributions(2), 0.7)
    assert torch.equal(table_of(memory), before)


@pytest.mark.parametrize('storage', STORAGES)
def test_no_samples_are_no_visit(storage):
    memory = TargetMemory(N, C, storage=storage, top_k=K)
    visit(memory)
    before = table_of(memory).clone()
    assert memory.update(torch.zeros(0, dtype=torch.long), torch.zeros(0, C), 0.7).shape == (0, C)
    assert torch.equal(table_of(memory), before)


@pytest.mark.parametrize('storage', ['sharded', 'sparse'])
def test_a_step_waits_for_no_device(storage):
    criterion = ELRLoss(N, C, storage=storage, top_k=K).to('meta')
    logits = torch.empty(3, C, device='meta', requires_grad=True)
    loss = criterion(logits, torch.empty(3, dtype=torch.long, device='meta'), torch.tensor([4, 1, 4]))
    loss.backward()
    assert loss.is_meta and all(field.is_meta for field in criterion.memory.table.values())


# ---- on the host


def test_host_stays_on_the_cpu_whatever_the_module_is_on():
    memory = TargetMemory(N, C, storage='host').to('meta')
    assert memory.t.device.type == 'cpu' and list(memory.buffers()) == []


def test_host_reads_and_writes_in_a_thread_of_its_own():
    memory, threads = TargetMemory(N, C, storage='host'), set()
    fetch, put = memory._fetch, memory._put
    memory._fetch = lambda *args: threads.add(threading.current_thread().name) or fetch(*args)
    memory._put = lambda *args: threads.add(threading.current_thread().name) or put(*args)
    visit(memory, steps=3)
    memory.stored()
    assert threads == {'TargetMemory_0'}


def test_host_prefetches_only_what_it_was_told():
    """Rows fetched for another batch are not taken for these; nor are rows fetched before a write stale."""
    dense, memory = TargetMemory(N, C), TargetMemory(N, C, storage='host')
    for m in (dense, memory):
        generator = torch.Generator().manual_seed(1)
        m.update(torch.arange(6), distributions(6, generator=generator), 0.7)
        m.prefetch(torch.arange(6))
        m.update(torch.arange(3, 9), distributions(6, generator=generator), 0.7)  # not that batch
        m.prefetch(torch.arange(6))  # these rows are being written
        m.update(torch.arange(6), distributions(6, generator=generator), 0.7)
    assert torch.equal(memory.t, dense.t)
    with pytest.raises(IndexError, match='outside the memory'):
        memory.prefetch(torch.tensor([N]))


def test_what_goes_wrong_in_the_thread_is_not_lost():
    memory = TargetMemory(N, C, storage='host')
    memory._put = lambda *args: 1 / 0
    memory.update(torch.arange(3), distributions(3), 0.7)
    with pytest.raises(ZeroDivisionError):
        memory.stored()


@pytest.mark.parametrize('storage', STORAGES)
def test_copies_and_pickles(storage):
    memory = TargetMemory(N, C, storage=storage, top_k=K)
    visit(memory)
    file = io.BytesIO()
    torch.save(memory, file)
    file.seek(0)
    for other in (copy.deepcopy(memory), torch.load(file, weights_only=False)):
        assert type(other) is type(memory) and other.storage == storage
        assert torch.equal(table_of(other), table_of(memory))
        visit(other, seed=5)
        assert not torch.equal(table_of(other), table_of(memory))


# ---- state dicts and files


@pytest.mark.parametrize('target', EXACT)
@pytest.mark.parametrize('source', ['device', 'host'])
def test_a_dense_state_dict_is_for_every_dense_storage(source, target):
    a, b = ELRLoss(N, C, storage=source), ELRLoss(N, C, storage=target)
    visit(a.memory)
    b.load_state_dict(a.state_dict())
    assert torch.equal(table_of(b.memory), table_of(a.memory))


def test_sparse_state_dict():
    a, b = (TargetMemory(N, C, 'float16', 'sparse', K) for _ in range(2))
    visit(a)
    assert set(a.state_dict()) == {'classes', 'values', 'rest'}
    b.load_state_dict(a.state_dict())
    assert torch.equal(table_of(b), table_of(a))


@pytest.mark.parametrize(
    'saved, now, words',
    [
        (dict(storage='sparse'), dict(), "storage='sparse', this run has 'device'"),
        (dict(), dict(storage='sparse'), "a dense table, this run has storage='sparse'"),
        (dict(storage='sparse'), dict(storage='host'), "storage='sparse', this run has 'host'"),
        (dict(storage='sparse', top_k=K), dict(storage='sparse', top_k=K + 1), f'{K} classes of each row.*has {K + 1}'),
    ],
    ids=str,
)
def test_another_form_is_refused(saved, now, words):
    with pytest.raises(ValueError, match=words):
        TargetMemory(N, C, **now).load_state_dict(TargetMemory(N, C, **saved).state_dict(), strict=False)


@pytest.mark.parametrize('storage', STORAGES)
def test_rows_go_through_files(storage, tmp_path):
    a, b = (TargetMemory(N, C, 'bfloat16', storage, K) for _ in range(2))
    visit(a)
    save_rows(a, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f'rows_0-{N}.pt']
    load_rows(b, tmp_path)
    assert torch.equal(table_of(b), table_of(a))
    other = TargetMemory(N, C + 1, storage=storage, top_k=K + 1)
    held = K if storage == "sparse" else C
    with pytest.raises(ValueError, match=f"rows_0-{N}.pt.*is of another run: it holds {held} "):
        load_rows(other, tmp_path)
    with pytest.raises(ValueError, match=r'lacks 2 of the 25 rows'):
        load_rows(TargetMemory(N + 2, C, 'bfloat16', storage, K), tmp_path)


# ---- several processes


def batches(steps=6):
    """Batches of 8 of which the last one is uneven; each sample once in a batch."""
    generator = torch.Generator().manual_seed(3)
    for step in range(steps):
        n = 8 if step < steps - 1 else 5
        yield torch.randperm(N, generator=generator)[:n], distributions(n, generator=generator)


def run_rank(rank, world, folder):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{folder}/rendezvous', rank=rank, world_size=world)
    calls = []
    for name in ('all_gather', 'all_to_all_single'):
        call = getattr(dist, name)
        setattr(dist, name, lambda *args, name=name, call=call: calls.append((name, args[1].nbytes)) or call(*args))
    results = {}
    for storage in STORAGES:
        memory, rows = TargetMemory(N, C, storage=storage, top_k=K), []
        for indices, p in batches():
            own = slice(rank, None, world)
            places = -(-len(indices) // world) if len(indices) < 8 else None
            calls.clear()
            rows.append(memory.update(indices[own], p[own], 0.7, places))
        results[storage] = dict(rows=rows, calls=list(calls), t=table_of(memory))
        path = f'{folder}/{storage}'
        if rank == 0:
            os.mkdir(path)
        dist.barrier()
        save_rows(memory, path)
        p = torch.full((2, C), float('nan') if rank == world - 1 else 0.5)
        try:
            memory.update(torch.arange(2) + 2 * rank, p, 0.7)
        except FloatingPointError as e:
            results[storage]['error'] = str(e)
        results[storage]['after'] = table_of(memory)
    torch.save(results, f'{folder}/rank{rank}.pt')
    dist.destroy_process_group()


@pytest.fixture(scope='module', params=[2, pytest.param(4, marks=pytest.mark.slow)])
def ranks(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp('ranks')
    multiprocessing.spawn(run_rank, (request.param, str(folder)), nprocs=request.param)
    return folder, [torch.load(folder / f'rank{rank}.pt', weights_only=True) for rank in range(request.param)]


@pytest.mark.parametrize('storage', STORAGES)
def test_several_processes_are_one(ranks, storage):
    """The same table on every rank, that of one process, bit for bit; with an uneven last batch, of 5 for 2 or 4."""
    memory = TargetMemory(N, C, storage=storage, top_k=K)
    rows = [memory.update(indices, p, 0.7) for indices, p in batches()]
    world = len(ranks[1])
    for rank, result in enumerate(ranks[1]):
        assert torch.equal(result[storage]['t'], table_of(memory))
        for mine, whole in zip(result[storage]['rows'], rows, strict=True):
            assert torch.equal(mine, whole[rank::world])


@pytest.mark.parametrize('storage', STORAGES)
def test_bytes_of_a_step_are_those_of_the_plan(ranks, storage):
    world = len(ranks[1])
    plan = {p.storage: p for p in plans(N, C, world, 2 * world, top_k=K)}[storage]
    for result in ranks[1]:  # the last step had 2 or 3 places on each rank
        calls = result[storage]['calls']
        assert [name for name, _ in calls] == ['all_gather'] + ['all_to_all_single'] * (storage == 'sharded')
        places = -(-5 // world)
        sent = calls[0][1] * (world - 1) + sum(size // world * (world - 1) for _, size in calls[1:])
        assert sent == plan.received_bytes * places / 2


@pytest.mark.parametrize('storage', STORAGES)
def test_nan_on_one_rank_is_told_on_all(ranks, storage):
    world = len(ranks[1])
    last = [2 * (world - 1), 2 * (world - 1) + 1]
    for result in ranks[1]:
        assert f'for 2 of {2 * world} samples of the batch, number {last}' in result[storage]['error']
        assert torch.equal(result[storage]['after'], result[storage]['t'])


@pytest.mark.parametrize('storage', STORAGES)
def test_files_of_several_ranks_are_read_by_one(ranks, storage):
    folder, results = ranks
    files = sorted(path.name for path in (folder / storage).iterdir())
    assert len(files) == (len(results) if storage == 'sharded' else 1)
    memory = TargetMemory(N, C, storage=storage, top_k=K)
    load_rows(memory, folder / storage)
    assert torch.equal(table_of(memory), results[0][storage]['t'])
    if storage == 'sharded':
        (folder / storage / files[-1]).rename(folder / 'away')
        with pytest.raises(ValueError, match=f'lacks .* of the {N} rows'):
            load_rows(memory, folder / storage)


# ---- planning


@pytest.mark.parametrize('storage', STORAGES)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_plan_tells_the_bytes_that_a_memory_has(storage, dtype):
    plan = {p.storage: p for p in plans(N, C, dtype=dtype, top_k=K)}[storage]
    memory = TargetMemory(N, C, dtype, storage, K)
    assert plan.checkpoint_bytes == memory.nbytes
    held = sum(field.nbytes for field in memory.table.values()) + (memory.nbytes // N if storage == "sharded" else 0)
    assert plan.device_bytes + plan.host_bytes == held


@pytest.mark.parametrize(
    'samples, classes, ranks, device, host, storage, words',
    [
        (50_000, 10, 1, 8e9, 64e9, 'device', '0.00 GB, and 2.0 GB of a device'),
        (1_281_167, 1000, 1, 8e9, 64e9, 'host', '5.12 GB, more than the 2.0 GB of a device'),
        (1_281_167, 1000, 8, 8e9, 64e9, 'sharded', '8 ranks it is 0.64 GB'),
        (14_200_000, 21_841, 8, 80e9, 512e9, 'sparse', '1240.57 GB.*16 largest.*1.42 GB.*approximation'),
        (1_281_167, 1000, 1, 0, 64e9, 'device', '32.0 GB of the host'),
    ],
)
def test_recommendation(samples, classes, ranks, device, host, storage, words):
    found, reason = recommend(
        samples, classes, ranks=ranks, ranks_of_host=ranks, device_memory=device, host_memory=host
    )
    assert found == storage
    assert re.search(words, reason), reason


def test_two_tables_are_twice_as_large():
    assert recommend(5_000_000, 1000, device_memory=80e9, host_memory=512e9)[0] == 'device'
    assert recommend(5_000_000, 1000, device_memory=80e9, host_memory=512e9, tables=2)[0] == 'host'


def test_memory_of_another_number_of_processes():
    memory = TargetMemory(N, C, storage='sharded')
    memory._ranks = 2  # as if torch.distributed had ended since
    with pytest.raises(RuntimeError, match='made for 2 processes, and there are 1'):
        memory.update(torch.arange(2), distributions(2), 0.7)


def test_auto_is_the_recommendation():
    memory = TargetMemory(N, C, storage='auto')
    assert (memory.storage, memory.reason) == recommend(N, C)
    assert memory.storage == 'device' and 'may be taken' in memory.reason


@pytest.mark.parametrize('bad', ['disk', None, 'Device'])
def test_unknown_storage(bad):
    with pytest.raises(ValueError, match=f'device, host, sharded, sparse or auto, got {bad!r}'):
        TargetMemory(N, C, storage=bad)


@pytest.mark.parametrize('bad', [0, -1, 2.0, '5'], ids=repr)
def test_top_k_is_a_positive_integer(bad):
    with pytest.raises(ValueError, match=f'top_k must be a positive integer, got {bad!r}'):
        TargetMemory(N, C, storage='sparse', top_k=bad)
