"""The losses that ELR is compared with, against the formulas of their papers written out in NumPy float64."""

import copy
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from test_losses import train
from torch import multiprocessing

from mmelr import (
    BackwardLoss,
    BootstrapLoss,
    ForwardLoss,
    GCELoss,
    SCELoss,
    TruncatedGCELoss,
    estimate_transition,
    losses,
)
from mmelr.functional import soft_labels
from mmelr.noise import SymmetricNoise, transition_matrix

N, C = 11, 4
T = np.array([[0.7, 0.2, 0.1, 0.0], [0.0, 0.9, 0.05, 0.05], [0.3, 0.0, 0.6, 0.1], [0.1, 0.1, 0.1, 0.7]])
CRITERIA = {
    'bootstrap-soft': lambda: BootstrapLoss(),
    'bootstrap-hard': lambda: BootstrapLoss(hard=True),
    'forward': lambda: ForwardLoss(T),
    'backward': lambda: BackwardLoss(T),
    'gce': lambda: GCELoss(),
    'gce q=0': lambda: GCELoss(q=0),
    'gce q=1': lambda: GCELoss(q=1),
    'gce-truncated': lambda: TruncatedGCELoss(N),
    'gce-truncated q=0': lambda: TruncatedGCELoss(N, q=0),
    'sl': lambda: SCELoss(),
}
every = pytest.mark.parametrize('name', CRITERIA)
hard_and_soft = pytest.mark.parametrize('kind', ['hard', 'soft'])


def make(name):
    """A criterion in float64, called with logits and labels of all samples."""
    criterion = CRITERIA[name]().double()
    if isinstance(criterion, ForwardLoss):
        criterion.set_transition(T)  # to the last digit of float64
    return with_indices(criterion)


def with_indices(criterion):
    if isinstance(criterion, TruncatedGCELoss):
        criterion.kept[[1, 2, 6]] = False
        return lambda logits, labels: criterion(logits, labels, torch.arange(len(logits)))
    return criterion


def make_batch(kind='hard', scale=3):
    logits = (scale * torch.randn(N, C, dtype=torch.float64)).requires_grad_()
    return logits, torch.randint(C, (N,)) if kind == 'hard' else torch.randn(N, C, dtype=torch.float64).softmax(dim=1)


def softmax(z):
    return np.exp(z) / np.exp(z).sum()


# ---- the papers' formulas, one sample at a time: logits z, one-hot label y, number i of the sample


def reed_soft(z, y, i, beta=0.95):
    q = softmax(z)
    return -sum((beta * y[k] + (1 - beta) * q[k]) * np.log(q[k]) for k in range(C))


def reed_hard(z, y, i, beta=0.8):
    q = softmax(z)
    believed = np.eye(C)[np.argmax(q)]
    return -sum((beta * y[k] + (1 - beta) * believed[k]) * np.log(q[k]) for k in range(C))


def patrini_forward(z, y, i):
    return -np.log(T.T @ softmax(z)) @ y


def patrini_backward(z, y, i):
    return np.linalg.inv(T) @ -np.log(softmax(z)) @ y


def zhang(z, y, i, q=0.7):
    return (1 - (softmax(z) @ y) ** q) / q


def zhang_truncated(z, y, i, q=0.7, k=0.5):
    return (i not in (1, 2, 6)) * (zhang(z, y, i, q) - (1 - k**q) / q)


def wang(z, y, i, alpha=0.1, beta=1.0, log_zero=-4.0):
    p = softmax(z)
    log_y = [0.0 if y[k] == 1 else log_zero for k in range(C)]
    return -alpha * sum(y[k] * np.log(p[k]) for k in range(C)) - beta * sum(p[k] * log_y[k] for k in range(C))


FORMULAS = {
    'bootstrap-soft': reed_soft,
    'bootstrap-hard': reed_hard,
    'forward': patrini_forward,
    'backward': patrini_backward,
    'gce': zhang,
    'gce-truncated': zhang_truncated,
    'sl': wang,
}


