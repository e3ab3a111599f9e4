"""Small images on the device: the same batches as MMPretrain's pipeline makes, and the same runs."""

import copy
import gc
import pickle
import sys
from functools import partial

import mmcv
import numpy as np
import pytest
import torch
from mmcv.transforms import RandomFlip
from mmengine.runner import Runner
from mmpretrain.datasets import CIFAR10, CIFAR100
from mmpretrain.datasets.transforms import PackInputs, RandomCrop
from mmpretrain.registry import DATASETS, MODELS
from runs import ROOT, digits_config, memorization, train
from test_resume import assert_same, checkpoint, small_config

import mmelr
from mmelr.analysis import read_run
from mmelr.analysis.audit.evidence import AuditedRun
from mmelr.datasets import NoisyLabelDataset

PACK = [dict(type='PackInputs')]
AUGMENTED = [dict(type='RandomCrop', crop_size=32, padding=4), dict(type='RandomFlip', prob=0.5), *PACK]


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """CIFAR-10 and CIFAR-100 of random images in their own formats: 40 for training in each file, 40 to test."""
    rng = np.random.RandomState(0)
    for kind, key, classes in ((CIFAR10, 'labels', 10), (CIFAR100, 'fine_labels', 100)):
        (tmp_path / kind.base_folder).mkdir()
        for name, _ in kind.train_list + kind.test_list:
            n = 200 if name == 'train' else 40
            entry = {'data': rng.randint(256, size=(n, 3072)).astype(np.uint8), key: rng.randint(classes, size=n)}
            (tmp_path / kind.base_folder / name).write_bytes(pickle.dumps(entry | {key: entry[key].tolist()}))
        for files in ('train_list', 'test_list'):  # of these images MMPretrain knows no checksum
            monkeypatch.setattr(kind, files, [[name, None] for name, _ in getattr(kind, files)])
    return str(tmp_path)


@pytest.fixture
def pictures(tmp_path):
    """A folder of 12 files in two classes."""
    rng = np.random.RandomState(0)
    for i in range(12):
        mmcv.imwrite(rng.randint(256, size=(10, 12, 3)).astype(np.uint8), str(tmp_path / 'ab'[i % 2] / f'{i:02}.png'))
    return tmp_path


def folder(root, *pipeline, **more):
    pipeline = [dict(type='LoadImageFromFile'), *pipeline, *PACK]
    return dict(type='CustomDataset', data_root=str(root), with_label=True, pipeline=pipeline, **more)


def in_memory(dataset):
    return dict(dataset, type='InMemoryDataset', base=dataset['type'])


def put_in_memory(cfg):
    """The config with all images in memory."""
    cfg = copy.deepcopy(cfg)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        owner = loader if loader.dataset.type != 'NoisyLabelDataset' else loader.dataset
        owner.dataset = dict(in_memory(owner.dataset))
    cfg.data_preprocessor.type = 'InMemoryPreprocessor'
    return cfg


def loader(dataset, batch_size=16, shuffle=False, collate='default_collate', workers=0):
    sampler = dict(type='DefaultSampler', shuffle=shuffle)
    options = dict(batch_size=batch_size, num_workers=workers, collate_fn=dict(type=collate), sampler=sampler)
    return Runner.build_dataloader(dict(options, dataset=dataset), seed=0)


def preprocessor(kind='InMemoryPreprocessor', **options):
    return MODELS.build(dict(dict(type=kind, num_classes=100, mean=[120, 110, 100], std=[50, 60, 70]), **options))


def batches(dataset, training=True, options=None, **how):
    kind = 'InMemoryPreprocessor' if 'InMemoryDataset' in repr(dataset) else 'ClsDataPreprocessor'
    process = preprocessor(kind, **(options or {}))
    return [process(batch, training) for batch in loader(dataset, **how)]


def assert_same_batches(ours, theirs, ignore=()):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys() == {'inputs', 'data_samples'}
        assert torch.equal(a['inputs'], b['inputs']) and a['inputs'].dtype == b['inputs'].dtype
        for x, y in zip(a['data_samples'], b['data_samples'], strict=True):
            assert set(x.keys()) == set(y.keys())
            assert all(torch.equal(v, y.get(k)) and v.dtype == y.get(k).dtype for k, v in x.items())
            a_meta, b_meta = ({k: v for k, v in s.metainfo.items() if k not in ignore} for s in (x, y))
            assert a_meta == b_meta


