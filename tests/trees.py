"""Small trees of real JPEGs in the official layouts of Clothing1M, WebVision and ImageNet.

Every class has a colour of its own, so that a small network learns them.
"""

import colorsys

import mmcv
import numpy as np

from mmelr.datasets import Clothing1M
from mmelr.datasets.webvision import FOLDERS


def write_image(path, label, num_classes, size, rng):
    """Class 0 is red, and so on around the circle of colours, dark and bright in turn."""
    colour = np.array(colorsys.hsv_to_rgb(label / num_classes, 1, 1 if label % 2 else 0.6))[::-1] * 255
    image = np.clip(colour + rng.normal(0, 15, (size, size, 3)), 0, 255).astype(np.uint8)
    mmcv.imwrite(image, str(path))


def write_lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(f'{line}\n' for line in lines))


def given_label(label, num_classes, noise, rng):
    """With probability ``noise`` one of the other classes."""
    return (label + rng.randint(1, num_classes)) % num_classes if rng.rand() < noise else label


def write_clothing1m(root, per_class=2, size=40, noise=0.0, seed=0):
    """Writes all four splits, each with ``per_class`` images of every class, labels of ``train`` with noise.

    Returns:
        dict[str, list[tuple[str, int]]]: Key and given label of each image of a split, in the list's order.
    """
    rng = np.random.RandomState(seed)
    classes = len(Clothing1M.METAINFO['classes'])
    samples, number = {}, 0
    for split in ('train', 'clean_train', 'val', 'test'):
        samples[split] = []
        for label in np.tile(range(classes), per_class).tolist():
            # Three folders in each of two archives.
            key = f'images/{number % 2}/{number % 3:02}/{number:08},{rng.randint(10**8):08}.jpg'
            write_image(root / key, label, classes, size, rng)
            label = given_label(label, classes, noise, rng) if split == 'train' else label
            samples[split].append((key, label))
            number += 1
        name = 'noisy_train' if split == 'train' else split if split == 'clean_train' else f'clean_{split}'
        write_lines(root / f'{name}_key_list.txt', [key for key, _ in samples[split]])
    # In an order of their own, as the official ones. Of clean images the noisy label is known too: a wrong one here.
    noisy = samples['train'] + [(key, (label + 1) % classes) for key, label in samples['val']]
    clean = samples['clean_train'] + samples['val'] + samples['test']
    for name, pairs in (('noisy', noisy), ('clean', clean)):
        order = rng.permutation(len(pairs))
        write_lines(root / f'{name}_label_kv.txt', [f'{pairs[i][0]} {pairs[i][1]}' for i in order])
    return samples


def write_webvision(root, per_class=1, size=40, noise=0.0, seed=0):
    """Writes ``per_class`` images of each of the first 50 classes for training and validation, and lists more classes.

    Returns:
        dict[str, list[tuple[str, int]]]: Path below the split's folder and given label of each image of the 50 classes.
    """
    rng = np.random.RandomState(seed)
    samples = {'train': [], 'val': []}
    for number, label in enumerate(np.repeat(range(50), per_class).tolist()):
        names = dict(train=f'google/q{label // 5 + 1:04}/{number:05}.jpg', val=f'val{number + 1:06}.jpg')
        for split, name in names.items():
            write_image(root / ('' if split == 'train' else 'val_images_256') / name, label, 50, size, rng)
            given = given_label(label, 50, noise, rng) if split == 'train' else label
            samples[split].append((name, given))
    # Images of the other 950 classes are not there, only listed, at both ends and in the middle.
    for split, file in (('train', 'train_filelist_google.txt'), ('val', 'val_filelist.txt')):
        lines = [f'{name} {label}' for name, label in samples[split]]
        write_lines(root / 'info' / file, ['a/b.jpg 50', *lines[:7], 'c/d.jpg 999', *lines[7:], 'a/e.jpg 432'])
    return samples


def write_imagenet_val(root, per_class=1, size=40, folders=False, seed=0):
    """Writes ImageNet's validation set, ``per_class`` images of each of the first 50 classes.

    ``folders=False`` writes ``meta/val.txt``, which lists images of other classes too; True writes class folders.

    Returns:
        list[tuple[str, int]]: Path below ``val`` and label of each image.
    """
    rng = np.random.RandomState(seed)
    labels = np.tile(range(50), per_class).tolist()
    names = [f'ILSVRC2012_val_{i + 1:08}.JPEG' for i in range(len(labels))]
    if folders:
        names = [f'{FOLDERS[label]}/{name}' for name, label in zip(names, labels, strict=True)]
    samples = list(zip(names, labels, strict=True))
    for name, label in samples:
        write_image(root / 'val' / name, label, 50, size, rng)
    if not folders:
        lines = [f'{name} {label}' for name, label in samples]
        write_lines(root / 'meta/val.txt', [*lines, 'ILSVRC2012_val_00050000.JPEG 999'])
    return samples
