"""What is stored with a model: each has its own class names and fitting rule, whatever lies beside it."""

import json
import pathlib
import shutil
import zipfile

import keras
import numpy as np
import pytest

from tl_distributed.data.fit_rules import FIT_OF_VERSION_1
from tl_distributed.errors import UserError
from tl_distributed.inference.model_info import ModelInfo, info_path
from tl_distributed.inference.predictions import choose_fit, predict_files
from tl_distributed.inference.saved import open_model, save_model

KINDS = {"keras": "a.keras", "h5": "a.h5", "saved_model": "a", "tflite": "a.tflite"}
AWKWARD = ("ant", "bee\u2028hive", "cat\x85", "dog\nhouse", "é|<b>\t$")
pytestmark = pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")


def said(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("tl_distributed")]


def classifier(num_classes: int, seed: int = 0) -> keras.Model:
    keras.utils.set_random_seed(seed)
    pixels = keras.Input((4, 4, 3), dtype="uint8")
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(pixels))
    return keras.Model(pixels, keras.layers.Dense(num_classes, activation="softmax")(x))


@pytest.fixture(scope="module")
def five():
    return classifier(len(AWKWARD))


def saved(model, path: pathlib.Path, names, *, kind=None, fit="crop") -> str:
    kind = kind or next(kind for kind, name in KINDS.items() if path.suffix == pathlib.Path(name).suffix)
    save_model(model, str(path), kind, ModelInfo(tuple(names), fit, (4, 4, 3)))
    return str(path)