# ---------------------------------------------------------------------------- batches


CIFAR = dict(type='CIFAR10', split='train', pipeline=PACK)
NOISY = dict(type='NoisyLabelDataset', noise='symmetric:0.4')


class TestWithoutAugmentation:
    """Whatever reaches the network is what reaches it today."""

    @pytest.mark.parametrize('collate', ['default_collate', 'pseudo_collate'])
    @pytest.mark.parametrize('wrap', [dict, partial(dict, NOISY)], ids=['bare', 'noisy'])
    @pytest.mark.parametrize('indices', [None, 50, -30, [7, 2, 2, 9]], ids=str)
    def test_parts_of_cifar(self, cifar, wrap, indices, collate):
        dataset = dict(CIFAR, data_root=cifar, indices=indices)
        make = (lambda d: wrap(dataset=d)) if wrap is not dict else dict
        ours, theirs = (batches(make(d), collate=collate) for d in (in_memory(dataset), dataset))
        assert_same_batches(ours, theirs, ignore=['sample_idx'] if wrap is dict and isinstance(indices, list) else [])

    @pytest.mark.parametrize('noise', ['symmetric:0.4', None])
    @pytest.mark.parametrize(
        'wrapper',
        [
            lambda d: dict(type='RepeatDataset', times=2, dataset=d),
            lambda d: dict(type='ConcatDataset', datasets=[dict(d, indices=30), dict(d, split='test', test_mode=True)]),
            lambda d: dict(type='KFoldDataset', fold=1, num_splits=5, seed=0, dataset=d),
        ],
        ids=['repeat', 'concat', 'kfold'],
    )
    def test_wrappers(self, cifar, wrapper, noise):
        dataset = wrapper(dict(CIFAR, data_root=cifar))
        make = partial(dict, NOISY, noise=noise)
        ours, theirs = (DATASETS.build(make(dataset=d)) for d in (in_memory(dataset), dataset))
        assert ours.get_gt_labels().tolist() == theirs.get_gt_labels().tolist()
        assert ours.record.fingerprint == theirs.record.fingerprint
        assert_same_batches(batches(ours), batches(theirs))
        if dataset['type'] == 'RepeatDataset':
            assert len(ours) == 400 and len(ours.dataset.table.images) == 200, 'an image is kept once'

    def test_files_and_transforms_before(self, pictures):
        dataset = folder(pictures, dict(type='Resize', scale=(8, 6)), dict(type='CenterCrop', crop_size=6))
        theirs = batches(dataset)
        assert theirs[0]['data_samples'][3].img_path.endswith('.png')
        assert_same_batches(batches(in_memory(dataset)), theirs)

    @pytest.mark.parametrize('options', [dict(to_rgb=True), dict(to_onehot=True), dict(pad_size_divisor=24)], ids=str)
    def test_options_of_the_preprocessor(self, cifar, options):
        dataset = dict(CIFAR, data_root=cifar)
        assert_same_batches(*(batches(d, options=options) for d in (in_memory(dataset), dataset)))

    def test_grey_images_with_a_border(self):
        pipeline = [dict(type='RandomCrop', crop_size=12, padding=2), *PACK]
        dataset = dict(type='Digits', pipeline=pipeline)
        state = np.random.get_state()[1].copy()
        options = dict(mean=[77.8], std=[95.9])
        ours = batches(in_memory(dataset), options=options)
        assert np.array_equal(np.random.get_state()[1], state), 'nothing was drawn where there is no choice'
        assert ours[0]['inputs'].shape == (16, 1, 12, 12)
        assert_same_batches(ours, batches(dataset, options=options), ignore=['img_shape'])

    def test_other_datasets_are_processed_as_ever(self, cifar):
        dataset = dict(CIFAR, data_root=cifar)
        theirs = batches(dataset)
        ours = [preprocessor()(batch, True) for batch in loader(dataset)]
        assert_same_batches(ours, theirs)

    def test_single_items(self, cifar):
        ours = DATASETS.build(dict(NOISY, dataset=in_memory(dict(CIFAR, data_root=cifar))))
        [batch] = ours.__getitems__([-1])
        item = ours[199]
        assert torch.equal(item['in_memory'], batch['in_memory'])
        assert item['data_samples'].all_keys() == batch['data_samples'].all_keys()
        assert item['data_samples'].sample_idx == batch['data_samples'].sample_idx == 199
        assert ours.get_data_info(199)['gt_label'] == item['data_samples'].gt_label.item()

    def test_samples_are_changed_alone(self, cifar):
        """They are made quickly, but each is its own."""
        [batch] = batches(in_memory(dict(CIFAR, data_root=cifar, indices=2)))
        first, second = batch['data_samples']
        first.set_pred_score(torch.rand(10))
        first.set_metainfo(dict(places=3))
        assert 'pred_score' not in second and 'places' not in second and second.get('places') is None
        assert 'img_path' not in first and first.to('cpu').gt_label.shape == (1,)


