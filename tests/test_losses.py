"""``ELRLoss`` against its equation, in a plain training loop, and where OpenMMLab is not installed."""

import ast
import copy
import math
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import mmelr
from mmelr import ELRLoss, stack
from mmelr.functional import elr_loss, probabilities, soft_labels, temporal_ensembling
from mmelr.noise import SymmetricNoise

N, C = 13, 5
BETA, LAM = 0.7, 3.0
PACKAGE = Path(mmelr.__file__).parent


class LiteralELR:
    """The paper's algorithm with the published clamp, one sample and one class at a time, in Python's float64."""

    def __init__(self):
        self.t = [[0.0] * C for _ in range(N)]

    def __call__(self, logits, labels, indices):
        total = 0.0
        for z, y, i in zip(logits.tolist(), labels.tolist(), indices.tolist(), strict=True):
            norm = sum(math.exp(v) for v in z)
            p = [min(max(math.exp(v) / norm, 1e-4), 1 - 1e-4) for v in z]
            for c in range(C):
                self.t[i][c] = BETA * self.t[i][c] + (1 - BETA) * p[c] / sum(p)
            y = y if isinstance(y, list) else [float(c == y) for c in range(C)]
            total += sum(y[c] * (math.log(norm) - z[c]) for c in range(C))
            total += LAM * math.log(1 - sum(p[c] * self.t[i][c] for c in range(C)))
        return total / len(logits)


def make_epochs(epochs=4, batch=4, scale=3):
    """Logits of all samples, which differ in every epoch, in batches of a shuffled order; the last one is smaller."""
    for _ in range(epochs):
        yield from ((scale * torch.randn(len(i), C, dtype=torch.float64), i) for i in torch.randperm(N).split(batch))


# ---- the equation


@pytest.mark.parametrize('kind', ['hard', 'soft'])
def test_loss_is_the_equation_over_several_epochs(kind):
    criterion, literal = ELRLoss(N, C, BETA, LAM).double(), LiteralELR()
    labels = torch.randint(C, (N,)) if kind == 'hard' else torch.randn(N, C, dtype=torch.float64).softmax(dim=1)
    for logits, indices in make_epochs():
        loss = criterion(logits, labels[indices], indices)
        assert loss.item() == pytest.approx(literal(logits, labels[indices], indices), rel=1e-12)
    assert torch.allclose(criterion.memory.t, torch.tensor(literal.t, dtype=torch.float64), rtol=0, atol=1e-14)


def test_one_hot_labels_are_hard_labels():
    hard, soft = ELRLoss(N, C, BETA, LAM).double(), ELRLoss(N, C, BETA, LAM).double()
    labels = torch.randint(C, (N,))
    for logits, indices in make_epochs():
        y = labels[indices]
        assert torch.allclose(hard(logits, y, indices), soft(logits, soft_labels(y, C), indices), rtol=1e-13)
    assert torch.equal(hard.memory.t, soft.memory.t)


def test_defaults_are_the_papers_for_symmetric_noise():
    default, explicit = ELRLoss(N, C), ELRLoss(N, C, beta=0.7, lam=3.0, dtype='float32')
    labels = torch.randint(C, (N,))
    for logits, indices in make_epochs():
        assert torch.equal(default(logits, labels[indices], indices), explicit(logits, labels[indices], indices))


def test_without_regulariser_it_is_cross_entropy():
    logits, labels = torch.randn(N, C), torch.randint(C, (N,))
    assert torch.equal(ELRLoss(N, C, lam=0)(logits, labels, torch.arange(N)), F.cross_entropy(logits, labels))


def test_targets_are_averaged_once_a_call_and_before_they_are_used():
    criterion = ELRLoss(N, C, beta=0.6, lam=1.0).double()
    logits = torch.randn(2, C, dtype=torch.float64, requires_grad=True)
    indices, labels = torch.tensor([4, 9]), torch.tensor([0, 1])
    p = logits.detach().softmax(dim=1)
    for k in range(1, 4):
        loss = criterion(logits, labels, indices)
        t = criterion.memory.t.clone()
        assert torch.allclose(t[indices], (1 - 0.6**k) * p, atol=1e-14)
        expected = F.cross_entropy(logits, labels) + (1 - (p * (1 - 0.6**k) * p).sum(dim=1)).log().mean()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
        loss.backward()
        assert torch.equal(criterion.memory.t, t)
    assert criterion.memory.t.count_nonzero() == 2 * C


