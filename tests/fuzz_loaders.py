"""The loaders that ``tests/fuzz.py`` fuzzes: what each reads, and what it may return."""

import io
import json
import runpy
import tempfile
from functools import partial
from pathlib import Path

import hostile
import numpy as np
import torch
from runs import digits_config, train

from mmelr.analysis import read_run
from mmelr.analysis.benchmark import read_result
from mmelr.datasets import Clothing1M, ImageNet50, MiniWebVision
from mmelr.noise import LabelFile, NoiseRecord, TransitionNoise
from mmelr.serialization import safe_load

N, C = 40, 10
GIVEN = np.arange(N) % C
LABELS = (GIVEN * 7 + 3) % C
TOOLS = Path(__file__).parents[1] / 'tools'


class Loader:
    """One loader.

    Attributes:
        name (str): Its name in the table.
        suffix (str): Suffix of the file.
        text (bool): Whether the file is text, and is damaged as text too.
        slow (int): It gets one in so many of the inputs that others get.
    """

    text, slow = True, 1

    def __init__(self, name: str, suffix: str) -> None:
        self.name, self.suffix = name, suffix

    def valid(self) -> dict[str, bytes]:
        """Valid files of this kind."""
        raise NotImplementedError

    def odd(self, marker: str) -> dict[str, bytes]:
        """Files made by hand: odd and malicious ones, and those of other kinds."""
        found = {f'text: {name}': data for name, data in hostile.odd_text().items()}
        for suffix in ('.npy', '.npz', '.txt', '.csv', '.json', '.pt', '.pth'):
            if suffix != self.suffix:
                found |= {f'a {suffix}: {name}': data for name, data in valid_labels(suffix).items()}
        return found | hostile.malicious(self.suffix, marker)

    def prepare(self, folder: Path) -> tuple:
        """The path that is written to, and a function that reads it."""
        path = folder / f'some file{self.suffix}'
        return path, partial(self.load, path)

    def load(self, path: Path):
        """Reads the file, as its users do."""
        raise NotImplementedError

    def names(self, path: Path) -> list[str]:
        """Errors must have one of these in them."""
        return [path.name]

    def check(self, result) -> None:
        """Raises AssertionError if a result is not valid."""


def valid_labels(suffix: str) -> dict[str, bytes]:
    """Label files as people write them."""
    if suffix in ('.txt', '.csv', '.json'):
        lines = {
            '.txt': {
                'labels': map(str, LABELS),
                'names': (f'images/0/{i:02}/a b,{i}.jpg {y}' for i, y in enumerate(LABELS)),
            },
            '.csv': {
                'column': ['noisy_label', *map(str, LABELS)],
                'numbers': map(str, LABELS),
                'index': ['sample_idx,label,name', *(f'{i},{LABELS[i]},"a,{i}"' for i in reversed(range(N)))],
            },
            '.json': {
                'list': [json.dumps(LABELS.tolist())],
                'object': [json.dumps(dict(clean_label=GIVEN.tolist(), noisy_label=LABELS.tolist()), indent=1)],
            },
        }
        return {name: ('\n'.join(text) + '\n').encode() for name, text in lines[suffix].items()}
    named = dict(clean_label=GIVEN, noisy_label=LABELS)
    values = [LABELS, LABELS.astype('u1'), LABELS.astype('>i4')] if suffix == '.npy' else [named]
    if suffix in ('.pt', '.pth'):
        values = [torch.from_numpy(LABELS), named, LABELS.tolist(), {k: torch.from_numpy(v) for k, v in named.items()}]
    found = {}
    for i, value in enumerate(values):
        for option in (True, False) if suffix != '.npy' else (True,):
            out = io.BytesIO()
            if suffix == '.npy':
                np.save(out, value)
            elif suffix == '.npz':
                (np.savez_compressed if option else np.savez)(out, **value)
            else:
                torch.save(value, out, _use_new_zipfile_serialization=option)
            found[f'{i}, {option}'] = out.getvalue()
    return found


