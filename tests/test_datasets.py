"""``Clothing1M``, ``MiniWebVision`` and ``ImageNet50`` over small trees in the official layouts."""

import gzip
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from mmcv.transforms import LoadImageFromFile
from mmpretrain.datasets import ImageNet
from mmpretrain.datasets.categories import IMAGENET_CATEGORIES
from mmpretrain.datasets.transforms import PackInputs
from mmpretrain.registry import DATASETS
from torch.utils.data import DataLoader
from trees import write_clothing1m, write_imagenet_val, write_webvision

from mmelr.datasets import Clothing1M, ImageNet50, MiniWebVision, NoisyLabelDataset
from mmelr.datasets.identity import map_samples

PIPELINE = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]


@pytest.fixture(scope='module')
def trees(tmp_path_factory):
    """One of each, which no test changes: (root, what is in it)."""
    root = tmp_path_factory.mktemp('data')
    return {
        'clothing1m': (root / 'clothing1m', write_clothing1m(root / 'clothing1m', noise=0.4)),
        'webvision': (root / 'webvision', write_webvision(root / 'webvision', noise=0.4)),
        'imagenet': (root / 'imagenet', write_imagenet_val(root / 'imagenet', per_class=2)),
        'folders': (root / 'folders', write_imagenet_val(root / 'folders', per_class=2, folders=True)),
    }


@pytest.fixture
def clothing(tmp_path):
    write_clothing1m(tmp_path, per_class=1)
    return tmp_path


@pytest.fixture
def webvision(tmp_path):
    write_webvision(tmp_path)
    return tmp_path


def change(path, old, new):
    text = path.read_bytes()
    assert old in text
    path.write_bytes(text.replace(old, new, 1))


def set_line(path, number, line):
    """Puts another line in the place of line ``number``, from 1."""
    lines = path.read_bytes().splitlines()
    lines[number - 1] = line
    path.write_bytes(b'\n'.join(lines) + b'\n')


def first_key(path):
    return path.read_text().split()[0]


# ---- what is read

CASES = {
    **{f'clothing1m {s}': ('clothing1m', Clothing1M, s, '') for s in ('train', 'clean_train', 'val', 'test')},
    'webvision train': ('webvision', MiniWebVision, 'train', ''),
    'webvision val': ('webvision', MiniWebVision, 'val', 'val_images_256'),
    'imagenet list': ('imagenet', ImageNet50, None, 'val'),
    'imagenet folders': ('folders', ImageNet50, None, 'val'),
}


@pytest.mark.parametrize('name', CASES)
@pytest.mark.parametrize('indices', [None, 5, -5, [7, 2, 2, -1, 9]], ids=str)
def test_the_listed_images_and_labels(trees, name, indices):
    tree, kind, split, prefix = CASES[name]
    root, samples = trees[tree]
    samples = samples[split] if split else sorted(samples, key=lambda s: (s[1], s[0]) if tree == 'folders' else 0)
    if isinstance(indices, list):
        samples = [samples[i] for i in indices]
    elif indices is not None:
        samples = samples[:indices] if indices > 0 else samples[indices:]
    cfg = dict(type=kind.__name__, data_root=str(root), pipeline=PIPELINE, indices=indices)
    dataset = DATASETS.build(dict(cfg, split=split) if split else cfg)

    assert len(dataset) == len(samples)
    assert dataset.get_gt_labels().tolist() == [label for _, label in samples]
    assert dataset.get_gt_labels().dtype == np.int64
    for i, (path, label) in enumerate(samples):
        path = os.path.join(root, prefix, path)
        assert dataset.get_data_info(i) == dict(img_path=path, gt_label=label, sample_idx=i)
        assert dataset.get_cat_ids(i) == [label]
        item = dataset[i]
        assert item['inputs'].shape == (3, 40, 40)
        assert (item['data_samples'].img_path, item['data_samples'].gt_label.item()) == (path, label)
    assert dataset.get_data_info(-1)['sample_idx'] == len(samples) - 1
    with pytest.raises(IndexError):
        dataset[len(samples)]