class Softmaxes(TorchDispatchMode):
    """How often softmax is computed."""

    calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += func.overloadpacket.__name__ == '_softmax'
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize('kind', ['hard', 'soft'])
def test_memory_and_loss_share_one_softmax_and_nothing_changes_by_it(kind, dtype):
    """Loss and gradient are those of the functions, bit for bit."""
    criterion, t = ELRLoss(N, C), torch.zeros(N, C)
    labels = torch.randint(C, (N,)) if kind == 'hard' else torch.randn(N, C).softmax(dim=1)
    for logits, indices in make_epochs():
        ours, theirs = (logits.to(dtype).requires_grad_() for _ in range(2))
        with Softmaxes() as softmaxes:
            loss = criterion(ours, labels[indices], indices)
        assert softmaxes.calls == 1
        p = probabilities(theirs).detach()
        t[indices] = temporal_ensembling(t[indices], (p / p.sum(dim=1, keepdim=True)).float(), criterion.beta)
        assert torch.equal(criterion.memory.t, t)
        expected = elr_loss(theirs, labels[indices], t[indices], criterion.lam)
        assert torch.equal(loss, expected)
        loss.backward()
        expected.backward()
        assert torch.equal(ours.grad, theirs.grad)


def test_repeated_samples_share_their_target():
    criterion = ELRLoss(N, C).double()
    logits, labels = torch.randn(4, C, dtype=torch.float64), torch.randint(C, (4,))
    loss = criterion(logits, labels, torch.tensor([3, 3, 8, 3]))
    p = logits.softmax(dim=1)
    t = 0.3 * torch.stack([p[[0, 1, 3]].mean(dim=0)] * 2 + [p[2], p[[0, 1, 3]].mean(dim=0)])
    expected = F.cross_entropy(logits, labels) + 3 * (1 - (p * t).sum(dim=1)).log().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize('memory_dtype', ['float32', 'bfloat16', 'float16'])
@pytest.mark.parametrize('autocast', [None, torch.bfloat16, torch.float16], ids=str)
def test_single_precision_also_inside_autocast(autocast, memory_dtype):
    criterion, plain = ELRLoss(N, C, dtype=memory_dtype), ELRLoss(N, C, dtype=memory_dtype)
    x, w = torch.randn(6, 8), torch.randn(8, C, requires_grad=True)
    labels, indices = torch.randint(C, (6,)), torch.randperm(N)[:6]
    with torch.autocast('cpu', dtype=autocast, enabled=autocast is not None):
        logits = x @ w
        loss = criterion(logits, labels, indices)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, plain(logits.detach().float(), labels, indices))
    assert torch.equal(criterion.memory.t, plain.memory.t)
    loss.backward()
    assert w.grad.isfinite().all()


def test_state_dict_continues_where_it_stopped():
    labels, batches = torch.randint(C, (N,)), list(make_epochs())
    whole, first, second = ELRLoss(N, C), ELRLoss(N, C), ELRLoss(N, C)
    losses = [whole(z, labels[i], i) for z, i in batches]
    for z, i in batches[:7]:
        first(z, labels[i], i)
    assert list(first.state_dict()) == ['memory.t']
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert [second(z, labels[i], i) for z, i in batches[7:]] == losses[7:]


# ---- what is refused


@pytest.mark.parametrize('beta', [-0.1, 1, 1.5, float('nan')])
def test_beta_outside_its_range(beta):
    with pytest.raises(ValueError, match=rf'beta.* must be in \[0, 1\), got {beta}'):
        ELRLoss(N, C, beta=beta)


@pytest.mark.parametrize('lam', [-1, -1e-9, float('inf'), float('nan')])
def test_lam_outside_its_range(lam):
    with pytest.raises(ValueError, match=f'lam.* must be at least 0, got {lam}'):
        ELRLoss(N, C, lam=lam)


def test_the_ends_of_the_ranges_are_allowed():
    ELRLoss(N, C, beta=0, lam=0)
    ELRLoss(N, C, beta=0.999, lam=1000)


