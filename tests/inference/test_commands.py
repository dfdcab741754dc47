"""evaluate, predict and export on a finished run: the same answers from every kind of model, and how they end."""

import concurrent.futures
import json
import os
import pathlib
import shutil
import subprocess
import sys

import image_files
import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from blank_charts import real_charts
from paths import REPO
from toy_dataset import CLASS_NAMES, write_toy_dataset

from tl_distributed.data.decode import decode_image
from tl_distributed.data.fit_rules import FITS
from tl_distributed.errors import UserError
from tl_distributed.evaluate import EvaluateConfig
from tl_distributed.evaluate import main as evaluate
from tl_distributed.export import ExportConfig
from tl_distributed.export import main as export
from tl_distributed.inference.compared import DataOfModel
from tl_distributed.inference.model_info import ModelInfo
from tl_distributed.inference.saved import open_model, save_model
from tl_distributed.inference.scoring import class_table
from tl_distributed.predict import PredictConfig
from tl_distributed.predict import main as predict
from tl_distributed.settings.command import run_command
from tl_distributed.settings.config import Config
from tl_distributed.training.run import train_and_evaluate

KINDS = {"keras": "model.keras", "h5": "model.h5", "saved_model": "saved_model", "tflite": "model.tflite"}
SIZE = 12
pytestmark = pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of a few steps, still unsure of itself, and its data set: (workdir, data_dir)."""
    folder = tmp_path_factory.mktemp("run")
    data_dir = write_toy_dataset(folder / "data", counts={"train": 60, "val": 12, "test": 33}, size=SIZE)
    manifest = pathlib.Path(data_dir) / "dataset.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "fit": "crop"}))
    config = Config(
        backbone="tiny_norm", data_dir=data_dir, workdir=str(folder / "run"), epochs=1, global_batch_size=20,
        learning_rate=0.02, strategy="one_device", dropout=0.0,
    )  # fmt: skip
    config.validate()
    train_and_evaluate(config)
    return config.workdir, data_dir


@pytest.fixture(scope="module")
def exported(run):
    """Every kind of model under the names that export chooses: {kind: path}."""
    workdir, _ = run
    for kind in KINDS:
        export(ExportConfig(workdir=workdir, format=kind), [])
    return {kind: f"{workdir}/export/{name}" for kind, name in KINDS.items()}


def model_path(run, exported, kind: str) -> str:
    return run[0] if kind == "run" else exported[kind]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of images of other sizes and shapes, one of them no image, and a file that is named as none."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(5):
        (folder / f"{number}.png").write_bytes(image_files.png(number, side=8 + 4 * number))
    (folder / "2b.jpg").write_bytes(b"not an image")
    (folder / "inner").mkdir()
    (folder / "inner" / "UPPER.PNG").write_bytes(image_files.png(9))
    (folder / "notes.txt").write_text("no image")
    return folder


# Beside a file its card and script; and what a .keras holds inside. A SavedModel holds all three.
BESIDE = {kind: {f"{name}.md", f"{name}.py"} for kind, name in KINDS.items() if kind != "saved_model"}
BESIDE["h5"].add("model.h5.json")
BESIDE["tflite"].add("model.tflite.json")


def test_export_leaves_nothing_but_models_and_what_is_stored_with_them(run, exported):
    folder = pathlib.Path(run[0]) / "export"
    assert {path.name for path in folder.iterdir()} == {*KINDS.values()}.union(*BESIDE.values())
    inside = {path.name for path in (folder / "saved_model" / "assets.extra").iterdir()}
    assert inside == {"tl_distributed.json", "README.md", "predict.py"}


@pytest.mark.parametrize("kind", ["run", *KINDS])
@pytest.mark.parametrize("batch_size", [5, 128])
def test_every_kind_reproduces_the_accuracy_of_the_run(run, exported, kind, batch_size, tmp_path, capsys):
    workdir, data_dir = run
    results = json.loads((pathlib.Path(workdir) / "results.json").read_text())
    assert 0.4 < results["test_accuracy"] < 1, "train for longer or shorter: nothing can be compared"
    output = tmp_path / "score.json"
    where = {"workdir": workdir} if kind == "run" else {"model": exported[kind], "data_dir": data_dir}
    evaluate(EvaluateConfig(split="test", batch_size=batch_size, output=str(output), **where), [])
    score = json.loads(output.read_text())
    assert score["accuracy"] == results["test_accuracy"]
    assert score["loss"] == pytest.approx(results["test_loss"], rel=1e-4)
    assert score["confusion_matrix"] == results["confusion_matrix"]
    assert score["temperature"] == results["temperature"] != 1
    figures = ("macro_f1", "balanced_accuracy", "expected_calibration_error", "expected_calibration_error_calibrated")
    for name in (*figures, "loss_calibrated"):
        assert score[name] == pytest.approx(results[f"test_{name}"], abs=2e-5), name
    printed = capsys.readouterr().out
    assert f"test: accuracy {results['test_accuracy']:.2%} of 33 images" in printed
    for name in CLASS_NAMES:
        row = next(line for line in printed.splitlines() if line.startswith(name)).split()
        expected = score["per_class"][name]
        assert [float(value) for value in row[1:4]] == pytest.approx(
            [expected["precision"], expected["recall"], expected["f1"]], abs=5e-5
        )
        assert int(row[4]) == expected["support"] == 11


@pytest.mark.parametrize("kind", KINDS)
def test_calibrated_exports_give_the_softmax_of_logits_over_the_temperature(run, kind, tmp_path, capsys):
    workdir, data_dir = run
    results = json.loads((pathlib.Path(workdir) / "results.json").read_text())
    temperature, output = results["temperature"], tmp_path / KINDS[kind]
    export(ExportConfig(workdir=workdir, format=kind, calibrated=True, output=str(output)), [])
    assert f"at temperature {temperature:.4g}" in capsys.readouterr().out
    whole = keras.models.load_model(f"{workdir}/model.keras", compile=False)
    logits = keras.Model(whole.input, whole.get_layer("probabilities").input)
    images = np.random.default_rng(0).integers(0, 256, (20, SIZE, SIZE, 3), np.uint8)
    expected = scipy.special.softmax(logits.predict(images, verbose=0) / temperature, axis=1)
    model = open_model(str(output))
    np.testing.assert_allclose(model.predict(images), expected, atol=2e-5)
    assert np.abs(expected - open_model(workdir).predict(images)).max() > 1e-3  # the temperature is another than 1
    assert model.calibrated and model.temperature == temperature and model.class_names == CLASS_NAMES
    files = {"output": str(tmp_path / "score.json"), "reliability_plot": str(tmp_path / "plot.png")}
    with real_charts():
        evaluate(EvaluateConfig(model=str(output), data_dir=data_dir, **files), [])
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    score = json.loads((tmp_path / "score.json").read_text())
    assert "temperature" not in score and score["accuracy"] == results["test_accuracy"]
    for name in ("loss", "expected_calibration_error"):
        assert score[name] == pytest.approx(results[f"test_{name}_calibrated"], abs=2e-5)


def test_calibrated_export_of_a_run_without_a_temperature_is_refused(run, tmp_path):
    workdir = tmp_path / "old"
    workdir.mkdir()
    model = keras.models.load_model(f"{run[0]}/model.keras", compile=False)
    save_model(model, str(workdir / "model.keras"), "keras", ModelInfo(CLASS_NAMES, "crop", (SIZE, SIZE, 3)))
    with pytest.raises(UserError, match=r"--calibrated: .*model\.keras has no temperature"):
        export(ExportConfig(workdir=str(workdir), calibrated=True), [])
    assert not (workdir / "export").exists()


@pytest.mark.parametrize("split", ["train", "val"])
def test_other_splits(run, split, capsys):
    evaluate(EvaluateConfig(workdir=run[0], split=split), [])
    assert f"{split}: accuracy" in capsys.readouterr().out


STRANGER = """
import sys, keras, numpy
assert not any(name.startswith("tl_distributed") for name in sys.modules)
model = keras.models.load_model(sys.argv[1])
numpy.save(sys.argv[3], model.predict(numpy.load(sys.argv[2]), verbose=0))
try:
    import tl_distributed
