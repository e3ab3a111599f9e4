"""The documentation says what is so: its snippets run, its links and paths exist, its reference is complete."""

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.registry import EVALUATOR, LOOPS, MODEL_WRAPPERS
from mmpretrain.registry import BATCH_AUGMENTS, DATA_SAMPLERS, DATASETS, HOOKS, MODELS

import mmelr
from mmelr.analysis import read_run
from mmelr.apis.switch import OPTIONS
from mmelr.registry import NOISES

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / 'docs'
PAGES = sorted([*ROOT.glob('README*.md'), *DOCS.glob('*.md')])
REFERENCE = DOCS / 'configuration.md'


def blocks(page, *languages):
    """Fenced code of a page as (language, code), without the fences."""
    found = re.findall(r'^```(\w*)\n(.*?)^```$', page.read_text(encoding='utf-8'), re.M | re.S)
    return [(language, code) for language, code in found if language in languages]


def prose(page):
    return re.sub(r'^```.*?^```$', '', page.read_text(encoding='utf-8'), flags=re.M | re.S)


def anchors(page):
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r'^#+ (.*)$', prose(page), re.M)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


def section(heading):
    """The text of the reference under a heading, up to the next."""
    found = re.search(rf'^### {heading}\n(.*?)(?=^##|\Z)', REFERENCE.read_text(encoding='utf-8'), re.M | re.S)
    assert found, f'{REFERENCE.name} has no section {heading}'
    return found[1]


def registered():
    """mmelr's own classes in the registries, without those that only the tools use (``mmelr.analysis``)."""
    registries = (NOISES, DATASETS, DATA_SAMPLERS, MODELS, BATCH_AUGMENTS, HOOKS, LOOPS, EVALUATOR, MODEL_WRAPPERS)
    parts = ('mmelr.noise.', 'mmelr.datasets.', 'mmelr.models.', 'mmelr.engine.')
    classes = {c for registry in registries for c in registry.module_dict.values() if c.__module__.startswith(parts)}
    return sorted(classes, key=lambda c: c.__name__)


def without_scopes(part):
    if isinstance(part, dict):
        return {k: without_scopes(v) for k, v in part.items() if k != '_scope_'}
    return [without_scopes(v) for v in part] if isinstance(part, list) else part


class TestLinks:
    @pytest.mark.parametrize('page', PAGES, ids=lambda p: str(p.relative_to(ROOT)))
    def test_relative_links_resolve(self, page):
        for link in re.findall(r'\]\(([^)\s]+)\)', prose(page)):
            if re.match(r'[a-z]+:', link):
                continue
            path, _, anchor = link.partition('#')
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), f'{page.name} links to {link}'
            if anchor and target.suffix == '.md':
                assert anchor in anchors(target), f'{page.name} links to {link}, which has no such heading'

    @pytest.mark.parametrize('page', PAGES, ids=lambda p: str(p.relative_to(ROOT)))
    def test_paths_of_configs_and_tools_exist(self, page):
        for path in re.findall(r'(?<!\w/)\b((?:configs|tools)/[\w./*-]*\w)', page.read_text(encoding='utf-8')):
            assert list(ROOT.glob(path)), f'{page.name} speaks of {path}'

    @pytest.mark.parametrize('page', PAGES, ids=lambda p: str(p.relative_to(ROOT)))
    def test_noise_on_command_lines_is_understood(self, page):
        # Whatever looks like noise, after --noise in a command or by itself; not file:..., a placeholder.
        text = page.read_text(encoding='utf-8')
        for word in re.findall(r'(?:symmetric|asymmetric|transition|instance|file):[\w.][\w.,=/:-]*', text):
            for noise in re.split(r',(?=[a-z]+:)', word):
                if noise.startswith('file:..'):
                    continue
                noise = noise.rstrip('.,:')
                if 'benchmark.py' in text and re.fullmatch(r'asymmetric:[\d.]+', noise):
                    noise += ',mapping=next'  # the benchmark knows its data sets' mappings
                mmelr.noise.parse_noise(noise)


