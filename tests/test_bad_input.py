"""What must not pass: an error that names the thing, the value and the mend, and nothing half-done."""

import pytest
import torch
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

import mmelr
from mmelr import ELRLoss, TargetMemory


@pytest.mark.parametrize('bad', [float('nan'), float('inf'), float('-inf')])
def test_nan_and_inf_logits_never_reach_the_memory(bad):
    criterion = ELRLoss(10, 3)
    criterion(torch.randn(2, 3), torch.tensor([0, 1]), torch.tensor([4, 7]))
    before = criterion.memory.t.clone()
    logits = torch.randn(3, 3)
    logits[1] = bad  # a row of -Inf alone is no distribution either
    with pytest.raises(
        FloatingPointError, match=r'NaN or Inf for 1 of 3 samples of the batch, number \[7\].*learning rate'
    ):
        criterion(logits, torch.tensor([0, 1, 2]), torch.tensor([4, 7, 9]))
    assert torch.equal(criterion.memory.t, before)


def test_masked_classes_are_no_divergence():
    """-Inf for a class that is ruled out is a probability of zero."""
    logits = torch.tensor([[1.0, 2.0, float('-inf')]])
    assert ELRLoss(4, 3)(logits, torch.tensor([0]), torch.tensor([2])).isfinite()


@pytest.mark.parametrize('label', [-1, 3])
def test_labels_outside_the_classes(label):
    criterion = ELRLoss(10, 3)
    with pytest.raises(ValueError, match=rf'Label {label} is outside \[0, 3\).*start at 1'):
        criterion(torch.randn(2, 3), torch.tensor([0, label]), torch.tensor([4, 7]))
    assert not criterion.memory.t.any()


def test_index_outside_the_memory():
    criterion = ELRLoss(10, 3)
    with pytest.raises(IndexError, match=r'Sample index 10 is outside the memory, which holds 10 samples \(0 to 9\)'):
        criterion(torch.randn(2, 3), torch.tensor([0, 1]), torch.tensor([4, 10]))
    assert not criterion.memory.t.any()


def test_another_number_of_classes():
    with pytest.raises(ValueError, match='The memory has 3 classes.*Is num_classes the number of outputs'):
        ELRLoss(10, 3)(torch.randn(2, 4), torch.tensor([0, 1]), torch.tensor([4, 7]))
    with pytest.raises(ValueError, match='holds 10 samples, the training set has 12'):
        TargetMemory(12, 3).load_state_dict(TargetMemory(10, 3).state_dict())


def test_head_says_which_training_sample_diverged():
    head = MODELS.build(dict(type='ELRHead', num_classes=3, in_channels=2))
    samples = [DataSample().set_gt_label(0) for _ in range(2)]
    for i, sample in enumerate(samples):
        sample.set_metainfo(dict(sample_idx=i + 5, num_samples=10))
    with pytest.raises(FloatingPointError, match=r'number \[6\]'):
        head.loss((torch.tensor([[1.0, 1.0], [float('nan'), 1.0]]),), samples)


def test_noise_rate_outside_its_range():
    for rate in (-0.1, 1.1, float('nan')):
        with pytest.raises(ValueError, match=r'rate.*0.*1'):
            mmelr.noise.SymmetricNoise(rate)
