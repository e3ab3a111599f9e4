"""The equations against literal re-derivations: one sample and one class at a time, in Python's float64."""

import math

import pytest
import torch
import torch.nn.functional as F

from mmelr import functional
from mmelr.functional import (
    elr_gradient,
    elr_loss,
    elr_regularizer,
    probabilities,
    soft_labels,
    temporal_ensembling,
)

N, C = 7, 5
LAM = 3.0


def softmax(row):
    largest = max(row)
    exps = [math.exp(v - largest) for v in row]
    return [e / sum(exps) for e in exps]


def clamp(v, eps):
    return min(max(v, eps), 1 - eps)


def as_distributions(labels):
    """Hard or soft labels as nested lists [N][C]."""
    if labels.dim() == 2:
        return labels.double().tolist()
    return [[float(c == y) for c in range(C)] for y in labels.tolist()]


def literal_loss(logits, labels, t, lam, eps):
    total = 0.0
    for z, y, target in zip(logits.double().tolist(), as_distributions(labels), t.double().tolist(), strict=True):
        log_norm = max(z) + math.log(sum(math.exp(v - max(z)) for v in z))
        cross_entropy = -sum(y_c * (v - log_norm) for y_c, v in zip(y, z, strict=True))
        p = [clamp(v, eps) for v in softmax(z)]
        total += cross_entropy + lam * math.log(1 - sum(a * b for a, b in zip(p, target, strict=True)))
    return total / len(logits)


def literal_lemma2(logits, labels, t, lam):
    """(p - y + lam g) / N with g_c = p_c / (1 - <p, t>) sum_k (t_k - t_c) p_k, no clamp."""
    rows = []
    for z, y, target in zip(logits.tolist(), as_distributions(labels), t.tolist(), strict=True):
        p = softmax(z)
        inner = sum(a * b for a, b in zip(p, target, strict=True))
        row = []
        for c in range(C):
            g = p[c] / (1 - inner) * sum((target[k] - target[c]) * p[k] for k in range(C))
            row.append((p[c] - y[c] + lam * g) / len(logits))
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


def autograd(logits, labels, t, lam, eps):
    z = logits.clone().requires_grad_()
    elr_loss(z, labels, t, lam, eps).backward()
    return z.grad


def make_labels(kind, dtype=torch.float64, n=N):
    if kind == 'hard':
        return torch.randint(C, (n,))
    return torch.rand(n, C, dtype=dtype).softmax(dim=1)


def make_targets(n=N, total=0.83, dtype=torch.float64):
    """Like the averages of a few visits: non-negative, each row with the same sum below one."""
    return total * (4 * torch.randn(n, C, dtype=dtype)).softmax(dim=1)


@pytest.fixture(params=['hard', 'soft'])
def labels(request):
    return make_labels(request.param)


@pytest.fixture(params=[1, 20], ids=['plain', 'saturated'])
def logits(request):
    return request.param * torch.randn(N, C, dtype=torch.float64)


# ---- the functions one by one


@pytest.mark.parametrize('eps', [0, 1e-4, 0.1])
def test_probabilities(logits, eps):
    expected = [[clamp(v, eps) for v in softmax(z)] for z in logits.tolist()]
    assert torch.allclose(probabilities(logits, eps), torch.tensor(expected, dtype=torch.float64), rtol=1e-13, atol=0)


def test_probabilities_are_clamped_as_published():
    p = probabilities(torch.tensor([[100.0, 0.0, 0.0]]))
    assert functional.EPS == 1e-4
    assert torch.equal(p, torch.tensor([[1 - 1e-4, 1e-4, 1e-4]]))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_results_have_at_least_single_precision(dtype):
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    z, t = torch.randn(N, C).to(dtype), make_targets(dtype=torch.float32)
    assert probabilities(z).dtype == expected
    assert elr_loss(z, make_labels('hard'), t, LAM).dtype == expected
    assert elr_loss(z, make_labels('soft', torch.float32).to(dtype), t, LAM).dtype == expected


def test_temporal_ensembling():
    t, p = make_targets(), torch.randn(N, C, dtype=torch.float64).softmax(dim=1)
    expected = [[0.7 * t[i, c].item() + (1 - 0.7) * p[i, c].item() for c in range(C)] for i in range(N)]
    assert torch.allclose(temporal_ensembling(t, p, 0.7), torch.tensor(expected, dtype=torch.float64), atol=1e-15)