except ImportError:
    print("alone")
"""


def test_keras_and_h5_open_where_this_package_is_not(run, exported, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), np.uint8)
    np.save(tmp_path / "images.npy", images)
    expected = open_model(run[0]).predict(images)
    assert np.ptp(expected) > 0.01
    processes = {}
    for kind in ("keras", "h5"):
        command = [sys.executable, "-I", "-c", STRANGER, exported[kind], "images.npy", f"{kind}.npy"]
        processes[kind] = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for kind, process in processes.items():
        output, errors = process.communicate(timeout=180)
        assert process.returncode == 0, errors.decode()
        np.testing.assert_allclose(np.load(tmp_path / f"{kind}.npy"), expected, atol=1e-5)
        if output.decode().strip() != "alone":
            pytest.skip("the package is installed for every process of this interpreter")


@pytest.mark.parametrize("kind", ["keras", "h5"])
def test_a_plain_call_is_inference_and_training_can_be_asked_for(exported, kind):
    import keras

    images = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), np.uint8)
    model = keras.models.load_model(exported[kind], compile=False)
    before = model.get_weights()
    expected = model(images, training=False)
    np.testing.assert_array_equal(model(images), expected)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert np.abs(model(images, training=True) - expected).max() > 1e-3


def test_existing_export_is_kept_without_overwrite(run, exported):
    for kind, path in exported.items():
        modified = pathlib.Path(path).stat().st_mtime_ns
        with pytest.raises(UserError, match=f"{path} exists; use --overwrite"):
            export(ExportConfig(workdir=run[0], format=kind), [])
        assert pathlib.Path(path).stat().st_mtime_ns == modified


@pytest.mark.parametrize("kind", KINDS)
def test_overwrite_replaces_what_was_there(run, tmp_path, kind):
    path = tmp_path / "out" / KINDS[kind]
    if kind == "saved_model":
        path.mkdir(parents=True)
        for name in ("saved_model.pb", "leftover"):
            (path / name).write_text("of another model")
    else:
        path.parent.mkdir()
        path.write_text("of another model")
    export(ExportConfig(workdir=run[0], format=kind, output=str(path), overwrite=True), [])
    assert open_model(str(path)).class_names == CLASS_NAMES
    assert not (path / "leftover").exists()
    assert {file.name for file in path.parent.iterdir()} == {KINDS[kind]} | BESIDE.get(kind, set())


def test_overwrite_removes_nothing_but_a_saved_model(run, tmp_path):
    """A run's own folder, or one in which the export was meant to be put."""
    folder, file = tmp_path / "mine", tmp_path / "notes"
    folder.mkdir()
    for path in (folder / "thesis.tex", file):
        path.write_text("years of work")
    for output in (str(folder), f"{folder}/", str(file), run[0]):
        with pytest.raises(UserError, match="is there and no SavedModel, so --overwrite leaves it"):
            export(ExportConfig(workdir=run[0], output=output, overwrite=True), [])
    assert (folder / "thesis.tex").read_text() == file.read_text() == "years of work"
    assert pathlib.Path(f"{run[0]}/model.keras").is_file()


