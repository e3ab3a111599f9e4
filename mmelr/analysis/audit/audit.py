"""``audit_labels``: which training labels are wrong, as a run sees it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mmengine.config import Config
from PIL import Image

from .evidence import AuditedRun
from .files import write_cleaned, write_labels, write_transitions
from .label_audit import LabelAudit
from .report import write_report
from .scores import class_noise_rates, contradiction, latent_classes, noise_rate, transitions

__all__ = ['audit_labels', 'audit_run']

_FEW = 5  # epochs
_NAMES = {'ce': 'a network trained without ELR', 'elr': 'ELR', 'elr+': 'ELR+'}
_WEAKER = (
    'The network was trained without ELR. Cross entropy ends by memorising wrong labels, and other losses may, too. '
    'Early predictions still tell, but fewer of the wrong labels are found, and more of the correct ones distrusted, '
    'than by a run with ELR: tools/train.py CONFIG --method elr.'
)
_MEMORY_ALONE = (
    'The checkpoint has no votes of a finished epoch, which MemorizationHook keeps in training by epochs, so the '
    'labels are compared with the target memory alone.'
)
_PREDICTIONS_ALONE = (
    'The checkpoint has no votes of a finished epoch, which MemorizationHook keeps in training by epochs, and no '
    'target memory: it may have been published, or come from elsewhere. So the labels are compared with the last '
    'predictions alone. Where the network has memorised its labels, they tell nothing.'
)
_UNCHECKED = 'The checkpoint does not say which labels it was trained on; those of the config are taken.'


def audit_labels(
    config: str | Config,
    checkpoint: str | Path,
    out: str | Path | None = None,
    threshold: float = 0.5,
    device: str | None = None,
) -> LabelAudit:
    """Rank the training labels of a run by how sure it is that they are wrong, and suggest better ones.

    The score of a label comes from the predictions of each epoch of training, see
    :func:`mmelr.analysis.audit.scores.latent_classes`; for checkpoints without these votes, it is how clearly the
    target memory contradicts it, or else the network's predictions. docs/label_audit.md tells how that was chosen, and
    how far to trust it.

    Args:
        config (str | Config): The config of the run, as :func:`mmelr.load_config` takes it. What was given on the
            command line of ``tools/train.py`` as ``--method`` and ``--noise`` is found in the run's own files.
        checkpoint (str | Path): A checkpoint of the run, in its work directory; or that directory, for the last one.
        out (str | Path, optional): Folder for ``report.html``, ``labels.csv``, ``cleaned.csv`` and ``transition.csv``.
            None writes nothing.
        threshold (float): Labels are distrusted from this score on, in (0, 1]. Defaults to 0.5, from where on a wrong
            label is the likelier explanation.
        device (str, optional): Where to predict, if that is needed. Defaults to a GPU if there is one.

    Returns:
        LabelAudit: What was found.

    Raises:
        FileExistsError: ``cleaned.csv`` is there already with other contents, perhaps corrected by hand.
        FileNotFoundError: No such config or checkpoint.
        ValueError: A checkpoint that is damaged, or of another network, other labels or other samples.
    """
    run = AuditedRun(config, checkpoint)
    audit = audit_run(run, threshold, device)
    if out is not None:
        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
        items = run.items[np.searchsorted(run.sample_idx, audit.sample_idx)]
        write_cleaned(audit, out / 'cleaned.csv', run)
        write_labels(audit, out / 'labels.csv')
        write_transitions(audit, out / 'transition.csv')
        write_report(audit, out / 'report.html', lambda position: _image(run, items[position]))
    return audit


def audit_run(run: AuditedRun, threshold: float = 0.5, device: str | None = None) -> LabelAudit:
    """:func:`audit_labels` of a run that is open already.

    Args:
        run (AuditedRun): The run.
        threshold (float): Labels are distrusted from this score on, in (0, 1]. Defaults to 0.5.
        device (str, optional): Where to predict, if that is needed.

    Returns:
        LabelAudit: What was found, of the samples that the run has seen.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f'threshold must be a score in (0, 1], got {threshold!r}.')
    given, num_classes, votes = run.given, run.record.num_classes, run.votes()
    score, suggested, held_back = np.zeros(len(given)), given.copy(), np.zeros(len(given), dtype=bool)
    remarks = [_WEAKER] if run.method == 'ce' and votes is not None else []
    if votes is not None:
        seen = votes.seen.numpy()[run.sample_idx]
        if seen.any():
            score[seen], held_back[seen] = latent_classes(votes, run.sample_idx[seen])
        other = votes.other.numpy()[run.sample_idx]
        # A head may have more classes than the data.
        suggested = np.where((other >= 0) & (other < num_classes), other, given).astype(np.int64)
        epochs = len(votes.epochs.unique())
        if epochs < _FEW:
            remarks.append(f'It has seen {epochs} epochs only: much of what it contradicts it has not learned yet.')
        if held_back.any():
            remarks.append(
                f'{held_back.sum()} more labels were contradicted, but for a short time early in training: difficult '
                'images, or wrong labels that were soon memorised. The intervals cover both. An audit of a shorter '
                'run, or of one with ELR, tells more.'
            )
    else:
        remarks.append(_MEMORY_ALONE if run.has_memory else _PREDICTIONS_ALONE)
        seen = np.zeros(len(given), dtype=bool)
        for positions, q in run.targets() if run.has_memory else run.predictions(device):
            seen[positions] = q.sum(axis=1) > 0
            score[positions], suggested[positions] = contradiction(q[:, :num_classes], given[positions])
    if not run.says_labels:
        remarks.append(_UNCHECKED)
    if not seen.any():
        raise ValueError(
            f'{run.path} has seen none of the samples of this config: it was trained on another part of the data set. '
            'Take the config that the run wrote into its work directory.'
        )
    if not seen.all():
        remarks.append(
            f'{(~seen).sum()} of the {len(seen)} samples in the config were never visited in training. They are left '
            'out.'
        )
    given, score, suggested, held_back = given[seen], score[seen], suggested[seen], held_back[seen]
    samples = run.sample_idx[seen]
    corrected = np.where(score >= threshold, suggested, given)
    matrix, low, high = transitions(given, corrected, num_classes)
    clean = run.record.clean_label
    return LabelAudit(
        title=run.path.resolve().parent.name + (f', epoch {run.epoch}' if run.epoch else ''),
        method=_NAMES[run.method],
        classes=tuple(map(str, run.dataset.metainfo['classes'])),
        sample_idx=samples,
        paths=tuple(run.paths[position] for position in np.flatnonzero(seen)),
        given=given,
        suggested=suggested,
        score=score,
        threshold=threshold,
        noise_rate=noise_rate(score, threshold, held_back),
        class_noise=class_noise_rates(score, threshold, held_back, given, num_classes),
        transition=matrix,
        transition_low=low,
        transition_high=high,
        remarks=tuple(remarks),
        clean=None if clean is None else clean[samples],
    )


def _image(run: AuditedRun, item: int) -> Image.Image | None:
    """The picture of an item as it lies in the dataset, None if it cannot be read."""
    info = run.dataset.get_data_info(item)
    try:
        if 'img' in info:
            return Image.fromarray(np.asarray(info['img']).squeeze())
        with Image.open(info['img_path']) as image:
            return image.convert('RGB')
    except (KeyError, OSError, TypeError, ValueError):
        return None
