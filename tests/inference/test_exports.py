"""Exports for devices and other runtimes: quantised, scored, with a card and a script that needs nothing of ours."""

import importlib.util
import json
import pathlib
import re

import image_files
import numpy as np
import pytest
import tensorflow as tf
from stranger import make_environment, run_there
from toy_dataset import CLASS_NAMES, write_toy_dataset

from tl_distributed.errors import UserError
from tl_distributed.evaluate import EvaluateConfig
from tl_distributed.evaluate import main as evaluate
from tl_distributed.export import ExportConfig
from tl_distributed.export import main as export
from tl_distributed.inference import exporting, onnx_files
from tl_distributed.inference.predictions import predict_files
from tl_distributed.inference.saved import open_model
from tl_distributed.inference.tflite import Interpreter
from tl_distributed.settings.config import Config
from tl_distributed.training.run import train_and_evaluate

SIZE, NUM_TEST = 16, 90
NEEDS = {"onnx": ("onnx", "onnxruntime", "tf2onnx"), "tflite": ("ai_edge_litert",)}
pytestmark = pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")


def needs(kind: str) -> None:
    """Skips a test where the packages of an extra are missing."""
    for module in NEEDS.get(kind, ()):
        pytest.importorskip(module, reason=f"an extra: pip install -e .[{'onnx' if kind == 'onnx' else 'litert'}]")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of a network of depthwise convolutions, which is right most of the time: (workdir, data_dir)."""
    folder = tmp_path_factory.mktemp("run")
    data_dir = write_toy_dataset(folder / "data", counts={"train": 60, "val": 12, "test": NUM_TEST}, size=SIZE)
    config = Config(
        backbone="tiny_depthwise", data_dir=data_dir, workdir=str(folder / "run"), epochs=6, global_batch_size=20,
        learning_rate=0.02, strategy="one_device", dropout=0.0, precision="float32",
    )  # fmt: skip
    config.validate()
    assert train_and_evaluate(config)["test_accuracy"] > 0.8
    return config.workdir, data_dir


def stored_split(data_dir: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns (images, labels) of a split, read by TensorFlow alone."""
    images, labels = [], []
    for path in sorted(pathlib.Path(data_dir).glob(f"{split}-*.tfrecord")):
        for record in tf.data.TFRecordDataset(str(path)):
            features = tf.train.Example.FromString(record.numpy()).features.feature
            images.append(np.frombuffer(features["image"].bytes_list.value[0], np.uint8).reshape(SIZE, SIZE, 3))
            labels.append(features["label"].int64_list.value[0])
    return np.stack(images), np.array(labels)


def interpreter_of(path: str) -> tf.lite.Interpreter:
    interpreter = tf.lite.Interpreter(model_path=path)
    interpreter.allocate_tensors()
    return interpreter


def one_by_one(path: str, images: np.ndarray) -> np.ndarray:
    """Returns the probabilities by TensorFlow's interpreter, a picture at a time, as on a device."""
    interpreter = interpreter_of(path)
    given, returned = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    rows = []
    for image in images:
        interpreter.set_tensor(given, image[None])
        interpreter.invoke()
        rows.append(interpreter.get_tensor(returned)[0])
    return np.stack(rows)


@pytest.mark.extra
@pytest.mark.parametrize("quantize", ["none", "float16", "int8"])
def test_accuracy_on_the_device_is_printed_beside_the_float_models(run, quantize, tmp_path, capsys):
    workdir, data_dir = run
    output = str(tmp_path / "model.tflite")
    export(ExportConfig(workdir=workdir, format="tflite", quantize=quantize, output=output), [])
    printed = capsys.readouterr()
    images, labels = stored_split(data_dir, "test")
    expected = 100 * np.mean(one_by_one(output, images).argmax(-1) == labels)
    reference = 100 * json.loads((pathlib.Path(workdir) / "results.json").read_text())["test_accuracy"]
    found = re.search(r"accuracy ([\d.]+)% on (\d+) images of test, the float model ([\d.]+)%", printed.out)
    assert [float(text) for text in found.groups()] == pytest.approx([expected, NUM_TEST, reference], abs=0.006)
    assert expected > reference - 2 and "WARNING" not in printed.err
    assert found[0] in pathlib.Path(f"{output}.md").read_text()


