from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = {}
exec((here / 'mmelr' / 'version.py').read_text(), version)

# mmcv is left out of `openmmlab`: whoever has the full mmcv must not get mmcv-lite over it. Both provide `import mmcv`.
# MMEngine 0.10 imports pkg_resources, which setuptools 81 dropped. torch and torchvision must be a matched pair.
openmmlab = ['mmengine>=0.10.0,<1', 'mmpretrain>=1.2.0,<2', 'torchvision', 'setuptools<81']
lite = openmmlab + ['mmcv-lite>=2.0.0,<2.4']

setup(
    name='mmelr',
    version=version['__version__'],
    description='Train MMPretrain image classifiers on noisy labels with Early-Learning Regularization (ELR)',
    long_description=(here / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author='The mmelr authors',
    license='Apache-2.0',
    license_files=['LICENSE'],
    packages=find_packages(include=['mmelr', 'mmelr.*']),
    package_data={'mmelr.analysis.audit': ['report.html']},
    python_requires='>=3.10',
    install_requires=['torch>=2.6', 'numpy'],
    extras_require=dict(
        openmmlab=openmmlab,
        lite=lite,
        demo=['scikit-learn', 'matplotlib'],
        test=['pytest', 'pytest-xdist', 'ruff', 'tensorboard', 'timm'],
        browser=['playwright'],  # and a Chromium of the system
        docs=['sphinx', 'docutils', 'myst-parser', 'furo', 'math-core', 'ziamath'],  # make docs
        cleanlab=['cleanlab'],  # to compare with: tools/compare_audits.py
    ),
    keywords=['noisy labels', 'early-learning regularization', 'image classification', 'MMPretrain', 'PyTorch'],
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
)