def test_a_temperature_is_applied_once(run, tmp_path):
    export(ExportConfig(workdir=run[0], format="keras", calibrated=True, output=str(tmp_path / "model.keras")), [])
    with pytest.raises(UserError, match=r"--calibrated: .*model\.keras is at its temperature already; drop the flag"):
        export(ExportConfig(workdir=str(tmp_path), calibrated=True), [])


def test_threads_share_a_model(exported):
    """A TensorFlow Lite interpreter holds the pictures that it is given: another thread's must not take their place."""
    model = open_model(exported["tflite"])
    images = np.random.default_rng(0).integers(0, 256, (8, 6, SIZE, SIZE, 3), np.uint8)
    pictures = [own[: 1 + place % 3] for place, own in enumerate(images)]
    expected = [model.predict(own) for own in pictures]

    def of_thread(place: int) -> list[np.ndarray]:
        return [model.predict(pictures[place]) for _ in range(50)]

    with concurrent.futures.ThreadPoolExecutor(len(pictures)) as pool:
        for answer, found in zip(expected, pool.map(of_thread, range(len(pictures))), strict=True):
            for one in found:
                np.testing.assert_array_equal(one, answer)


def test_a_data_set_of_another_fitting_rule_is_said(run, tmp_path, caplog):
    shutil.copytree(run[1], tmp_path / "data")
    manifest = tmp_path / "data" / "dataset.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "fit": "squash"}))
    evaluate(EvaluateConfig(model=run[0], data_dir=run[1]), [])
    assert not caplog.messages
    evaluate(EvaluateConfig(model=run[0], data_dir=str(tmp_path / "data")), [])
    (line,) = caplog.messages
    assert "was trained on pictures of --fit=crop" in line and "were stored by --fit=squash" in line