def check_labels(labels) -> None:
    assert labels.dtype == np.int64 and labels.shape == (N,) and ((labels >= 0) & (labels < C)).all(), labels


class Labels(Loader):
    def __init__(self, suffix: str) -> None:
        super().__init__(f'labels{suffix}', suffix)
        self.text = suffix in ('.txt', '.csv', '.json')

    def valid(self):
        return valid_labels(self.suffix)

    def odd(self, marker):
        more = {
            '.npy': lambda: hostile.odd_npy(N),
            '.npz': lambda: hostile.odd_npz(N),
            '.json': hostile.odd_json,
            '.pt': lambda: hostile.odd_torch(N),
            '.pth': lambda: hostile.odd_torch(N),
        }
        return super().odd(marker) | more.get(self.suffix, dict)()

    def load(self, path):
        return LabelFile(path)(GIVEN, C)

    def check(self, result):
        check_labels(result)


class Record(Loader):
    text = False

    def valid(self):
        found = {}
        for name, clean in (('clean', GIVEN), ('unknown', None)):
            out = io.BytesIO()
            arrays = dict(noisy_label=LABELS, num_classes=C, description='SymmetricNoise(rate=0.4)')
            np.savez_compressed(out, **arrays, **({} if clean is None else dict(clean_label=clean)))
            found[name] = out.getvalue()
        return found

    def odd(self, marker):
        return super().odd(marker) | hostile.odd_npz(N)

    def load(self, path):
        record = NoiseRecord.load(path)
        record.summary()
        return dict(
            noisy=record.noisy_label, clean=record.clean_label, classes=record.num_classes, text=record.description
        )

    def check(self, result):
        for labels in (result['noisy'], result['clean']):
            if labels is not None:
                assert labels.dtype == np.int64 and len(labels) == len(result['noisy'])
                assert ((labels >= 0) & (labels < result['classes'])).all()
        assert type(result['text']) is str and type(result['classes']) is int


class Matrix(Loader):
    def __init__(self, suffix: str) -> None:
        super().__init__(f'matrix{suffix}', suffix)
        self.text = suffix != '.npy'

    def valid(self):
        matrix = np.full((C, C), 0.04) + 0.6 * np.eye(C)
        out = io.BytesIO()
        if self.suffix == '.npy':
            np.save(out, matrix)
        else:
            np.savetxt(out, matrix, fmt='%.3f', delimiter=',' if self.suffix == '.csv' else ' ')
        return {'matrix': out.getvalue()}

    def odd(self, marker):
        return super().odd(marker) | (hostile.odd_npy(N) if self.suffix == '.npy' else {})

    def load(self, path):
        return TransitionNoise(path)(GIVEN, C)

    def check(self, result):
        check_labels(result)


class List(Loader):
    """A list of one of the large data sets, with its images in place."""

    FILES = {
        'Clothing1M keys': (Clothing1M, 'noisy_train_key_list.txt'),
        'Clothing1M labels': (Clothing1M, 'noisy_label_kv.txt'),
        'WebVision': (MiniWebVision, 'info/train_filelist_google.txt'),
        'ImageNet': (ImageNet50, 'meta/val.txt'),
    }

    def __init__(self, name: str) -> None:
        super().__init__(name, '.txt')
        self.kind, self.file = self.FILES[name]
        if self.kind is Clothing1M:
            self.images = [f'images/{i % 2}/{i % 3:02}/{i:05},{i}.jpg' for i in range(N)]
        else:
            self.images = [f'google/q{i % 4:04}/{i:05}.jpg' for i in range(N)]

    def valid(self):
        keys = self.file == 'noisy_train_key_list.txt'
        lines = [image if keys else f'{image} {label}' for image, label in zip(self.images, LABELS, strict=True)]
        return {'list': ('\n'.join(lines) + '\n').encode()}

    def prepare(self, folder):
        self.root = folder / 'data'
        for image in self.images:
            path = self.root / ('val' if self.kind is ImageNet50 else '') / image
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b'image')
        if self.kind is Clothing1M:
            for name in ('Clothing1M keys', 'Clothing1M labels'):
                (self.root / self.FILES[name][1]).write_bytes(List(name).valid()['list'])
        (self.root / self.file).parent.mkdir(exist_ok=True)
        return self.root / self.file, partial(self.load, self.root)

    def load(self, root):
        dataset = self.kind(data_root=str(root), pipeline=[])
        return [dataset.get_data_info(i) for i in range(len(dataset))]

    def names(self, path):
        # ImageNet50 without its list is ImageNet in folders; and of a missing image the image is named.
        return [path.name, str(self.root)]

    def check(self, result):
        assert result
        for item in result:
            assert 0 <= item['gt_label'] < 50 and Path(item['img_path']).resolve().is_relative_to(self.root), item


