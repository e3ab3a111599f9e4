"""A short form of ``tests/fuzz.py``, and that it finds what it is there to find."""

import os
import pickle
import time

import numpy as np
import pytest
from fuzz import fuzz
from fuzz_loaders import LOADERS, Labels

INPUTS = 250


@pytest.mark.parametrize('name', [name for name in LOADERS if name != 'resume'])  # for which a run has to be trained
def test_no_defect(name):
    counts, defects = fuzz(LOADERS[name], 0, list(range(INPUTS)))
    assert not defects, '\n'.join(defects)
    # The inputs are neither all refused at the door nor all harmless.
    assert counts.total() == INPUTS and counts['accepted'] and counts['refused'] > INPUTS / 4


def refuse(words):
    raise ValueError(f'some file.npy: {words}')


def run_pickle(data):
    try:
        return pickle.loads(data)
    except Exception as error:
        refuse(error)


WRONG = {
    'no name': (lambda data: int('x'), 'the error does not name the file'),
    'another error': (lambda data: [][1], 'IndexError'),
    'a long message': (lambda data: refuse('x' * 3000), 'characters'),
    'a hang': (lambda data: time.sleep(1000), 'more than 1 seconds'),
    'a loop in C': (lambda data: sum(range(10**12)), 'more than 3 seconds in one call'),
    'a crash': (lambda data: os.kill(os.getpid(), 9), 'the interpreter died with exit code -9'),
    'memory': (lambda data: refuse(np.ones(3 * 2**24).sum()), 'MB of memory'),
    'pickles': (run_pickle, 'code ran'),
    'eval': (lambda data: eval('1 + 1'), 'code ran'),
    'wrong labels': (lambda data: np.arange(40), 'AssertionError'),
}


@pytest.mark.parametrize('wrong', WRONG)
def test_a_wrong_loader_is_found(wrong, monkeypatch):
    read, words = WRONG[wrong]

    class Wrong(Labels):
        """Reads valid files, and does something wrong with all others."""

        def load(self, path):
            data = path.read_bytes() if path.is_file() else b''
            return super().load(path) if data in self.valid().values() else read(data)

    if wrong in ('a hang', 'a loop in C'):  # the others may take their time on a busy machine
        monkeypatch.setattr('fuzz.SECONDS', 1)
    monkeypatch.setattr('fuzz.MEMORY', 2**28)
    loader = Wrong('.npy')
    # Of the even numbers many are malicious.
    _, defects = fuzz(loader, 0, list(range(0, 100, 2)) if wrong == 'pickles' else [1])
    assert any(words in defect for defect in defects), defects


def test_an_input_is_the_same_again():
    seen = [[], []]
    fuzz(LOADERS['labels.txt'], 5, list(range(40)), seen[0].append)
    fuzz(LOADERS['labels.txt'], 5, [17], seen[1].append)
    assert seen[1][0].split(': ')[:3] == seen[0][17].split(': ')[:3]
