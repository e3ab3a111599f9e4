"""The commands, run as a user runs them."""

import gzip
import json
import os
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.runner import Runner

import mmelr
from mmelr.analysis import read_run
from mmelr.noise import NoiseRecord

ROOT = Path(__file__).parents[1]
SMALL = ['train_dataloader.dataset.dataset.indices=128', 'val_dataloader.dataset.indices=64', 'train_cfg.max_epochs=1']


def run(*command, code=0, **env) -> str:
    """A command's output; it must end with this exit status."""
    env = os.environ | {'OMP_NUM_THREADS': '1'} | env
    result = subprocess.run([str(c) for c in command], cwd=ROOT, text=True, capture_output=True, env=env)
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout + result.stderr


@pytest.fixture(scope='module')
def trained(tmp_path_factory) -> Path:
    """A short ELR run through tools/train.py."""
    work_dir = tmp_path_factory.mktemp('run')
    run(sys.executable, 'tools/train.py', 'configs/elr_digits.py', '--work-dir', work_dir, '--cfg-options', *SMALL,
        'test_dataloader.dataset.indices=64')  # fmt: skip
    return work_dir


def test_method_switch_on_a_config_of_mmpretrain(tmp_path):
    """The headline command; digits stand in for CIFAR-10, which cannot be downloaded everywhere."""
    output = run(
        sys.executable, 'tools/train.py', 'mmpretrain::resnet/resnet18_8xb16_cifar10.py', '--method', 'elr',
        '--noise', 'symmetric:0.4,seed=3', '--work-dir', tmp_path, '--cfg-options', *SMALL,
        'train_dataloader.dataset.dataset.type=Digits', 'val_dataloader.dataset.type=Digits',
        'train_dataloader.num_workers=1', 'val_dataloader.num_workers=1', 'train_dataloader.batch_size=64',
    )  # fmt: skip
    assert 'SymmetricNoise(rate=0.4, seed=3, include_true=True)' in output and 'loss_elr' in output
    written = mmelr.load_config(tmp_path / 'resnet18_8xb16_cifar10.py')
    assert (written.model.head.type, written.model.head.base) == ('ELRHead', 'LinearClsHead')
    assert written.train_dataloader.dataset.noise.seed == 3
    assert NoiseRecord.load(tmp_path / 'noise.npz').num_samples == 1438


def test_test_gives_what_validation_gave(trained, tmp_path):
    last = [json.loads(line) for f in trained.glob('*/vis_data/scalars.json') for line in f.read_text().splitlines()]
    validated = [e['accuracy/top1'] for e in last if 'accuracy/top1' in e][-1]
    out = tmp_path / 'metrics.json'
    run(sys.executable, 'tools/test.py', trained / 'elr_digits.py', trained / 'epoch_1.pth', '--work-dir', tmp_path,
        '--out', out, '--out-item', 'metrics')  # fmt: skip
    assert json.loads(out.read_text())['accuracy/top1'] == pytest.approx(validated)


WITHOUT_MMELR = """
import json, sys
class NoMmelr:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] == 'mmelr':
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, NoMmelr())
import numpy as np
from mmpretrain import ImageClassificationInferencer
config, checkpoint, images, out = sys.argv[1:]
inferencer = ImageClassificationInferencer(config, pretrained=checkpoint, device='cpu')
results = inferencer(list(np.load(images)), batch_size=8)
json.dump([r['pred_scores'].tolist() for r in results], open(out, 'w'))
"""


