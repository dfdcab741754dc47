"""Which bank a run takes: one of the same code as its own layers', in a folder that all workers see."""

import dataclasses
import importlib
import json
import pathlib
import re
import sys

import engine
import keras
import pytest
from toy_dataset import write_toy_dataset

from tl_distributed.bank import build as bank_build
from tl_distributed.bank.build import FeatureSettings
from tl_distributed.bank.choice import layout_of
from tl_distributed.bank.cut import cut_at_frozen
from tl_distributed.bank.phase import BankOfRun, open_banks
from tl_distributed.bank.settings import BankSettings
from tl_distributed.data.dataset import load_splits
from tl_distributed.data.records import read_manifest
from tl_distributed.data.settings import DataSettings
from tl_distributed.errors import UserError
from tl_distributed.models.freezing import freeze_for
from tl_distributed.models.heads import build_classifier
from tl_distributed.runtime import shared_files
from tl_distributed.runtime.preemption import StopRequest
from tl_distributed.runtime.workers import Workers

OWN_LAYER = """
import keras

class Times(keras.layers.Layer):
    def call(self, x):
        return x * {factor}
"""


@pytest.fixture
def data_dir(tmp_path):
    return write_toy_dataset(tmp_path / "toy", counts={"train": 60, "val": 18, "test": 21})


@pytest.fixture
def folder_of_network(data_dir, tmp_path, monkeypatch):
    """Returns a function from a network to the folder of its validation bank, which is not built."""
    monkeypatch.setattr(bank_build.BankBuilder, "build", lambda *_, **__: None)
    info, where = read_manifest(data_dir), engine.runtime()
    val = load_splits(data_dir, info, ("val",), input_mode="memory")
    settings = BankSettings(feature_bank="on", bank_mode="disk", bank_dir=str(tmp_path / "banks"))
    features = FeatureSettings(image_size=16, normalization="tf", augment=None, seed=0)
    run = BankOfRun(settings=settings, data=DataSettings(data_dir=data_dir), info=info, features=features, batch_size=8)

    def folder(network: keras.Model, workers: Workers | None = None) -> str:
        model = build_classifier(network, num_classes=3, pooling="avg", head_units=(), dropout=0.0)
        freeze_for(model, "frozen", unfreeze_last_layers=0, unfreeze_from="")
        cut, runtime = cut_at_frozen(model), dataclasses.replace(where, workers=workers or Workers())
        return open_banks(cut, layout_of(cut, "auto"), run, val, runtime=runtime, stop=StopRequest(Workers()))[1]["val"]

    return folder


def test_a_bank_is_of_the_code_of_ones_own_layers(folder_of_network, tmp_path, monkeypatch):
    """No config of a model says what such a layer computes."""
    monkeypatch.syspath_prepend(tmp_path)

    def folder(factor: int | None) -> str:
        """Returns that of the bank; `None` is of no layer of one's own."""
        inputs = x = keras.Input((16, 16, 3), name="image")
        x = keras.layers.Conv2D(4, 3, kernel_initializer="ones", name="conv")(x)
        if factor is not None:
            (tmp_path / "own_layer_of_bank.py").write_text(OWN_LAYER.format(factor=factor))
            sys.modules.pop("own_layer_of_bank", None)
            importlib.invalidate_caches()
            x = importlib.import_module("own_layer_of_bank").Times(name="times")(x)
        return folder_of_network(keras.Model(inputs, x, name="net"))

    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # whose files tell sources of one second apart by size alone
    assert folder(2) == folder(2) != folder(3)
    assert "own_sources" not in json.loads((pathlib.Path(folder(None)) / "bank.json").read_text())


class _Second(Workers):
    index, count = 1, 2

    def exchange(self, topic, value):
        return [value, value]


def test_a_bank_that_not_all_workers_see_is_named(folder_of_network, monkeypatch):
    monkeypatch.setattr(shared_files, "_VISIBLE_SECONDS", 0.0)
    inputs = keras.Input((16, 16, 3), name="image")
    network = keras.Model(inputs, keras.layers.Conv2D(4, 3, kernel_initializer="ones", name="conv")(inputs), name="net")
    with pytest.raises(
        UserError, match=r"worker 1 does not see .*bank\.json, .*put --bank_dir on a file system that all"
    ):
        folder_of_network(network, _Second())
    folder = folder_of_network(network)  # of an earlier run, on this worker's own disk
    with pytest.raises(
        UserError, match=rf"does not see {re.escape(folder)}/val-.*tfrecord, which another worker wrote"
    ):
        folder_of_network(network, _Second())
