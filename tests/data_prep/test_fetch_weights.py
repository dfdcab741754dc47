"""Fetching ImageNet weights: what is written, what is skipped, what a failing network says. Nothing is downloaded."""

import json
import pathlib
import subprocess
import sys
import urllib.error

import keras
import numpy as np
import pytest
import tensorflow as tf

from data_prep.fetch_weights import FetchConfig, fetch, main
from tl_distributed.errors import UserError
from tl_distributed.models.backbones import get_backbone
from tl_distributed.models.build import build_backbone
from tl_distributed.models.weights import load_backbone_weights
from tl_distributed.settings.flags import parse_arguments

NAME = "mobilenet_v2"
FILE = "mobilenet_v2_imagenet_notop.weights.h5"
DESCRIPTION = "mobilenet_v2_imagenet_notop.json"


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path_factory, monkeypatch) -> None:
    """Keras's cache of this machine must neither help nor be touched."""
    cache = str(tmp_path_factory.mktemp("keras_home"))
    monkeypatch.setattr("keras.src.utils.file_utils.config.keras_home", lambda: cache)


@pytest.fixture
def downloads(monkeypatch) -> list[int]:
    """Stands in for the download of Keras: gives random weights; returns the image sizes asked for."""
    stock, sizes = keras.applications.MobileNetV2, []

    def download(weights, include_top, input_shape):
        assert weights == "imagenet"
        sizes.append(input_shape[0])
        return stock(weights=None, include_top=include_top, input_shape=input_shape)

    monkeypatch.setattr(keras.applications, "MobileNetV2", download)
    return sizes


def _run(output_dir, *flags: str) -> None:
    config, positional = parse_arguments(FetchConfig, [f"--output_dir={output_dir}", *flags])
    main(config, positional)


def test_writes_what_training_takes(tmp_path, downloads, capsys, monkeypatch):
    _run(tmp_path / "new" / "folder", f"--backbone={NAME}", "--image_size=32")
    folder = tmp_path / "new" / "folder"
    assert sorted(path.name for path in folder.iterdir()) == [DESCRIPTION, FILE]
    description = json.loads((folder / DESCRIPTION).read_text())
    assert description["bytes"] == (folder / FILE).stat().st_size and description["image_size"] == 32
    assert "9." in capsys.readouterr().out  # MB
    monkeypatch.undo()
    stock = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(32, 32, 3))
    stock.load_weights(folder / FILE)
    ours = build_backbone(get_backbone(NAME), image_size=32, weights="none")
    load_backbone_weights(ours, str(folder))
    for loaded, fetched in zip(ours.get_weights(), stock.get_weights(), strict=True):
        np.testing.assert_array_equal(loaded, fetched)


def test_skips_whole_files_and_mends_others(tmp_path, downloads, capsys):
    for _ in range(2):
        _run(tmp_path, f"--backbone={NAME}", "--image_size=32")
    assert downloads == [32] and "there already" in capsys.readouterr().out
    with open(tmp_path / FILE, "r+b") as file:
        file.truncate(1000)
    _run(tmp_path, f"--backbone={NAME}", "--image_size=32")
    (tmp_path / DESCRIPTION).write_text("{")
    _run(tmp_path, f"--backbone={NAME}", "--image_size=32")
    _run(tmp_path, f"--backbone={NAME}", "--image_size=64")
    assert downloads == [32, 32, 32, 64]
    assert sorted(path.name for path in tmp_path.iterdir()) == [DESCRIPTION, FILE]


def _fail_network(monkeypatch, error: Exception) -> None:
    def fail(*arguments, **keywords):
        raise error

    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", fail)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (urllib.error.URLError("Name or service not known"), "Name or service not known"),
        (urllib.error.HTTPError("https://x", 403, "Forbidden", {}, None), "403 -- Forbidden"),
        (TimeoutError("timed out"), "timed out"),
    ],
)
def test_failing_network_is_one_line_with_the_cause(tmp_path, monkeypatch, error, cause):
    _fail_network(monkeypatch, error)
    with pytest.raises(UserError, match=cause) as caught:
        fetch(get_backbone(NAME), image_size=96, output_dir=str(tmp_path / "out"))
    assert "--backbone=mobilenet_v2" in str(caught.value) and "with internet" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(UserError, match=cause) as caught:
        build_backbone(get_backbone(NAME), image_size=96, weights="imagenet")
    message = str(caught.value)
    assert all(way in message for way in ("data_prep.fetch_weights", "--weights=FILE", "--weights=none"))


def test_a_server_that_never_answers_ends_in_time(tmp_path, monkeypatch):
    """A firewall that drops packets leaves the connection open; Keras alone would wait for ever."""
    import socket

    from tl_distributed.models import construction

    monkeypatch.setattr(construction, "_DOWNLOAD_STALL_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        monkeypatch.setattr("keras.src.applications.mobilenet_v2.BASE_WEIGHT_PATH", url)
        with pytest.raises(UserError, match="timed out"):
            build_backbone(get_backbone(NAME), image_size=96, weights="imagenet")
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize(
    ("name", "message"),
    [("vgg16", "Incomplete or corrupted"), ("mobilenet_v2", "delete the damaged copy in .*models")],  # no hash in Keras
)
def test_a_damaged_download_is_refused(tmp_path, monkeypatch, name, message):
    monkeypatch.setattr(
        "keras.src.utils.file_utils.urlretrieve", lambda url, path, *_: pathlib.Path(path).write_bytes(b"<html>")
    )
    with pytest.raises(UserError, match=message):
        fetch(get_backbone(name), image_size=96, output_dir=str(tmp_path))


def test_unwritable_folder(tmp_path, downloads):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--output_dir=.*cannot write there"):
        fetch(get_backbone(NAME), image_size=32, output_dir=str(tmp_path / "file"))


def test_an_interrupted_write_leaves_nothing(tmp_path, downloads, monkeypatch):
    def fail(*arguments, **keywords):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.io.gfile, "rename", fail)
    with pytest.raises(UserError, match="No space left on device"):
        fetch(get_backbone(NAME), image_size=32, output_dir=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output_dir=x"], "--backbone: name at least one"),
        (["--backbone=vgg16"], "--output_dir: name the folder"),
        (["--backbone=vgg16,resnet5", "--output_dir=x"], "did you mean resnet5"),
        (["--backbone=vgg16,baseline_cnn", "--output_dir=x"], "no ImageNet weights"),
        (["--backbone=vgg16", "--output_dir=x", "more"], "unexpected argument 'more'"),
    ],
)
def test_mistakes_are_named_before_anything_is_fetched(flags, message):
    with pytest.raises(UserError, match=message):
        main(*parse_arguments(FetchConfig, flags))


def test_command_line_without_tensorflow():
    program = "import sys; sys.modules['tensorflow'] = sys.modules['keras'] = None; import runpy; sys.argv = {}; "
    program += "runpy.run_module('data_prep.fetch_weights', run_name='__main__')"
    help_text = subprocess.run(
        [sys.executable, "-c", program.format(["fetch_weights", "--help"])], capture_output=True, text=True
    )
    assert help_text.returncode == 0 and "--output_dir" in help_text.stdout, help_text.stderr
    wrong = subprocess.run(
        [sys.executable, "-c", program.format(["fetch_weights", "--backbone=vgg61", "--output_dir=x"])],
        capture_output=True,
        text=True,
    )
    assert wrong.returncode == 2 and "or vgg16?" in wrong.stderr and "Traceback" not in wrong.stderr
