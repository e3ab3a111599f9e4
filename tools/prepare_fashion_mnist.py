"""Put Fashion-MNIST where the configs look for it: from Debian's package dataset-fashion-mnist if that is installed
(apt-get install dataset-fashion-mnist), else by download."""

from __future__ import annotations

import argparse
import gzip
import os
import shutil
import zlib
from pathlib import Path

from mmelr.cli import fail_early

DEBIAN = Path('/usr/share/datasets/fashion-mnist')
# The size of each file, unpacked: a header and one byte for each pixel or label.
FILES = {
    'train-images-idx3-ubyte': 16 + 60000 * 784,
    'train-labels-idx1-ubyte': 8 + 60000,
    't10k-images-idx3-ubyte': 16 + 10000 * 784,
    't10k-labels-idx1-ubyte': 8 + 10000,
}


def unpack(source: Path, data_root: Path) -> None:
    """Unpack the four gzipped files of ``source``, each whole or not at all."""
    for name, size in FILES.items():
        packed, target = source / f'{name}.gz', data_root / name
        if target.is_file() and target.stat().st_size == size:
            continue
        part = target.with_name(name + '.part')
        try:
            with gzip.open(packed) as src, open(part, 'wb') as dst:
                shutil.copyfileobj(src, dst)
        except (EOFError, gzip.BadGzipFile, zlib.error) as e:
            part.unlink(missing_ok=True)
            raise ValueError(f'{packed} is damaged ({e}). Install or download it again.') from e
        if part.stat().st_size != size:
            raise ValueError(f'{packed} holds {part.stat().st_size} bytes, Fashion-MNIST has {size}: another dataset?')
        os.replace(part, target)


def main() -> None:
    """Prepare data/fashion_mnist."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--data-root', type=Path, default=Path('data/fashion_mnist'))
    parser.add_argument('--source', type=Path, default=DEBIAN, help=f'folder of the .gz files; default: {DEBIAN}')
    args = parser.parse_args()
    with fail_early():
        args.data_root.mkdir(parents=True, exist_ok=True)
        if args.source.is_dir():
            unpack(args.source, args.data_root)
        elif args.source != DEBIAN:
            raise FileNotFoundError(f'No folder {args.source}.')
        else:
            from mmpretrain.datasets import FashionMNIST

            FashionMNIST(data_root=str(args.data_root), split='train', download=True)
    print(f'Fashion-MNIST is in {args.data_root}: 60,000 images to train, 10,000 to test.')


if __name__ == '__main__':
    main()