class Torch(Loader):
    text = False

    def valid(self):
        return {f'{suffix} {name}': data for suffix in ('.pt', '.pth') for name, data in valid_labels(suffix).items()}

    def odd(self, marker):
        return super().odd(marker) | hostile.odd_torch(N)

    def load(self, path):
        return safe_load(path)


def checkpoint(**changes) -> dict:
    """What MMEngine saves, small."""
    network = torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    network(torch.ones(3, 4)).sum().backward()
    optimizer.step()
    state = {f'head.fc.{k}': v for k, v in network.state_dict().items()} | {'head.memory.t': torch.rand(N, C)}
    meta = dict(epoch=2, iter=8, seed=0, dataset_meta=dict(classes=['a', 'b']), experiment_name='x', time='now')
    return dict(
        meta=meta, state_dict=state, optimizer=optimizer.state_dict(), param_schedulers=[{'last_step': 8}], **changes
    )


class Publish(Loader):
    text = False

    def valid(self):
        found = {}
        for zipped in (True, False):
            out = io.BytesIO()
            torch.save(checkpoint(), out, _use_new_zipfile_serialization=zipped)
            found[f'zipped {zipped}'] = out.getvalue()
        return found

    def odd(self, marker):
        return super().odd(marker) | hostile.odd_torch(N)

    def prepare(self, folder):
        self.read = runpy.run_path(str(TOOLS / 'publish_model.py'))['plain_checkpoint']
        return super().prepare(folder)

    def load(self, path):
        return self.read(path, None)

    def check(self, result):
        assert result.keys() == {'meta', 'state_dict'} and result['state_dict']
        assert all(type(key) is str for key in result['state_dict']) and isinstance(result['meta'], dict)


class Resume(Loader):
    """A training run that is told to go on from the file: all that happens before the first step."""

    text, slow = False, 20

    def valid(self):
        with tempfile.TemporaryDirectory() as folder:
            train(self.config(folder))
            return {'epoch_1': Path(folder, 'epoch_1.pth').read_bytes()}

    def config(self, folder):
        return digits_config(folder, train=64, val=32)

    def odd(self, marker):
        state = {'head.fc.weight': torch.rand(2, 2)}
        values = {
            'no meta': dict(state_dict=state),
            'no state_dict': dict(meta=dict(epoch=1, iter=1)),
            'meta with code': dict(checkpoint(), meta=dict(config=f'open({marker!r}, "w")', epoch=1, iter=1)),
        }
        for name, value in values.items():
            torch.save(value, out := io.BytesIO())
            values[name] = out.getvalue()
        return super().odd(marker) | hostile.odd_torch(N) | values

    def prepare(self, folder):
        cfg = self.config(folder / 'work_dir')
        runner = train(cfg)  # which builds all that resuming needs
        # MMEngine's own hooks ask git for a hash.
        ours = [hook for hook in runner.hooks if type(hook).__module__.startswith('mmelr.')]

        def load():
            runner._load_from, runner._resume, runner._has_loaded = str(path), True, False
            for hook in ours:
                hook.before_run(runner)
            runner.load_or_resume()
            return runner

        path = folder / 'some file.pth'
        return path, load

    def names(self, path):
        return [path.name, 'Cannot resume: the checkpoint']  # a whole file, of another run

    def check(self, runner):
        # Numbers that someone changed, with a checksum that is right again, are not known to be wrong.
        assert type(runner.epoch) is int and type(runner.iter) is int
        assert all(isinstance(value, torch.Tensor) for value in runner.model.state_dict().values())