@pytest.mark.parametrize('name', FORMULAS)
def test_is_the_papers_formula(name):
    logits, labels = make_batch()
    rows = zip(logits.detach().numpy(), np.eye(C)[labels.numpy()], range(N), strict=True)
    expected = np.mean([FORMULAS[name](*row) for row in rows])
    assert make(name)(logits, labels).item() == pytest.approx(expected, rel=1e-12)


@every
def test_soft_labels_average_the_loss_of_the_classes(name):
    logits, labels = make_batch('soft')
    criterion = make(name)
    shares = torch.tensor([0.5, 0.2, 0.2, 0.1], dtype=torch.float64)
    expected = sum(shares[c] * criterion(logits, torch.full((N,), c)) for c in range(C))
    assert criterion(logits, shares.expand(N, C)).item() == pytest.approx(expected.item(), rel=1e-12)
    # row by row
    different = [criterion(logits, torch.where(torch.arange(N) == i, 1, 0)) for i in range(N)]
    other = F.one_hot(torch.zeros(N, dtype=torch.int64), C).double()
    other[4] = torch.tensor([0.3, 0.7, 0, 0], dtype=torch.float64)
    expected = 0.3 * criterion(logits, torch.zeros(N, dtype=torch.int64)) + 0.7 * different[4]
    assert criterion(logits, other).item() == pytest.approx(expected.item(), rel=1e-12)
    hard = torch.randint(C, (N,))
    one_hot = soft_labels(hard, C)  # float32, for float64 logits
    assert criterion(logits, one_hot).item() == pytest.approx(criterion(logits, hard).item(), rel=1e-12)


@every
@hard_and_soft
def test_gradients(name, kind):
    logits, labels = make_batch(kind, scale=1)
    assert torch.autograd.gradcheck(lambda z: make(name)(z, labels), logits)


def gradient(criterion, logits, labels):
    return torch.autograd.grad(criterion(logits, labels), logits)[0] * len(logits)


def test_gradients_in_closed_form():
    logits, labels = make_batch()
    p, y = logits.detach().softmax(dim=1), soft_labels(labels, C, torch.float64)
    p_y = (p * y).sum(dim=1, keepdim=True)
    entropy = -(p * p.log()).sum(dim=1, keepdim=True)
    z = F.one_hot(p.argmax(dim=1), C).double()
    sources = torch.tensor(T)[:, labels].T  # P(label | true class), of each sample's label
    closed = {
        'gce': p_y**0.7 * (p - y),
        'bootstrap-soft': 0.95 * (p - y) - 0.05 * p * (p.log() + entropy),
        'bootstrap-hard': p - (0.8 * y + 0.2 * z),
        'sl': 0.1 * (p - y) + 4 * p_y * (p - y),
        'forward': p - p * sources / (p * sources).sum(dim=1, keepdim=True),
        'backward': p - torch.tensor(np.linalg.inv(T))[labels],
    }
    for name, expected in closed.items():
        assert torch.allclose(gradient(make(name), logits, labels), expected, rtol=0, atol=1e-12), name


# ---- limits