@pytest.mark.parametrize('beta', [0.0, 0.5, 0.9])
def test_after_k_visits_a_target_sums_to_one_minus_beta_to_the_k(beta):
    t = torch.zeros(N, C, dtype=torch.float64)
    for k in range(1, 8):
        t = temporal_ensembling(t, torch.randn(N, C, dtype=torch.float64).softmax(dim=1), beta)
        assert torch.allclose(t.sum(dim=1), torch.full((N,), 1 - beta**k, dtype=torch.float64), atol=1e-14)


def test_regularizer():
    p, t = probabilities(torch.randn(N, C, dtype=torch.float64)), make_targets()
    inner = [
        sum(a * b for a, b in zip(row, target, strict=True)) for row, target in zip(p.tolist(), t.tolist(), strict=True)
    ]
    expected = sum(math.log(1 - v) for v in inner) / N
    assert elr_regularizer(p, t).shape == ()
    assert elr_regularizer(p, t).item() == pytest.approx(expected, rel=1e-13)
    assert elr_regularizer(p, torch.zeros_like(t)).item() == 0


def test_targets_are_constants():
    z, t = torch.randn(N, C, requires_grad=True), make_targets(dtype=torch.float32).requires_grad_()
    elr_loss(z, make_labels('hard'), t, LAM).backward()
    assert z.grad is not None
    assert t.grad is None


def test_soft_labels():
    y = torch.tensor([2, 0, 4])
    expected = torch.tensor([[0, 0, 1, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 1]], dtype=torch.float64)
    assert torch.equal(soft_labels(y, C, torch.float64), expected)
    assert torch.equal(soft_labels(y.int(), C), expected.float())
    given = make_labels('soft')
    assert torch.equal(soft_labels(given, C), given.float())


# ---- the loss


@pytest.mark.parametrize('eps', [0, 1e-4])
@pytest.mark.parametrize('lam', [0, 1, 7.5])
def test_loss(logits, labels, lam, eps):
    t = make_targets()
    result = elr_loss(logits, labels, t, lam, eps)
    assert result.shape == ()
    assert result.item() == pytest.approx(literal_loss(logits, labels, t, lam, eps), rel=1e-12)


def test_loss_clamps_by_default(labels):
    z, t = 20 * torch.randn(N, C, dtype=torch.float64), make_targets(total=0.9999)
    default = elr_loss(z, labels, t, LAM)
    assert default == elr_loss(z, labels, t, LAM, eps=1e-4)
    assert default != elr_loss(z, labels, t, LAM, eps=0)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_one_hot_labels_are_hard_labels(logits, dtype):
    z, y, t = logits.to(dtype), make_labels('hard'), make_targets(dtype=dtype)
    one_hot = elr_loss(z, soft_labels(y, C), t, LAM)
    assert one_hot.dtype == dtype
    assert torch.allclose(one_hot, elr_loss(z, y, t, LAM), rtol=1e-6)


@pytest.mark.parametrize('kind', ['hard', 'soft'])
@pytest.mark.parametrize('scale', [0.1, 1, 10, 50])
def test_cross_entropy_is_torchs_bit_for_bit(kind, scale):
    z, y = scale * torch.randn(500, C), make_labels(kind, torch.float32, n=500)
    loss = elr_loss(z, y, make_targets(500, dtype=torch.float32), lam=0)
    assert torch.equal(loss, F.cross_entropy(z, y))


def test_shift_of_the_logits_changes_nothing(labels):
    # Eighths, shifted by a power of two, are exact in float32: not the slightest difference is allowed.
    z = torch.randint(-40, 40, (N, C)) / 8
    y = labels.float() if labels.dim() == 2 else labels
    t = make_targets(dtype=torch.float32)
    for shift in (1024.0, -1024.0):
        assert torch.equal(elr_loss(z + shift, y, t, LAM), elr_loss(z, y, t, LAM))
        assert torch.equal(autograd(z + shift, y, t, LAM, 1e-4), autograd(z, y, t, LAM, 1e-4))


# ---- the gradient


@pytest.mark.parametrize('eps', [0, 1e-4])
def test_gradient_is_autograds(logits, labels, eps):
    t = make_targets()
    p = probabilities(logits, eps=0)
    if logits.abs().max() > 10:  # or the saturated case would test nothing
        assert (p < 1e-4).any() and (p > 1 - 1e-4).any()
    result = elr_gradient(logits, labels, t, LAM, eps)
    assert result.dtype == torch.float64
    assert torch.allclose(result, autograd(logits, labels, t, LAM, eps), rtol=0, atol=1e-10)