# ---------------------------------------------------------------------------- augmentation


def their_crops(image, crop, flip):
    """Every image that MMPretrain's two transforms can make of one, by what is drawn."""
    outcomes = {}
    high = [image.shape[i] + 2 * crop.padding - crop.crop_size[i] + 1 for i in (0, 1)]
    for top in range(high[0]):
        for left in range(high[1]):
            crop.rand_crop_params = lambda _, top=top, left=left: (top, left, *crop.crop_size)
            for flipped in (0, 1):
                flip._choose_direction = lambda flipped=flipped: 'horizontal' if flipped else None
                results = flip(crop(dict(img=image)))
                outcomes[top, left, flipped] = PackInputs()(results)['inputs']
    return outcomes


@pytest.fixture
def one_image(cifar):
    """An item of one CIFAR image 16,200 times, augmented, and what MMPretrain can make of it."""
    image = DATASETS.build(dict(CIFAR, data_root=cifar)).get_data_info(0)['img']
    leaf = dict(type='CIFAR10', split='train', data_root=cifar, indices=1, pipeline=AUGMENTED)
    dataset = dict(type='InMemoryDataset', base='RepeatDataset', times=16200, dataset=leaf)
    outcomes = their_crops(image, RandomCrop(32, padding=4), RandomFlip(0.5))
    return DATASETS.build(dict(NOISY, noise=None, dataset=dataset)), outcomes


def rows(dataset):
    """What is drawn for each item."""
    return torch.stack([item['in_memory'] for item in dataset.__getitems__(list(range(len(dataset))))])


