"""The start of a run on several workers: who downloads, and when the others go on."""

import contextlib
import types

import keras
import pytest

from tl_distributed.errors import UserError
from tl_distributed.models.backbones import get_backbone
from tl_distributed.runtime.workers import Workers
from tl_distributed.settings.config import Config
from tl_distributed.training import run, start


class _Two(Workers):
    count = 2

    def __init__(self, index: int, log: list[str]):
        self.index, self._log = index, log

    def exchange(self, topic, value):
        self._log.append("all are here")
        return [value] * 2


@pytest.mark.parametrize(
    ("index", "weights", "expected"),
    [
        (0, "imagenet", ["download", "all are here", "model", "all are here"]),
        (1, "imagenet", ["all are here", "model", "all are here"]),
        (1, "none", ["model"]),
        (0, "runs/other", ["model", "all are here"]),
    ],
)
def test_the_chief_downloads_before_the_others_look(index, weights, expected, monkeypatch):
    log: list[str] = []

    def build_model(*_, **__):
        log.append("model")
        return keras.Sequential()

    monkeypatch.setattr(start, "build_backbone", lambda *_, **__: log.append("download"))
    monkeypatch.setattr(start, "build_model", build_model)
    _start(weights, _Two(index, log))
    assert log == expected


def _start(weights: str, workers: Workers, **changes) -> None:
    strategy = types.SimpleNamespace(scope=contextlib.nullcontext)
    runtime = types.SimpleNamespace(workers=workers, strategy=strategy, num_replicas=workers.count)
    config = Config(backbone="mobilenet_v2", weights=weights, **changes).resolved(native_size=32)
    start.start_model(config, get_backbone("mobilenet_v2"), runtime, num_classes=3, load_weights=True)


def test_statistics_of_all_replicas_are_refused_where_they_would_train(monkeypatch):
    """Keras sums them within the layer, in a program that is traced for one replica: it would end in a stack trace."""
    inner = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.BatchNormalization(synchronized=True, name="norm")])
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, inner(inputs))
    monkeypatch.setattr(start, "build_model", lambda *_, **__: model)
    with pytest.raises(UserError, match=r"layer norm: .* trains on one replica alone"):
        _start("none", _Two(0, []))
    _start("none", Workers())
    for transfer in ("frozen", "two_phase"):
        _start("runs/other", _Two(0, []), transfer=transfer)


class _OfDisksOfTheirOwn(Workers):
    """The other worker has read other weights under the same name."""

    count = 2

    def exchange(self, topic, value):
        return [value, dict.fromkeys(value, "others")]


def test_workers_that_read_other_weights_are_refused(monkeypatch):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    monkeypatch.setattr(start, "build_model", lambda *_, **__: model)
    with pytest.raises(UserError, match=r"worker 1 has weights of SHA-256 others, .*the same file \(--weights\)"):
        _start("runs/other", _OfDisksOfTheirOwn())
    _start("none", _OfDisksOfTheirOwn())  # made by the strategy, which gives all the chief's


def test_workers_with_other_code_of_ones_own_are_refused(monkeypatch):
    monkeypatch.setattr(run, "join_workers", lambda *_: _OfDisksOfTheirOwn())
    with pytest.raises(UserError, match=r"worker 1 has a source of own_networks .*the same modules"):
        run.train_and_evaluate(Config(plugin=("own_networks",)))
