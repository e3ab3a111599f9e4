"""How many images a second a data pipeline makes: MMPretrain's, image by image, and InMemoryDataset's.

Random images of one size go through the dataset, collation and the data preprocessor, in one process, both ways in
turn. Printed are medians, and the ratio of the two.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats

import torch
from mmengine.registry import DefaultScope

from mmelr.analysis.pipeline_speed import build_pipelines, make_batches, pipeline_speed


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--batch-size', type=int, default=128)
    parser.add_argument('--side', type=int, default=32, help='height and width of the images (default: 32)')
    parser.add_argument('--channels', type=int, default=3, choices=(1, 3))
    parser.add_argument('--no-augment', action='store_true', help='neither crop nor flip')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--repeats', type=int, default=9, help='turns of each (default: 9)')
    parser.add_argument('--profile', action='store_true', help='profile both, after the measurement')
    args = parser.parse_args()
    torch.set_num_threads(1)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        built = build_pipelines(args.side, args.channels, not args.no_augment, args.device)
        figures = pipeline_speed(built, args.batch_size, args.repeats)
    print(f'{"":12}{"samples/s":>12}{"dataset":>12}{"collate":>12}{"preprocessor":>14}   (us for each image)')
    for way, of_way in figures.items():
        parts = f'{of_way["dataset"]:12.1f}{of_way["collate"]:12.1f}{of_way["preprocessor"]:14.1f}'
        print(f'{way:12}{of_way["samples_per_second"]:12,.0f}{parts}')
    print(f'in memory: {figures["in memory"]["ratio"]:.1f} times as many images a second')
    if args.profile:
        for way, parts in built.items():
            print(f'\n{way}, 16 batches:')
            with cProfile.Profile() as profile:
                make_batches(*parts, args.batch_size, 16)
            pstats.Stats(profile).strip_dirs().sort_stats('cumulative').print_stats(24)


if __name__ == '__main__':
    main()