def test_gradient_is_lemma_2(logits, labels):
    t = make_targets()
    expected = literal_lemma2(logits, labels, t, LAM)
    assert torch.allclose(elr_gradient(logits, labels, t, LAM, eps=0), expected, rtol=0, atol=1e-12)
    assert torch.allclose(autograd(logits, labels, t, LAM, 0), expected, rtol=0, atol=1e-10)


def test_gradient_is_lemma_2_where_no_clamp_binds(labels):
    z, t = torch.randn(N, C, dtype=torch.float64), make_targets()
    p = probabilities(z, eps=0)
    assert ((p > 1e-4) & (p < 1 - 1e-4)).all()
    assert torch.allclose(elr_gradient(z, labels, t, LAM), literal_lemma2(z, labels, t, LAM), rtol=0, atol=1e-12)


@pytest.mark.parametrize('eps', [0, 1e-4])
def test_gradient_is_the_slope_of_the_literal_loss(logits, labels, eps):
    t, h = make_targets(), 1e-6
    slope = torch.empty_like(logits)
    for i in range(N):
        for c in range(C):
            step = torch.zeros_like(logits)
            step[i, c] = h
            up, down = (literal_loss(logits + s, labels, t, LAM, eps) for s in (step, -step))
            slope[i, c] = (up - down) / (2 * h)
    assert torch.allclose(elr_gradient(logits, labels, t, LAM, eps), slope, rtol=0, atol=1e-7)


def test_targets_raise_the_logit_of_their_class():
    # The label says class 3, the sample's earlier predictions say class 1.
    z, y = torch.zeros(1, C, dtype=torch.float64), torch.tensor([3])
    t = torch.tensor([[0.02, 0.9, 0.02, 0.02, 0.02]], dtype=torch.float64)
    g = elr_gradient(z, y, t, lam=1) - elr_gradient(z, y, t, lam=0)
    assert g[0, 1] < 0
    assert (g[0, [0, 2, 3, 4]] > 0).all()
    for _ in range(200):  # from a network that knows nothing: descent follows the targets where lam is large enough
        z = z - 0.1 * elr_gradient(z, y, t, lam=7)
    assert z.argmax() == 1
    for _ in range(200):  # and the label without
        z = z - 0.1 * elr_gradient(z, y, t, lam=0)
    assert z.argmax() == 3


# ---- numbers at the limits


def extreme_logits(dtype, size, n):
    """Rows with both signs, the label's logit the largest, the lowest, or among equals."""
    z = torch.zeros(n, C, dtype=dtype)
    z[0::4, 0] = size
    z[1::4, 0] = -size
    z[2::4] = size
    z[3::4, 1], z[3::4, 2] = size, -size
    return z