def test_export_refuses_what_it_cannot_do(run, tmp_path):
    with pytest.raises(UserError, match=r"--output=a\.keras: --format=tflite is written to \*\.tflite"):
        export(ExportConfig(workdir=run[0], format="tflite", output="a.keras"), [])
    with pytest.raises(UserError, match=r"no model\.keras there; the run has not finished"):
        export(ExportConfig(workdir=str(tmp_path)), [])


def predicted(model: str, *paths, **settings) -> list[dict]:
    """Returns the rows by `predict_files` of what the command prints."""
    from tl_distributed.inference.predictions import find_images, predict_files

    options = {"top": 3, "batch_size": 4, "fit": "squash", **settings}
    return list(predict_files(open_model(model), find_images([str(path) for path in paths]), **options))


@pytest.mark.parametrize("kind", ["run", *KINDS])
def test_predict_names_bad_images_and_goes_on(run, exported, pictures, kind, capsys):
    code = predict(PredictConfig(model=model_path(run, exported, kind), batch_size=2), [str(pictures)])
    output = capsys.readouterr()
    rows = [json.loads(line) for line in output.out.splitlines()]
    names = [str(pathlib.Path(row["file"]).relative_to(pictures)) for row in rows]
    assert sorted(names) == sorted(["0.png", "1.png", "2.png", "3.png", "4.png", "inner/UPPER.PNG"])
    assert code == 1
    (line,) = output.err.splitlines()
    assert line.startswith(f"{pictures}/2b.jpg: ") and line.endswith("; left out")
    model = open_model(model_path(run, exported, kind))
    for row in rows:
        pixels = decode_image(pathlib.Path(row["file"]).read_bytes(), size=SIZE, fit="squash")
        (expected,) = model.predict(pixels[None])
        order = np.argsort(-expected)
        assert [best["class"] for best in row["top"]] == [CLASS_NAMES[index] for index in order]
        assert [best["probability"] for best in row["top"]] == pytest.approx(expected[order], abs=1e-5)
        assert (row["class"], row["probability"]) == (row["top"][0]["class"], row["top"][0]["probability"])


def test_predictions_are_those_of_the_data_set(run):
    """An image of the data set, as a file of its own, gets the answer that evaluation gave it."""
    workdir, data_dir = run
    record = next(iter(tf.data.TFRecordDataset(f"{data_dir}/test-00000-of-00002.tfrecord"))).numpy()
    content = tf.train.Example.FromString(record).features.feature["image"].bytes_list.value[0]
    pixels = np.frombuffer(content, np.uint8).reshape(SIZE, SIZE, 3)
    path = pathlib.Path(workdir) / "one.png"
    path.write_bytes(tf.io.encode_png(pixels).numpy())
    (row,) = predicted(workdir, path)
    (expected,) = open_model(workdir).predict(pixels[None])
    assert row["probability"] == pytest.approx(expected.max(), abs=1e-6)


@pytest.mark.parametrize("fit", FITS)
def test_predict_of_wide_images_follows_the_rule(run, tmp_path, fit):
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 255
    path = tmp_path / "wide.png"
    path.write_bytes(tf.io.encode_png(pixels).numpy())
    model = open_model(run[0])
    (row,) = predicted(run[0], path, fit=fit)
    image = decode_image(path.read_bytes(), size=SIZE, fit=fit)
    assert row["probability"] == pytest.approx(model.predict(image[None]).max(), abs=1e-5)


