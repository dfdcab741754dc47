"""Shared fixtures. The CPU is split into a host and four devices once, before anything touches it.

With TL_DISTRIBUTED_TEST_GPU=1 the engine's replicas are four parts of the first GPU instead; see `support/replicas.py`.
"""

import gc
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if os.environ.get("TL_DISTRIBUTED_TEST_GPU") != "1":
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # the suite compares numbers with the CPU's

import pytest

import tl_distributed  # noqa: F401  (before TensorFlow: which kernels it takes)

REPO = pathlib.Path(__file__).resolve().parent.parent
_WITHOUT_CHARTS = (
    "api/", "bank/", "campaigns/", "data/", "inference/", "models/", "reporting/test_trackers", "runtime/", "settings/",
    "training/",
)  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Splits the devices; a process can do that only before its first TensorFlow operation."""
    from replicas import split_devices
    from tiny_backbone import register_tiny_backbones

    split_devices()
    register_tiny_backbones()
    gc.freeze()  # the modules of TensorFlow and Keras need not be looked through again and again
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(autouse=True)
def _float32_policy():
    """Each test begins and ends with Keras's default precision."""
    import keras

    keras.config.set_dtype_policy("float32")
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture(autouse=True, scope="module")
def _charts(request: pytest.FixtureRequest):
    """Charts are drawn by the tests that are about them, and wherever a command runs as a process of its own."""
    if not request.path.relative_to(REPO / "tests").as_posix().startswith(_WITHOUT_CHARTS):
        yield
        return
    from blank_charts import blank_charts

    with blank_charts():
        yield


@pytest.fixture(scope="session")
def real_data_dir() -> pathlib.Path:
    """Folder of the CIFAR-10 images and ImageNet weights; skips without it, but fails in CI."""
    folder = pathlib.Path(os.environ.get("TL_DISTRIBUTED_TEST_DATA", REPO.parent / "shared" / "data"))
    if not (folder / "cifar10_images.tar.gz").exists():
        message = f"no real data in {folder}; name its folder in TL_DISTRIBUTED_TEST_DATA"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return folder
