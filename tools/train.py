"""Train a classifier, on noisy labels if you say so.

CONFIG is a file, or mmpretrain::FOLDER/NAME.py for a config that comes with MMPretrain. Three flags are mmelr's own;
all others are those of MMPretrain's tools/train.py, with their meanings.
"""

from __future__ import annotations

import argparse
import os.path as osp
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import record

import mmelr
from mmelr.cli import fail_early, mmpretrain_tool


def parse_args(merge_parser) -> tuple[argparse.Namespace, argparse.Namespace]:
    """mmelr's flags, and MMPretrain's."""
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(
        description=__doc__, add_help=False, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--method', choices=mmelr.METHODS, help="how to train: 'ce' is the head's own loss; default: as the config says"
    )
    parser.add_argument(
        '--method-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help="options of the method, e.g. q=0.5 with --method gce, beta=0.9 lam=1 with --method 'elr*'",
    )
    parser.add_argument(
        '--noise',
        help='noise to put on the training labels: symmetric:0.4, asymmetric:0.4,mapping=cifar10, '
        "instance:0.3, transition:matrix.csv, file:labels.npy; each with ,seed=N; 'none' for the labels "
        'as given; default: as the config says',
    )
    if {'-h', '--help'} & set(sys.argv[1:]):
        parser.print_help()
        print("\nand MMPretrain's:\n")
    own, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    return own, merge_parser()


def main() -> None:
    """Read the command line, convert the config, train."""
    tool = mmpretrain_tool('train')
    own, args = parse_args(tool['parse_args'])
    with fail_early():
        from mmelr.apis.switch import file_name

        cfg = mmelr.load_config(args.config)
        if own.method is None and own.method_options:
            raise ValueError(f'--method-options {" ".join(own.method_options)}: of which --method?')
        if own.method is not None or own.noise is not None:
            cfg = mmelr.apply_method(cfg, own.method, own.noise, **(own.method_options or {}))
            if own.method and cfg.get('work_dir') is None:
                # Methods do not share a folder: their checkpoints must not be taken for each other's.
                name = osp.splitext(osp.basename(args.config))[0]
                cfg.work_dir = osp.join('work_dirs', f'{name}_{file_name(own.method)}')
        cfg = tool['merge_args'](cfg, args)
    from mmengine.dist import is_main_process
    from mmengine.registry import RUNNERS

    from mmelr.engine import DamagedCheckpoint, QuietStartRunner, ResumeRefused
    from mmelr.engine.distributed import set_up, tear_down

    with fail_early():
        set_up(cfg)
    # MMEngine writes the config beside the checkpoints at once; a run that is then refused must not leave its own.
    written = Path(cfg.work_dir, osp.basename(cfg.filename))
    earlier = written.read_bytes() if written.is_file() else None
    try:
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else QuietStartRunner.from_cfg(cfg)
        runner.train()
    except (DamagedCheckpoint, ResumeRefused) as e:
        if earlier is not None and is_main_process():
            written.write_bytes(earlier)
        with fail_early():
            raise e
    except SystemExit as e:  # SIGTERM came, and the run has been saved
        if e.code:
            raise
    tear_down()


if __name__ == '__main__':
    record(main)()  # torchrun shows the error of the process that failed first