class TestAugmentation:
    def test_every_outcome_is_theirs_pixel_by_pixel(self, one_image):
        dataset, outcomes = one_image
        dataset.set_augmentation_epoch(0, 0)
        drawn = rows(dataset)
        images = dataset.dataset.table.batch(drawn, 'cpu')
        for (top, left, flipped), image in zip(drawn[:, 2:].tolist(), images, strict=True):
            assert torch.equal(image, outcomes[top, left, flipped])
        assert {tuple(row) for row in drawn[:, 2:].tolist()} == set(outcomes) and len(outcomes) == 162

    @pytest.mark.parametrize('seeded', [True, False])
    def test_every_outcome_is_equally_likely(self, one_image, seeded):
        """Crop and flip together, so that they are independent of each other, too."""
        dataset, outcomes = one_image
        if seeded:
            dataset.set_augmentation_epoch(3, 5)
        _, counts = np.unique(rows(dataset)[:, 2:].numpy(), axis=0, return_counts=True)
        assert counts.sum() == 16200 and len(counts) == 162
        # 161 degrees of freedom: mean 161, standard deviation 17.9. As even as this by design would be wrong as well.
        assert 100 < ((counts - 100) ** 2 / 100).sum() < 230

    def test_draws_of_items_and_epochs_are_independent(self, one_image):
        dataset, _ = one_image
        drawn = []
        for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1)):
            dataset.set_augmentation_epoch(seed, epoch)
            drawn.append(rows(dataset)[:, 2:].double().numpy())
        series = [d[:, i] for d in drawn for i in range(3)] + [d[1:, i].tolist() + [0] for d in drawn for i in range(3)]
        correlation = np.corrcoef(series) - np.eye(len(series))
        assert np.abs(correlation).max() < 5 / np.sqrt(16200)

    def test_a_function_of_seed_epoch_and_item(self, cifar):
        dataset = dict(type='CIFAR10', split='train', data_root=cifar, pipeline=AUGMENTED)
        dataset = DATASETS.build(dict(NOISY, dataset=in_memory(dataset)))
        dataset.set_augmentation_epoch(0, 3)
        all_rows = rows(dataset)
        np.random.seed(99)
        state = np.random.get_state()[1].copy()
        backwards = torch.stack([dataset[i]['in_memory'] for i in range(199, -1, -1)])
        assert torch.equal(all_rows, backwards.flip(0)), 'in any order, one or many at a time'
        assert torch.equal(all_rows[-1], dataset[-1]['in_memory'])
        assert np.array_equal(np.random.get_state()[1], state), 'the random numbers of the main process are left alone'
        for seed, epoch in ((0, 4), (1, 3)):
            dataset.set_augmentation_epoch(seed, epoch)
            assert (rows(dataset) != all_rows).any(dim=1).double().mean() > 0.9
        dataset.set_augmentation_epoch(0, 3)
        assert torch.equal(rows(dataset), all_rows)

    def test_workers_draw_the_same(self, cifar):
        dataset = dict(NOISY, dataset=in_memory(dict(CIFAR, data_root=cifar, pipeline=AUGMENTED)))
        seen = []
        for workers in (0, 2):
            data = loader(dataset, workers=workers)
            data.dataset.set_augmentation_epoch(0, 1)
            process = preprocessor()
            seen.append([process(batch, True) for batch in data])
        assert_same_batches(*seen)

    @pytest.mark.parametrize(
        'crop',
        [
            dict(crop_size=(24, 20)),
            dict(crop_size=(36, 30), padding=(1, 2, 3, 4)),
            dict(crop_size=40, padding=(2, 1)),  # larger than the image with its border
        ],
        ids=str,
    )
    @pytest.mark.parametrize('direction', ['horizontal', 'vertical', 'diagonal'])
    @pytest.mark.parametrize('first', ['crop', 'flip'])
    def test_other_crops_and_flips(self, cifar, crop, direction, first):
        """Theirs is given what ours drew."""
        steps = [dict(type='RandomCrop', **crop), dict(type='RandomFlip', prob=0.5, direction=direction)]
        steps = steps if first == 'crop' else steps[::-1]
        ours = DATASETS.build(in_memory(dict(CIFAR, data_root=cifar, indices=20, pipeline=[*steps, *PACK])))
        plain = DATASETS.build(dict(CIFAR, data_root=cifar, indices=20))
        their_crop, their_flip = RandomCrop(**crop), RandomFlip(0.5, direction)
        size = their_crop(dict(img=plain.get_data_info(0)['img']))['img'].shape[:2]
        drawn = rows(ours)
        for image, row, i in zip(ours.table.batch(drawn, 'cpu'), drawn[:, 2:].tolist(), range(20), strict=True):
            (top, left), flipped = (row[:2], row[2]) if first == 'crop' else (row[1:], row[0])
            their_crop.rand_crop_params = lambda _, top=top, left=left: (top, left, *size)
            their_flip._choose_direction = lambda flipped=flipped: direction if flipped else None
            results = dict(img=plain.get_data_info(i)['img'])
            for transform in (their_crop, their_flip) if first == 'crop' else (their_flip, their_crop):
                results = transform(results)
            assert torch.equal(image, PackInputs()(results)['inputs'])

    def test_probability_of_a_flip(self, cifar):
        dataset = dict(CIFAR, data_root=cifar, pipeline=[dict(type='RandomFlip', prob=0.2), *PACK])
        dataset = DATASETS.build(dict(in_memory(dict(type='RepeatDataset', times=50, dataset=dataset))))
        assert rows(dataset)[:, 2].double().mean() == pytest.approx(0.2, abs=0.02)


