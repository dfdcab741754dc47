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
        return types.SimpleNamespace(weights=[])

    monkeypatch.setattr(start, "build_backbone", lambda *_, **__: log.append("download"))
    monkeypatch.setattr(start, "build_model", build_model)
    _start(weights, _Two(index, log))
    assert log == expected


def _start(weights: str, workers: Workers) -> None:
    runtime = types.SimpleNamespace(workers=workers, strategy=types.SimpleNamespace(scope=contextlib.nullcontext))
    config = Config(backbone="mobilenet_v2", weights=weights).resolved(native_size=32)
    start.start_model(config, get_backbone("mobilenet_v2"), runtime, num_classes=3, load_weights=True)


class _OfDisksOfTheirOwn(Workers):
    """The other worker has read other weights under the same name."""

    count = 2

    def exchange(self, topic, value):
        return [value, dict.fromkeys(value, "others")]


def test_workers_that_read_other_weights_are_refused(monkeypatch):
    weight = keras.Variable([1.0, 2.0], name="kernel")
    monkeypatch.setattr(start, "build_model", lambda *_, **__: types.SimpleNamespace(weights=[weight]))
    with pytest.raises(UserError, match=r"worker 1 has weights of SHA-256 others, .*the same file \(--weights\)"):
        _start("runs/other", _OfDisksOfTheirOwn())
    _start("none", _OfDisksOfTheirOwn())  # made by the strategy, which gives all the chief's


def test_workers_with_other_code_of_ones_own_are_refused(monkeypatch):
    monkeypatch.setattr(run, "join_workers", lambda *_: _OfDisksOfTheirOwn())
    with pytest.raises(UserError, match=r"worker 1 has a source of own_networks .*the same modules"):
        run.train_and_evaluate(Config(plugin=("own_networks",)))