@pytest.mark.extra
def test_int8_computes_in_integers_on_pixels_as_they_are(run, tmp_path):
    output = str(tmp_path / "model.tflite")
    export(ExportConfig(workdir=run[0], format="tflite", quantize="int8", output=output, test_images=1), [])
    interpreter = interpreter_of(output)
    (given,), (returned,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (given["dtype"], *given["quantization"]) == (np.uint8, 1.0, 0)
    assert returned["dtype"] == np.float32
    floats = [tensor["name"] for tensor in interpreter.get_tensor_details() if tensor["dtype"] == np.float32]
    assert floats == [returned["name"]]
    images, _ = stored_split(run[1], "test")
    np.testing.assert_allclose(one_by_one(output, images), open_model(run[0]).predict(images), atol=0.1)
    assert "those of 60 images of train" in pathlib.Path(f"{output}.md").read_text()


@pytest.mark.extra
def test_float16_halves_the_weights(run, tmp_path):
    sizes = {}
    for quantize in ("none", "float16"):
        output = tmp_path / f"{quantize}.tflite"
        export(ExportConfig(workdir=run[0], format="tflite", quantize=quantize, output=str(output), test_images=1), [])
        sizes[quantize] = [tensor["dtype"] for tensor in interpreter_of(str(output)).get_tensor_details()]
    assert np.float16 not in sizes["none"] and np.float16 in sizes["float16"]


@pytest.mark.extra
@pytest.mark.parametrize(("num_wrong", "is_loud"), [(1, False), (2, True)])
def test_a_loss_of_more_than_two_points_is_said_loudly(run, num_wrong, is_loud, tmp_path, capsys, monkeypatch):
    """Of 90 pictures one is 1.1 points and two are 2.2."""
    images, labels = stored_split(run[1], "test")
    right = images[open_model(run[0]).predict(images).argmax(-1) == labels][:num_wrong]

    class Lossy(Interpreter):
        def __call__(self, given: np.ndarray) -> np.ndarray:
            is_wrong = [any(np.array_equal(image, other) for other in right) for image in given]
            probabilities = super().__call__(given)
            return np.where(np.array(is_wrong)[:, None], np.roll(probabilities, 1, -1), probabilities)

    monkeypatch.setattr(exporting, "Interpreter", Lossy)
    output = str(tmp_path / "model.tflite")
    export(ExportConfig(workdir=run[0], format="tflite", quantize="float16", output=output), [])
    printed = capsys.readouterr()
    loud = f"WARNING: {output} lost {100 * num_wrong / NUM_TEST:.1f} points of accuracy to tflite, float16"
    assert (loud in printed.err, "WARNING" in printed.err) == (is_loud, is_loud)


@pytest.mark.extra
def test_quantising_without_the_data_set(run, tmp_path, capsys):
    workdir = tmp_path / "moved"
    workdir.mkdir()
    for name in ("model.keras", "results.json"):
        (workdir / name).write_bytes((pathlib.Path(run[0]) / name).read_bytes())
    with pytest.raises(UserError, match=r"--quantize=int8 needs pictures of train: .*no config\.json there"):
        export(ExportConfig(workdir=str(workdir), format="tflite", quantize="int8"), [])
    assert not (workdir / "export").exists()
    export(ExportConfig(workdir=str(workdir), format="tflite"), [])
    assert "Not scored: " in capsys.readouterr().err
    card = (workdir / "export" / "model.tflite.md").read_text()
    assert "Of this file" not in card and "Which weights it began with is not known" in card
    export(ExportConfig(workdir=str(workdir), format="tflite", quantize="int8", data_dir=run[1]), [])
    assert "images of test, the float model" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"format": "onnx", "quantize": "int8"}, "--quantize=int8 is of --format=tflite, not of --format=onnx"),
        ({"format": "keras", "test_images": 5}, "--test_images=5 has no effect with --format=keras; drop it"),
        ({"format": "tflite", "representative_images": 5}, "--representative_images=5 has no effect without"),
    ],
)
def test_flags_that_have_no_effect_are_refused(settings, line):
    with pytest.raises(UserError, match=line):
        export(ExportConfig(workdir="nowhere", **settings), [])


@pytest.mark.extra
def test_onnx_gives_what_the_run_gave(run, tmp_path):
    needs("onnx")
    import onnxruntime

    output = str(tmp_path / "model.onnx")
    export(ExportConfig(workdir=run[0], format="onnx", output=output), [])
    images, _ = stored_split(run[1], "test")
    session = onnxruntime.InferenceSession(output)
    for batch in (images, images[:1]):
        (probabilities,) = session.run(None, {"pixels": batch})
        np.testing.assert_allclose(probabilities, open_model(run[0]).predict(batch), atol=1e-4)
    evaluate(EvaluateConfig(model=output, data_dir=run[1], output=str(tmp_path / "score.json")), [])
    results = json.loads((pathlib.Path(run[0]) / "results.json").read_text())
    assert json.loads((tmp_path / "score.json").read_text())["confusion_matrix"] == results["confusion_matrix"]