@hard_and_soft
@pytest.mark.parametrize(
    'criterion',
    [
        BootstrapLoss(beta=1),
        BootstrapLoss(beta=1, hard=True),
        ForwardLoss(num_classes=C),
        ForwardLoss(np.eye(C)),
        BackwardLoss(num_classes=C),
        GCELoss(q=0),
        SCELoss(alpha=1, beta=0),
    ],
    ids=repr,
)
def test_is_cross_entropy(criterion, kind):
    for scale in (1, 100):
        logits, labels = make_batch(kind, scale)
        expected = F.cross_entropy(logits, labels)
        assert torch.allclose(criterion(logits, labels), expected, rtol=1e-13)
        assert torch.allclose(
            gradient(criterion, logits, labels), gradient(F.cross_entropy, logits, labels), atol=1e-13
        )


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_gce_comes_to_cross_entropy_as_q_falls(dtype):
    logits, labels = make_batch()
    logits = logits.detach().to(dtype)
    target = F.cross_entropy(logits, labels).item()
    away = [abs(GCELoss(q=q)(logits, labels).item() / target - 1) for q in (0.3, 0.1, 0.01, 1e-3)]
    assert away == sorted(away, reverse=True) and away[-1] < 5e-3
    rounding = 4 * torch.finfo(dtype).eps
    for q in (1e-9, 1e-20, 1e-30, 1e-31, 1e-300):
        # in float32 1 - p^q alone would be 0
        assert GCELoss(q=q)(logits, labels).item() == pytest.approx(target, rel=max(rounding, 10 * q))


def test_gce_at_one_is_half_of_the_mean_absolute_error():
    logits, labels = make_batch()
    error = (logits.softmax(dim=1) - soft_labels(labels, C)).abs().sum(dim=1)
    assert GCELoss(q=1)(logits, labels).item() == pytest.approx(error.mean().item() / 2, rel=1e-13)


def test_truncated_gce_with_everything_kept_is_gce_less_its_constant():
    logits, labels = make_batch()
    for q, constant in ((0.7, (1 - 0.4**0.7) / 0.7), (0, -np.log(0.4))):
        criterion = TruncatedGCELoss(N, q=q, k=0.4)
        loss = criterion(logits, labels, torch.arange(N))
        assert loss.item() == pytest.approx(GCELoss(q)(logits, labels).item() - constant, rel=1e-12)


def test_reverse_cross_entropy_is_the_mean_absolute_error_scaled():
    logits, labels = make_batch()
    reverse = SCELoss(alpha=0, beta=1, log_zero=-6)(logits, labels)
    assert reverse.item() == pytest.approx(6 * GCELoss(q=1)(logits, labels).item(), rel=1e-12)
    assert SCELoss(alpha=3, beta=0)(logits, labels).item() == pytest.approx(3 * F.cross_entropy(logits, labels).item())


def test_defaults_are_the_published_values():
    assert (BootstrapLoss().beta, BootstrapLoss(hard=True).beta, BootstrapLoss(0.5, hard=True).beta) == (0.95, 0.8, 0.5)
    assert (GCELoss().q, TruncatedGCELoss(1).q, TruncatedGCELoss(1).k) == (0.7, 0.7, 0.5)
    assert (SCELoss().alpha, SCELoss().beta, SCELoss().log_zero) == (0.1, 1, -4)


# ---- correction by the transition matrix


def test_backward_is_unbiased():
    """Theorem 1: its mean over the labels that T draws is the cross entropy with the true class, for any logits."""
    logits, clean = make_batch()
    mean = sum(
        torch.tensor(T[clean, j]) * torch.stack([make('backward')(z[None], torch.tensor([j])) for z in logits])
        for j in range(C)
    )
    assert torch.allclose(mean, F.cross_entropy(logits, clean, reduction='none'), rtol=1e-10)
    # the same in one call, for the loss is linear in the label
    soft = make('backward')(logits, torch.tensor(T)[clean])
    assert torch.allclose(soft, F.cross_entropy(logits, clean), rtol=1e-10)


def test_backward_has_no_lower_bound():
    logits = torch.tensor([[0.0, 0, 0, 0]])
    assert min(BackwardLoss(T)(logits - 1000 * torch.eye(C)[j], torch.tensor([0])).item() for j in range(C)) < -100
    assert ForwardLoss(T)(logits, torch.tensor([0])) > 0