def test_index_or_classes_that_do_not_fit():
    criterion = ELRLoss(N, C)
    with pytest.raises(IndexError, match=f'index {N} is outside the memory'):
        criterion(torch.randn(2, C), torch.zeros(2, dtype=torch.long), torch.tensor([0, N]))
    with pytest.raises(ValueError, match=f'{C} classes.*num_classes'):
        criterion(torch.randn(2, C + 1), torch.zeros(2, dtype=torch.long), torch.tensor([0, 1]))
    assert not criterion.memory.t.any()


@pytest.mark.parametrize('label', [-1, -100, C, C + 50])
def test_label_outside_the_classes(label):
    # -100 is what torch's cross entropy leaves out without a word.
    criterion = ELRLoss(N, C)
    with pytest.raises(ValueError, match=rf'Label {label} is outside \[0, {C}\)'):
        criterion(torch.randn(2, C), torch.tensor([0, label]), torch.tensor([0, 1]))
    assert not criterion.memory.t.any()


# ---- training


def train(images, labels, criterion, epochs=80):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(epochs):
        for i in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            criterion(model(images[i]), labels[i], i).backward()
            optimizer.step()
    with torch.no_grad():
        return model(images).argmax(dim=1)


def test_elr_does_not_memorise_wrong_labels_and_cross_entropy_does():
    datasets = pytest.importorskip('sklearn.datasets')
    images, clean = datasets.load_digits(return_X_y=True)
    noisy = SymmetricNoise(rate=0.4, seed=0)(clean, 10)
    images, clean, noisy = torch.tensor(images / 16).float(), torch.tensor(clean), torch.tensor(noisy)
    wrong = clean != noisy

    cross_entropy = train(images, noisy, lambda logits, y, i: F.cross_entropy(logits, y))
    criterion = ELRLoss(len(images), 10)
    elr = train(images, noisy, criterion)

    accuracy = {name: (p == clean).float().mean() for name, p in (('ce', cross_entropy), ('elr', elr))}
    memorised = {name: (p == noisy)[wrong].float().mean() for name, p in (('ce', cross_entropy), ('elr', elr))}
    assert accuracy['elr'] > 0.9
    assert accuracy['elr'] > accuracy['ce'] + 0.15
    assert memorised['elr'] < 0.1
    assert memorised['ce'] > 0.4
    # The targets themselves are the corrected labels, which the label audit builds on.
    assert (criterion.memory.t.argmax(dim=1) == clean).float().mean() > 0.9


# ---- without OpenMMLab

HIDE = """
import sys

class Hidden:
    # A finder that does not find the packages that are not to be there; all else, metadata too, as ever.
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, *args):
        return None if name.split('.')[0] in NAMES else self.finder.find_spec(name, *args)

NAMES = {names!r}
sys.meta_path = [Hidden(finder) for finder in sys.meta_path]
for name in NAMES:
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(name + ' is not hidden')
"""