class TestReference:
    @pytest.mark.parametrize('cls', registered(), ids=lambda c: c.__name__)
    def test_names_every_argument_and_its_default(self, cls):
        rows = dict(re.findall(r'^\| `(\w+)` \| [^|]+ \| ([^|]+) \|', section(cls.__name__), re.M))
        parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
        own = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        if cls.__init__ is object.__init__ or not own:
            assert 'No arguments.' in section(cls.__name__)
            return
        assert set(rows) >= {p.name for p in own}
        for p in own:
            expected = 'required' if p.default is p.empty else f'`{p.default!r}`'
            assert rows[p.name] == expected, f'{cls.__name__}.{p.name}'

    def test_finds_the_registered_classes(self):
        names = {c.__name__ for c in registered()}
        assert {'NoisyLabelDataset', 'ELRHead', 'MemorizationHook', 'LabelFile', 'ClassBalancedSampler'} <= names
        assert {'CoTrainingClassifier', 'CoTrainingRunner', 'ELRMixup', 'MemberEvaluator'} <= names
        [index] = re.findall(r'^\| for \| parts \|\n(.*?)\n\n', REFERENCE.read_text(encoding='utf-8'), re.M | re.S)
        assert set(re.findall(r'\[(\w+)\]', index)) == names

    def test_the_loss_and_the_memory(self):
        text = REFERENCE.read_text(encoding='utf-8')
        for cls in (mmelr.ELRLoss, mmelr.TargetMemory):
            parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
            call = ', '.join(p.name if p.default is p.empty else f'{p.name}={p.default!r}' for p in parameters)
            assert f'`mmelr.{cls.__name__}({call})`' in text

    def test_names_every_method_and_mapping(self):
        assert all(f'`{method}`' in REFERENCE.read_text(encoding='utf-8') for method in mmelr.METHODS)
        assert all(f'| `{name}` |' in section('AsymmetricNoise') for name in mmelr.noise.mappings.MAPPING_NAMES)

    def test_names_every_option_of_the_switch(self):
        [table] = re.findall(r'^\| option of .*?\n\n', REFERENCE.read_text(encoding='utf-8'), re.M | re.S)
        found = {method: set() for method in OPTIONS}
        for options, methods in re.findall(r'^\| (`.*?) \| (.*?) \|', table, re.M):
            for method in re.findall(r"`'(.*?)'`", methods):
                found[method] |= set(re.findall(r'`(\w+)`', options))
        assert found == {method: set(options) for method, options in OPTIONS.items()}

    def test_quotes_errors_as_the_code_words_them(self):
        texts = []
        for file in [*ROOT.glob('mmelr/**/*.py'), *ROOT.glob('tools/*.py')]:
            for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
        errors = REFERENCE.read_text(encoding='utf-8').split('## What errors mean')[1]
        quoted = [q for row in re.findall(r'^\| (`.*?`) \| ', errors, re.M) for q in re.split('`, `', row)]
        assert len(quoted) > 40
        for quote in quoted:
            message = quote.strip('` ')
            assert any(message in text for text in texts), f'no error says {message!r}'

    def test_lists_every_config_with_its_values(self):
        rows = re.findall(
            r'^\| \[`(\w+)`\]\([^)]+\) \| ([^|]+) \| (\S+) \| (\S+) \| (\d+) \|',
            REFERENCE.read_text(encoding='utf-8'),
            re.M,
        )
        assert sorted(row[0] for row in rows) == sorted(file.stem for file in ROOT.glob('configs/*.py'))
        for name, noise, beta, lam, epochs in rows:
            cfg = mmelr.load_config(str(ROOT / 'configs' / f'{name}.py'))
            drawn, head = cfg.train_dataloader.dataset.noise, cfg.model.get('network', cfg.model).head
            if drawn is None:
                says = 'as given'
            elif drawn.type == 'LabelFile':
                says = f'file, `{drawn.key}`'
            else:
                says = f'{drawn.type.removesuffix("Noise").lower()} {drawn.rate}'
            assert noise == says, name
            held_out = cfg.val_dataloader.dataset
            assert held_out.type != 'NoisyLabelDataset' or held_out.noise == drawn, name
            assert cfg.train_cfg.max_epochs == int(epochs), name
            assert (cfg.model.type == 'CoTrainingClassifier') == name.startswith('elr_plus'), name
            if head.type == 'ELRHead':
                assert (head.beta, head.lam) == (float(beta), float(lam)), name
            else:
                assert (beta, lam) == ('–', '–'), name

    def test_lists_what_elr_plus_adds_to_every_config(self):
        rows = re.findall(
            r'^\| `(elr_plus_\w+)` \| [^|]+ \| ([\d.]+) \| ([^|]+) \| ([\d.]+) \| ([^|]+) \|$',
            REFERENCE.read_text(encoding='utf-8'),
            re.M,
        )
        assert sorted(row[0] for row in rows) == sorted(file.stem for file in ROOT.glob('configs/elr_plus_*.py'))
        for name, gamma, warm_up, alpha, extras in rows:
            cfg = mmelr.load_config(str(ROOT / 'configs' / f'{name}.py'))
            [hook] = [hook for hook in cfg.custom_hooks if hook.type == 'ELREMAHook']
            assert cfg.custom_hooks.index(hook) == 5, 'as the table of --cfg-options says'
            assert hook.gamma == float(gamma), name
            says = 'bias correction' if hook.get('bias_correction') else f'ramp, {hook.ramp_up} steps'
            assert warm_up == says, name
            assert cfg.model.mixup.alpha == float(alpha), name
            said = []
            if cfg.model.get('lam_ramp_up'):
                said.append(f'λ ramp, {cfg.model.lam_ramp_up} steps')
            if cfg.model.get('reweight_labels'):
                said.append('labels reweighted')
            assert extras == ('; '.join(said) or '–'), name

    @pytest.mark.parametrize('method', ['elr', 'elr+'])
    def test_written_out_form_is_what_the_switch_makes(self, tmp_path, method):
        [code] = [
            code
            for _, code in blocks(REFERENCE, 'python')
            if code.startswith('_base_') and ('CoTrainingClassifier' in code) == (method == 'elr+')
        ]
        (tmp_path / 'written_out.py').write_text(code, encoding='utf-8')
        written = mmelr.load_config(str(tmp_path / 'written_out.py'))
        plain = mmelr.load_config(re.search(r"_base_ = '(.*)'", code)[1])
        switched = mmelr.apply_method(plain, method, 'symmetric:0.4,seed=0', beta=0.7, lam=3.0)
        assert without_scopes(written.to_dict()) == without_scopes(switched.to_dict())

    def test_options_of_the_command_line_reach_what_they_name(self):
        """Every option of the tables changes something that is there, in a config of ELR or of ELR+."""
        [text] = re.findall(
            r'^## Values from the command line\n(.*?)^## ', REFERENCE.read_text(encoding='utf-8'), re.M | re.S
        )
        plain, plus = text.split('With ELR+')
        # Mostly not in the config.
        new = {'model.train_cfg', 'model.head.memory_dtype', 'model.head.memory_storage', 'train_cfg.schedule'}
        new |= {'default_hooks.logger.live'}
        for words, name in ((plain, 'elr_digits'), (plus, 'elr_plus_digits')):
            options = re.findall(r'`([\w.]+)=(\S+?)`', ''.join(re.findall(r'^\| (`.*?) \|', words, re.M)))
            assert len(options) > 5
            for key, _ in options:
                part = mmelr.load_config(str(ROOT / 'configs' / f'{name}.py'))
                for step in key.split('.') if key not in new else ():
                    part = part[int(step) if isinstance(part, list) else step]


