"""Find wrong labels by mmelr's audit and by cleanlab: same data, network and number of epochs. One table.

For each noise and seed it trains, with the network and schedule of one config,

- ELR, and audits that run: tools/audit_labels.py;
- plain cross entropy, and audits that;
- five times cross entropy on four fifths of the data (not stratified: the data have no order by class), for the
  out-of-sample probabilities that cleanlab recommends;
- plain cross entropy on the labels that the audit of ELR cleaned, to see what that is worth.

    pip install 'mmelr[cleanlab]'
    python tools/compare_audits.py digits --seeds 0 1 2 --jobs 2

Data sets: digits (configs/*_digits.py) and fashion_mnist (configs/*_fashion_mnist_4000.py, and of
the test images the first 2,000). Every cell
is written to WORK_DIR, and finished ones are not repeated. Test images are used for nothing but the accuracy.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np

import mmelr
from mmelr.analysis.processes import Task, run_tasks
from mmelr.cli import fail_early
from mmelr.serialization import load_json

DATASETS = dict(
    digits=('digits', {}), fashion_mnist=('fashion_mnist_4000', dict(val_dataloader=dict(dataset=dict(indices=2000))))
)
NOISES = dict(
    digits=['symmetric:0.2', 'symmetric:0.4', 'symmetric:0.6', 'asymmetric:0.4,mapping=mnist', 'instance:0.4'],
    fashion_mnist=['symmetric:0.2', 'symmetric:0.4', 'symmetric:0.6', 'asymmetric:0.4,mapping=next', 'instance:0.4'],
)
FOLDS = 5
FIGURES = dict(
    auroc='AUROC',
    average_precision='average precision',
    f1='F1',
    noise_rate_error='error of the noise rate',
    transition_error='error of the transition matrix',
    seconds='CPU seconds',
)


def config(dataset: str, method: str, noise: str, seed: int, work_dir: Path):
    """The config of a run: no data workers, for these images are in memory; one checkpoint and one test at the end."""
    name, changes = DATASETS[dataset]
    cfg = mmelr.apply_method(f'configs/ce_{name}.py', 'ce' if method == 'ce' else 'elr', noise=noise)
    cfg.merge_from_dict(changes)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
    cfg.work_dir, cfg.experiment_name = str(work_dir), '_'.join(work_dir.parts[-3:])
    cfg.randomness.seed = seed
    cfg.log_level = 'ERROR'
    cfg.default_hooks.checkpoint.interval = cfg.train_cfg.max_epochs
    return cfg


def train(cfg) -> tuple[float, float]:
    """CPU seconds of a run, and its accuracy after the last epoch."""
    from mmengine.runner import Runner

    cfg.train_cfg.val_interval = cfg.train_cfg.max_epochs + 1  # once, when the time has been taken
    start = time.process_time()
    runner = Runner.from_cfg(cfg)
    runner.train()
    return time.process_time() - start, runner.val()['accuracy/top1']


def out_of_sample(cfg, num_samples: int, num_classes: int) -> tuple[np.ndarray, float]:
    """Cross-validated probabilities [n, C] of cross entropy, and the CPU seconds that they took."""
    from mmelr.analysis.audit import AuditedRun
    from mmelr.analysis.benchmark import fold_of

    probabilities, spent, work_dir = np.zeros((num_samples, num_classes)), 0.0, cfg.work_dir
    whole = cfg.train_dataloader.dataset.dataset
    for fold in range(FOLDS):
        cfg.work_dir, cfg.experiment_name = f'{work_dir}/{fold}', f'{work_dir}/{fold}'.replace('/', '_')
        parts = [
            fold_of(whole, dict(num_splits=FOLDS, fold=fold), test_mode=held_out)
            for held_out in (False, True)
        ]
        cfg.train_dataloader.dataset.dataset = parts[0]
        spent += train(cfg)[0]
        cfg.train_dataloader.dataset.dataset = parts[1]
        start = time.process_time()
        run = AuditedRun(cfg, Path(cfg.work_dir, f'epoch_{cfg.train_cfg.max_epochs}.pth'))
        for positions, p in run.predictions():
            probabilities[run.sample_idx[positions]] = p
        spent += time.process_time() - start
    return probabilities, spent


def figures(wrong, score, distrusted, noise_rate, transition, truth, seconds) -> dict[str, float]:
    """What is compared of an audit."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    return dict(
        auroc=roc_auc_score(wrong, score),
        average_precision=average_precision_score(wrong, score),
        f1=2 * (distrusted & wrong).sum() / (distrusted.sum() + wrong.sum()),
        noise_rate_error=abs(noise_rate - wrong.mean()),
        transition_error=np.abs(transition - truth).sum(axis=1).mean() / 2,  # total variation, mean over true classes
        seconds=seconds,
    )


def by_cleanlab(record, probabilities: np.ndarray) -> dict:
    """Score, issues, noise rate and transition matrix, by cleanlab's defaults."""
    from cleanlab.count import compute_confident_joint, estimate_joint, estimate_latent
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    labels = record.noisy_label
    joint = estimate_joint(labels, probabilities)
    counts = compute_confident_joint(labels, probabilities)
    return dict(
        score=1 - get_label_quality_scores(labels, probabilities),
        distrusted=find_label_issues(labels, probabilities, n_jobs=1),
        noise_rate=1 - np.trace(joint),
        transition=estimate_latent(counts, labels)[1].T,
    )