@pytest.mark.parametrize("kind", KINDS)
def test_awkward_names_and_the_rule_survive(five, tmp_path, kind, caplog):
    path = saved(five, tmp_path / KINDS[kind], AWKWARD, kind=kind)
    opened = open_model(path)
    assert (opened.class_names, opened.fit, opened.num_classes) == (AWKWARD, "crop", 5)
    assert not said(caplog)
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
    np.testing.assert_allclose(opened.predict(images), five.predict(images, verbose=0), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_models_of_one_folder_keep_their_own_names(five, tmp_path, kind):
    suffix = pathlib.Path(KINDS[kind]).suffix
    first = saved(five, tmp_path / f"first{suffix}", AWKWARD, kind=kind)
    second = saved(classifier(2), tmp_path / f"second{suffix}", ("red", "blue"), kind=kind, fit="pad")
    assert (open_model(first).class_names, open_model(first).fit) == (AWKWARD, "crop")
    assert (open_model(second).class_names, open_model(second).fit) == (("red", "blue"), "pad")


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_alone_keeps_its_names_or_says_that_it_has_none(five, tmp_path, kind, caplog):
    source = pathlib.Path(saved(five, tmp_path / KINDS[kind], AWKWARD, kind=kind))
    alone = tmp_path / "alone" / source.name
    alone.parent.mkdir()
    source.rename(alone)
    opened = open_model(str(alone))
    if kind in ("keras", "saved_model"):
        assert (opened.class_names, opened.fit) == (AWKWARD, "crop") and not said(caplog)
        return
    assert opened.class_names == () and opened.fit is None
    assert said(caplog) == [f"{alone}: {alone}.json is not there, so classes are numbers"]
    (row,) = predict_files(opened, [str(picture(tmp_path))], top=9, batch_size=1, fit="squash")
    assert {best["class"] for best in row["top"]} == set("01234")


def picture(folder: pathlib.Path) -> pathlib.Path:
    path = folder / "picture.png"
    keras.utils.save_img(path, np.zeros((4, 4, 3)))
    return path


def test_stock_keras_opens_it_and_what_it_saves_has_no_names(five, tmp_path, caplog):
    path = saved(five, tmp_path / "a.keras", AWKWARD)
    with zipfile.ZipFile(path) as archive:
        assert len(archive.namelist()) == 3 and archive.testzip() is None
        assert json.loads(archive.read("metadata.json"))["keras_version"] == keras.__version__
    again = str(tmp_path / "again.keras")
    keras.models.load_model(path, safe_mode=True).save(again)
    assert open_model(again).class_names == ()
    assert said(caplog) == [f"{again}: stored without its class names, so classes are numbers"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_names", [4, 6])
def test_another_number_of_names_than_outputs_is_refused(five, tmp_path, kind, num_names):
    path = saved(five, tmp_path / KINDS[kind], [f"class {n}" for n in range(num_names)], kind=kind)
    with pytest.raises(UserError, match=f"has 5 outputs, and {num_names} class names in ") as raised:
        open_model(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["a.h5", "a.tflite"])
def test_a_model_put_in_place_of_another_does_not_get_its_names(five, tmp_path, name, caplog):
    path = saved(five, tmp_path / name, AWKWARD)
    other = saved(classifier(5, seed=1), tmp_path / f"other{pathlib.Path(name).suffix}", "abcde")
    shutil.copy(other, path)
    assert open_model(path).class_names == ()
    (line,) = said(caplog)
    assert line.startswith(f"{path}: {path}.json was written with another model")


def test_names_are_there_before_the_model_is(five, tmp_path, monkeypatch):
    from tl_distributed.inference import saved as module

    def stopped(made, path):
        assert json.loads(pathlib.Path(f"{path}.json").read_text())["class_names"] == list(AWKWARD)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_move", stopped)
    with pytest.raises(KeyboardInterrupt):
        saved(five, tmp_path / "a.h5", AWKWARD)
    assert not (tmp_path / "a.h5").exists()


@pytest.mark.parametrize("kind", ["keras", "h5"])
@pytest.mark.parametrize("ending", ["\n", ""])
def test_labels_of_an_older_version_are_taken_if_their_number_fits(five, tmp_path, kind, ending, caplog):
    path = tmp_path / KINDS[kind]
    five.save(path)
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(name.replace("\n", " ") for name in AWKWARD) + ending, newline="\n")
    opened = open_model(str(path))
    assert opened.class_names == tuple(name.replace("\n", " ") for name in AWKWARD) and opened.fit is None
    (line,) = said(caplog)
    assert line.endswith(f"class names are those of {labels}, which the folder shares")
    labels.write_text("one\ntwo\n")
    assert open_model(str(path)).class_names == ()
    assert f"{labels} has 2 names for 5 outputs, so classes are numbers" in said(caplog)[-1]


@pytest.mark.parametrize(
    "content", ["", "[]", "nonsense", '{"class_names": 3}', "\ud800", '{"class_names": [1], "fit": "crop"}',
                '{"class_names": [], "fit": "blur", "image_shape": [], "version": ""}'],
)  # fmt: skip
def test_damaged_info_is_named_in_one_line(five, tmp_path, content):
    path = saved(five, tmp_path / "a.h5", AWKWARD)
    pathlib.Path(f"{path}.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match=r"a\.h5\.json: not ") as raised:
        open_model(path)
    assert "\n" not in str(raised.value)


def test_where_it_is_stored(tmp_path):
    (tmp_path / "folder").mkdir()
    assert info_path("a.keras") == "a.keras" and info_path("b/a.tflite") == "b/a.tflite.json"
    assert info_path(str(tmp_path / "folder")).startswith(str(tmp_path / "folder/"))


def test_the_rule_is_the_models_unless_the_user_wants_another(five, tmp_path):
    known = open_model(saved(five, tmp_path / "a.keras", AWKWARD, fit="crop"))
    assert choose_fit(known, None) == ("crop", "") == choose_fit(known, "crop")
    fit, line = choose_fit(known, "squash")
    assert fit == "squash" and "was trained with --fit=crop; --fit=squash is taken" in line
    unknown = open_model(saved(five, tmp_path / "b.keras", AWKWARD, fit=None))
    fit, line = choose_fit(unknown, None)
    assert fit == FIT_OF_VERSION_1 and f"so --fit={FIT_OF_VERSION_1} is assumed" in line
    assert choose_fit(unknown, "pad") == ("pad", "")
