"""``CoTrainingClassifier``: ELR+, the two networks of Algorithm 2 and everything between them and plain ELR."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmpretrain.models import ImageClassifier
from mmpretrain.models.classifiers.base import BaseClassifier
from mmpretrain.registry import BATCH_AUGMENTS, MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..functional import sigmoid_ramp_up, soft_labels
from .elr_head import ELRHead, check_one_label, sum_branches

__all__ = ['CoTrainingClassifier', 'check_choices']


def check_choices(num_networks: int, teacher: str) -> None:
    """Refuse what there is not.

    Raises:
        ValueError: Names the value.
    """
    if num_networks not in (1, 2):
        raise ValueError(f'num_networks must be 1 or 2, got {num_networks!r}.')
    if teacher not in ('network', 'average'):
        raise ValueError(
            f"teacher must be 'network' or 'average' (of the other network, or of the only one), got {teacher!r}."
        )


@MODELS.register_module()
class CoTrainingClassifier(BaseClassifier):
    r"""Trains one or two networks with ELR, ELR+ or anything between (Algorithm 2 and the ablation of the paper).

    Each network has its own target memory. In a training step of network k

    1. a **teacher** sees the clean images, and its probabilities are averaged into the memory,
       :math:`t_i \leftarrow \beta t_i + (1 - \beta) p_i`. The teacher is the other network; with one network, itself.
       With ``teacher='average'`` it is that network's weight average, which ``ELREMAHook`` keeps.
    2. **mixup** blends images, labels and targets, all three by the same pairs;
    3. the network takes a step on the ELR loss of the blend.

    Three choices, and every combination of them works: ``num_networks``, ``teacher`` and ``mixup``. The defaults with
    mixup are ELR+; one network that teaches itself without mixup is plain ELR, step for step what its ``ELRHead`` does
    alone. ``CoTrainingRunner`` decides whose turn it is.

    The prediction is the mean of the networks' logits, as published.

    Args:
        network (dict): Config of an ``ImageClassifier`` with an ``ELRHead``. For prediction alone, with any head.
        num_networks (int): 1 or 2. They share the config, not the initialisation. Defaults to 2.
        teacher (str): Who fills the memory: ``'average'`` or ``'network'``, see above. Defaults to ``'average'``.
        mixup (dict, optional): Config of :class:`ELRMixup`, e.g. ``dict(type='ELRMixup', alpha=1.0)``. None for no
            mixup.
        lam_ramp_up (int): Steps of a network over which its λ rises, by :func:`mmelr.functional.sigmoid_ramp_up`; the
            published code takes 40000 on CIFAR-100. Defaults to 0, a constant λ.
        reweight_labels (bool): Multiply the mixed labels by the mixed targets and scale them to sum to one, as the
            published code does on CIFAR-100. Without mixup it does nothing: a single label stays what it is.
            Defaults to False.
        data_preprocessor (dict, optional): The one that both networks share. Defaults to that of ``network``.
        train_cfg (dict, optional): Batch augments, as in ``ImageClassifier``. ``NoiseRecordHook`` refuses them.

    Raises:
        ValueError: A choice that does not exist.
        TypeError: A network that is no ``ImageClassifier``.
    """

    def __init__(
        self,
        network: dict,
        num_networks: int = 2,
        teacher: str = 'average',
        mixup: dict | None = None,
        lam_ramp_up: int = 0,
        reweight_labels: bool = False,
        data_preprocessor: dict | None = None,
        train_cfg: dict | None = None,
    ) -> None:
        check_choices(num_networks, teacher)
        if not isinstance(lam_ramp_up, int) or lam_ramp_up < 0:
            raise ValueError(f'lam_ramp_up must be a number of steps, 0 for none; got {lam_ramp_up!r}.')
        network = copy.deepcopy(network)
        own = network.pop('data_preprocessor', None)
        preprocessor = dict(data_preprocessor or own or {})
        preprocessor.setdefault('type', 'ClsDataPreprocessor')
        augments = network.pop('train_cfg', None) or train_cfg
        if augments:
            preprocessor.setdefault('batch_augments', augments)
        super().__init__(data_preprocessor=MODELS.build(preprocessor))

        self.network_names = tuple(f'network{k + 1}' for k in range(num_networks))
        self.average_names = tuple(f'average{k + 1}' for k in range(num_networks * (teacher == 'average')))
        for name in self.network_names:
            self.add_module(name, MODELS.build(dict(copy.deepcopy(network), data_preprocessor=self.data_preprocessor)))
        if not isinstance(self.network1, ImageClassifier):
            raise TypeError(
                f'CoTrainingClassifier trains ImageClassifiers, got {type(self.network1).__name__} as network. A timm '
                "network can be the backbone of one: backbone=dict(type='TIMMBackbone', ...)."
            )
        for name, network_k in zip(self.average_names, self.networks, strict=False):
            average = copy.deepcopy(network_k).requires_grad_(False)
            average.is_init = True  # it takes the network's weights, whatever they are initialised with
            self.add_module(name, average)
        self.teacher = teacher
        self.mixup = None if mixup is None else BATCH_AUGMENTS.build(mixup)
        self.lam_ramp_up = lam_ramp_up
        self.reweight_labels = reweight_labels
        #: How the weight averages normalise when they teach; ``ELREMAHook`` says so.
        self.batch_norm = 'batch'
        #: Optimizer steps that each network has taken.
        self.steps = [0] * num_networks
        self._weights: dict[str, tuple[list[Tensor], ...]] = {}

    @property
    def networks(self) -> list[ImageClassifier]:
        """The networks, one or two."""
        return [getattr(self, name) for name in self.network_names]

    @property
    def averages(self) -> list[ImageClassifier]:
        """Their weight averages; none with ``teacher='network'``."""
        return [getattr(self, name) for name in self.average_names]

    def train(self, mode: bool = True) -> CoTrainingClassifier:
        """As ever for the networks. A weight average has no dropout; its BatchNorm does as ``batch_norm`` says."""
        super().train(mode)
        for module in (module for average in self.averages for module in average.modules()):
            module.training = module.training and self.batch_norm == 'batch' and isinstance(module, _BatchNorm)
        return self

    def train_step(
        self, data: dict, optim_wrapper: OptimWrapperDict, parallel: dict[str, nn.Module] | None = None
    ) -> dict[str, Tensor]:
        """A step of the networks whose optimizers are given, on one batch.

        With both, no network learns before both teachers have looked.

        Args:
            data (dict): A batch of the data loader: N images and their data samples.
            optim_wrapper (OptimWrapperDict): Optimizers of the networks that take this step, by their names.
            parallel (dict[str, nn.Module], optional): The networks as ``CoTrainingDistributedDataParallel`` wraps them,
                whose forward pass has the ranks' gradients averaged. None in a single process.

        Returns:
            dict[str, Tensor]: Losses for the log: their mean as ``loss``, and with two networks each one's own as
            ``network1.loss``, ...
        """
        if not isinstance(optim_wrapper, OptimWrapperDict):
            raise TypeError(
                "CoTrainingClassifier needs an optimizer for each network: train it with train_cfg=dict("
                "type='CoTrainingRunner', max_epochs=...), which makes them from one optim_wrapper."
            )
        data = self.data_preprocessor(data, True)
        inputs, samples = data['inputs'], data['data_samples']
        check_one_label(samples)
        targets = {}
        for name, wrapper in optim_wrapper.items():
            with wrapper.optim_context(getattr(self, name)):
                targets[name] = self._teach(name, inputs, samples)
        y = _labels(samples)
        logs = {}
        for name, wrapper in optim_wrapper.items():
            network = getattr(self, name) if parallel is None else parallel[name]
            logs[name] = self._learn(name, network, inputs, samples, y, targets[name], wrapper)
        loss = sum(log['loss'].detach() for log in logs.values()) / len(logs)
        if len(self.network_names) == 1:
            return logs['network1']
        return {'loss': loss} | {f'{name}.{key}': v for name, log in logs.items() for key, v in log.items()}

    @torch.no_grad()
    def _teach(self, name: str, inputs: Tensor, samples: list[DataSample]) -> Tensor | None:
        """Average the teacher's prediction of the clean images into a network's memory; the targets after that."""
        network = getattr(self, name)
        if not isinstance(network.head, ELRHead):
            raise TypeError(
                f'The networks of a CoTrainingClassifier are trained with ELR, but the head is a '
                f"{type(network.head).__name__}. mmelr.apply_method(cfg, 'elr+') puts the right one in."
            )
        other = (self.network_names.index(name) + 1) % len(self.network_names)
        if self.teacher == 'average':
            teacher, statistics = self.averages[other], nullcontext()
        else:
            teacher, statistics = self.networks[other], _untouched_statistics(self.networks[other])
        if teacher is network and self.mixup is None:
            return None  # plain ELR: the one forward pass is the prediction, and the head averages it
        with statistics:
            return network.head.update_targets(samples, teacher(inputs, mode='tensor'))

    def _learn(
        self,
        name: str,
        network: nn.Module,
        inputs: Tensor,
        samples: list[DataSample],
        y: Tensor,
        t: Tensor | None,
        wrapper: OptimWrapper,
    ) -> dict[str, Tensor]:
        """Mix, and take a step."""
        head, k = getattr(self, name).head, self.network_names.index(name)
        if self.mixup is not None:
            pairing = self.mixup.draw(len(inputs))
            y = soft_labels(y, t.shape[1], t.dtype)
            inputs, y, t = (pairing.mix(v) for v in (inputs, y, t))
            if self.reweight_labels:
                y = y * t
                y = y / y.sum(dim=1, keepdim=True)
            for sample, score in zip(samples, y.unbind(), strict=True):
                # set_gt_score looks at what it is given, for longer than all else here takes.
                sample.set_field(score, 'gt_score', dtype=Tensor)
        with wrapper.optim_context(network):
            with nullcontext() if t is None else head.given_targets(t):
                losses = network(inputs, samples, mode='loss')
        if self.lam_ramp_up:
            losses['loss_elr'] = losses['loss_elr'] * self.lam_factor(name)
        loss, log = self.parse_losses(losses)
        wrapper.update_params(loss)
        self.steps[k] += wrapper.should_update()  # asked after the step: whether that was one, or gradients add up
        return log

    def lam_factor(self, name: str) -> float:
        """What λ is multiplied with in the next step of a network, see ``lam_ramp_up``; in (0, 1].

        Args:
            name (str): Of the network.
        """
        return sigmoid_ramp_up(self.steps[self.network_names.index(name)] + 1, self.lam_ramp_up)

    @torch.no_grad()
    def update_average(self, name: str, gamma: float) -> None:
        r"""Move a network's weight average, :math:`\bar\Theta \leftarrow \gamma \bar\Theta + (1 - \gamma) \Theta`.

        Args:
            name (str): Of the network.
            gamma (float): γ in [0, 1].
        """
        average, network, *buffers = self._weights_of(name)
        torch._foreach_lerp_(average, network, 1 - gamma)
        if self.batch_norm == 'copy' and buffers[0]:
            torch._foreach_copy_(*buffers)

    @torch.no_grad()
    def start_averages(self) -> None:
        """Give each weight average the weights and statistics of its network."""
        for name in self.network_names[: len(self.average_names)]:
            average, network, *buffers = self._weights_of(name)
            torch._foreach_copy_(average, network)
            if buffers[0]:  # a ViT has none
                torch._foreach_copy_(*buffers)

    def _weights_of(self, name: str) -> tuple[list[Tensor], ...]:
        """Parameters of a weight average and of its network, then their buffers; found once, used in every step."""
        if name not in self._weights:
            k = self.network_names.index(name)
            average, network = self.averages[k], self.networks[k]
            buffers, own = dict(average.named_buffers()), dict(network.named_buffers())
            self._weights[name] = (
                list(average.parameters()),
                list(network.parameters()),
                list(buffers.values()),
                [own[key] for key in buffers],  # the network has a target memory besides
            )
        return self._weights[name]

    def scores(self, inputs: Tensor) -> dict[str, Tensor]:
        """Logits of every member and of the ensemble.

        Args:
            inputs (Tensor): Preprocessed images, [N, ...].

        Returns:
            dict[str, Tensor]: By name: the networks, their weight averages if there are any, and the ensemble, which is
            the mean of the networks'. [N, C] each.
        """
        scores = {}
        for name in (*self.network_names, *self.average_names):
            scores[name] = sum_branches(getattr(self, name)(inputs, mode='tensor'))
        scores['ensemble'] = sum(scores[name] for name in self.network_names) / len(self.network_names)
        return scores

    def forward(
        self, inputs: Tensor, data_samples: list[DataSample] | None = None, mode: str = 'tensor'
    ) -> Tensor | list[DataSample]:
        """The ensemble's logits (``'tensor'``) or predictions (``'predict'``).

        Args:
            inputs (Tensor): Preprocessed images, [N, ...].
            data_samples (list[DataSample], optional): N samples, to which predictions are added.
            mode (str): ``'tensor'`` or ``'predict'``; losses are computed in :meth:`train_step`.

        Returns:
            Tensor | list[DataSample]: Logits, [N, C], or N samples with the ensemble's ``pred_score`` and
            ``pred_label``, and for ``MemberEvaluator`` the scores of the M members and the ensemble,
            ``member_scores``, [M + 1, C], and the members' names, ``members``.
        """
        if mode == 'tensor':
            return self.scores(inputs)['ensemble']
        if mode != 'predict':
            raise RuntimeError(f"CoTrainingClassifier has the modes 'tensor' and 'predict', not {mode!r}.")
        scores = self.scores(inputs)
        samples = self.network1.head._get_predictions(scores['ensemble'], data_samples)
        members = torch.stack([logits.softmax(dim=1) for logits in scores.values()], dim=1)
        for sample, member_scores in zip(samples, members, strict=True):
            sample.set_field(member_scores, 'member_scores')
            sample.set_metainfo(dict(members=tuple(scores)[:-1]))
        return samples

    def extract_feat(self, inputs: Tensor, **kwargs) -> tuple:
        """Features of the first network, as ``ImageClassifier.extract_feat`` gives them."""
        return self.network1.extract_feat(inputs, **kwargs)

    def get_extra_state(self) -> Tensor:
        """The steps that each network has taken: they are counted on the CPU, so that no ramp waits for a device."""
        return torch.tensor(self.steps)

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the steps."""
        self.steps = [int(step) for step in state]

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args, **kwargs) -> None:
        # A checkpoint of a single classifier is for every network.
        if not any(key.startswith(f'{prefix}network1.') for key in state_dict):
            if len(self.network_names) > 1:
                print_log(
                    'These are the weights of one network, and both start from them. With mixup, or with '
                    "schedule='alternate', they will part; otherwise they stay the same.",
                    logger='current',
                    level=logging.WARNING,
                )
            parts = tuple(f'{prefix}{part}.' for part in ('backbone', 'neck', 'head'))
            for key in [key for key in state_dict if key.startswith(parts)]:
                value = state_dict.pop(key)
                state_dict.update({f'{prefix}{name}.{key.removeprefix(prefix)}': value for name in self.network_names})
        # Without averages and steps it is where a new run starts from.
        state_dict.setdefault(f'{prefix}_extra_state', self.get_extra_state())
        for name, average in zip(self.network_names, self.average_names, strict=False):
            if not any(key.startswith(f'{prefix}{average}.') for key in state_dict):
                own = f'{prefix}{name}.'
                weights = {key.removeprefix(own): value for key, value in state_dict.items() if key.startswith(own)}
                state_dict.update(
                    {f'{prefix}{average}.{key}': v for key, v in weights.items() if 'head.memory.' not in key}
                )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _labels(samples: list[DataSample]) -> Tensor:
    """Labels of a batch before anything is mixed: distributions [N, C] where the data has them, else indices [N]."""
    if 'gt_score' in samples[0]:
        return torch.stack([sample.gt_score for sample in samples])
    return torch.cat([sample.gt_label for sample in samples])


@contextmanager
def _untouched_statistics(network: nn.Module) -> Iterator[None]:
    """A network in training looks at a batch without moving its BatchNorm's running statistics.

    It predicts as it does while it trains; but the images that it learns from are other ones, and its statistics are
    theirs.
    """
    layers = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