class TestSnippets:
    """Blocks of a page in one session, one after the other; one that begins with `# NAME.py` is a file of its own."""

    def run(self, codes, path, monkeypatch):
        monkeypatch.chdir(path)
        session = {'__name__': 'session'}
        for code in codes:
            exec(compile(code, 'snippet', 'exec'), session)
        return session

    def test_plain_pytorch(self, tmp_path, monkeypatch, capsys):
        codes = [c for _, c in blocks(DOCS / 'plain_pytorch.md', 'python') if not re.match(r'# \S+\.py\n', c)]
        session = self.run([c for c in codes if 'import timm' not in c], tmp_path, monkeypatch)
        assert session['accuracy'](session['model']) > 70
        found = session['suspect'] & session['wrong']
        assert found.sum() > 0.8 * session['wrong'].sum()
        pytest.importorskip('timm')
        [code] = [c for c in codes if 'import timm' in c]
        exec(compile(code, 'snippet', 'exec'), session)
        assert session['loss'].isfinite() and session['epoch'] == 1

    def test_method(self, tmp_path, monkeypatch):
        self.run([c for _, c in blocks(DOCS / 'method.md', 'python')], tmp_path, monkeypatch)

    def test_theory(self, tmp_path, monkeypatch, capsys):
        page = DOCS / 'theory.md'
        self.run([c for _, c in blocks(page, 'python')], tmp_path, monkeypatch)
        for line in capsys.readouterr().out.splitlines():
            step, projection, norm, fresh = line.split()
            says = f'{step}, {float(projection):.2f}, {float(norm):.1f} and {float(fresh):.3f}'
            assert says in page.read_text(encoding='utf-8')

    def test_configuration(self, monkeypatch, capsys):
        codes = [c for _, c in blocks(REFERENCE, 'python') if not c.startswith('_base_')]
        session = self.run(codes, ROOT, monkeypatch)
        assert session['cfg'].model.head.beta == session['plus'].model.network.head.beta == 0.9