@pytest.mark.parametrize('kind', ['hard', 'soft'])
@pytest.mark.parametrize('autocast', [None, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_finite_for_all_finite_logits(dtype, autocast, kind):
    n = 2048
    largest = torch.finfo(dtype).max
    y = torch.zeros(n, dtype=torch.long)
    y = y if kind == 'hard' else soft_labels(y, C) * 0.9 + 0.02
    for size in (0, 1, 100, 1e4, largest**0.5, largest / 2, largest):
        z = extreme_logits(dtype, size, n).requires_grad_()
        with torch.autocast('cpu', dtype=autocast, enabled=autocast is not None):
            p = probabilities(z.detach())
            own = temporal_ensembling(torch.zeros_like(p), p / p.sum(dim=1, keepdim=True), 0.0)
            for t in (own, own.roll(1, dims=1), torch.zeros_like(own)):
                loss = elr_loss(z, y, t, LAM)
                (grad,) = torch.autograd.grad(loss, z)
                closed = elr_gradient(z.detach(), y, t, LAM)
                assert loss.isfinite() and loss.dtype == torch.float32, (size, loss)
                assert grad.isfinite().all() and grad.dtype == dtype, size
                assert closed.isfinite().all(), size
                if size < 1e30:  # beyond it cross entropy saturates
                    assert torch.allclose(grad.float(), closed, rtol=1e-2, atol=1e-6), size
                # The whole batch wrong at once, summed: what a logger or an accumulation step does.
                assert (loss * n).isfinite()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_autocast_changes_nothing_after_the_logits(dtype):
    x, w = torch.randn(64, 8), torch.randn(8, C)
    y, t = make_labels('hard', n=64), make_targets(64, dtype=torch.float32)
    with torch.autocast('cpu', dtype=dtype):
        logits = x @ w
        assert logits.dtype == dtype
        loss, p = elr_loss(logits, y, t, LAM), probabilities(logits)
        regularizer = elr_regularizer(p, t)
    assert loss.dtype == p.dtype == regularizer.dtype == torch.float32
    assert torch.equal(loss, elr_loss(logits.float(), y, t, LAM))
    assert torch.equal(p, probabilities(logits.float()))
    assert torch.equal(regularizer, elr_regularizer(probabilities(logits.float()), t))


@pytest.mark.parametrize('kind', ['hard', 'soft'])
@pytest.mark.parametrize('dtype', [torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize('column', [0, 1], ids=['at the label', 'beside it'])
@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_nan_and_inf_are_not_hidden(bad, column, dtype, kind):
    z = torch.randn(N, C).to(dtype)
    z[3, column] = bad
    y = torch.zeros(N, dtype=torch.long)
    y = y if kind == 'hard' else soft_labels(y, C, torch.float64) * 0.9 + 0.02
    assert not elr_loss(z, y, make_targets(dtype=torch.float32), LAM).isfinite()
    # Not by way of the label alone: the regulariser sees it too.
    assert probabilities(z)[3].isnan().all()
    assert probabilities(z)[[0, 1, 2, 4, 5, 6]].isfinite().all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32, torch.float64], ids=str)
def test_minus_inf_at_the_label_is_not_hidden(dtype):
    # Beside the label it is a class that somebody masked out, and cross entropy is finite; at the label it is infinite.
    z, y = torch.randn(N, C).to(dtype), torch.zeros(N, dtype=torch.long)
    z[3, 0] = -float('inf')
    assert not elr_loss(z, y, make_targets(dtype=torch.float32), LAM).isfinite()


@pytest.mark.parametrize('label', [-1, -100, C])
def test_label_outside_the_classes_is_not_left_out(label):
    # By default torch's cross entropy ignores -100, on every device.
    with pytest.raises(IndexError, match=str(label)):
        elr_loss(torch.randn(2, C), torch.tensor([0, label]), torch.zeros(2, C), LAM)


# ---- the authors' published loss


@pytest.mark.parametrize('scale', [1, 15], ids=['plain', 'saturated'])
def test_training_follows_the_published_loss(scale):
    """From its description: softmax clamped to [1e-4, 1 - 1e-4]; t averages it rescaled to sum one; t first, then L."""
    n, beta, lr, steps = 12, 0.7, 2.0, 6
    start = scale * torch.randn(n, C, dtype=torch.float64)
    noisy = torch.randint(C, (n,))
    batches = [torch.randperm(n)[:N] for _ in range(steps)]

    table, memory, published = start.clone(), [[0.0] * C for _ in range(n)], []
    for batch in batches:
        z = table[batch].clone().requires_grad_()
        terms = []
        for row, i in zip(z, batch.tolist(), strict=True):
            p = torch.clamp(row.exp() / row.exp().sum(), 1e-4, 1 - 1e-4)
            norm = sum(p.tolist())
            for c in range(C):
                memory[i][c] = beta * memory[i][c] + (1 - beta) * (p[c].item() / norm)
            inner = sum(p[c] * memory[i][c] for c in range(C))
            terms.append(row.exp().sum().log() - row[noisy[i]] + LAM * (1 - inner).log())
        loss = sum(terms) / len(batch)
        loss.backward()
        table[batch] -= lr * z.grad
        published.append(loss.item())

    ours, t, losses = start.clone(), torch.zeros(n, C, dtype=torch.float64), []
    for batch in batches:
        z = ours[batch].clone().requires_grad_()
        p = probabilities(z.detach())
        t[batch] = temporal_ensembling(t[batch], p / p.sum(dim=1, keepdim=True), beta)
        loss = elr_loss(z, noisy[batch], t[batch], LAM)
        loss.backward()
        ours[batch] -= lr * z.grad
        losses.append(loss.item())

    assert losses == pytest.approx(published, rel=1e-11)
    assert torch.allclose(t, torch.tensor(memory, dtype=torch.float64), rtol=0, atol=1e-12)
    assert torch.allclose(ours, table, rtol=0, atol=1e-10)
