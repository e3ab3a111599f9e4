"""MMEngine hooks: the noise of a run on record, resuming that resumes, and what the network memorised."""

from . import checkpoint  # noqa: F401  (allows checkpoints to be loaded)
from .exact_resume_hook import ExactResumeHook
from .memorization_hook import MemorizationHook
from .noise_record_hook import NoiseRecordHook, ResumeRefused

__all__ = ['ExactResumeHook', 'MemorizationHook', 'NoiseRecordHook', 'ResumeRefused']
