"""The label audit: the votes of the epochs, the scores made of them, and audits of real runs."""

import copy
import csv
import os

import numpy as np
import pytest
import torch
from mmpretrain.registry import DATASETS
from runs import digits_config, train

import mmelr
from mmelr.analysis.audit.scores import contradiction, latent_classes, noise_rate, transitions, wilson
from mmelr.noise import NoiseRecord, transition_matrix
from mmelr.votes import LabelVotes


def history(n=300, columns=9, classes=5, seed=0):
    """Random labels, and predictions [V, n] of which some are missing, -1."""
    rng = np.random.default_rng(seed)
    given = rng.integers(classes, size=n)
    predicted = rng.integers(-1, classes, size=(columns, n))
    return torch.from_numpy(given), torch.from_numpy(predicted)


def votes_of(given, predicted, networks=1):
    votes = LabelVotes(given)
    for column, row in enumerate(predicted):
        votes.add(column // networks, row)
    return votes


class TestVotes:
    @pytest.mark.parametrize('columns', [1, 3, 4, 5, 8, 17])
    def test_what_was_added_is_there(self, columns):
        given, predicted = history(columns=columns)
        votes = votes_of(given, predicted)
        some = torch.tensor([0, 299, 7, 7, 150])
        contradicted, seen = votes[some]
        assert torch.equal(seen, (predicted >= 0).T[some])
        assert torch.equal(contradicted, ((predicted >= 0) & (predicted != given)).T[some])
        assert votes.epochs.tolist() == list(range(columns))

    def test_two_networks_have_columns_in_the_same_epoch(self):
        given, predicted = history(columns=6)
        assert votes_of(given, predicted, networks=2).epochs.tolist() == [0, 0, 1, 1, 2, 2]

    def test_other_is_the_class_with_more_than_half_of_the_contradicting_votes(self):
        given, predicted = history(n=3000, columns=7, classes=3)
        votes = votes_of(given, predicted)
        clear = 0
        for i in range(3000):
            against = [int(c) for c in predicted[:, i] if c >= 0 and c != given[i]]
            if not against:
                assert votes.other[i] == -1
                continue
            assert int(votes.other[i]) in against
            best = max(against, key=against.count)
            if against.count(best) > len(against) / 2:
                assert votes.other[i] == best
                clear += 1
        assert clear > 2000

    def test_a_checkpoint_goes_on(self):
        given, predicted = history(columns=11)
        whole, first = votes_of(given, predicted), votes_of(given, predicted[:6])
        second = LabelVotes(given)
        second.load_state_dict(first.state_dict())
        for epoch in range(6, 11):
            second.add(epoch, predicted[epoch])
        for name, value in whole.state_dict().items():
            assert torch.equal(value, second.state_dict()[name]), name
        assert len(first.epochs) == 6  # it shares nothing with its copy

    @pytest.mark.parametrize('change', [dict(other=torch.zeros(299)), dict(packed=torch.zeros(300, 2))])
    def test_votes_on_other_data_are_refused(self, change):
        votes = votes_of(*history())
        with pytest.raises(ValueError, match='not those of 300 samples'):
            LabelVotes(votes.given).load_state_dict(votes.state_dict() | change)


def drawn(n=2000, rate=0.3, of_wrong=0.9, of_correct=0.1, columns=12, seed=0):
    """Votes as the latent class model has them, and which labels are wrong."""
    rng = np.random.default_rng(seed)
    wrong = rng.random(n) < rate
    contradicted = rng.random((columns, n)) < np.where(wrong, of_wrong, of_correct)
    given = torch.zeros(n, dtype=torch.int64)
    return votes_of(given, torch.from_numpy(contradicted.astype(np.int64))), wrong


class TestScores:
    @pytest.mark.parametrize('rate', [0.1, 0.4, 0.7])
    @pytest.mark.parametrize(('of_wrong', 'of_correct'), [(0.9, 0.1), (0.7, 0.05), (1.0, 0.4)])
    def test_labels_drawn_from_the_model_are_told_apart(self, rate, of_wrong, of_correct):
        votes, wrong = drawn(rate=rate, of_wrong=of_wrong, of_correct=of_correct)
        found = latent_classes(votes, np.arange(len(wrong)))[0] >= 0.5
        assert (found == wrong).mean() > 0.96

    def test_against_a_literal_one(self):
        """Bayes' rule and maximum likelihood, written out sample by sample."""
        votes, _ = drawn(n=60, columns=5, of_wrong=0.8, of_correct=0.2)
        x = votes[torch.arange(60)][0].numpy().astype(float)
        w = [1 - v / 10 for v in range(5)]
        q = [min(max(sum(w[v] * row[v] for v in range(5)) / sum(w), 0.01), 0.99) for row in x]
        for _ in range(500):
            pi = sum(q) / 60
            a = [(sum(q[i] * x[i][v] for i in range(60)) + 1) / (sum(q) + 2) for v in range(5)]
            b = [(sum((1 - q[i]) * x[i][v] for i in range(60)) + 1) / (60 - sum(q) + 2) for v in range(5)]
            odds = []
            for row in x:
                o = pi / (1 - pi)
                for v in range(5):
                    o *= ((a[v] / b[v]) if row[v] else (1 - a[v]) / (1 - b[v])) ** w[v]
                odds.append(o)
            q = [o / (1 + o) for o in odds]
        expected = np.array([1 / (1 + o ** (-1 / sum(w))) for o in odds])
        share = x @ np.array(w) / sum(w)
        expected = np.where(share < 0.3, np.minimum(expected, share), expected)
        assert latent_classes(votes, np.arange(60))[0] == pytest.approx(expected, abs=1e-5)

    def test_it_finds_out_which_epochs_to_listen_to(self):
        """In three epochs of twelve the votes are drawn by lot: they hardly count."""
        rng = np.random.default_rng(0)
        wrong = rng.random(2000) < 0.3
        contradicted = rng.random((12, 2000)) < np.where(wrong, 0.85, 0.1)
        contradicted[:3] = rng.random((3, 2000)) < 0.6
        votes = votes_of(torch.zeros(2000, dtype=torch.int64), torch.from_numpy(contradicted.astype(np.int64)))
        weights = 1 - np.arange(12) / 24
        majority = weights @ contradicted / weights.sum() >= 0.5
        found = latent_classes(votes, np.arange(2000))[0] >= 0.5
        assert (found != wrong).sum() < 0.6 * (majority != wrong).sum()

    def test_what_was_contradicted_for_a_short_time_is_trusted(self):
        """Correct labels alone: easy samples, and hard ones that were learned later."""
        contradicted = np.zeros((20, 1000), dtype=np.int64)
        contradicted[:3, :100] = 1
        contradicted[:1] = 1
        votes = votes_of(torch.zeros(1000, dtype=torch.int64), torch.from_numpy(contradicted))
        score, held_back = latent_classes(votes, np.arange(1000))
        assert not (score >= 0.5).any()
        assert held_back.sum() == 100  # the hard ones, which may be either

    def test_wrong_labels_that_were_memorised_half_way(self):
        """All are contradicted in less than half of the epochs: the model must not take the kinds for each other."""
        rng = np.random.default_rng(0)
        wrong = rng.random(2000) < 0.4
        early = rng.random((40, 2000)) < np.where(wrong, 0.95, 0.05)
        late = rng.random((60, 2000)) < np.where(wrong, 0.03, 0.01)
        contradicted = np.concatenate([early, late]).astype(np.int64)
        votes = votes_of(torch.zeros(2000, dtype=torch.int64), torch.from_numpy(contradicted))
        found = latent_classes(votes, np.arange(2000))[0] >= 0.5
        assert (found == wrong).mean() > 0.99

    def test_samples_that_some_epochs_did_not_see(self):
        votes, wrong = drawn(columns=16)
        given = votes.given
        contradicted, _ = votes[torch.arange(2000)]
        hidden = torch.rand(2000, 16, generator=torch.Generator().manual_seed(0)) < 0.5
        sparse = votes_of(given, torch.where(hidden, -1, contradicted.long()).T)
        seen = sparse[torch.arange(2000)][1].any(dim=1).numpy()
        found = latent_classes(sparse, np.flatnonzero(seen))[0] >= 0.5
        assert (found == wrong[seen]).mean() > 0.96

    def test_contradiction(self):
        q = np.array([[0.6, 0.3, 0.1], [0.6, 0.3, 0.1], [0.0, 0.0, 0.0], [0.2, 0.2, 0.6]])
        score, other = contradiction(q, np.array([0, 1, 1, 2]))
        assert score == pytest.approx([0.3 / 0.9, 0.6 / 0.9, 0, 0.2 / 0.8])
        assert other[[0, 1]].tolist() == [1, 0]

    def test_wilson_interval_is_the_set_of_shares_that_a_test_accepts(self):
        low, high = wilson(np.array([7, 0, 20, 0]), np.array([20, 20, 20, 0]))
        for share, n, ends in ((0.35, 20, (low[0], high[0])), (0.0, 20, (0, high[1])), (1.0, 20, (low[2], 1))):
            for end in ends:
                if 0 < end < 1:
                    assert abs(share - end) == pytest.approx(1.96 * np.sqrt(end * (1 - end) / n))
        assert (low[1], high[2], low[3], high[3]) == (pytest.approx(0, abs=1e-9), pytest.approx(1), 0, 1)

    def test_noise_rate_covers_what_may_be_either(self):
        score = np.array([0.1] * 60 + [0.45] * 10 + [0.55] * 10 + [0.9] * 20)
        held_back = np.arange(100) < 5
        rate = noise_rate(score, 0.5, held_back)
        assert rate.value == 0.3
        assert rate.low == wilson(20, 100)[0]
        assert rate.high == wilson(45, 100)[1]
        assert noise_rate(np.zeros(0), 0.5, np.zeros(0, dtype=bool)).high == 1

    def test_transitions(self):
        rng = np.random.default_rng(0)
        corrected = rng.integers(1, 4, size=500)  # no sample of class 0
        given = np.where(rng.random(500) < 0.3, rng.integers(4, size=500), corrected)
        matrix, low, high = transitions(given, corrected, 4)
        assert np.array_equal(matrix, transition_matrix(corrected, given, 4))
        assert ((low <= matrix) & (matrix <= high)).all()
        assert (high - low)[1:].max() < 0.2
        assert (matrix[0] == 0).all() and (high[0] == 1).all()


@DATASETS.register_module()
class ClassNoise(mmelr.datasets.Digits):
    """Digits whose own labels are wrong, as those of a folder."""

    def __init__(self, labels, **kwargs):
        self.labels = labels
        super().__init__(**kwargs)

    def load_data_list(self):
        return [dict(d, gt_label=label) for d, label in zip(super().load_data_list(), self.labels, strict=True)]


def previous_labels(audit):
    return np.where(audit.distrusted, audit.suggested, audit.given)


def rows(path):
    with open(path, newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


def run(tmp_path, name, method=None, epochs=12, **options):
    cfg = digits_config(tmp_path / 'run', name=name, epochs=epochs, train=400)
    cfg.train_cfg.val_interval = epochs
    cfg.merge_from_dict(options)
    return cfg, train(cfg)


@pytest.fixture(scope='module')
def elr(tmp_path_factory):
    folder = tmp_path_factory.mktemp('elr')
    cfg, _ = run(folder, 'elr_digits')
    checkpoint = folder / 'run' / 'epoch_12.pth'
    return cfg, checkpoint, mmelr.audit_labels(cfg, checkpoint, folder / 'out')


class TestAudit:
    def test_wrong_labels_are_found(self, elr):
        _, _, audit = elr
        wrong = audit.given != audit.clean
        assert len(wrong) == 400
        assert audit.method == 'ELR'
        found = audit.distrusted
        assert 2 * (found & wrong).sum() / (found.sum() + wrong.sum()) > 0.85
        assert (audit.suggested == audit.clean)[found & wrong].mean() > 0.85
        assert audit.noise_rate.low <= wrong.mean() <= audit.noise_rate.high
        assert not audit.remarks

    def test_votes_are_the_predictions_of_each_epoch(self, tmp_path, monkeypatch):
        """Against what a hook of MMEngine's sees: the logits of every step."""
        from mmengine.hooks import Hook
        from mmengine.runner import Runner

        cfg = digits_config(tmp_path / 'run', name='ce_digits', epochs=3, train=100)
        runner = Runner.from_cfg(cfg)
        predicted = torch.full((3, 1438), -1)

        class Listen(Hook):
            def before_train(self, runner):
                runner.model.head.register_forward_hook(self.note)

            def before_train_iter(self, runner, batch_idx, data_batch=None):
                self.where = runner.epoch, [s.sample_idx for s in data_batch['data_samples']]

            def note(self, head, inputs, logits):
                if head.training:
                    predicted[self.where[0], self.where[1]] = logits.argmax(dim=1)

        runner.register_hook(Listen(), priority='VERY_HIGH')
        runner.train()
        votes = mmelr.analysis.audit.AuditedRun(cfg, tmp_path / 'run' / 'epoch_3.pth').votes()
        given = votes.given
        contradicted, seen = votes[torch.arange(1438)]
        assert seen.sum() == 300
        assert torch.equal(seen, (predicted >= 0).T)
        assert torch.equal(contradicted, ((predicted >= 0) & (predicted != given)).T)

    def test_files(self, elr):
        cfg, checkpoint, audit = elr
        out = checkpoint.parents[1] / 'out'
        table = rows(out / 'labels.csv')
        order = np.argsort(-audit.score, kind='stable')
        assert [int(r['sample_idx']) for r in table] == audit.sample_idx[order].tolist()
        scores = [float(r['score']) for r in table]
        assert scores == sorted(scores, reverse=True)
        for row in table:
            i = list(audit.sample_idx).index(int(row['sample_idx']))
            assert int(row['given']) == audit.given[i]
            assert int(row['distrusted']) == audit.distrusted[i]
            assert int(row['suggested']) == (audit.suggested if audit.distrusted[i] else audit.given)[i]
            assert row['given_name'] == str(audit.given[i])
        assert (out / 'report.html').stat().st_size > 50_000
        # Of the whole dataset, of which 400 samples were trained on.
        given = NoiseRecord.load(checkpoint.parent / 'noise.npz').noisy_label
        cleaned = np.array([int(r['label']) for r in rows(out / 'cleaned.csv')])
        changed = np.flatnonzero(cleaned != given)
        assert len(cleaned) == 1438
        assert set(changed) == set(audit.sample_idx[audit.distrusted & (audit.suggested != audit.given)])

    @pytest.mark.slow
    def test_a_second_round(self, tmp_path):
        """Labels of which the clean ones are unknown stay so, however often they are corrected."""
        cfg = digits_config(tmp_path / 'first', epochs=6, train=300)
        full = mmelr.datasets.NoisyLabelDataset(cfg.train_dataloader.dataset.dataset, 'symmetric:0.4')
        cfg.train_dataloader.dataset.dataset = dict(
            cfg.train_dataloader.dataset.dataset, base='ClassNoise', labels=full.record.noisy_label.tolist()
        )
        cfg.train_dataloader.dataset.noise = None
        previous = None
        for number in ('first', 'second', 'third'):
            cfg.work_dir, cfg.experiment_name = str(tmp_path / number), f'{tmp_path.name}_{number}'
            train(cfg)
            record = NoiseRecord.load(tmp_path / number / 'noise.npz')
            assert record.clean_label is None
            if previous is not None:
                assert np.array_equal(record.noisy_label[previous.sample_idx], previous_labels(previous))
            previous = mmelr.audit_labels(cfg, tmp_path / number, tmp_path / number / 'report')
            assert previous.clean is None
            cfg = mmelr.apply_method(cfg, noise=f'file:{tmp_path / number}/report/cleaned.csv')

    def test_cleaned_labels_are_trained_on(self, elr, tmp_path):
        cfg, checkpoint, audit = elr
        path = checkpoint.parents[1] / 'out' / 'cleaned.csv'
        again = mmelr.apply_method(cfg, 'ce', noise=f'file:{path}')
        again.work_dir, again.experiment_name = str(tmp_path / 'again'), str(tmp_path)
        again.train_cfg.max_epochs = 1
        train(again)
        record = NoiseRecord.load(tmp_path / 'again' / 'noise.npz')
        wrong_before = (audit.given != audit.clean).mean()
        assert (record.noisy_label != record.clean_label)[audit.sample_idx].mean() < 0.4 * wrong_before

    def test_without_the_noise_and_the_method_of_the_command_line(self, elr, tmp_path):
        """The config as it was before ``--method elr --noise symmetric:0.4``."""
        _, checkpoint, audit = elr
        cfg = digits_config(tmp_path, name='ce_digits', train=400)
        cfg.train_dataloader.dataset.noise = None
        same = mmelr.audit_labels(cfg, checkpoint)
        assert np.array_equal(same.score, audit.score)
        assert np.array_equal(same.given, audit.given)
        assert np.array_equal(same.clean, audit.clean)

    def test_cross_entropy_is_weaker_and_says_so(self, tmp_path):
        cfg, _ = run(tmp_path, 'ce_digits', epochs=20)
        audit = mmelr.audit_labels(cfg, tmp_path / 'run' / 'epoch_20.pth')
        wrong = audit.given != audit.clean
        assert 'trained without ELR' in audit.remarks[0]
        assert 2 * (audit.distrusted & wrong).sum() / (audit.distrusted.sum() + wrong.sum()) > 0.7

    def test_elr_plus(self, tmp_path):
        cfg, _ = run(tmp_path, 'elr_plus_digits', epochs=10)
        opened = mmelr.analysis.audit.AuditedRun(cfg, tmp_path / 'run' / 'epoch_10.pth')
        assert opened.votes().epochs.tolist() == [e for e in range(10) for _ in range(2)]
        audit = mmelr.analysis.audit.audit_run(opened)
        wrong = audit.given != audit.clean
        assert audit.method == 'ELR+'
        assert 2 * (audit.distrusted & wrong).sum() / (audit.distrusted.sum() + wrong.sum()) > 0.75

    @pytest.mark.parametrize(
        'options',
        [
            {},
            {
                'model.head.memory_storage': 'sparse',
                'model.head.memory_top_k': 4,
                'default_hooks.checkpoint.beside_from': 1,
            },
        ],
        ids=['in the checkpoint', 'sparse beside'],
    )
    def test_without_votes_the_memory_tells(self, tmp_path, options):
        cfg, runner = run(tmp_path, 'elr_digits', epochs=12, **options)
        path = tmp_path / 'run' / 'epoch_12.pth'
        saved = torch.load(path, weights_only=False)
        del saved['label_votes']
        torch.save(saved, path)
        audit = mmelr.audit_labels(cfg, path)
        t = runner.model.head.memory(torch.from_numpy(audit.sample_idx))
        likeliest = t.argmax(dim=1).numpy()
        assert np.array_equal(audit.distrusted, likeliest != audit.given)
        assert np.array_equal(audit.suggested[audit.distrusted], likeliest[audit.distrusted])
        assert 'target memory alone' in audit.remarks[0]

    def test_without_votes_and_memory_the_predictions_tell(self, tmp_path):
        cfg, runner = run(tmp_path, 'ce_digits', epochs=3)
        path = tmp_path / 'run' / 'epoch_3.pth'
        saved = torch.load(path, weights_only=False)
        del saved['label_votes'], saved['noise']  # as MMPretrain writes it
        torch.save(saved, path)
        (tmp_path / 'run' / 'noise.npz').unlink()
        audit = mmelr.audit_labels(cfg, path)
        runner.model.eval()
        dataset = runner.train_dataloader.dataset
        items = [dataset[i] for i in range(400)]
        batch = {key: [item[key] for item in items] for key in items[0]}
        with torch.no_grad():
            logits = runner.model(**runner.model.data_preprocessor(batch), mode='tensor')
        assert np.array_equal(audit.distrusted, logits.argmax(dim=1).numpy() != audit.given)
        assert 'last predictions alone' in audit.remarks[0]

    def test_a_checkpoint_of_weights_alone(self, tmp_path):
        """As tools/publish_model.py makes it of an ELR+ run."""
        cfg, runner = run(tmp_path, 'elr_plus_digits', epochs=3)
        path = tmp_path / 'weights.pth'
        state = {k: v for k, v in runner.model.state_dict().items() if k.startswith('network') and '.memory.' not in k}
        torch.save(dict(state_dict=state), path)
        audit = mmelr.audit_labels(cfg, path)
        assert 'last predictions alone' in audit.remarks[0]
        digits = mmelr.datasets.Digits()
        samples = torch.stack([torch.from_numpy(digits.get_data_info(i)['img']) for i in range(100)])
        samples = (samples[:, None].float() - 77.8) / 95.9
        with torch.no_grad():
            predicted = runner.model.eval()(samples).argmax(dim=1).numpy()
        assert np.array_equal(audit.distrusted[:100], predicted != audit.given[:100])

    def test_a_resumed_run_has_the_same_votes(self, tmp_path):
        whole = digits_config(tmp_path / 'whole', epochs=3, train=100)
        parts = digits_config(tmp_path / 'parts', epochs=3, train=100)
        train(whole)
        parts.train_cfg.max_epochs = 2
        train(parts)
        parts.train_cfg.max_epochs, parts.resume = 3, True
        parts.experiment_name += 'again'
        train(parts)
        a, b = (torch.load(tmp_path / n / 'epoch_3.pth', weights_only=False)['label_votes'] for n in ('whole', 'parts'))
        assert a.pop('method') == b.pop('method') == 'elr'
        assert all(torch.equal(a[k], b[k]) for k in a)


class TestMistakes:
    def test_another_part_of_the_data(self, elr):
        cfg, checkpoint, audit = elr
        more = copy.deepcopy(cfg)
        more.train_dataloader.dataset.dataset.indices = 500
        same = mmelr.audit_labels(more, checkpoint)
        assert np.array_equal(same.sample_idx, audit.sample_idx)
        assert same.noise_rate == audit.noise_rate
        assert '100 of the 500 samples' in same.remarks[-1]
        more.train_dataloader.dataset.dataset.indices = list(range(1000, 1010))
        with pytest.raises(ValueError, match='has seen none of the samples of this config'):
            mmelr.audit_labels(more, checkpoint)

    def test_labels_corrected_by_hand_are_not_overwritten(self, elr, tmp_path):
        cfg, checkpoint, audit = elr
        for _ in range(2):
            mmelr.audit_labels(cfg, checkpoint, tmp_path)
        text = (tmp_path / 'cleaned.csv').read_text().replace('\n5,,', '\n5,seen by me,')
        (tmp_path / 'cleaned.csv').write_text(text)
        with pytest.raises(FileExistsError, match='cleaned.csv exists with other labels'):
            mmelr.audit_labels(cfg, checkpoint, tmp_path)
        assert (tmp_path / 'cleaned.csv').read_text() == text

    def test_images_that_were_moved(self, elr, tmp_path):
        cfg, checkpoint, _ = elr
        given = NoiseRecord.load(checkpoint.parent / 'noise.npz')
        moved = copy.deepcopy(cfg)
        labels = given.clean_label.copy()
        labels[7] = (labels[7] + 1) % 10
        moved.train_dataloader.dataset.dataset.update(base='ClassNoise', labels=labels)
        with pytest.raises(ValueError, match='The data set is not the one that .*epoch_12.pth was trained on'):
            mmelr.audit_labels(moved, checkpoint)
        moved.train_dataloader.dataset.noise = f'file:{checkpoint.parents[1]}/out/cleaned.csv'
        with pytest.raises(ValueError, match='own_label says that sample 7 has the label . in the data set, but'):
            mmelr.audit_labels(moved, checkpoint)

    def test_more_outputs_than_classes(self, tmp_path):
        cfg, _ = run(tmp_path, 'ce_digits', epochs=2, **{'model.head.num_classes': 50})
        audit = mmelr.audit_labels(cfg, tmp_path / 'run')
        assert audit.suggested.max() < 10
        assert audit.transition.shape == (10, 10)
        assert '2 epochs only' in ' '.join(audit.remarks)

    def test_another_width(self, elr):
        cfg, checkpoint, _ = elr
        other = copy.deepcopy(cfg)
        other.model.backbone.base_channels = 16
        saved = torch.load(checkpoint, weights_only=False)
        saved['state_dict'] = {k: v for k, v in saved['state_dict'].items() if '.memory.' not in k}
        del saved['label_votes']
        torch.save(saved, checkpoint.with_name('width.pth'))
        with pytest.raises(ValueError, match='has them in another shape'):
            mmelr.audit_labels(other, checkpoint.with_name('width.pth'))

    def test_threshold(self, elr):
        cfg, checkpoint, audit = elr
        strict = mmelr.audit_labels(cfg, checkpoint, threshold=0.9)
        assert np.array_equal(strict.distrusted, audit.score >= 0.9)
        with pytest.raises(ValueError, match='threshold must be a score in'):
            mmelr.audit_labels(cfg, checkpoint, threshold=2)

    def test_no_checkpoint(self, elr, tmp_path):
        with pytest.raises(FileNotFoundError, match='No checkpoint .*nowhere.pth'):
            mmelr.audit_labels(elr[0], tmp_path / 'nowhere.pth')

    def test_something_else(self, elr, tmp_path):
        torch.save(dict(a=1), tmp_path / 'a.pth')
        with pytest.raises(ValueError, match='a.pth is no checkpoint of MMEngine'):
            mmelr.audit_labels(elr[0], tmp_path / 'a.pth')

    def test_other_labels(self, elr, tmp_path):
        cfg, checkpoint, _ = elr
        (tmp_path / 'copy.pth').write_bytes(checkpoint.read_bytes())
        other = copy.deepcopy(cfg)
        other.train_dataloader.dataset.noise.seed = 5
        with pytest.raises(ValueError, match='copy.pth was trained on other labels .*seed=0'):
            mmelr.audit_labels(other, tmp_path / 'copy.pth')

    def test_another_network(self, elr):
        cfg, checkpoint, _ = elr
        other = copy.deepcopy(cfg)
        other.model.backbone.depth = 34
        saved = torch.load(checkpoint, weights_only=False)
        del saved['label_votes']
        torch.save(saved, checkpoint.with_name('without.pth'))
        with pytest.raises(ValueError, match='lacks .* weights of the network'):
            mmelr.audit_labels(other, checkpoint.with_name('without.pth'))

    def test_damaged_votes(self, elr):
        cfg, checkpoint, _ = elr
        saved = torch.load(checkpoint, weights_only=False)
        saved['label_votes']['packed'] = saved['label_votes']['packed'][:5]
        torch.save(saved, checkpoint.with_name('damaged.pth'))
        with pytest.raises(ValueError, match='damaged.pth: its label_votes cannot be read'):
            mmelr.audit_labels(cfg, checkpoint.with_name('damaged.pth'))

    def test_nothing_in_a_checkpoint_is_executed(self, elr, tmp_path):
        class Hostile:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / 'executed'),)

        torch.save(dict(state_dict={}, label_votes=Hostile()), tmp_path / 'hostile.pth')
        with pytest.raises(ValueError, match='hostile.pth'):
            mmelr.audit_labels(elr[0], tmp_path / 'hostile.pth')
        assert not (tmp_path / 'executed').exists()