def test_every_kind_is_told_apart_from_the_rule_of_the_flags(run, exported, tmp_path, capsys):
    """The data set's rule goes into the run and into every model; without a flag `predict` says nothing about it."""
    config, results = (
        json.loads((pathlib.Path(run[0]) / f"{name}.json").read_text()) for name in ("config", "results")
    )
    assert config["fit"] == results["fit"] == "crop"
    path = tmp_path / "wide.png"
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 255
    path.write_bytes(tf.io.encode_png(pixels).numpy())
    expected = open_model(run[0]).predict(np.full((1, SIZE, SIZE, 3), 255, np.uint8)).max()
    for kind in ("run", *KINDS):
        predict(PredictConfig(model=model_path(run, exported, kind)), [str(path)])
        output = capsys.readouterr()
        assert json.loads(output.out)["probability"] == pytest.approx(expected, abs=1e-5) and not output.err
    predict(PredictConfig(model=run[0], fit="squash"), [str(path)])
    output = capsys.readouterr()
    assert json.loads(output.out)["probability"] != pytest.approx(expected, abs=1e-3)
    assert "--fit=squash is taken" in output.err and output.err.count("\n") == 1
    with pytest.raises(UserError, match="--crop_to_aspect_ratio is --fit=crop, not --fit=pad"):
        predict(PredictConfig(model=run[0], crop_to_aspect_ratio=True, fit="pad"), [str(path)])


def test_names_that_end_a_line_stay_in_their_row():
    scores = {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 3}
    names = ("a\nb", "c\u2028d", "e\x85f", "\udcff")
    lines = class_table({"per_class": dict.fromkeys(names, scores)}).splitlines()
    assert [line.split()[0] for line in lines] == ["class", r"a\nb", r"c\u2028d", r"e\x85f", r"\xff"]
    assert len({len(line) for line in lines}) == 1


def test_a_run_and_its_data_set_that_moved(run, pictures, tmp_path, capsys):
    workdir, data_dir = (tmp_path / name for name in ("moved_run", "moved_data"))
    shutil.copytree(run[0], workdir, ignore=shutil.ignore_patterns("export"))
    shutil.copytree(run[1], data_dir)
    evaluate(EvaluateConfig(workdir=str(workdir), data_dir=str(data_dir)), [])
    accuracy = json.loads((workdir / "results.json").read_text())["test_accuracy"]
    assert f"test: accuracy {accuracy:.2%} of 33 images" in capsys.readouterr().out
    evaluate(EvaluateConfig(workdir=str(workdir)), [])  # where the data set was
    assert f"test: accuracy {accuracy:.2%} of 33 images" in capsys.readouterr().out
    export(ExportConfig(workdir=str(workdir), format="keras"), [])
    (row,) = predicted(str(workdir / "export" / "model.keras"), pictures / "0.png")
    assert row["class"] in CLASS_NAMES