def test_published_model_needs_no_mmelr(trained, tmp_path):
    out = run(sys.executable, 'tools/publish_model.py', trained / 'epoch_1.pth', tmp_path / 'digits.pth')
    published, config = next(tmp_path.glob('digits-*.pth')), tmp_path / 'digits.py'
    assert str(published) in out and str(config) in out
    content = torch.load(published, weights_only=True)
    assert set(content) == {'meta', 'state_dict'} and not [k for k in content['state_dict'] if 'memory' in k]
    assert set(content['meta']['dataset_meta']['classes']) == set('0123456789')
    assert 'mmelr' not in config.read_text() and 'ELR' not in config.read_text()

    dataset = mmelr.datasets.Digits(split='test', indices=16)
    images = np.stack([dataset.get_data_info(i)['img'] for i in range(16)])
    np.save(tmp_path / 'images.npy', images)
    (tmp_path / 'infer.py').write_text(WITHOUT_MMELR)
    run(sys.executable, tmp_path / 'infer.py', config, published, tmp_path / 'images.npy', tmp_path / 'scores.json')
    scores = torch.tensor(json.loads((tmp_path / 'scores.json').read_text()))

    cfg = mmelr.load_config(trained / 'elr_digits.py')
    cfg.update(work_dir=str(tmp_path / 'w'), experiment_name='publish', log_level='ERROR')
    runner = Runner.from_cfg(cfg)
    runner.load_checkpoint(str(trained / 'epoch_1.pth'))
    data = dict(inputs=torch.from_numpy(images)[:, None], data_samples=None)
    with torch.no_grad():
        logits = runner.model.eval()(runner.model.data_preprocessor(data)['inputs'])
    assert torch.allclose(scores, logits.softmax(1), atol=1e-6)


def test_publish_refuses_what_it_cannot_use(trained, tmp_path):
    out = run(sys.executable, 'tools/publish_model.py', tmp_path / 'no.pth', tmp_path / 'o.pth', code=2)
    assert 'No checkpoint' in out
    (tmp_path / 'cut.pth').write_bytes((trained / 'epoch_1.pth').read_bytes()[:5000])
    out = run(sys.executable, 'tools/publish_model.py', tmp_path / 'cut.pth', tmp_path / 'o.pth', '--config',
              trained / 'elr_digits.py', code=2)  # fmt: skip
    assert 'malformed or truncated' in out and 'Traceback' not in out and not list(tmp_path.glob('o*'))
    # Torch writes checksums, and does not look at them.
    data = bytearray((trained / 'epoch_1.pth').read_bytes())
    weight = torch.load(trained / 'epoch_1.pth')['state_dict']['head.fc.weight']
    data[data.index(weight.numpy().tobytes())] ^= 1
    (tmp_path / 'flipped.pth').write_bytes(data)
    read = runpy.run_path(str(ROOT / 'tools/publish_model.py'))['plain_checkpoint']
    for value, words in (
        (data, 'does not match its checksum'),
        (dict(state_dict='text'), 'no checkpoint of MMEngine: it has no state_dict'),
        (dict(state_dict={'a': weight}, meta='text'), 'no checkpoint of MMEngine: its meta is no dict'),
    ):
        if isinstance(value, dict):
            torch.save(value, tmp_path / 'flipped.pth')
        with pytest.raises(ValueError, match=f'flipped.pth.*{words}'):
            read(tmp_path / 'flipped.pth', None)


@pytest.mark.slow
def test_make_noise_draws_what_a_run_draws(trained, tmp_path):
    out = run(sys.executable, 'tools/make_noise.py', 'configs/elr_digits.py', '--out', tmp_path / 'noise.npz')
    assert 'P(label | true class)' in out and '522 of 1438' in out
    assert (tmp_path / 'noise.png').read_bytes().startswith(b'\x89PNG')
    a, b = NoiseRecord.load(tmp_path / 'noise.npz'), NoiseRecord.load(trained / 'noise.npz')
    assert a.fingerprint == b.fingerprint and np.array_equal(a.clean_label, b.clean_label)
    out = run(sys.executable, 'tools/make_noise.py', 'configs/elr_digits.py', '--noise', 'none', code=2)
    assert 'has no noise' in out


