"""The start of a run on several workers: who downloads, and when the others go on."""

import contextlib
import types

import pytest

from tl_distributed.models.backbones import get_backbone
from tl_distributed.runtime.workers import Workers
from tl_distributed.settings.config import Config
from tl_distributed.training import start


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
        (0, "imagenet", ["download", "all are here", "model"]),
        (1, "imagenet", ["all are here", "model"]),
        (1, "none", ["model"]),
        (0, "runs/other", ["model"]),
    ],
)
def test_the_chief_downloads_before_the_others_look(index, weights, expected, monkeypatch):
    log: list[str] = []
    monkeypatch.setattr(start, "build_backbone", lambda *_, **__: log.append("download"))
    monkeypatch.setattr(start, "build_model", lambda *_, **__: log.append("model"))
    strategy = types.SimpleNamespace(scope=contextlib.nullcontext)
    runtime = types.SimpleNamespace(workers=_Two(index, log), strategy=strategy)
    config = Config(backbone="mobilenet_v2", weights=weights).resolved(native_size=32)
    start.start_model(config, get_backbone("mobilenet_v2"), runtime, num_classes=3, load_weights=True)
    assert log == expected