def test_predict_of_names_in_any_bytes(run, pictures, tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    picture = folder / os.fsdecode(b"\xe9.png")
    picture.write_bytes((pictures / "0.png").read_bytes())
    expected = predicted(run[0], pictures / "0.png")
    for path in (picture, folder):
        (row,) = predicted(run[0], path)
        assert row == {**expected[0], "file": str(picture)}


def test_predict_says_which_pictures_of_a_folder_it_does_not_read(run, pictures, tmp_path, capsys):
    (tmp_path / "1.png").write_bytes((pictures / "0.png").read_bytes())
    for name in ("2.HEIC", "3.heic", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert predict(PredictConfig(model=run[0]), [str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert said.err == f"{tmp_path}: left out 2 pictures of a format that is not read (2.HEIC); convert them\n"
    assert len(said.out.splitlines()) == 1


def test_predict_as_a_table_in_the_order_given(run, pictures, capsys):
    files = [str(pictures / name) for name in ("3.png", "0.png")]
    assert predict(PredictConfig(model=run[0], format="table", top=2), files) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == files
    assert all(len(line.split()) == 5 and line.endswith("%") for line in lines)


def test_predict_without_labels_numbers_the_classes(run, exported, pictures, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(pathlib.Path(exported["tflite"]).read_bytes())
    (row,) = predicted(str(path), pictures / "0.png", top=9)
    assert {best["class"] for best in row["top"]} == {"0", "1", "2"}


def test_predict_refuses_paths_without_images(run, tmp_path):
    for path, message in ((tmp_path / "none", "no such file or folder"), (tmp_path, "no images in this folder")):
        with pytest.raises(UserError, match=f"{path}: {message}"):
            predict(PredictConfig(model=run[0]), [str(path)])


def test_commands_name_a_model_that_cannot_be_opened(run, tmp_path, capsys):
    _, data_dir = run
    with pytest.raises(UserError, match=r"no such model; a finished run has model\.keras"):
        evaluate(EvaluateConfig(model=str(tmp_path / "no.keras"), data_dir=data_dir), [])
    with pytest.raises(UserError, match=f"--workdir={tmp_path}: no config.json there"):
        evaluate(EvaluateConfig(workdir=str(tmp_path)), [])
    (tmp_path / "bad.h5").write_bytes(b"not a model")
    with pytest.raises(SystemExit) as ended:
        run_command(predict, PredictConfig, "", [f"--model={tmp_path / 'bad.h5'}", "image.png"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_data_sets_that_do_not_fit_the_model(run, exported, tmp_path):
    path = exported["keras"]
    other_size = write_toy_dataset(tmp_path / "large", counts={"test": 3}, size=16)
    with pytest.raises(UserError, match=r"takes images of \(12, 12, 3\), .* has \(16, 16, 3\)"):
        evaluate(EvaluateConfig(model=path, data_dir=other_size), [])
    with pytest.raises(UserError, match=r"--split=train: .*large has test"):
        evaluate(EvaluateConfig(model=path, data_dir=other_size, split="train"), [])
    other_classes = pathlib.Path(write_toy_dataset(tmp_path / "renamed", counts={"test": 3}, size=SIZE))
    manifest = other_classes / "dataset.json"
    manifest.write_text(manifest.read_text().replace('"dark"', '"black"'))
    with pytest.raises(UserError, match=r"other classes than those of .*renamed: 'dark' is of the model alone"):
        evaluate(EvaluateConfig(model=path, data_dir=str(other_classes)), [])


def test_classes_in_another_order_are_matched_by_name(run, tmp_path, caplog):
    """Label i looks as before, but has the name of another class: what was called right is wrong, and the reverse."""
    order = [2, 0, 1]
    names = [CLASS_NAMES[label] for label in order]
    counts = {"train": 60, "val": 12, "test": 33}
    data_dir = write_toy_dataset(tmp_path / "other", counts=counts, size=SIZE, class_names=names)
    before = json.loads((pathlib.Path(run[0]) / "results.json").read_text())["confusion_matrix"]
    evaluate(EvaluateConfig(model=run[0], data_dir=data_dir, output=str(tmp_path / "score.json")), [])
    score = json.loads((tmp_path / "score.json").read_text())
    assert score["confusion_matrix"] == [[row[label] for label in order] for row in before]
    model = open_model(run[0])
    compared = DataOfModel(data_dir, model).compare(model.predict, most_images=0)
    assert compared.accuracy == compared.reference_accuracy == pytest.approx(score["accuracy"])
    assert "in another order (label 0 is 'dark' in the model, 'bright' in the data): matched by name" in caplog.text


@pytest.mark.slow
def test_export_prints_its_lines_and_nothing_else(run, tmp_path):
    """In processes of their own: what the converter and Keras have to say comes from C++ and absl too."""
    processes = {}
    for kind, name in KINDS.items():
        command = [sys.executable, "-m", "tl_distributed.export", f"--workdir={run[0]}", f"--format={kind}"]
        processes[tmp_path / kind / name] = subprocess.Popen(
            [*command, f"--output={tmp_path / kind / name}"],
            cwd=REPO, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
    for path, process in processes.items():
        output, errors = process.communicate(timeout=180)
        lines = output.splitlines()
        is_scored = path.suffix == ".tflite"
        assert (process.returncode, bool(errors)) == (0, is_scored)
        assert all(line.startswith("Comparing on test: ") for line in errors.splitlines())
        assert lines[0].startswith(f"{path}: ")
        assert [line.split()[0] for line in lines[1:]] == ["accuracy"] * is_scored