# ---------------------------------------------------------------------------- runs


class TestRuns:
    @pytest.mark.parametrize('name', ['ce_digits', 'elr_digits', 'elr_plus_digits'])
    def test_bit_for_bit_the_run_of_the_pipeline(self, tmp_path, name):
        ways = dict(pipeline=False, memory=True)
        cfgs = [
            digits_config(tmp_path / folder, name, epochs=2, train=100, in_memory=way) for folder, way in ways.items()
        ]
        kinds = [(cfg.data_preprocessor.type, cfg.train_dataloader.dataset.dataset.type) for cfg in cfgs]
        assert kinds == [('ClsDataPreprocessor', 'Digits'), ('InMemoryPreprocessor', 'InMemoryDataset')]
        for cfg in cfgs:
            train(cfg)
        theirs, ours = (checkpoint(cfg.work_dir, 2)['state_dict'] for cfg in cfgs)
        assert_same(ours, theirs)  # nor is there an image among them
        assert memorization(cfgs[0].work_dir) == memorization(cfgs[1].work_dir)
        assert read_run(cfgs[0].work_dir).curves == read_run(cfgs[1].work_dir).curves
        if name == 'elr_digits':
            audits = [AuditedRun(cfg, cfg.work_dir) for cfg in cfgs]
            for (_, p), (_, q) in zip(*(audit.predictions('cpu') for audit in audits), strict=True):
                assert np.array_equal(p, q)

    def test_two_epochs_are_one_and_one(self, tmp_path):
        """With augmentation, and with another number of workers."""
        for name, epochs, workers in (('whole', 2, 0), ('parts', 1, 2), ('parts', 2, 0)):
            resume = (name, epochs) == ('parts', 2)
            torch.manual_seed(epochs + resume)
            np.random.seed(epochs + resume)
            train(put_in_memory(small_config(tmp_path / name, epochs=epochs, workers=workers, resume=resume)))
        assert_same(*(checkpoint(tmp_path / name, 2)['state_dict'] for name in ('whole', 'parts')))

    def test_the_way_back_for_other_transforms(self, tmp_path):
        """That of docs/performance.md, which the message points to."""
        page = (ROOT / 'docs' / 'performance.md').read_text()
        code = page.partition('# my/rotated_digits.py\n')[2].partition('```')[0].replace("'../", f"'{ROOT}/")
        inherited = code.replace("_delete_=True, type='Digits', split='train', ", '')
        assert code.count('_delete_') == 1 and '_delete_' not in inherited
        for name, text in (('mended.py', code), ('inherited.py', inherited)):
            (tmp_path / name).write_text(text)
        cfg = mmelr.load_config(tmp_path / 'inherited.py')
        with pytest.raises(TypeError, match='cannot run Rotate .* make the base the type .*with _delete_=True'):
            DATASETS.build(cfg.train_dataloader.dataset)
        cfg = mmelr.load_config(tmp_path / 'mended.py')
        cfg.update(work_dir=str(tmp_path / 'run'), log_level='ERROR', experiment_name=f'mended_{tmp_path.name}')
        cfg.train_cfg.max_epochs = 1
        runner = train(cfg)
        assert type(runner.train_dataloader.dataset.dataset).__name__ == 'Digits' and runner.iter == 23
        assert type(runner.model.data_preprocessor).__name__ == 'InMemoryPreprocessor'

    @pytest.mark.parametrize('name', ['elr_cifar10_asym', 'elr_plus_cifar10_sym', 'elr_cifar100_sym'])
    def test_configs_of_cifar(self, cifar, tmp_path, name):
        cfg = mmelr.load_config(ROOT / f'configs/{name}.py')
        cfg.work_dir, cfg.log_level, cfg.experiment_name = str(tmp_path / 'run'), 'ERROR', f'{name}_{tmp_path.name}'
        network = cfg.model.get('network', cfg.model)
        for part, size in (('train', 50), ('val', -20), ('test', 20)):
            dataset = cfg[f'{part}_dataloader'].dataset
            dataset = dataset.get('dataset', dataset)
            assert (dataset.type, dataset.base) == ('InMemoryDataset', 'CIFAR100' if '100' in name else 'CIFAR10')
            assert dataset.pipeline == (AUGMENTED_AS_PUBLISHED if part == 'train' else PACK)
            dataset.update(data_root=cifar, indices=size)
        assert cfg.data_preprocessor.type == 'InMemoryPreprocessor'
        shrink(network)
        cfg.train_cfg.max_epochs = 1
        runner = train(cfg)
        batch = next(iter(runner.train_dataloader))
        inputs = (runner.model.data_preprocessor)(batch, True)['inputs']
        assert inputs.shape == (50, 3, 32, 32) and inputs.dtype == torch.float32
        runner.test()

    def test_config_of_fashion_mnist(self):
        for name in ('elr_fashion_mnist', 'elr_plus_fashion_mnist_12800'):
            cfg = mmelr.load_config(ROOT / f'configs/{name}.py')
            dataset, held_out = cfg.train_dataloader.dataset.dataset, cfg.val_dataloader.dataset
            assert (dataset.type, dataset.base, held_out.base) == ('InMemoryDataset', 'FashionMNIST', 'FashionMNIST')
            assert [(t.type, t.get('crop_size'), t.get('padding')) for t in dataset.pipeline] == [
                ('RandomCrop', 32, 2), ('RandomFlip', None, None), ('PackInputs', None, None)
            ]  # fmt: skip
            assert held_out.pipeline == [dataset.pipeline[0], dataset.pipeline[2]]

    def test_the_switch_leaves_it_as_it_is(self):
        cfg = mmelr.load_config(ROOT / 'configs/ce_cifar10_sym.py')
        inner = copy.deepcopy(cfg.train_dataloader.dataset.dataset)
        for method in ('elr', 'elr+', 'ce'):
            cfg = mmelr.apply_method(cfg, method, noise='symmetric:0.2')
            assert cfg.train_dataloader.dataset.dataset == inner
            assert cfg.train_dataloader.dataset.noise == cfg.val_dataloader.dataset.noise
            assert cfg.data_preprocessor.type == 'InMemoryPreprocessor'

    def test_published_models_do_without(self):
        sys.path.insert(0, str(ROOT / 'tools'))
        try:
            from publish_model import plain_config
        finally:
            sys.path.pop(0)
        cfg = plain_config(mmelr.load_config(ROOT / 'configs/elr_cifar10_sym.py'), None)
        assert cfg.data_preprocessor.type == 'ClsDataPreprocessor' and 'custom_imports' not in cfg
        assert cfg.test_dataloader.dataset.type == 'CIFAR10' and 'base' not in cfg.test_dataloader.dataset

    @pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
    def test_nothing_waits_for_the_device(self, cifar):
        dataset = dict(NOISY, dataset=in_memory(dict(CIFAR, data_root=cifar, pipeline=AUGMENTED)))
        on_cpu, process = preprocessor(), preprocessor().to('cuda')
        data = list(loader(dataset))
        process(copy.deepcopy(data[0]), True)  # takes the images there
        torch.cuda.set_sync_debug_mode('error')
        try:
            there = [process(copy.deepcopy(batch), True) for batch in data]
        finally:
            torch.cuda.set_sync_debug_mode('default')
        for ours, batch in zip(there, data, strict=True):
            torch.testing.assert_close(ours['inputs'].cpu(), on_cpu(batch, True)['inputs'], rtol=0, atol=1e-6)


