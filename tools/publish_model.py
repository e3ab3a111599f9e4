"""Make a plain MMPretrain checkpoint of one from a training run: weights and class names, nothing else.

The target memory, the optimizer and the logs stay behind, so the file is small and tells nothing of single training
samples. It is written as OUT-<hash>.pth, with OUT.py beside it, a plain MMPretrain config of the model. Both work
without mmelr:

    ImageClassificationInferencer('OUT.py', pretrained='OUT-<hash>.pth')

(unless the network itself is mmelr's, as PreActResNet is).

Of an ELR+ run --member chooses one network (network1, network2), or its weight average (average1, average2): a plain
classifier as well. The default of a run with two networks, ensemble, keeps both; their mean is the prediction, and
mmelr must be installed where it is used.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from pathlib import Path

import torch

import mmelr
from mmelr.cli import fail_early
from mmelr.serialization import safe_load


def members(cfg) -> list[str]:
    """What can be published of a run; the first is the default."""
    model = cfg.model
    if model.type != 'CoTrainingClassifier':
        return []
    numbers = range(1, model.get('num_networks', 2) + 1)
    averages = [f'average{k}' for k in numbers] if model.get('teacher', 'average') == 'average' else []
    return ['ensemble'] * (len(numbers) > 1) + [f'network{k}' for k in numbers] + averages


def needs_mmelr(part) -> bool:
    """Whether a part of a model is mmelr's own."""
    from mmpretrain.registry import MODELS

    if isinstance(part, dict):
        kind = MODELS.get(part['type']) if isinstance(part.get('type'), str) else None
        return getattr(kind, '__module__', '').startswith('mmelr.') or any(map(needs_mmelr, part.values()))
    return isinstance(part, (list, tuple)) and any(map(needs_mmelr, part))


def plain_config(cfg, member: str | None):
    """What inference needs of a run's config, with the head that ELRHead stood in for."""
    from mmengine.config import Config

    cfg = mmelr.apply_method(cfg, 'ce')
    model = cfg.model
    for owner in (cfg, model):
        if (owner.get('data_preprocessor') or {}).get('type') == 'InMemoryPreprocessor':
            owner.data_preprocessor.type = 'ClsDataPreprocessor'
    model.pop('init_cfg', None)
    model.backbone.pop('init_cfg', None)  # would look for the pretrained weights that the run began with
    if member == 'ensemble':
        shared = {'data_preprocessor': model.pop('data_preprocessor')} if 'data_preprocessor' in model else {}
        model = dict(type='CoTrainingClassifier', network=model, teacher='network', **shared)
    parts = dict(model=model, default_scope='mmpretrain')
    others = [name for name in cfg.custom_imports['imports'] if name != 'mmelr' or needs_mmelr(model)]
    if others:
        parts['custom_imports'] = dict(cfg.custom_imports, imports=others)
    for key in ('data_preprocessor', 'test_dataloader', 'test_evaluator'):
        if cfg.get(key) is not None:
            parts[key] = cfg[key]
    if parts.get('test_dataloader', {}).get('dataset', {}).get('type') == 'NoisyLabelDataset':
        parts['test_dataloader'].dataset = parts['test_dataloader'].dataset.dataset
    if parts.get('test_dataloader', {}).get('dataset', {}).get('type') == 'InMemoryDataset':
        parts['test_dataloader'].dataset.type = parts['test_dataloader'].dataset.pop('base')
    return Config(parts)


def plain_checkpoint(path: Path, member: str | None) -> dict:
    """The weights of a checkpoint and the names of the classes. Nothing in the file is executed."""
    from mmelr.models.baseline_losses import run_entries

    checkpoint = safe_load(path)
    state_dict = checkpoint.get('state_dict') if isinstance(checkpoint, dict) else None
    if not isinstance(state_dict, dict) or not all(isinstance(key, str) for key in state_dict):
        raise ValueError(f'{path} is no checkpoint of MMEngine: it has no state_dict.')
    weights = dict(state_dict)
    for name in run_entries(state_dict):
        del weights[name]
    if member is not None:
        prefix = 'network' if member == 'ensemble' else f'{member}.'
        cut = 0 if member == 'ensemble' else len(prefix)
        weights = {k[cut:]: v for k, v in weights.items() if k.startswith(prefix)}
    if not weights:
        raise ValueError(f'{path} has no weights of {member or "a network"}: it is not a checkpoint of this config.')
    meta = checkpoint.get('meta', {})
    if not isinstance(meta, dict):
        raise ValueError(f'{path} is no checkpoint of MMEngine: its meta is no dict.')
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
    parser.add_argument('--member', help='of an ELR+ run: ensemble, network1, network2, average1 or average2')
    args = parser.parse_args()
    with fail_early():
        mmelr.require_openmmlab()
        if not args.in_file.is_file():
            raise FileNotFoundError(f'No checkpoint {args.in_file}.')
        cfg = mmelr.load_config(args.config or find_config(args.in_file))
        known = members(cfg)
        if args.member is not None and args.member not in known:
            raise ValueError(
                f'--member {args.member}: this run has '
                + (f'the members {", ".join(known)}.' if known else 'one network and no members. Leave --member out.')
            )
        member = args.member or next(iter(known), None)
        cfg, checkpoint = plain_config(cfg, member), plain_checkpoint(args.in_file, member)
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