def test_forward_has_the_minimiser_of_clean_labels():
    """Theorem 2, of one image with the true posterior p: its labels are drawn from T' p."""
    p = torch.tensor([[0.1, 0.5, 0.1, 0.3]], dtype=torch.float64)
    noisy = p @ torch.tensor(T)
    logits = p.log().requires_grad_()
    assert gradient(make('forward'), logits, noisy).abs().max() < 1e-12
    best = make('forward')(logits, noisy)
    others = [make('forward')(logits + 0.1 * torch.randn(1, C), noisy) for _ in range(20)]
    assert all(other > best for other in others)
    assert gradient(F.cross_entropy, logits, noisy).abs().max() > 0.05  # which learns the noise


def test_forward_for_a_label_that_never_is_given():
    """Infinite by the formula; nothing is learned from it here, and nothing else is harmed."""
    never = [[0.5, 0.5, 0], [0, 1, 0], [1, 0, 0]]
    logits = torch.randn(2, 3, requires_grad=True)
    for labels in (torch.tensor([2, 0]), F.one_hot(torch.tensor([2, 0]), 3).float()):
        logits.grad = None
        loss = ForwardLoss(never)(logits, labels)
        loss.backward()
        assert torch.allclose(loss, ForwardLoss(never)(logits[1:], torch.tensor([0])) / 2)
        assert torch.allclose(logits.grad[0], torch.zeros(3), atol=1e-6)
        assert logits.grad[1].abs().max() > 0.01 and logits.grad.isfinite().all()


@pytest.mark.parametrize('cls', [ForwardLoss, BackwardLoss])
def test_set_transition(cls):
    logits, labels = make_batch()
    criterion, given = cls(num_classes=C).double(), cls(T.tolist()).double()
    assert torch.equal(criterion.transition, torch.eye(C).double())
    criterion.set_transition(torch.tensor(T))
    given.set_transition(T)
    assert torch.equal(criterion(logits, labels), given(logits, labels))
    assert torch.equal(criterion.transition, torch.tensor(T))
    before = copy.deepcopy(criterion.state_dict())
    with pytest.raises(ValueError, match=f'transition has 2 classes, but there are {C}'):
        criterion.set_transition(np.eye(2))
    with pytest.raises(ValueError, match='row 0 of transition sums to 2'):
        criterion.set_transition(2 * np.eye(C))
    assert all(torch.equal(value, before[name]) for name, value in criterion.state_dict().items())


@pytest.mark.parametrize(
    'matrix, message',
    [
        (np.ones((2, 3)) / 3, 'transition must be square'),
        ([[0.5, 0.5], [1.5, -0.5]], 'transition holds -0.5 in row 1, column 1'),
        ([[0.5, 0.5], [0.3, 0.6]], 'row 1 of transition sums to 0.9'),
        ([[0.5, float('nan')], [0, 1]], 'transition holds nan in row 0, column 1'),
        ([[float('inf'), 0], [0, 1]], 'row 0 of transition sums to inf'),
        (torch.ones(2), 'transition must be square'),
        ('matrix.csv', 'transition must be a square table of numbers'),
    ],
)
@pytest.mark.parametrize('cls', [ForwardLoss, BackwardLoss])
def test_no_transition_matrix(cls, matrix, message):
    with pytest.raises(ValueError, match=message):
        cls(matrix)


@pytest.mark.parametrize('alike', [0, 1e-9])
def test_backward_refuses_a_singular_matrix_and_forward_takes_it(alike):
    matrix = np.array([[0.5 + alike, 0.5 - alike], [0.5, 0.5]])
    with pytest.raises(ValueError, match=r'no inverse in float32 \(condition number .*Use ForwardLoss'):
        BackwardLoss(matrix)
    ForwardLoss(matrix)
    criterion = BackwardLoss(num_classes=2)
    before = copy.deepcopy(criterion.state_dict())
    with pytest.raises(ValueError, match='no inverse'):
        criterion.set_transition(matrix)
    assert all(torch.equal(value, before[name]) for name, value in criterion.state_dict().items())


