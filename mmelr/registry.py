"""mmelr's own registry. Everything else is registered in MMPretrain's."""

from mmengine.registry import Registry

from . import noise as _noise

#: Noise models: labels in, labels out.
NOISES = Registry('noise', locations=['mmelr.noise'])

for _model in (
    _noise.SymmetricNoise,
    _noise.AsymmetricNoise,
    _noise.TransitionNoise,
    _noise.InstanceNoise,
    _noise.LabelFile,
):
    NOISES.register_module(module=_model)


def build_noise(cfg: dict):
    """Build a noise model from its config, e.g. ``dict(type='SymmetricNoise', rate=0.4)``."""
    known = sorted(NOISES.module_dict)
    if cfg.get('type') not in known and not isinstance(cfg.get('type'), type):
        raise ValueError(f'noise must have a type out of {", ".join(known)}; got {cfg!r}.')
    return NOISES.build(dict(cfg, _scope_='mmelr'))  # not of the scope, mmpretrain, that is the default in a run
