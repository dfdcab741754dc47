"""What the tests of the doctor share: a toy data set, and measurements that are short."""

import pytest
from toy_dataset import write_toy_dataset

from tl_distributed.diagnosis import devices, measure

COUNTS = {"train": 24, "val": 6}


@pytest.fixture
def data_dir(tmp_path) -> str:
    return write_toy_dataset(tmp_path / "data", counts=COUNTS)


@pytest.fixture(autouse=True)
def _short_measurements(monkeypatch):
    monkeypatch.setattr(measure, "_SMALLEST_SIDE", 64)
    monkeypatch.setattr(measure, "_PRODUCT_SECONDS", 0.0)
    monkeypatch.setattr(measure, "_STEP_SECONDS", 1e-9)
    monkeypatch.setattr(devices, "_ALL_REDUCE_BYTES", {"CPU": 4000})
