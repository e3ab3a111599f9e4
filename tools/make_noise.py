"""Draw the noisy labels of a config and write them to a file, with its transition matrix in text and as a picture.

The file (.npz: noisy_label, clean_label, num_classes, description) trains any config on these very labels with
--noise file:OUT.npz, and any other program can read it with numpy.load.

    python tools/make_noise.py configs/elr_digits.py --noise asymmetric:0.4,mapping=mnist --out work_dirs/noise.npz
"""

from __future__ import annotations

import argparse
from pathlib import Path

import mmelr
from mmelr.analysis import format_transition_matrix, plot_transition_matrix
from mmelr.cli import fail_early


def main() -> None:
    """Draw, write, show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='a training config, mmpretrain::... too')
    parser.add_argument('--noise', help="as for tools/train.py; default: the config's")
    parser.add_argument('--out', type=Path, default=Path('noise.npz'), help='default: %(default)s')
    args = parser.parse_args()
    with fail_early():
        mmelr.require_openmmlab()
        from mmengine.registry import init_default_scope
        from mmpretrain.registry import DATASETS

        cfg = mmelr.apply_method(mmelr.load_config(args.config), noise=args.noise)
        if cfg.train_dataloader.dataset.noise is None:
            raise ValueError(f'{args.config} has no noise; choose some with --noise symmetric:0.4.')
        init_default_scope(cfg.default_scope)
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
        record = dataset.record
        record.save(args.out)
    print(record.summary())
    print(f'\nP(label | true class):\n{format_transition_matrix(record, dataset.CLASSES)}')
    picture = args.out.with_suffix('.png')
    plot_transition_matrix(record, dataset.CLASSES, picture)
    print(f'\n{args.out} and {picture}')


if __name__ == '__main__':
    main()