@pytest.mark.parametrize('num_classes', [None, 0, -3, 2.0])
def test_neither_a_matrix_nor_a_number_of_classes(num_classes):
    with pytest.raises(ValueError, match=f'ForwardLoss needs a transition matrix, or .*num_classes={num_classes}'):
        ForwardLoss(num_classes=num_classes)


@pytest.mark.parametrize('cls', [ForwardLoss, BackwardLoss])
def test_network_with_other_outputs(cls):
    with pytest.raises(ValueError, match=f'matrix has {C} classes, but the network has {C + 1} outputs'):
        cls(T)(torch.randn(2, C + 1), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=f'transition has {C} classes, but there are 3'):
        cls(T, num_classes=3)


# ---- the estimate of the matrix


def make_posteriors(anchors, others):
    """Exact noisy posteriors of samples of which some are certainly of a class."""
    clean = np.concatenate([np.repeat(np.eye(C), anchors, axis=0), np.random.dirichlet(np.ones(C), others)])
    return np.random.permutation(clean @ T)


@pytest.mark.parametrize('quantile, anchors', [(1.0, 1), (0.97, 10), (0.9, 25)])
@pytest.mark.parametrize('kind', ['numpy', 'float32'])
def test_estimate_is_exact_where_posteriors_are_and_anchors_exist(quantile, anchors, kind):
    p = make_posteriors(anchors, 100)
    estimate = estimate_transition(p if kind == 'numpy' else torch.tensor(p).float().requires_grad_(), quantile)
    assert estimate.dtype == torch.float64 and not estimate.requires_grad
    assert np.allclose(estimate, T, rtol=0, atol=1e-14 if kind == 'numpy' else 1e-6)
    ForwardLoss(estimate), BackwardLoss(estimate)


@pytest.mark.parametrize('quantile', [0, 0.5, 0.97, 1])
def test_estimate_is_the_row_at_the_quantile(quantile):
    p = np.random.dirichlet(np.ones(C), 78)
    for i, row in enumerate(estimate_transition(p, quantile).numpy()):
        place = np.flatnonzero(p[:, i] == np.quantile(p[:, i], quantile, method='higher'))
        assert np.allclose(row, p[place[0]] / p[place[0]].sum(), rtol=0, atol=1e-15)


def test_estimate_of_half_precision_sums_to_one():
    p = torch.randn(200, 100).softmax(dim=1)
    for dtype in (torch.bfloat16, torch.float16):
        assert torch.allclose(estimate_transition(p.to(dtype)).sum(dim=1), torch.ones(100).double(), atol=1e-12)


@pytest.mark.parametrize(
    'p, message',
    [
        (np.ones(3) / 3, r'must be \[samples, classes\], got shape \(3,\)'),
        (np.ones((0, 3)), r'got shape \(0, 3\)'),
        (np.array([[3.0, -2], [0.5, 0.5]]), 'the softmax of the logits'),
        (np.array([[0.4, 0.4], [0.5, 0.5]]), 'the softmax of the logits'),
        (np.array([[np.nan, 0.4], [0.5, 0.5]]), 'the softmax of the logits'),
    ],
)
def test_estimate_of_what_is_no_prediction(p, message):
    with pytest.raises(ValueError, match=message):
        estimate_transition(p)


@pytest.mark.parametrize('quantile', [-0.1, 1.1, float('nan'), '1', True])
def test_quantile_outside_its_range(quantile):
    with pytest.raises(ValueError, match=r'quantile must be a number in \[0, 1\], got'):
        estimate_transition(np.eye(3), quantile)


# ---- truncation