def test_the_splits_that_tests_rely_on(trees):
    samples = trees['clothing1m'][1]
    assert {split: len(s) for split, s in samples.items()} == dict(train=28, clean_train=28, val=28, test=28)
    assert len(trees['webvision'][1]['train']) == len(trees['webvision'][1]['val']) == 50
    assert [label for _, label in samples['val']] == [*range(14), *range(14)]
    assert 0.2 < np.mean([y != c for (_, y), (_, c) in zip(samples['train'], samples['val'], strict=True)]) < 0.7


def test_classes(trees):
    dataset = Clothing1M(data_root=str(trees['clothing1m'][0]))
    assert len(dataset.CLASSES) == 14
    assert (dataset.CLASSES[0], dataset.CLASSES[8], dataset.CLASSES[13]) == ('T-Shirt', 'Down Coat', 'Underwear')
    for kind, tree in ((MiniWebVision, 'webvision'), (ImageNet50, 'imagenet'), (ImageNet50, 'folders')):
        assert kind(data_root=str(trees[tree][0])).metainfo['classes'] == IMAGENET_CATEGORIES[:50]


def test_other_names_for_the_classes(trees):
    root = str(trees['clothing1m'][0])
    names = [f'class {i}' for i in range(14)]
    dataset = Clothing1M(data_root=root, classes=names)
    assert list(dataset.CLASSES) == names
    assert Clothing1M(data_root=root, metainfo=dict(classes=names)).class_to_idx['class 13'] == 13
    with pytest.raises(ValueError, match='Clothing1M has 14 classes, but 2 are named'):
        Clothing1M(data_root=root, classes=['a', 'b'])


@pytest.mark.parametrize('kind', [Clothing1M, MiniWebVision])
def test_unknown_split(kind):
    with pytest.raises(ValueError, match=f"split of {kind.__name__} must be .*'train'.*, got 'valid'"):
        kind('valid')


def test_lazy(tmp_path):
    dataset = Clothing1M(data_root=str(tmp_path), lazy_init=True, pipeline=PIPELINE)
    assert len(dataset.CLASSES) == 14
    assert "Haven't been initialized" in repr(dataset)
    samples = write_clothing1m(tmp_path, per_class=1)
    assert dataset.get_gt_labels().tolist() == [label for _, label in samples['train']]


def test_repr(trees):
    text = repr(Clothing1M('val', data_root=str(trees['clothing1m'][0]), pipeline=PIPELINE))
    for part in ('Clothing1M', '28', '14', 'val', 'clean_val_key_list.txt', 'LoadImageFromFile'):
        assert part in text
    assert 'val_images_256' in repr(MiniWebVision('val', data_root=str(trees['webvision'][0])))
    assert 'Number of samples: \t100' in repr(ImageNet50(data_root=str(trees['imagenet'][0])))


def test_lists_from_other_editors(clothing):
    """Windows' line ends, a byte order mark, blank lines, no newline at the end."""
    given = Clothing1M(data_root=str(clothing)).get_gt_labels()
    for name in ('noisy_train_key_list.txt', 'noisy_label_kv.txt'):
        lines = (clothing / name).read_bytes().splitlines()
        (clothing / name).write_bytes(b'\xef\xbb\xbf' + b'\r\n'.join([*lines[:3], b'', b'  ', *lines[3:]]))
    assert np.array_equal(Clothing1M(data_root=str(clothing)).get_gt_labels(), given)


def test_names_that_are_not_ascii(webvision):
    change(webvision / 'info/train_filelist_google.txt', b'q0001/00000.jpg', 'q0001/é..x.jpg'.encode())
    (webvision / 'google/q0001/00000.jpg').rename(webvision / 'google/q0001/é..x.jpg')
    dataset = MiniWebVision(data_root=str(webvision), pipeline=PIPELINE)
    assert dataset[0]['data_samples'].img_path.endswith('q0001/é..x.jpg')


# ---- it behaves as a dataset of MMPretrain


