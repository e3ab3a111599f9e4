"""MMEngine parts: the loop and averages of ELR+, the noise of a run on record, checkpoints that last, memorisation."""

from .checkpoint import DamagedCheckpoint, check_checkpoint, find_whole_checkpoint
from .co_training_runner import CoTrainingRunner
from .durable_checkpoint_hook import DurableCheckpointHook
from .elr_ema_hook import ELREMAHook
from .exact_resume_hook import ExactResumeHook
from .fast_network_hook import FastNetworkHook
from .live_logger_hook import LiveLoggerHook, QuietStartRunner
from .member_evaluator import MemberEvaluator
from .memorization_hook import MemorizationHook
from .noise_record_hook import NoiseRecordHook, ResumeRefused
from .padding_hook import PaddingHook
from .target_memory_hook import TargetMemoryHook
from .transition_hook import TransitionHook
from .truncation_hook import TruncationHook

__all__ = [
    'CoTrainingRunner',
    'DamagedCheckpoint',
    'DurableCheckpointHook',
    'ELREMAHook',
    'ExactResumeHook',
    'FastNetworkHook',
    'LiveLoggerHook',
    'MemberEvaluator',
    'MemorizationHook',
    'NoiseRecordHook',
    'PaddingHook',
    'QuietStartRunner',
    'ResumeRefused',
    'TargetMemoryHook',
    'TransitionHook',
    'TruncationHook',
    'check_checkpoint',
    'find_whole_checkpoint',
]