@pytest.mark.extra
def test_onnx_that_computes_something_else_is_not_handed_over(run, tmp_path, monkeypatch):
    needs("onnx")
    output = tmp_path / "out" / "model.onnx"
    honest = onnx_files.open_onnx

    def dishonest(content: bytes):
        predict, *shapes = honest(content)
        return lambda images: predict(images) + 1.01e-4, *shapes

    monkeypatch.setattr(onnx_files, "open_onnx", dishonest)
    with pytest.raises(
        UserError, match=r"as ONNX gives probabilities that differ by 0\.0001\d* from Keras's"
    ) as raised:
        export(ExportConfig(workdir=run[0], format="onnx", output=str(output)), [])
    assert "\n" not in str(raised.value) and not list(output.parent.iterdir())


def test_a_missing_extra_is_one_line(run, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if "onnx" in name else found(name, *rest))
    line = r"ONNX needs .*onnxruntime: pip install -e '\.\[onnx\]' in the package's folder"
    with pytest.raises(UserError, match=line):
        export(ExportConfig(workdir=run[0], format="onnx"), [])
    (tmp_path / "model.onnx").write_bytes(b"a model")
    with pytest.raises(UserError, match=line):
        open_model(str(tmp_path / "model.onnx"))


def test_the_card_tells_data_scores_calibration_licence_and_command(run, tmp_path):
    workdir, _ = run
    config, results = (
        json.loads((pathlib.Path(workdir) / f"{name}.json").read_text()) for name in ("config", "results")
    )
    export(ExportConfig(workdir=workdir, format="keras", output=str(tmp_path / "m.keras"), calibrated=True), [])
    card = (tmp_path / "m.keras.md").read_text()
    sections = dict(re.findall(r"^## (\w+)\n\n(.*?)(?=\n## |\Z)", card, re.DOTALL | re.MULTILINE))
    assert list(sections) == ["Use", "Data", "Scores", "Calibration", "Licence", "Training"]
    assert "centred square" in sections["Use"] and (tmp_path / "m.keras.py").read_text().strip() in sections["Use"]
    assert f"train 60, val 12, test {NUM_TEST}" in sections["Data"]
    assert ", ".join(CLASS_NAMES) in sections["Data"] and config["dataset_sha256"] in sections["Data"]
    assert f"| test accuracy | {100 * results['test_accuracy']:.2f} % |" in sections["Scores"]
    assert f"{100 * results['test_macro_f1']:.2f} %" in sections["Scores"]
    assert f"{100 * results['test_expected_calibration_error']:.2f} points" in sections["Calibration"]
    assert (
        f"{results['temperature']:.4g}" in sections["Calibration"] and "at the temperature" in sections["Calibration"]
    )
    assert "random weights" in sections["Licence"]
    assert (
        "python -m tl_distributed.train" in sections["Training"] and config["versions"]["keras"] in sections["Training"]
    )


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """An interpreter that has not got this package."""
    folder = tmp_path_factory.mktemp("stranger")
    python = make_environment(folder / "environment")
    done = run_there(python, "-c", "import tl_distributed", folder=folder)
    assert "No module named 'tl_distributed'" in done.stderr
    return python


@pytest.mark.parametrize(
    "kind",
    ["keras", "h5", "saved_model", *(pytest.param(kind, marks=pytest.mark.extra) for kind in ("tflite", "onnx"))],
)
def test_the_script_uses_the_export_without_this_package(run, stranger, kind, tmp_path):
    needs(kind)
    name = {"saved_model": "model"}.get(kind, f"model.{kind}")
    export(ExportConfig(workdir=run[0], format=kind, output=str(tmp_path / name)), [])
    script = tmp_path / (f"{name}/assets.extra/predict.py" if kind == "saved_model" else f"{name}.py")
    used = script.read_text().split("\n\n", 1)[1].strip().splitlines()
    assert len(used) < 20
    wide = tmp_path / "wide.png"
    pixels = image_files.pixels(0, 4).repeat(12, 0).repeat(20, 1)  # squares of colour, which any resizing keeps
    wide.write_bytes(tf.io.encode_png(pixels).numpy())
    done = run_there(stranger, script, wide, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    answer, probability = done.stdout.split()
    (expected,) = predict_files(open_model(run[0]), [str(wide)], top=1, batch_size=1, fit="crop")
    assert (answer, float(probability)) == (expected["class"], pytest.approx(expected["probability"], abs=0.02))