@pytest.mark.parametrize('indices', [None, 5, -5, [7, 2, -1], (3, 1)], ids=str)
def test_with_noisy_label_dataset(trees, indices):
    root, samples = trees['clothing1m']
    inner = dict(type='Clothing1M', split='train', data_root=str(root), pipeline=PIPELINE, indices=indices)
    noise = dict(type='SymmetricNoise', rate=0.5, seed=1)
    full, dataset = NoisyLabelDataset(dict(inner, indices=None), noise), NoisyLabelDataset(inner, noise)
    given = NoisyLabelDataset(inner)
    assert dataset.num_samples == given.num_samples == 28
    for i in range(len(dataset)):
        sample = dataset[i]['data_samples']
        key, label = samples['train'][sample.sample_idx]
        assert sample.img_path == str(root / key)
        assert sample.clean_label == label == given[i]['data_samples'].gt_label.item()
        assert sample.gt_label.item() == full.get_gt_labels()[sample.sample_idx]


def test_instance_noise_reads_the_images(trees):
    cfg = dict(type='MiniWebVision', split='val', data_root=str(trees['webvision'][0]))
    dataset = NoisyLabelDataset(cfg, dict(type='InstanceNoise', rate=0.5))
    assert 0.2 < (dataset.get_gt_labels() != range(50)).mean() < 0.8


@pytest.mark.parametrize('take', [10, -10, [3, 1, 4]], ids=str)
def test_subsets_taken_later(trees, take):
    root, samples = trees['clothing1m']
    expected = [
        samples['train'][i]
        for i in (take if isinstance(take, list) else np.r_[:28][:10] if take > 0 else range(18, 28))
    ]
    dataset = Clothing1M(data_root=str(root))
    subset = dataset.get_subset(take)
    assert len(dataset) == 28
    dataset.get_subset_(take)
    for part in (subset, dataset):
        assert [part.get_data_info(i)['img_path'] for i in range(len(part))] == [str(root / key) for key, _ in expected]
        assert part.get_gt_labels().tolist() == [label for _, label in expected]


@pytest.mark.parametrize(
    'wrap',
    [
        dict(type='KFoldDataset', fold=1, num_splits=4, seed=3),
        dict(type='RepeatDataset', times=2),
        dict(type='ClassBalancedDataset', oversample_thr=0.1),
    ],
    ids=lambda w: w['type'],
)
def test_in_wrappers(trees, wrap):
    root, samples = trees['clothing1m']
    wrapped = DATASETS.build(dict(wrap, dataset=dict(type='Clothing1M', data_root=str(root), pipeline=PIPELINE)))
    traced = map_samples(wrapped)
    for i in range(len(wrapped)):
        assert wrapped[i]['data_samples'].img_path == str(root / samples['train'][traced.sample_idx[i]][0])


def test_data_workers_and_pickles(trees):
    dataset = MiniWebVision(data_root=str(trees['webvision'][0]), pipeline=PIPELINE)
    for each in (dataset, pickle.loads(pickle.dumps(dataset))):
        loader = DataLoader(each, batch_size=25, num_workers=2, collate_fn=list)
        labels = [item['data_samples'].gt_label.item() for batch in loader for item in batch]
        assert labels == dataset.get_gt_labels().tolist()


def test_serialize_data_makes_no_difference(trees):
    for choice in (True, False):
        dataset = Clothing1M(data_root=str(trees['clothing1m'][0]), serialize_data=choice)
        assert len(dataset) == len(dataset.data_list) == 28


def test_no_dict_for_each_image(trees):
    names, labels = (
        getattr(Clothing1M(data_root=str(trees['clothing1m'][0])).data_list, n) for n in ('names', 'labels')
    )
    assert (names.dtype, labels.dtype) == ('S33', 'u1')
    assert (names.nbytes + labels.nbytes) / 28 == 34  # as the docstring says


