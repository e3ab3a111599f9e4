"""Named tables of which class is mistaken for which, for asymmetric noise."""

from __future__ import annotations

from .checks import check_num_classes

_CIFAR10_CLASSES = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')

# Patrini et al. 2017, and the ELR paper's appendix.
_CIFAR10_PAIRS = (('truck', 'automobile'), ('bird', 'airplane'), ('deer', 'horse'), ('cat', 'dog'), ('dog', 'cat'))

# Patrini et al. 2017: digits that look alike.
_MNIST = {2: 7, 3: 8, 5: 6, 6: 5, 7: 1}

_CIFAR100_SUPERCLASSES = {
    'aquatic mammals': 'beaver dolphin otter seal whale',
    'fish': 'aquarium_fish flatfish ray shark trout',
    'flowers': 'orchid poppy rose sunflower tulip',
    'food containers': 'bottle bowl can cup plate',
    'fruit and vegetables': 'apple mushroom orange pear sweet_pepper',
    'household electrical devices': 'clock keyboard lamp telephone television',
    'household furniture': 'bed chair couch table wardrobe',
    'insects': 'bee beetle butterfly caterpillar cockroach',
    'large carnivores': 'bear leopard lion tiger wolf',
    'large man-made outdoor things': 'bridge castle house road skyscraper',
    'large natural outdoor scenes': 'cloud forest mountain plain sea',
    'large omnivores and herbivores': 'camel cattle chimpanzee elephant kangaroo',
    'medium-sized mammals': 'fox porcupine possum raccoon skunk',
    'non-insect invertebrates': 'crab lobster snail spider worm',
    'people': 'baby boy girl man woman',
    'reptiles': 'crocodile dinosaur lizard snake turtle',
    'small mammals': 'hamster mouse rabbit shrew squirrel',
    'trees': 'maple_tree oak_tree palm_tree pine_tree willow_tree',
    'vehicles 1': 'bicycle bus motorcycle pickup_truck train',
    'vehicles 2': 'lawn_mower rocket streetcar tank tractor',
}


def _cifar10() -> dict[int, int]:
    index = {name: i for i, name in enumerate(_CIFAR10_CLASSES)}
    return {index[source]: index[target] for source, target in _CIFAR10_PAIRS}


def _cifar100() -> dict[int, int]:
    superclasses = [names.split() for names in _CIFAR100_SUPERCLASSES.values()]
    # CIFAR-100's fine labels are the alphabetical order of the hundred names.
    index = {name: i for i, name in enumerate(sorted(sum(superclasses, [])))}
    return _circular([[index[name] for name in names] for names in superclasses])


def _cifar100_blocks() -> dict[int, int]:
    # What the ELR authors' published code does. Blocks of five consecutive indices are *not*
    # CIFAR-100's superclasses: they are five neighbours in the alphabet.
    return _circular([list(range(start, start + 5)) for start in range(0, 100, 5)])


def _circular(groups: list[list[int]]) -> dict[int, int]:
    return {c: group[(i + 1) % len(group)] for group in groups for i, c in enumerate(group)}


# Name -> (its number of classes, the function that builds it).
_FIXED = {
    'cifar10': (10, _cifar10),
    'cifar100': (100, _cifar100),
    'cifar100_blocks': (100, _cifar100_blocks),
    'mnist': (10, lambda: dict(_MNIST)),
}
MAPPING_NAMES = (*_FIXED, 'next')


def check_mapping_name(name: str) -> None:
    """Raises ValueError unless ``name`` is a known mapping."""
    if name not in MAPPING_NAMES:
        raise ValueError(
            f'unknown mapping {name!r}; known are {", ".join(MAPPING_NAMES)}, or give a dict {{class: class}}'
        )


def get_mapping(name: str, num_classes: int) -> dict[int, int]:
    """Builds a named mapping from each class that is mistaken to the class it is mistaken for.

    Args:
        name (str): One of

            - ``'cifar10'``: truck to automobile, bird to airplane, deer to horse, cat to dog and
              dog to cat (Patrini et al. 2017; the ELR paper).
            - ``'cifar100'``: each class to the next within its superclass, circularly (the ELR
              paper's description), in the order of the label indices.
            - ``'cifar100_blocks'``: the same within blocks of five consecutive label indices,
              as in the ELR authors' published code. Those are not the superclasses.
            - ``'mnist'``: 2 to 7, 3 to 8, 5 to 6, 6 to 5, 7 to 1 (Patrini et al. 2017).
            - ``'next'``: c to c + 1 modulo the number of classes, for any data set ("pair flip").
        num_classes (int): Number of classes of the data set.

    Returns:
        dict[int, int]: The mapping. Classes that are never mistaken are not in it.

    Raises:
        ValueError: If the name is unknown, or made for another number of classes.
    """
    check_mapping_name(name)
    check_num_classes(num_classes)
    if name == 'next':
        return _circular([list(range(num_classes))])
    expected, build = _FIXED[name]
    if num_classes != expected:
        raise ValueError(
            f'mapping {name!r} is for {expected} classes, but the data set has '
            f"{num_classes}: use 'next' or give a dict {{class: class}}"
        )
    return build()