AUGMENTED_AS_PUBLISHED = [
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]


def shrink(network):
    """To an eighth of the width."""
    if network.backbone.type == 'PreActResNet':
        network.backbone.base_channels = 8
    else:
        network.backbone.update(depth=18, base_channels=8, stem_channels=8)
    network.head.in_channels = 64


# ---------------------------------------------------------------------------- what a user may meet


class TestRefusals:
    def build(self, root, *pipeline, **more):
        return DATASETS.build(in_memory(folder(root, *pipeline, **more)))

    def test_images_of_different_sizes(self, pictures):
        mmcv.imwrite(np.zeros((9, 12, 3), np.uint8), str(pictures / 'b/05.png'))
        with pytest.raises(ValueError, match=r'b/05\.png has the shape \(3, 9, 12\), .*a/00\.png \(3, 10, 12\)\. Put'):
            self.build(pictures)
        self.build(pictures, dict(type='Resize', scale=(8, 8)))

    @pytest.mark.parametrize(
        'pipeline, message',
        [
            ([dict(type='RandomResizedCrop', scale=8)], 'RandomResizedCrop .*random, and would be drawn once'),
            ([dict(type='ColorJitter', brightness=0.5)], 'ColorJitter .*random, and would be drawn once'),
            # These do not say that they are random.
            ([dict(type='Compose', transforms=[dict(type='ColorJitter', brightness=0.5)])], 'Compose .*random'),
            (
                [dict(type='NumpyToPIL'), dict(type='torchvision/RandomRotation', degrees=9), dict(type='PILToNumpy')],
                'TorchVis.*random',
            ),
            ([dict(type='RandomFlip', prob=0.5), dict(type='Resize', scale=8)], 'Resize .*behind a crop or a flip'),
            ([dict(type='RandomCrop', crop_size=8, pad_if_needed=True)], 'RandomCrop .*it has pad_if_needed'),
            ([dict(type='RandomCrop', crop_size=8, padding=1, pad_val=7)], 'RandomCrop .*or a pad_val'),
            ([dict(type='RandomFlip', prob=[0.5, 0.1], direction=['horizontal', 'vertical'])], 'RandomFlip .*than one'),
        ],
        ids=str,
    )
    def test_pipelines(self, pictures, pipeline, message):
        with pytest.raises(TypeError, match=f'InMemoryDataset cannot run {message}'):
            self.build(pictures, *pipeline)

    def test_what_the_pipeline_gives(self, pictures):
        dataset = in_memory(folder(pictures))
        with pytest.raises(TypeError, match='needs a pipeline that ends with PackInputs; .* with LoadImageFrom'):
            DATASETS.build(dataset | dict(pipeline=dataset['pipeline'][:-1]))
        floats = [dict(type='LoadImageFromFile', to_float32=True), *PACK]
        with pytest.raises(TypeError, match=r'8 bits, .*a/00\.png comes out of the pipeline as torch\.float32 \(3, 10'):
            DATASETS.build(dataset | dict(pipeline=floats))

    def test_different_pipelines_inside(self, cifar):
        leaf = dict(CIFAR, data_root=cifar)
        both = dict(type='ConcatDataset', datasets=[leaf, dict(leaf, pipeline=AUGMENTED)])
        with pytest.raises(TypeError, match='ConcatDataset have different pipelines'):
            DATASETS.build(in_memory(both))

    def test_wrappers_outside(self, cifar):
        outside = dict(type='RepeatDataset', times=2, dataset=in_memory(dict(CIFAR, data_root=cifar)))
        with pytest.raises(TypeError, match='InMemoryDataset'):
            NoisyLabelDataset(outside)

    @pytest.mark.parametrize('collate', ['default_collate', 'pseudo_collate'])
    def test_another_preprocessor(self, cifar, collate):
        [batch, *_] = loader(in_memory(dict(CIFAR, data_root=cifar)), collate=collate)
        with pytest.raises(TypeError, match="data_preprocessor=dict.type='InMemoryPreprocessor'"):
            preprocessor('ClsDataPreprocessor')(batch, True)

    def test_images_that_are_gone(self, cifar):
        [batch, *_] = loader(in_memory(dict(CIFAR, data_root=cifar)))
        gc.collect()
        with pytest.raises(KeyError, match='The images of this batch are not in this process'):
            preprocessor()(batch, True)

    def test_two_datasets_in_a_batch(self, cifar):
        leaf = in_memory(dict(CIFAR, data_root=cifar, indices=10))
        data = loader(dict(type='ConcatDataset', datasets=[leaf, leaf]), batch_size=20)
        [batch] = data
        with pytest.raises(ValueError, match='ConcatDataset inside'):
            preprocessor()(batch, True)
