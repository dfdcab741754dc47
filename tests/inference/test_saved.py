"""Models that cannot be opened: whatever Keras, h5py, zipfile or TensorFlow raise of a file, it is one line."""

import keras
import numpy as np
import pytest

from tl_distributed.errors import UserError
from tl_distributed.inference.saved import open_model


@pytest.fixture(scope="module")
def contents(tmp_path_factory) -> dict[str, bytes]:
    """Files of a model that opens, by their kind."""
    inputs = keras.Input((8, 8, 3), dtype="uint8")
    x = keras.layers.Conv2D(4, 3)(keras.layers.Rescaling(1 / 255)(inputs))
    outputs = keras.layers.Dense(3, activation="softmax")(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, outputs)
    found = {}
    for kind in ("keras", "h5"):
        path = tmp_path_factory.mktemp("saved") / f"model.{kind}"
        model.save(path)
        assert open_model(str(path)).num_classes == 3
        found[kind] = path.read_bytes()
    return found


@pytest.mark.parametrize("name", ["bad.keras", "bad.h5", "bad.tflite", "bad.pb"])
def test_what_is_no_model_is_one_line(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"not a model")
    with pytest.raises(UserError, match=f"{path}: cannot be opened as a model") as raised:
        open_model(str(path))
    assert "\n" not in str(raised.value)


def test_a_folder_that_is_no_model_is_told(tmp_path):
    with pytest.raises(UserError, match="cannot be opened as a model"):
        open_model(str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "part"),
    [("keras", b"conv2d"), ("keras", b"PK\x03\x04"), ("h5", b"TREE"), ("h5", b"HEAP"), ("h5", b"SNOD")],
)
def test_damage_within_a_model_is_one_line(contents, tmp_path, kind, part):
    path = tmp_path / f"model.{kind}"
    assert part in contents[kind]
    path.write_bytes(contents[kind].replace(part, bytes(len(part))))
    with pytest.raises(UserError, match=f"{path}: cannot be opened as a model") as raised:
        open_model(str(path))
    assert "File not found" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_model_with_a_lambda_is_not_run(tmp_path, name):
    inputs = keras.Input((4, 4, 3))
    keras.Model(inputs, keras.layers.Lambda(lambda x: x + 1)(inputs)).save(tmp_path / name)
    with pytest.raises(UserError, match="cannot be opened as a model"):
        open_model(str(tmp_path / name))


def test_answers_that_are_no_numbers_are_no_answers(contents, tmp_path):
    """Else the first class would be the best, for every picture."""
    path = tmp_path / "model.keras"
    path.write_bytes(contents["keras"])
    model = keras.models.load_model(path)
    model.set_weights([np.full_like(weight, np.nan) for weight in model.get_weights()])
    model.save(path)
    with pytest.raises(UserError, match=r"model\.keras: answers with what is no number \(NaN\)"):
        open_model(str(path)).predict(np.zeros((2, 8, 8, 3), np.uint8))