def shell(command, folder):
    environment = os.environ | {
        'PATH': f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}', 'OMP_NUM_THREADS': '1'
    }  # fmt: skip
    done = subprocess.run(
        ['bash', '-euo', 'pipefail', '-c', command], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
class TestPagesFromEndToEnd:
    def write_files(self, page, folder):
        """The files of a page, and beside them the commands of the repository."""
        for name in ('configs', 'tools'):
            (folder / name).symlink_to(ROOT / name)
        for _, code in blocks(page, 'python'):
            if name := re.match(r'# (\S+\.py)\n', code):
                file = folder / name[1]
                file.parent.mkdir(exist_ok=True)
                file.write_text(code, encoding='utf-8')

    def test_own_dataset(self, tmp_path):
        page = DOCS / 'own_dataset.md'
        self.write_files(page, tmp_path)
        output = ''.join(shell(command, tmp_path) for _, command in blocks(page, 'bash'))
        suspects, wrong, found = map(int, re.search(r'(\d+) suspects; of (\d+) wrong labels (\d+)', output).groups())
        assert found > 0.8 * wrong and suspects < 1.2 * wrong
        assert 'disc_000.jpg disc' in output

    def test_label_audit(self, tmp_path):
        page = DOCS / 'label_audit.md'
        self.write_files(page, tmp_path)
        commands = [command for _, command in blocks(page, 'bash') if 'compare' not in command and 'pip' not in command]
        output = ''.join(shell(command, tmp_path) for command in commands if 'original' not in command)
        wrong, found = map(int, re.search(r'(\d+) are wrong; (\d+) of these are distrusted', output).groups())
        assert found > 0.9 * wrong
        accuracy = {
            name: read_run(tmp_path / 'work_dirs' / f'numerals{name}').final('accuracy/top1')
            for name in ('', '_noisy', '_cleaned')
        }
        assert accuracy['_cleaned'] > accuracy['_noisy'] + 10

    def test_configuration(self, tmp_path):
        self.write_files(REFERENCE, tmp_path)
        for _, command in blocks(REFERENCE, 'bash'):
            shell(command, tmp_path)

    def test_several_processes(self, tmp_path):
        self.write_files(DOCS / 'plain_pytorch.md', tmp_path)
        output = shell('torchrun --nproc-per-node 2 elr_ddp.py', tmp_path)
        assert 'the same averages on every rank: True' in output
