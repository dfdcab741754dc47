"""ImageNet weights that several processes want at once; here threads, and a download that takes its time."""

import pathlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import keras
import pytest
from keras.src.utils import file_utils

from tl_distributed.models.backbones import get_backbone
from tl_distributed.models.construction import construct

CONTENT = b"weights" * 100


@pytest.fixture
def begun(monkeypatch):
    """Plays Keras's download, which writes under the last name; set once one is half done."""
    half_done = threading.Event()

    def download(origin, target, report):
        with pathlib.Path(target).open("wb") as file:
            file.write(CONTENT[:50])
            file.flush()
            half_done.set()
            time.sleep(0.3)
            file.write(CONTENT[50:])

    monkeypatch.setattr(file_utils, "get_file", file_utils.get_file)  # put back at the end
    monkeypatch.setattr(file_utils, "urlretrieve", download)
    return half_done


def small_network() -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, keras.layers.Conv2D(2, 3)(inputs))


def test_no_process_takes_half_a_download_for_the_whole(tmp_path, monkeypatch, begun):
    read = []

    def application(**_):
        path = file_utils.get_file("a.h5", "https://example.org/a.h5", cache_subdir="models", cache_dir=str(tmp_path))
        read.append(pathlib.Path(path).read_bytes())
        return small_network()

    monkeypatch.setattr(keras.applications, "MobileNetV2", application)

    def build() -> None:
        construct(get_backbone("mobilenet_v2"), None, 8, "imagenet")

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(build)
        assert begun.wait(30)
        second = threads.submit(build)
        first.result(), second.result()
    assert read == [CONTENT, CONTENT]


def test_a_folder_that_takes_no_lock_is_no_obstacle(tmp_path, monkeypatch, begun):
    (tmp_path / "models/download.lock").mkdir(parents=True)
    (tmp_path / "models/a.h5").write_bytes(CONTENT)

    def application(**_):
        file_utils.get_file("a.h5", "https://example.org/a.h5", cache_subdir="models", cache_dir=str(tmp_path))
        return small_network()

    monkeypatch.setattr(keras.applications, "MobileNetV2", application)
    assert construct(get_backbone("mobilenet_v2"), None, 8, "imagenet").output_shape == (None, 6, 6, 2)