@pytest.mark.parametrize('q', [0, 0.7, 1])
@pytest.mark.parametrize('k', [0.2, 0.5])
def test_prune_keeps_what_is_believed(q, k):
    logits, labels = make_batch()
    criterion = TruncatedGCELoss(2 * N, q=q, k=k)
    indices = torch.randperm(2 * N)[:N]
    believed = logits.softmax(dim=1)[torch.arange(N), labels] > k
    assert 0 < believed.sum() < N
    criterion.prune(logits, labels, indices)
    expected = torch.ones(2 * N, dtype=torch.bool)
    expected[indices] = believed
    assert torch.equal(criterion.kept, expected)
    # These weights minimise the objective of the paper's Algorithm 1.
    best = criterion(logits, labels, indices)
    for i in indices:
        criterion.kept[i] ^= True
        assert criterion(logits, labels, indices) > best
        criterion.kept[i] ^= True
    # and a sample comes back when it is believed again
    criterion.prune(20 * F.one_hot(labels, C).double(), labels, indices)
    assert criterion.kept.all()


def test_samples_left_out_have_no_gradient_and_still_count_in_the_mean():
    logits, labels = make_batch()
    criterion = TruncatedGCELoss(N)
    whole = gradient(lambda z, y: criterion(z, y, torch.arange(N)), logits, labels)
    criterion.kept[3] = False
    part = gradient(lambda z, y: criterion(z, y, torch.arange(N)), logits, labels)
    assert not part[3].any()
    others = torch.arange(N) != 3
    assert torch.equal(part[others], whole[others])


def test_prune_takes_no_gradient_and_soft_labels():
    logits, labels = make_batch('soft')
    criterion = TruncatedGCELoss(N, q=0.5, k=0.3)
    criterion.prune(logits, labels, torch.arange(N))
    excess = [criterion(z[None], y[None], torch.tensor([0])) for z, y in zip(logits, labels, strict=True)]
    fresh = TruncatedGCELoss(1, q=0.5, k=0.3)
    excess = [fresh(z[None], y[None], torch.tensor([0])) < 0 for z, y in zip(logits, labels, strict=True)]
    assert criterion.kept.tolist() == [bool(value) for value in excess]


def prune_on_rank(rank, folder):
    dist.init_process_group('gloo', init_method=f'file://{folder}/rendezvous', rank=rank, world_size=2)
    logits, labels, indices = torch.load(f'{folder}/batch.pt')
    criterion = TruncatedGCELoss(N)
    mine = slice(rank, 10, 2)
    criterion.prune(logits[mine], labels[mine], indices[mine])
    torch.save(criterion.state_dict(), f'{folder}/{rank}.pt')
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_prune_alike(tmp_path):
    logits, labels = make_batch()
    batch = logits[:10].detach(), labels[:10], torch.randperm(N)[:10]
    torch.save(batch, tmp_path / 'batch.pt')
    multiprocessing.spawn(prune_on_rank, (str(tmp_path),), nprocs=2)
    whole = TruncatedGCELoss(N)
    whole.prune(*batch)
    assert not whole.kept.all()
    for rank in range(2):
        assert torch.equal(torch.load(tmp_path / f'{rank}.pt')['kept'], whole.kept)


# ---- numbers of any size, precision, devices


@every
@hard_and_soft
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_extreme_logits(name, kind, dtype):
    top = torch.finfo(dtype).max
    logits = torch.tensor(
        [[top, -top, 0, 0], [-top] * 4, [top] * 4, [200.0, 0, 0, -200.0], [-1e4, 1e4, 1e4, 0], [0.0] * 4], dtype=dtype
    )
    criterion = with_indices(CRITERIA[name]())
    for c in range(C):
        labels = torch.full((len(logits),), c)
        labels = labels if kind == 'hard' else 0.9 * F.one_hot(labels, C) + 0.1 / C
        z = logits.clone().requires_grad_()
        loss = criterion(z, labels)
        loss.backward()
        assert loss.isfinite() and loss.dtype == torch.float32
        assert z.grad.isfinite().all()