def run_without(names, code):
    code = HIDE.format(names=names) + code
    result = subprocess.run([sys.executable, '-c', code], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result


def test_core_works_where_openmmlab_is_not_installed():
    result = run_without(
        ['mmengine', 'mmcv', 'mmpretrain'],
        """
import torch
from mmelr import ELRLoss, TargetMemory, functional, noise

criterion = ELRLoss(num_samples=10, num_classes=3)
logits = torch.randn(4, 3, requires_grad=True)
criterion(logits, torch.tensor([0, 1, 2, 0]), torch.tensor([9, 0, 3, 3])).backward()
assert logits.grad.isfinite().all() and criterion.memory.t[9].any()
assert len(noise.SymmetricNoise(0.4)([0, 1, 2], 3)) == 3

import mmelr
roots = {m.split('.')[0] for m in sys.modules}
found = [m for m in roots if m.startswith('mm') and m not in ('mmelr', 'mmap')]
assert not found, found
assert 'mmelr.models' not in sys.modules and 'mmelr.datasets' not in sys.modules
for name in mmelr.__all__:
    getattr(mmelr, name)
for name in ('apply_method', 'load_config', 'METHODS'):
    try:
        getattr(mmelr, name)
    except ImportError as e:
        print(e)
    else:
        raise SystemExit(name + ' is there')
try:
    mmelr.nothing_of_ours
except AttributeError as e:
    assert 'nothing_of_ours' in str(e)
""",
    )
    lines = result.stdout.strip().splitlines()
    assert len(lines) == 3
    for line in lines:
        assert 'mmengine, mmcv, mmpretrain, not installed' in line
        assert "pip install 'mmelr[lite]'" in line
        assert 'mmelr[openmmlab]' in line
    assert 'Warning' not in result.stderr  # who has none of it does not miss it


def test_half_of_the_stack_is_told_and_the_core_works():
    result = run_without(['mmcv'], 'from mmelr import ELRLoss; ELRLoss(3, 2)')
    assert 'mmcv, not installed' in result.stderr
    assert 'mmengine,' not in result.stderr
    assert "pip install 'mmelr[lite]'" in result.stderr


CORE = [PACKAGE / f'{name}.py' for name in ('functional', 'serialization')]
CORE += [path for name in ('losses', 'memory', 'noise') for path in sorted((PACKAGE / name).glob('*.py'))]


@pytest.mark.parametrize('path', CORE, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_core_imports_torch_and_numpy_alone(path):
    """Also inside of functions, where no run of the module would show it."""
    allowed = {'torch', 'numpy', *sys.stdlib_module_names}
    own = {'functional', 'memory', 'losses', 'noise', 'serialization'}
    inside = path.parent != PACKAGE
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            assert {alias.name.split('.')[0] for alias in node.names} <= allowed, ast.unparse(node)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module.split('.')[0] in allowed, ast.unparse(node)
        elif isinstance(node, ast.ImportFrom) and not (inside and node.level == 1):
            level = 2 if inside else 1
            assert node.level == level and node.module and node.module.split('.')[0] in own, ast.unparse(node)


# ---- the versions of the stack


def installed(monkeypatch, **versions):
    """Pretend that these distributions are installed, with underscores for hyphens, and no others."""

    def version(name):
        try:
            return versions[name.replace('-', '_')]
        except KeyError:
            raise PackageNotFoundError(name) from None

    monkeypatch.setattr(stack, 'version', version)


def test_this_stack_will_do():
    assert stack.stack_problem() is None
    stack.require_openmmlab()


def test_old_versions_are_named_with_the_mend(monkeypatch):
    installed(monkeypatch, mmengine='0.9.1', mmcv_lite='2.0.0rc4', mmpretrain='1.1.1')
    problem = stack.stack_problem()
    assert 'mmengine >= 0.10.0 (this is 0.9.1)' in problem
    assert 'mmpretrain >= 1.2.0 (this is 1.1.1)' in problem
    assert 'not installed' not in problem
    assert "pip install 'mmelr[lite]'" in problem
    with pytest.raises(ImportError, match='mmengine >= 0.10.0'):
        stack.require_openmmlab()
    with pytest.warns(UserWarning, match='mmpretrain >= 1.2.0'):
        stack.stack_problem(warn=True)


@pytest.mark.parametrize(
    'versions',
    [
        dict(mmengine='0.10.7', mmcv='2.2.0', mmpretrain='1.2.0'),
        dict(mmengine='0.10.0', mmcv='2.0.0', mmpretrain='1.2.0'),
        dict(mmengine='0.10.7', mmcv_lite='2.1.0', mmpretrain='1.10.0+local'),
        dict(onedl_mmengine='0.10.9', onedl_mmcv='2.3.0', onedl_mmpretrain='1.2.1'),
    ],
    ids=['full mmcv', 'the oldest', 'mmcv-lite', 'the fork'],
)
def test_versions_that_will_do(monkeypatch, versions):
    installed(monkeypatch, **versions)
    assert stack.stack_problem() is None


def test_two_digit_versions_are_numbers(monkeypatch):
    installed(monkeypatch, mmengine='0.9.10', mmcv='10.0.0', mmpretrain='1.2.0')
    assert stack.stack_problem().count('this is') == 1


@pytest.mark.parametrize('version', ['2.5.1', '1.13.0+cu117'])
def test_old_torch_is_refused(monkeypatch, version):
    monkeypatch.setattr(torch, '__version__', version)
    with pytest.raises(ImportError, match=f'torch >= 2.6.0, this is {version.split("+")[0]}'):
        stack.stack_problem()


@pytest.mark.parametrize('version', ['2.6.0', '2.6.0+cpu', '2.14.1', '2.10.0a0+git123', '3.0.0'])
def test_newer_torch_will_do(monkeypatch, version):
    monkeypatch.setattr(torch, '__version__', version)
    assert stack.stack_problem() is None