def test_images_are_learnable(trees):
    """The mean colour tells the class, so that training tests have something to learn."""
    dataset = Clothing1M('val', data_root=str(trees['clothing1m'][0]), pipeline=[LoadImageFromFile()])
    colours = np.stack([dataset[i]['img'].mean((0, 1)) for i in range(28)])
    nearest = [np.abs(colours[:14] - c).sum(1).argmin() for c in colours[14:]]
    assert nearest == list(range(14))


# ---- ImageNet


def test_imagenet_labels_are_mmpretrains(trees):
    """For all 1,000 folders MMPretrain's count gives the labels; here they are the same with 50."""
    for tree in ('imagenet', 'folders'):
        root = str(trees[tree][0])
        ours = ImageNet50(data_root=root)
        classes = dict(classes=IMAGENET_CATEGORIES[:50]) if tree == 'folders' else None
        theirs = ImageNet(data_root=root, split='val', metainfo=classes)
        assert ours.get_gt_labels().tolist() == [y for y in theirs.get_gt_labels() if y < 50]
        assert [ours.get_data_info(i)['img_path'] for i in range(100)] == [
            theirs.get_data_info(i)['img_path'] for i in range(100)
        ]


def test_other_class_folders_do_not_count(tmp_path):
    samples = write_imagenet_val(tmp_path, folders=True)
    for other in ('n00000001', 'n01440765', 'n02119789'):  # in front, between and behind
        shutil.copytree(tmp_path / 'val/n01440764', tmp_path / 'val' / other)
    (tmp_path / 'val/n01440764/notes.txt').write_text('no image')
    assert ImageNet50(data_root=str(tmp_path)).get_gt_labels().tolist() == [label for _, label in samples]


def test_a_missing_class_folder_moves_no_label(tmp_path):
    write_imagenet_val(tmp_path, folders=True)
    shutil.rmtree(tmp_path / 'val/n01443537')
    shutil.rmtree(tmp_path / 'val/n01494475')
    with pytest.raises(FileNotFoundError, match='val/n01443537, and 2 of 50 class folders are missing.*meta/val.txt'):
        ImageNet50(data_root=str(tmp_path))


def test_a_class_folder_without_images(tmp_path):
    write_imagenet_val(tmp_path, folders=True)
    shutil.rmtree(tmp_path / 'val/n01443537')
    (tmp_path / 'val/n01443537').mkdir()
    with pytest.raises(ValueError, match='val/n01443537 has no image. Unpack ILSVRC2012_img_val.tar'):
        ImageNet50(data_root=str(tmp_path))


def test_no_imagenet_at_all(tmp_path):
    with pytest.raises(
        FileNotFoundError, match='val/n01440764, and 50 of 50 class folders.*ImageNet has data_root/meta'
    ):
        ImageNet50(data_root=str(tmp_path / 'nowhere'))


# ---- lists that are refused


@pytest.mark.parametrize(
    ('kind', 'split', 'file'),
    [
        (Clothing1M, 'train', 'noisy_train_key_list.txt'),
        (Clothing1M, 'train', 'noisy_label_kv.txt'),
        (Clothing1M, 'clean_train', 'clean_train_key_list.txt'),
        (Clothing1M, 'val', 'clean_val_key_list.txt'),
        (Clothing1M, 'test', 'clean_test_key_list.txt'),
        (Clothing1M, 'test', 'clean_label_kv.txt'),
        (MiniWebVision, 'train', 'info/train_filelist_google.txt'),
        (MiniWebVision, 'val', 'info/val_filelist.txt'),
    ],
)
def test_a_missing_list(tmp_path, kind, split, file):
    write_clothing1m(tmp_path, per_class=1)
    write_webvision(tmp_path)
    kind(split, data_root=str(tmp_path))
    (tmp_path / file).unlink()
    with pytest.raises(FileNotFoundError, match=rf'No such file: {tmp_path / file}\. (Clothing1M|WebVision 1.0) has'):
        kind(split, data_root=str(tmp_path))


@pytest.mark.parametrize('content', [b'', b'\n \n'])
def test_an_empty_list(clothing, content):
    (clothing / 'noisy_train_key_list.txt').write_bytes(content)
    with pytest.raises(ValueError, match='noisy_train_key_list.txt lists no image'):
        Clothing1M(data_root=str(clothing))