@every
@hard_and_soft
def test_single_precision_inside_autocast(name, kind):
    x, w = torch.randn(N, 8), torch.randn(8, C, requires_grad=True)
    _, labels = make_batch(kind)
    criterion = with_indices(CRITERIA[name]())
    with torch.autocast('cpu', dtype=torch.bfloat16):
        logits = x @ w
        assert logits.dtype == torch.bfloat16
        loss = criterion(logits, labels.float() if kind == 'soft' else labels)
    assert loss.dtype == torch.float32
    exact = criterion(logits.detach().double(), labels)
    assert exact.dtype == torch.float64 and loss.item() == pytest.approx(exact.item(), rel=1e-5, abs=1e-6)
    loss.backward()
    assert w.grad.isfinite().all()


@pytest.mark.parametrize('where', ['cpu', 'meta'])
@every
@hard_and_soft
def test_a_step_waits_for_no_device(name, kind, where):
    # The meta device has no values: what would read one on the host, and so wait for an accelerator, raises there.
    criterion = CRITERIA[name]().to('meta')
    logits = torch.empty(3, C, device='meta', requires_grad=True)
    shape, dtype = ((3,), torch.int64) if kind == 'hard' else ((3, C), torch.float32)
    batch = [logits, torch.empty(shape, dtype=dtype, device='meta')]
    if isinstance(criterion, TruncatedGCELoss):
        batch.append(torch.tensor([4, 1, 4]).to(where))
        criterion.prune(*batch)
    loss = criterion(*batch)
    loss.backward()
    assert loss.is_meta and logits.grad.shape == (3, C)


@pytest.mark.parametrize('name', ['forward', 'backward', 'gce-truncated'])
def test_state_dict_round_trip(name, tmp_path):
    saved, loaded = CRITERIA[name](), BackwardLoss(num_classes=C) if name == 'backward' else ForwardLoss(num_classes=C)
    if name == 'gce-truncated':
        loaded = CRITERIA[name]()
        saved.kept[4] = False
    keys = {'forward': ['transition'], 'backward': ['transition', 'inverse'], 'gce-truncated': ['kept']}
    assert list(saved.state_dict()) == keys[name]
    torch.save(saved.state_dict(), tmp_path / 'saved.pth')
    loaded.load_state_dict(torch.load(tmp_path / 'saved.pth', weights_only=True))
    logits, labels = make_batch()
    batch = (logits, labels, torch.arange(N)) if name == 'gce-truncated' else (logits, labels)
    assert torch.equal(loaded(*batch), saved(*batch))


@every
def test_without_state_or_parameters_where_none_is_needed(name):
    criterion = CRITERIA[name]()
    assert not list(criterion.parameters())
    assert repr(criterion).startswith(type(criterion).__name__ + '(')


# ---- what is refused


