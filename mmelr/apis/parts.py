"""What the rewriting of configs has in common."""

from __future__ import annotations

from mmengine.config import Config, ConfigDict
from mmpretrain.models import ImageClassifier
from mmpretrain.registry import MODELS

__all__ = ['classifier_head', 'epochs_of', 'kind_of', 'replaced']


def kind_of(part: dict) -> str:
    """The type that a part of a config names, without a registry's scope."""
    kind = part.get('type', '')
    return kind.rpartition('.')[2] if isinstance(kind, str) else kind.__name__


def classifier_head(model: ConfigDict, who: str) -> ConfigDict:
    """The head of an ``ImageClassifier``.

    Args:
        model (ConfigDict): A model.
        who (str): What wants it and does what with it, for the message.

    Raises:
        TypeError: Another kind of model.
    """
    kind = MODELS.get(kind_of(model))
    if kind is None or not issubclass(kind, ImageClassifier) or model.get('head') is None:
        raise TypeError(
            f'{who} the head of an ImageClassifier; this model is a {kind_of(model)}. A timm network '
            "can be its backbone: dict(type='ImageClassifier', backbone=dict(type='TIMMBackbone', ...), "
            "neck=dict(type='GlobalAveragePooling'), head=dict(type='LinearClsHead', ...))."
        )
    return model.head


def epochs_of(cfg: Config, who: str) -> int:
    """Epochs of a config.

    Args:
        cfg (Config): A config.
        who (str): The method that counts them, for the message.

    Raises:
        TypeError: It counts iterations.
    """
    loop = cfg.get('train_cfg') or {}
    by_epoch = loop.get('by_epoch', loop.get('type') in (None, 'EpochBasedTrainLoop', 'CoTrainingRunner'))
    if not by_epoch or 'max_epochs' not in loop:
        raise TypeError(
            f'{who} trains for a number of epochs, this config has train_cfg={cfg.get("train_cfg")}. Set '
            'train_cfg=dict(by_epoch=True, max_epochs=...), and the schedule with it.'
        )
    return loop.max_epochs


class replaced:
    """What a method took out of a config. It stays in the config, as ``replaced``, and comes back with another method.

    Args:
        cfg (Config): The config.
    """

    def __init__(self, cfg: Config) -> None:
        self._cfg = cfg

    def __contains__(self, key: str) -> bool:
        return key in (self._cfg.get('replaced') or {})

    def keep(self, key: str, part: object) -> None:
        """Note a part."""
        self._cfg.replaced = ConfigDict(self._cfg.get('replaced') or {}, **{key: part})

    def take(self, key: str) -> object:
        """A part, which is forgotten; None where none was noted."""
        if key not in self:
            return None
        part = self._cfg.replaced.pop(key)
        if not self._cfg.replaced:
            self._cfg.pop('replaced')
        return part