def test_a_list_without_the_first_classes(webvision):
    (webvision / 'info/val_filelist.txt').write_text('a.jpg 50\nb.jpg 999\n')
    with pytest.raises(ValueError, match='val_filelist.txt lists no image of the 50 classes'):
        MiniWebVision('val', data_root=str(webvision))


LISTS = {  # the file, how to load it, the number of its classes
    'clothing1m': ('noisy_label_kv.txt', Clothing1M, 14),
    'webvision': ('info/train_filelist_google.txt', MiniWebVision, 1000),
    'imagenet': ('meta/val.txt', ImageNet50, 1000),
}


@pytest.fixture(params=LISTS)
def labelled(request, tmp_path):
    """A list of lines ``path label``, a path that is in it, a function that loads it, and the classes it may name."""
    dict(clothing1m=write_clothing1m, webvision=write_webvision, imagenet=write_imagenet_val)[request.param](tmp_path)
    file, kind, classes = LISTS[request.param]
    return tmp_path / file, first_key(tmp_path / file).encode(), lambda: kind(data_root=str(tmp_path)), classes


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        (b'%s', "has 1 fields where `path label` is expected: '{}'"),
        (b'%s 1 2', "has 3 fields where `path label` is expected: '{} 1 2'"),
        (b'%s two', "has the label 'two', which is no integer"),
        (b'%s 1.0', "has the label '1.0', which is no integer"),
        (b'%s 1_0', "has the label '1_0', which is no integer"),
        (b'%s 99999999999999999999', "has the label '99999999999999999999', which is no integer"),
        (b'%s -1', r'has the label -1, outside \[0, {classes}\)'),
        (b'%s 1000', r'has the label 1000, outside \[0, {classes}\)'),
        (b'../%s 1', r"has the path '\.\./{}'; paths must lie below the data set"),
        (b'images/../../%s 1', "has the path 'images/../../{}'; paths must lie"),
        (b'x/.. 1', "has the path 'x/..'; paths must lie"),
        (b'/%s 1', "has the path '/{}'; paths must lie"),
        (b'..\\%s 1', 'has the path .*; paths must lie'),
        (b'%s\x00 1', 'has the byte 0x00, so this is no UTF-8 text'),
        (b'%s\xff 1', 'has the byte 0xff, so this is no UTF-8 text'),
        (b'%s 1\x1b', 'has the byte 0x1b, so this is no UTF-8 text'),
        (b'x' * 256 + b' 1', 'has a path of 256 bytes'),
    ],
)
def test_a_line_that_is_wrong(labelled, line, message):
    path, key, load, classes = labelled
    set_line(path, 3, line.replace(b'%s', key))
    message = message.replace('{}', key.decode()).replace('{classes}', str(classes))
    with pytest.raises(ValueError, match=f'{path}: line 3 {message}'):
        load()


def test_the_last_class(clothing):
    """Labels 13, not 14, and not only those of the split's own keys."""
    key = first_key(clothing / 'noisy_train_key_list.txt')
    for line, number in ((f'{key} 14', 1), ('images/of/another.jpg 14', 15)):
        text = (clothing / 'noisy_label_kv.txt').read_bytes()
        set_line(clothing / 'noisy_label_kv.txt', number, line.encode())
        with pytest.raises(ValueError, match=rf'line {number} has the label 14, outside \[0, 14\)'):
            Clothing1M(data_root=str(clothing))
        (clothing / 'noisy_label_kv.txt').write_bytes(text)
    assert Clothing1M(data_root=str(clothing)).get_gt_labels().max() == 13


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        (b'images/0/00/a b.jpg', "has 2 fields where `path` is expected: 'images/0/00/a b.jpg'"),
        (b'../a.jpg', r"has the path '\.\./a.jpg'; paths must lie"),
        (b'/etc/hosts', "has the path '/etc/hosts'; paths must lie"),
        (b'images/\xe4.jpg', 'has the byte 0xe4, so this is no UTF-8 text'),
    ],
)
def test_a_key_that_is_wrong(clothing, line, message):
    set_line(clothing / 'clean_test_key_list.txt', 2, line)
    with pytest.raises(ValueError, match=f'{clothing}/clean_test_key_list.txt: line 2 {message}'):
        Clothing1M('test', data_root=str(clothing))


