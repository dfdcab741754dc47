"""What the command says when a run is done."""

import importlib
import shlex
from types import SimpleNamespace

from tl_distributed.settings.config import Config

train = importlib.import_module("tl_distributed.train")  # the name in the package is the function


def test_the_line_that_shows_the_charts_can_be_pasted(monkeypatch, capsys):
    results = {"workdir": "runs/my photos (2)", "num_examples": {}}
    monkeypatch.setattr(train, "train_with", lambda config: SimpleNamespace(results=results))
    train.main(Config(), [])
    line = capsys.readouterr().out.splitlines()[-1]
    assert shlex.split(line[line.index("tensorboard") :]) == ["tensorboard", "--logdir", "runs/my photos (2)"]
