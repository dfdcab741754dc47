"""A finished study that several files of tests look at."""

import pytest
from report_study import write_study
from toy_dataset import write_toy_dataset


@pytest.fixture(scope="package")
def data_dir(tmp_path_factory):
    counts = {"train": 120, "val": 30, "test": 300}
    return write_toy_dataset(tmp_path_factory.mktemp("study") / "toy", counts=counts, size=8)


@pytest.fixture(scope="package")
def study(data_dir, tmp_path_factory):
    """Of `report_study.write_study`."""
    return write_study(data_dir, str(tmp_path_factory.mktemp("report")))