def cell(dataset: str, noise: str, seed: int, work_dir: Path) -> dict:
    """Everything for one noise and seed."""
    from mmelr.noise import transition_matrix

    result = dict(dataset=dataset, noise=noise, seed=seed)
    seeded = f'{noise},seed={seed}'
    for method in ('elr', 'ce'):
        cfg = config(dataset, method, seeded, seed, work_dir / method)
        seconds, accuracy = train(cfg)
        start = time.process_time()
        checkpoint = work_dir / method / f'epoch_{cfg.train_cfg.max_epochs}.pth'
        audit = mmelr.audit_labels(cfg, checkpoint, work_dir / method / 'report')
        seconds += time.process_time() - start
        wrong = audit.given != audit.clean
        truth = transition_matrix(audit.clean, audit.given, len(audit.classes))
        found = (audit.score, audit.distrusted, audit.noise_rate.value, audit.transition)
        result[method] = figures(wrong, *found, truth, seconds)
        result[method] |= dict(
            accuracy=accuracy,
            rate_covered=audit.noise_rate.low <= wrong.mean() <= audit.noise_rate.high,
            suggested_right=(audit.suggested == audit.clean)[wrong & audit.distrusted].mean(),
        )
    record = mmelr.noise.NoiseRecord(audit.given, audit.clean, len(audit.classes))
    probabilities, seconds = out_of_sample(
        config(dataset, 'ce', seeded, seed, work_dir / 'folds'), record.num_samples, record.num_classes
    )
    np.savez(work_dir / 'probabilities.npz', probabilities=probabilities, given=audit.given, clean=audit.clean)
    start = time.process_time()
    found = by_cleanlab(record, probabilities)
    seconds += time.process_time() - start
    result['cleanlab'] = figures(wrong, *found.values(), truth, seconds)
    cleaned = config(dataset, 'ce', f'file:{work_dir / "elr/report/cleaned.csv"}', seed, work_dir / 'cleaned')
    result['cleaned_accuracy'] = train(cleaned)[1]
    return result


def tables(results: list[dict]) -> str:
    """Markdown: a row for each noise, a column for each way; mean and sample standard deviation over the seeds."""

    def show(values: list[float], digits: int) -> str:
        spread = f' ± {statistics.stdev(values):.{digits}f}' if len(values) > 1 else ''
        return f'{statistics.mean(values):.{digits}f}{spread}'

    lines = []
    noises = list(dict.fromkeys(r['noise'] for r in results))
    for key, name in FIGURES.items():
        lines += [f'\n{name}\n', '| noise | ELR | cross entropy | cleanlab |', '| --- | --- | --- | --- |']
        for noise in noises:
            ways = [[r[way][key] for r in results if r['noise'] == noise] for way in ('elr', 'ce', 'cleanlab')]
            cells = ' | '.join(show(values, 0 if key == 'seconds' else 3) for values in ways)
            lines.append(f'| {noise} | {cells} |')
    lines += ['\ntest accuracy [%] of cross entropy, and of ELR\n']
    lines += ['| noise | noisy labels | cleaned labels | ELR, noisy labels |', '| --- | --- | --- | --- |']
    for noise in noises:
        of = [r for r in results if r['noise'] == noise]
        noisy, elr = ([r[way]['accuracy'] for r in of] for way in ('ce', 'elr'))
        ways = noisy, [r['cleaned_accuracy'] for r in of], elr
        lines.append(f'| {noise} | ' + ' | '.join(show(values, 1) for values in ways) + ' |')
    return '\n'.join(lines)


def run_cell(dataset: str, noise: str, seed: int, path: Path) -> None:
    """A cell, into its file."""
    result = cell(dataset, noise, seed, path.parent)
    part = path.with_suffix('.part')
    part.write_text(json.dumps(result, indent=2, default=float) + '\n')
    os.replace(part, path)


def main() -> None:
    """Run the cells, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('dataset', choices=DATASETS)
    parser.add_argument('--noise', nargs='+', help='as for tools/train.py, without a seed; default: five of them')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument('--jobs', type=int, default=1, help='cells at a time')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/compare_audits'))
    args = parser.parse_args()
    with fail_early():
        mmelr.require_openmmlab()
        import cleanlab  # noqa: F401  an optional extra: pip install 'mmelr[cleanlab]'

    wanted = {}
    for seed in args.seeds:
        for noise in args.noise or NOISES[args.dataset]:
            folder = args.work_dir / args.dataset / noise.replace(':', '_').replace(',', '_') / f'seed-{seed}'
            wanted[folder / 'result.json'] = noise, seed
    failed = []

    def ended(path: Path, status: int) -> None:
        if status or not path.is_file():
            failed.append(path)
            print(f'{" ".join(map(str, wanted[path]))} failed, see {path.with_name("log.txt")}', flush=True)
            return
        result = load_json(path)
        print(*wanted[path], {way: round(result[way]['f1'], 3) for way in ('elr', 'ce', 'cleanlab')}, flush=True)

    tasks = {
        path: Task(run_cell, (args.dataset, *of, path), path.with_name('log.txt'))
        for path, of in wanted.items()
        if not path.is_file()
    }
    run_tasks(tasks, ended, jobs=args.jobs, preload=('mmelr.analysis.audit', 'cleanlab', 'sklearn.metrics'))
    results = [load_json(path) for path in wanted if path not in failed]
    if results:
        print(f'{args.dataset}, seeds {", ".join(map(str, args.seeds))}\n{tables(results)}')
    sys.exit(bool(failed))


if __name__ == '__main__':
    main()