def test_a_list_that_is_still_compressed(clothing):
    path = clothing / 'noisy_label_kv.txt'
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(ValueError, match=f'{path}: line 1 has the byte 0x.*still compressed'):
        Clothing1M(data_root=str(clothing))


def test_keys_without_a_label(clothing):
    keys = (clothing / 'noisy_train_key_list.txt').read_text().split()
    for i in (4, 9):
        change(clothing / 'noisy_label_kv.txt', keys[i].encode(), f'images/other{i}.jpg'.encode())
    message = (
        f"noisy_train_key_list.txt: the key '{keys[4]}' of line 5 has no label in .*noisy_label_kv.txt, and 2 of 14"
    )
    with pytest.raises(ValueError, match=message):
        Clothing1M(data_root=str(clothing))


@pytest.mark.parametrize('split', ['train', 'val'])  # the file of labels has keys of both
def test_a_key_with_two_labels(clothing, split):
    path = clothing / 'noisy_label_kv.txt'
    key = first_key(clothing / ('noisy_train_key_list.txt' if split == 'train' else 'clean_val_key_list.txt'))
    lines = path.read_text().splitlines()
    label = int(next(line for line in lines if line.startswith(key)).split()[1])
    path.write_text('\n'.join([*lines, f'{key} {label}']))
    assert len(Clothing1M(data_root=str(clothing))) == 14  # the same label twice says nothing wrong
    path.write_text('\n'.join([*lines, f'{key} {(label + 1) % 14}']))
    message = f"line {len(lines) + 1} gives '{key}' the label {(label + 1) % 14}, an earlier line {label}"
    with pytest.raises(ValueError, match=message):
        Clothing1M(data_root=str(clothing))


# ---- images that are not there


def test_an_archive_that_is_not_unpacked(clothing):
    first = next(k for k in (clothing / 'noisy_train_key_list.txt').read_text().split() if k.startswith('images/1/'))
    shutil.rmtree(clothing / 'images/1')
    message = rf'{clothing / first} is missing\. 3 of 6 folders .*not fully unpacked\. Unpack images/1\.tar\.'
    with pytest.raises(FileNotFoundError, match=message):
        Clothing1M(data_root=str(clothing))
    shutil.rmtree(clothing / 'images')
    with pytest.raises(FileNotFoundError, match=r'6 of 6 folders .* Unpack images/0\.tar, images/1\.tar\.'):
        Clothing1M(data_root=str(clothing))


@pytest.mark.parametrize('which', [0, -1], ids=['first', 'last'])
@pytest.mark.parametrize('problem', ['is missing', 'is empty'])
def test_a_folder_that_is_not_fully_unpacked(clothing, which, problem):
    folder = 'images/0/02'
    key = [k for k in (clothing / 'noisy_train_key_list.txt').read_text().split() if k.startswith(folder)][which]
    if problem == 'is missing':
        (clothing / key).unlink()
    else:
        (clothing / key).write_bytes(b'')
    kind = FileNotFoundError if problem == 'is missing' else ValueError
    with pytest.raises(kind, match=rf'{clothing / key} {problem}\. 1 of 6 folders .* Unpack images/0\.tar\.'):
        Clothing1M(data_root=str(clothing))
    Clothing1M('val', data_root=str(clothing))  # which lists other images


def test_the_error_stays_short(tmp_path):
    """However many folders a damaged list names."""
    lines = [f'folder{i}/a.jpg' for i in range(5000)]
    (tmp_path / 'noisy_train_key_list.txt').write_text('\n'.join(lines))
    (tmp_path / 'noisy_label_kv.txt').write_text('\n'.join(f'{line} 1' for line in lines))
    with pytest.raises(FileNotFoundError, match='5000 of 5000 folders .* and 4980 more.') as caught:
        Clothing1M(data_root=str(tmp_path), pipeline=[])
    assert len(str(caught.value)) < 2000


