"""Make a plain MMPretrain checkpoint of one from a training run: weights and class names, nothing else.

The target memory, the optimizer and the logs stay behind, so the file is small and tells nothing of single training
samples. It is written as OUT-<hash>.pth, with OUT.py beside it, a plain MMPretrain config of the model. Both work
without mmelr:

    ImageClassificationInferencer('OUT.py', pretrained='OUT-<hash>.pth')
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pickle
from pathlib import Path

import torch

import mmelr
from mmelr.cli import fail_early


def plain_config(cfg):
    """What inference needs of a run's config, with the head that ELRHead stood in for."""
    from mmengine.config import Config

    cfg = mmelr.apply_method(cfg, 'ce')
    model = cfg.model
    model.pop('init_cfg', None)
    model.backbone.pop('init_cfg', None)  # would look for the pretrained weights that the run began with
    parts = dict(model=model, default_scope='mmpretrain')
    others = [name for name in cfg.custom_imports['imports'] if name != 'mmelr']
    if others:
        parts['custom_imports'] = dict(cfg.custom_imports, imports=others)
    for key in ('data_preprocessor', 'test_dataloader', 'test_evaluator'):
        if cfg.get(key) is not None:
            parts[key] = cfg[key]
    if parts.get('test_dataloader', {}).get('dataset', {}).get('type') == 'NoisyLabelDataset':
        parts['test_dataloader'].dataset = parts['test_dataloader'].dataset.dataset
    return Config(parts)


def plain_checkpoint(path: Path) -> dict:
    """The weights of a checkpoint and the names of the classes. Nothing in the file is executed."""
    try:
        checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except (pickle.UnpicklingError, EOFError, OSError, RuntimeError) as e:
        reason = str(e).splitlines()[-1] if str(e) else type(e).__name__
        raise ValueError(
            f'{path} is damaged, or holds objects that only code from the file could make, and was not loaded: {reason}'
        ) from e
    if not isinstance(checkpoint, dict) or 'state_dict' not in checkpoint:
        raise ValueError(f'{path} is no checkpoint of MMEngine: it has no state_dict.')
    weights = {k: v for k, v in checkpoint['state_dict'].items() if not k.endswith('memory.t')}
    meta = checkpoint.get('meta', {})
    return dict(meta={k: meta[k] for k in ('epoch', 'iter', 'dataset_meta') if k in meta}, state_dict=weights)


def find_config(checkpoint: Path) -> Path:
    """The config that MMEngine wrote beside a checkpoint."""
    found = sorted(checkpoint.parent.glob('*.py'))
    if len(found) != 1:
        raise FileNotFoundError(
            f'{len(found)} config files beside {checkpoint}; say which is of this run with --config.'
        )
    return found[0]


def main() -> None:
    """Publish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('in_file', type=Path, help='checkpoint of a run')
    parser.add_argument('out_file', type=Path, help='where to: OUT.pth')
    parser.add_argument('--config', type=Path, help='config of the run; default: the one beside the checkpoint')
    args = parser.parse_args()
    with fail_early():
        mmelr.require_openmmlab()
        if not args.in_file.is_file():
            raise FileNotFoundError(f'No checkpoint {args.in_file}.')
        cfg = plain_config(mmelr.load_config(args.config or find_config(args.in_file)))
        checkpoint = plain_checkpoint(args.in_file)
        out = args.out_file.with_name(args.out_file.name.removesuffix('.pth'))
        out.parent.mkdir(parents=True, exist_ok=True)
        part = out.with_name(out.name + '.part')
        torch.save(checkpoint, part)
        digest = hashlib.sha256(part.read_bytes()).hexdigest()[:8]
        os.replace(part, final := out.with_name(f'{out.name}-{digest}.pth'))
        config = out.with_name(out.name + '.py')
        cfg.dump(config)
    print(f'{final} and {config}')


if __name__ == '__main__':
    main()
