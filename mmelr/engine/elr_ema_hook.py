"""``ELREMAHook``: the weight averages that teach in ELR+."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from ..functional import sigmoid_ramp_up
from ..models import CoTrainingClassifier
from .utils import bare_model

__all__ = ['ELREMAHook']


@HOOKS.register_module()
class ELREMAHook(Hook):
    r"""Keeps the weight averages of a ``CoTrainingClassifier``, after each optimizer step of its network.

    .. math:: \bar\Theta \leftarrow \gamma_s \bar\Theta + (1 - \gamma_s) \Theta

    After the s-th step of a network, s = 1, 2, ..., and as in the published code,

    - :math:`\gamma_s = \gamma`, by default;
    - :math:`\gamma_s = \gamma \exp(-5 (1 - (s + 1) / S)^2)` until s + 1 = S with ``ramp_up`` S, there 40000 on CIFAR:
      the average stays close to the network while that still changes fast;
    - :math:`\gamma_s = \min(1 - 1 / (s + 1), \gamma)` with ``bias_correction``, there on Clothing1M: the plain mean of
      all weights so far, until the exponential average is the longer one.

    An average starts from the weights that its network starts with. (The published one starts from other random
    weights, the paper's from zero; both are forgotten by a ramp, and with a constant γ only spoil the first
    :math:`1/(1-\gamma)` steps.)

    Args:
        gamma (float): Momentum γ in [0, 1). Defaults to 0.997.
        ramp_up (int): Steps S of the ramp, 0 for none. Defaults to 0.
        bias_correction (bool): See above. Defaults to False.
        batch_norm (str): How a weight average normalises. ``'batch'``, as published: by the statistics of the clean
            batch that it teaches on, while its running statistics follow these batches. ``'copy'``: by the running
            statistics of its network, which are copied at each update; then its forward pass does not depend on the
            rest of the batch. Defaults to ``'batch'``.

    Raises:
        ValueError: A value outside its range, or both kinds of warm-up at once.
    """

    def __init__(
        self, gamma: float = 0.997, ramp_up: int = 0, bias_correction: bool = False, batch_norm: str = 'batch'
    ) -> None:
        if not 0 <= gamma < 1:
            raise ValueError(
                f'gamma, the momentum of the weight average, must be in [0, 1), got {gamma!r}; published are 0.997 '
                'and 0.9999.'
            )
        if not isinstance(ramp_up, int) or ramp_up < 0:
            raise ValueError(f'ramp_up must be a number of steps, 0 for none; got {ramp_up!r}.')
        if ramp_up and bias_correction:
            raise ValueError('ramp_up and bias_correction are two ways to warm up. Choose one.')
        if batch_norm not in ('batch', 'copy'):
            raise ValueError(f"batch_norm of ELREMAHook must be 'batch' or 'copy', got {batch_norm!r}.")
        self.gamma = gamma
        self.ramp_up = ramp_up
        self.bias_correction = bias_correction
        self.batch_norm = batch_norm

    def gamma_at(self, step: int) -> float:
        """γ after a network's step number ``step`` >= 1."""
        if self.bias_correction:
            return min(1 - 1 / (step + 1), self.gamma)
        return self.gamma * sigmoid_ramp_up(step + 1, self.ramp_up)

    def before_train(self, runner: Runner) -> None:
        """A run that starts, starts its averages; a resumed one has them."""
        model = bare_model(runner)
        if not isinstance(model, CoTrainingClassifier):
            raise TypeError(
                f'ELREMAHook keeps the weight averages of a CoTrainingClassifier, got {type(model).__name__}. '
                "Use MMEngine's EMAHook for an average that does not teach."
            )
        model.batch_norm = self.batch_norm
        if not any(model.steps):
            model.start_averages()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Average the weights of the networks that just took a step."""
        model = bare_model(runner)
        if not model.averages:
            return
        for name in runner.train_loop.active:
            if runner.optim_wrapper[name].should_update():  # not while gradients are being accumulated
                model.update_average(name, self.gamma_at(model.steps[model.network_names.index(name)]))