class Curves(Loader):
    def valid(self):
        lines = [dict(lr=0.1, loss=1.5, step=1)]
        for epoch in range(1, 9):
            lines.append({'memorization/wrong_memorized': 0.25, 'epoch': epoch, 'step': epoch})
            lines.append({'accuracy/top1': 90.5, 'data_time': 0.1, 'step': epoch})
        return {'scalars': ''.join(json.dumps(line) + '\n' for line in lines).encode()}

    def odd(self, marker):
        return super().odd(marker) | hostile.odd_json()

    def prepare(self, folder):
        path = folder / 'some run' / '20200101' / 'vis_data' / 'scalars.json'
        path.parent.mkdir(parents=True)
        return path, partial(self.load, folder / 'some run')

    def load(self, work_dir):
        return read_run(work_dir).curves

    def names(self, path):
        return [str(path), path.parents[2].name]

    def check(self, result):
        for curve in result.values():
            assert all(type(k) is int and type(v) in (int, float) for k, v in curve.items()), curve


class Memorization(Curves):
    """The lines that MemorizationHook writes."""

    def valid(self):
        lines = [dict(epoch=e, agreement=0.5, losses=[0.025] * 40, loss_bin_width=0.25) for e in range(1, 9)]
        return {'lines': ''.join(json.dumps(line) + '\n' for line in lines).encode()}

    def prepare(self, folder):
        scalars, load = super().prepare(folder)
        scalars.write_text('{"accuracy/top1": 90.5, "step": 1}\n')
        return folder / 'some run' / 'memorization.jsonl', load

    def load(self, work_dir):
        return read_run(work_dir).losses

    def names(self, path):
        return [str(path), path.parent.name]

    def check(self, result):
        for curve in result.values():
            assert all(type(epoch) is int and len(shares) == 40 for epoch, shares in curve.items()), curve
            assert all(type(share) in (int, float) for shares in curve.values() for share in shares), curve


class Json(Loader):
    """Results that a tool reads again: of a benchmark, of the zoo."""

    NOW = dict(method='elr', side=64, stack=dict(torch='2'), seconds=0, outside={}, configs={})

    def prepare(self, folder):
        if self.name == 'benchmark':
            self.read = read_result
        else:
            read = runpy.run_path(str(TOOLS / 'zoo_coverage.py'))['read_json']
            self.read = partial(read, now=self.NOW)
        return super().prepare(folder)

    def valid(self):
        if self.name == 'benchmark':
            picked = dict(picked_accuracy=None, picked_epoch=None, picked_by=None)
            value = dict(last_accuracy=90.5, **picked, wrong_labels_memorized=0.1, epochs=3, seconds=3.5, cpu_seconds=3)
            value |= dict(resumed=False)
        else:
            value = self.NOW | dict(configs={'a.py': dict(own='ok', elr='ok')})
        return {'results': json.dumps(value, indent=1).encode()}

    def odd(self, marker):
        return super().odd(marker) | hostile.odd_json()

    def load(self, path):
        return self.read(path)

    def check(self, result):
        assert result.keys() >= set(json.loads(self.valid()['results'])), result


LOADERS = {
    loader.name: loader
    for loader in (
        *map(Labels, ('.npy', '.npz', '.txt', '.csv', '.json', '.pt', '.pth')),
        Record('noise record', '.npz'),
        *map(Matrix, ('.npy', '.txt', '.csv')),
        *map(List, List.FILES),
        Torch('safe_load', '.pt'),
        Publish('publish_model', '.pth'),
        Resume('resume', '.pth'),
        Curves('curves', '.json'),
        Memorization('memorization', '.jsonl'),
        Json('benchmark', '.json'),
        Json('zoo', '.json'),
    )
}