def test_archives_of_webvision_and_imagenet(tmp_path):
    write_webvision(tmp_path)
    write_imagenet_val(tmp_path)
    shutil.rmtree(tmp_path / 'google/q0003')
    (tmp_path / 'val_images_256/val000001.jpg').unlink()
    shutil.rmtree(tmp_path / 'val')
    for load, message in (
        (MiniWebVision, r'google/q0003/00010.jpg is missing\. 1 of 10 folders .* Unpack google_resized_256\.tar'),
        (
            lambda **k: MiniWebVision('val', **k),
            r'val_images_256/val000001.jpg is missing.* Unpack val_images_256\.tar',
        ),
        (ImageNet50, r'val/ILSVRC2012_val_00000001.JPEG is missing.* Unpack ILSVRC2012_img_val\.tar'),
    ):
        with pytest.raises(FileNotFoundError, match=message):
            load(data_root=str(tmp_path))


@pytest.mark.parametrize('problem', ['missing', 'empty', 'no image'])
@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
@pytest.mark.parametrize('wrap', [lambda d: d, NoisyLabelDataset], ids=['alone', 'NoisyLabelDataset'])
def test_an_image_that_is_found_broken_later(clothing, problem, backend, wrap):
    load = LoadImageFromFile(imdecode_backend=backend)
    dataset = wrap(Clothing1M(data_root=str(clothing), pipeline=[load, PackInputs()]))
    path = clothing / first_key(clothing / 'noisy_train_key_list.txt')
    path.unlink() if problem == 'missing' else path.write_bytes(b'' if problem == 'empty' else b'<html>' * 100)
    with pytest.raises(FileNotFoundError if problem == 'missing' else Exception, match=str(path)):
        dataset[0]


def test_a_transform_that_fails_names_the_image(trees):
    def needs_more(results):
        return results['no such key']

    root, samples = trees['clothing1m']
    dataset = Clothing1M(data_root=str(root), pipeline=[needs_more])
    message = f"{root / samples['train'][3][0]}: the pipeline fails for this image .KeyError: 'no such key'"
    with pytest.raises(RuntimeError, match=message) as error:
        dataset[3]
    assert isinstance(error.value.__cause__, KeyError)


def test_an_image_may_be_skipped(clothing):
    pipeline = [LoadImageFromFile(ignore_empty=True), PackInputs()]
    dataset = Clothing1M(data_root=str(clothing), pipeline=pipeline)
    (clothing / first_key(clothing / 'noisy_train_key_list.txt')).write_bytes(b'')
    assert isinstance(dataset[0]['inputs'], torch.Tensor)  # another one's


# ---- a million


@pytest.mark.slow
def test_a_million_images(tmp_path):
    n = 1_000_000
    keys = [f'images/{i % 10}/{i // 10 % 100:02}/{i:08},{i * 7919 % 10**8:08}.jpg' for i in range(n)]
    labels = np.random.RandomState(0).randint(14, size=n)
    (tmp_path / 'noisy_train_key_list.txt').write_text('\n'.join(keys))
    order = np.random.RandomState(1).permutation(n)
    (tmp_path / 'noisy_label_kv.txt').write_text(''.join(f'{keys[i]} {labels[i]}\n' for i in order))
    for key in keys[:1000] + keys[-1000:]:  # of each folder the first and the last
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(b'x')
    dataset = Clothing1M(data_root=str(tmp_path))
    assert len(dataset) == n
    assert np.array_equal(dataset.get_gt_labels(), labels)
    for i in (0, 1, 123_456, n - 1):
        assert dataset.get_data_info(i)['img_path'] == str(tmp_path / keys[i])
    assert dataset.data_list.names.nbytes + dataset.data_list.labels.nbytes == 34 * n