@pytest.mark.slow
def test_prepare_fashion_mnist(tmp_path):
    sys.path.insert(0, str(ROOT / 'tools'))
    try:
        from prepare_fashion_mnist import FILES
    finally:
        sys.path.pop(0)
    source, target = tmp_path / 'packed', tmp_path / 'data'
    source.mkdir()
    for name, size in FILES.items():
        (source / f'{name}.gz').write_bytes(gzip.compress(bytes(size), 1))
    command = (sys.executable, 'tools/prepare_fashion_mnist.py', '--source', source, '--data-root', target)
    run(*command)
    assert {f.name: f.stat().st_size for f in target.iterdir()} == FILES
    run(*command)  # nothing to do

    first = next(iter(FILES))
    (target / first).unlink()
    packed = (source / f'{first}.gz').read_bytes()
    (source / f'{first}.gz').write_bytes(packed[: len(packed) // 2])
    assert 'damaged' in run(*command, code=2)
    (source / f'{first}.gz').write_bytes(gzip.compress(b'something else'))
    assert '14 bytes' in run(*command, code=2)
    assert not (target / first).exists()


@pytest.mark.parametrize('text', ['', '{"cfg_options": []', '[]', '{"cfg_options": []}', '\xff'])
def test_results_of_tools_that_are_damaged(tmp_path, text):
    (tmp_path / 'result.json').write_bytes(text.encode('latin1'))
    now = dict(method='elr', side=64, stack={}, seconds=0, outside={}, configs={})
    read = runpy.run_path(str(ROOT / 'tools/zoo_coverage.py'))['read_json']
    with pytest.raises(ValueError, match='result.json'):
        read(tmp_path / 'result.json', now)
    (tmp_path / 'result.json').write_text(json.dumps(now))
    assert read(tmp_path / 'result.json', now) == now
    with pytest.raises(ValueError, match='result.json is of another side, 64'):
        read(tmp_path / 'result.json', now | dict(side=32))


def test_curves_of_a_run_that_was_killed(tmp_path):
    lines = [json.dumps({'accuracy/top1': 50.0 + i, 'step': i}) + '\n' for i in (1, 2, 3)]
    for start, text in (('1', lines[0] + lines[1][:-9]), ('2', lines[1] + lines[2])):
        path = tmp_path / start / 'vis_data' / 'scalars.json'
        path.parent.mkdir(parents=True)
        path.write_text(text)
    assert read_run(tmp_path).curves == {'accuracy/top1': {1: 51, 2: 52, 3: 53}}
    path.write_text(lines[0][:-9] + lines[1] + lines[2])  # both started in one second, and so in one folder
    assert read_run(tmp_path).curves == {'accuracy/top1': {1: 51, 2: 52, 3: 53}}
    for bad in ('{"accuracy/top1": 5', '{"accuracy/top1": 5}', '{"accuracy/top1": "5", "step": 1}', '[]', '\xff'):
        path.write_bytes(f'{lines[1]}{bad}\n'.encode('latin1'))
        with pytest.raises(ValueError, match='scalars.json, line 2: malformed'):
            read_run(tmp_path)


def test_refused_resume_changes_nothing(trained):
    """Not even the config, which MMEngine writes before anything can be compared."""
    before = {f: f.read_bytes() for f in trained.iterdir() if f.is_file()}
    out = run(sys.executable, 'tools/train.py', 'configs/elr_digits.py', '--work-dir', trained, '--resume', '--noise',
              'symmetric:0.2', '--cfg-options', *SMALL, code=2)  # fmt: skip
    assert 'train.py: Cannot resume: the checkpoint was trained on other labels' in out
    assert {f: f.read_bytes() for f in trained.iterdir() if f.is_file()} == before


def test_wheel(tmp_path):
    run(sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', tmp_path, '.')
    with zipfile.ZipFile(next(tmp_path.glob('mmelr-*.whl'))) as wheel:
        names = wheel.namelist()
        metadata = wheel.read(next(n for n in names if n.endswith('METADATA'))).decode()
    assert {f'mmelr/{n}.py' for n in ('functional', 'noise/synthetic', 'engine/checkpoint')} <= set(names)
    assert not [n for n in names if n.startswith(('tests', 'tools', 'configs'))]
    core = [line for line in metadata.splitlines() if line.startswith('Requires-Dist') and 'extra' not in line]
    assert core == ['Requires-Dist: torch>=2.6', 'Requires-Dist: numpy']
    assert 'mmcv' not in ''.join(line for line in metadata.splitlines() if 'extra == "openmmlab"' in line)


@pytest.mark.slow
def test_demo(tmp_path):
    """What the README promises: below 75 % and above 94 %, in at most two minutes."""
    out = run(sys.executable, 'tools/demo.py')
    summary = json.loads((ROOT / 'work_dirs' / 'demo' / 'summary.json').read_text())
    assert summary['ce']['final_accuracy'] < 75 and summary['elr']['final_accuracy'] > 94
    assert summary['ce']['wrong_labels_memorized'] > 50 > 20 > summary['elr']['wrong_labels_memorized']
    assert 'cross entropy' in out and (ROOT / 'work_dirs' / 'demo' / 'curves.png').is_file()
