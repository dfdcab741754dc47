"""Packaging; tool settings are in pyproject.toml."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).resolve().parent
VERSION = re.search(r'__version__ = "([^"]+)"', (ROOT / "tl_distributed/__init__.py").read_text())[1]

setup(
    name="tl_distributed",
    version=VERSION,
    description="Transfer learning with keras.applications backbones: tf.distribute, XLA and mixed precision at once",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["tl_distributed*", "data_prep*"]),
    package_data={
        "tl_distributed": ["recipes/*.flags", "notebooks/*.ipynb", "py.typed", "__init__.pyi"],
        "tl_distributed.reporting.page": ["*.css", "*.js", "templates/*.j2", "vendor/*"],
    },
    entry_points={
        "console_scripts": [
            "tl-build = data_prep.build_tfrecords:run",
            "tl-verify = data_prep.verify_tfrecords:run",
            "tl-fetch-weights = data_prep.fetch_weights:run",
            "tl-train = tl_distributed.train:run",
            "tl-rank = tl_distributed.rank:run",
            "tl-study = tl_distributed.study:run",
            "tl-predict = tl_distributed.predict:run",
            "tl-evaluate = tl_distributed.evaluate:run",
            "tl-export = tl_distributed.export:run",
            "tl-inspect = tl_distributed.inspect_features:run",
            "tl-benchmark = tl_distributed.benchmark:run",
            "tl-doctor = tl_distributed.doctor:run",
        ],
    },
    python_requires=">=3.10,<3.14",
    install_requires=[
        "tensorflow>=2.20,<2.22",
        "keras>=3.12,<4",
        "tensorflow-datasets>=4.9.9",
        "absl-py>=2.1",
        "numpy>=1.26",
        "tensorboard>=2.20,<2.22",
        "matplotlib>=3.9",
        "crc32c>=2.4",  # hardware checksums of records in disk mode
        "jinja2>=3.1",
        "scikit-learn>=1.5",
        "scipy>=1.13",
        "threadpoolctl>=3.1",
        "tqdm>=4.66",
        "pillow>=10.3",
        "psutil>=5.9",
        "importlib_resources>=5",  # TFDS imports it without declaring it (tensorflow/datasets#11212)
    ],
    extras_require={
        "gpu": ["tensorflow[and-cuda]>=2.20,<2.22"],
        "hub": ["keras-hub>=0.32,<0.33"],
        "beam": ["apache-beam>=2.70,<3"],
        "litert": ["ai-edge-litert>=1.3"],  # runs .tflite; without it TensorFlow's own interpreter does
        "onnx": ["onnx>=1.17", "onnxruntime>=1.20", "tf2onnx>=1.16.1"],
        "mlflow": ["mlflow>=2.16"],
        "wandb": ["wandb>=0.19"],
        "notebook": ["jupyterlab>=4"],
        "docs": ["sphinx>=8", "myst-nb>=1.2", "pydata-sphinx-theme>=0.16"],
        "bench": ["torch>=2.6", "timm>=1.0", "tf_keras>=2.20,<2.22", "jax>=0.5", "grain>=0.2.12"],
        "dev": ["pytest>=8", "pytest-xdist>=3.6", "ruff>=0.6", "nbclient>=0.10", "nbformat>=5.10", "ipykernel>=6.29"],
    },
)