@pytest.mark.parametrize(
    'make, message',
    [
        (lambda: BootstrapLoss(beta=1.1), r'beta must be a number in \[0, 1\], got 1.1. .*0.95 soft'),
        (lambda: BootstrapLoss(beta=-0.1), r'beta must .* got -0.1'),
        (lambda: BootstrapLoss(beta='0.5'), r"beta must .* got '0.5'"),
        (lambda: GCELoss(q=1.5), r'q must be a number in \[0, 1\], got 1.5. .*0.7'),
        (lambda: GCELoss(q=float('nan')), 'q must .* got nan'),
        (lambda: TruncatedGCELoss(N, q=-1), 'q must .* got -1'),
        (lambda: TruncatedGCELoss(N, k=0), r'k must be a number in \(0, 1\), got 0. .*0.5'),
        (lambda: TruncatedGCELoss(N, k=1), 'k must .* got 1'),
        (lambda: TruncatedGCELoss(0), 'num_samples must be the size of the training set, at least 1, got 0'),
        (lambda: TruncatedGCELoss(2.0), 'num_samples must .* got 2.0'),
        (lambda: SCELoss(alpha=-1), r'alpha must be a number in \[0, inf\), got -1. .*alpha=6'),
        (lambda: SCELoss(beta=float('inf')), 'beta must .* got inf'),
        (lambda: SCELoss(log_zero=0), r'log_zero must be a number in \(-inf, 0\), got 0'),
        (lambda: SCELoss(log_zero=-float('inf')), 'log_zero must .* got -inf'),
    ],
)
def test_hyperparameters_outside_their_ranges(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@every
@pytest.mark.parametrize('label', [-1, -100, C])
def test_label_outside_the_classes(name, label):
    with pytest.raises(ValueError, match=re.escape(f'Label {label} is outside [0, {C})')):
        make(name)(torch.randn(2, C), torch.tensor([0, label]))


@every
def test_labels_of_another_shape(name):
    with pytest.raises(ValueError, match='Soft labels must have the shape of the logits'):
        make(name)(torch.randn(2, C), torch.rand(2, C + 1))
    with pytest.raises(ValueError, match='Labels must be 2 class indices'):
        make(name)(torch.randn(2, C), torch.tensor([0, 1, 2]))


@pytest.mark.parametrize('call', ['forward', 'prune'])
def test_indices_that_do_not_fit(call):
    criterion = TruncatedGCELoss(N)
    call = getattr(criterion, call)
    logits, labels = torch.randn(2, C), torch.tensor([0, 1])
    for index in (N, -1):
        with pytest.raises(IndexError, match=re.escape(f'Sample index {index} is outside [0, {N})')):
            call(logits, labels, torch.tensor([0, index]))
    for indices in (torch.tensor([0]), torch.tensor([[0, 1]]), torch.tensor([0.0, 1.0]), torch.tensor([True, False])):
        with pytest.raises(ValueError, match='indices must be 2 integers, one for each row of the logits'):
            call(logits, labels, indices)
    assert criterion.kept.all()
    call(logits, labels, torch.tensor([0, 1], dtype=torch.uint8))


def test_everything_is_exported():
    for name in losses.__all__:
        assert getattr(losses, name).__doc__


def test_the_lines_of_the_docs():
    page = (Path(__file__).parents[1] / 'docs' / 'baselines.md').read_text(encoding='utf-8')
    blocks = [code for code in re.findall(r'^```python\n(.*?)^```$', page, re.M | re.S) if 'model(images)' in code]
    assert len(blocks) == 7
    images, labels, indices = torch.randn(6, 5), torch.arange(6) % 3, torch.arange(6)
    for code in blocks:
        session = dict(model=torch.nn.Linear(5, 3), images=images, labels=labels, indices=indices)
        exec(compile(code, 'snippet', 'exec'), session)
        assert session.get('loss', session.get('transition')).isfinite().all()
    ten = 0.2 * np.eye(10) + 0.08
    assert np.allclose(np.linalg.inv(ten), 5 * np.eye(10) - 0.4)  # as the page says


# ---- training


@pytest.mark.slow
def test_wrong_labels_are_memorised_less_than_by_cross_entropy():
    datasets = pytest.importorskip('sklearn.datasets')
    images, clean = datasets.load_digits(return_X_y=True)
    noisy = SymmetricNoise(rate=0.4, seed=0)(clean, 10)
    criteria = dict(
        ce=torch.nn.CrossEntropyLoss(),
        forward=ForwardLoss(transition_matrix(clean, noisy, 10)),
        gce=GCELoss(),
        sl=SCELoss(),
    )
    images, clean, noisy = torch.tensor(images / 16).float(), torch.tensor(clean), torch.tensor(noisy)
    wrong = clean != noisy
    found = {name: train(images, noisy, lambda z, y, i, c=c: c(z, y)) for name, c in criteria.items()}
    accuracy = {name: (p == clean).float().mean() for name, p in found.items()}
    memorised = {name: (p == noisy)[wrong].float().mean() for name, p in found.items()}
    assert accuracy['ce'] < 0.8 and memorised['ce'] > 0.45
    for name in ('forward', 'gce', 'sl'):
        assert accuracy[name] > 0.88 and memorised[name] < 0.25, name
