"""Pictures of any shape from their files through build, training and evaluation: `predict` sees what evaluation saw."""

import io
import json
import pathlib
import shutil

import numpy as np
import pytest
from image_files import write_folder
from PIL import Image

from data_prep.build import build
from data_prep.config import BuildConfig
from tl_distributed.data.records import read_manifest
from tl_distributed.errors import UserError
from tl_distributed.export import ExportConfig
from tl_distributed.export import main as export
from tl_distributed.inference.pictures import PictureRule
from tl_distributed.inference.predictions import choose_fit, predict_files
from tl_distributed.inference.saved import open_model
from tl_distributed.inference.scoring import score_model
from tl_distributed.inspection.samples import read_samples
from tl_distributed.settings.config import Config
from tl_distributed.training.run import train_and_evaluate

STORED, SEEN = 16, 12  # `--image_size` of the build, and of the run
SHAPES = [(16, 16), (40, 24), (20, 33), (9, 14), (70, 20), (24, 90)]  # smaller than stored, and more than 2:1, too
# Storage and rule of the build, and the rule that the run asks for.
CASES = {
    "pixels": ("pixels", "pad", "auto"),
    "jpeg": ("jpeg", "crop", "auto"),
    "original": ("original", "pad", "auto"),
    "overridden": ("original", "crop", "squash"),
}


def picture(shape: tuple[int, int], number: int) -> Image.Image:
    """A smooth picture whose brightness tells the class, and whose ends differ from its middle."""
    generator = np.random.default_rng(number)
    small = Image.fromarray(generator.integers(0, 150, (5, 5, 3), dtype=np.uint8) + np.uint8(100 * (number % 2)))
    return small.resize(shape[::-1], Image.Resampling.BICUBIC)


def file_of(shape: tuple[int, int], number: int, format_name: str, orientation: int = 1) -> bytes:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    picture(shape, number).save(buffer, format_name, quality=90, exif=exif)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root, files = tmp_path_factory.mktemp("pictures"), {}
    for number in range(48):
        format_name, ending = (("PNG", "png"), ("JPEG", "jpg"))[number // 2 % 2]
        orientation = 6 if number % 12 == 2 else 1  # turned by the camera: no decoder of TensorFlow's heeds it
        split = "test" if number % 4 < 2 else "train"
        name = f"{split}/{'ab'[number % 2]}/{number:02d}.{ending}"
        files[name] = file_of(SHAPES[number // 4 % len(SHAPES)], number, format_name, orientation)
    write_folder(root / "in", files)
    return root


@pytest.fixture(scope="module", params=CASES)
def run(request, folder):
    """A data set of one storage and a run on it: (name of the case, data_dir, workdir, results)."""
    storage, fit, asked = CASES[request.param]
    data_dir, workdir = str(folder / f"set-{request.param}"), str(folder / f"run-{request.param}")
    build(
        BuildConfig(
            source="image_folder", input=str(folder / "in"), output_dir=data_dir, image_size=STORED, num_shards=2,
            storage=storage, fit=fit,
        )
    )  # fmt: skip
    return request.param, data_dir, workdir, train_and_evaluate(config(data_dir, workdir, asked))


def config(data_dir: str, workdir, fit: str) -> Config:
    made = Config(
        data_dir=data_dir, workdir=str(workdir), backbone="tiny_norm", transfer="scratch", epochs=2, fit=fit,
        global_batch_size=8, learning_rate=0.05, image_size=SEEN, strategy="one_device", xla="off", augment="strong",
    )  # fmt: skip
    made.validate()
    return made


def rule_of(case: str) -> str:
    _, fit, asked = CASES[case]
    return fit if asked == "auto" else asked


def test_predict_of_the_files_is_evaluation_of_the_data_set(run, folder):
    case, _, workdir, _ = run
    with np.load(f"{workdir}/predictions_test.npz") as saved:
        ids, expected = [str(name) for name in saved["ids"]], saved["probabilities"]
    model = open_model(workdir)
    fit, note = choose_fit(model, None)
    assert (fit, note) == (rule_of(case), "")
    rows = list(predict_files(model, [str(folder / "in" / name) for name in ids], top=2, batch_size=5, fit=fit))
    found = [{best["class"]: best["probability"] for best in row["top"]} for row in rows]
    found = np.array([[row["a"], row["b"]] for row in found])
    assert len(found) == 24
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert found[:, 0].std() > 1e-3  # else nothing was told apart
    others = [row["probability"] for row in predict_files(
        model, [str(folder / "in" / name) for name in ids], top=1, batch_size=24,
        fit="squash" if fit != "squash" else "pad",
    )]  # fmt: skip
    assert np.abs(np.array(others) - expected.max(axis=1)).max() > 1e-3


def test_evaluate_and_inspect_see_the_same(run):
    case, data_dir, workdir, results = run
    summary = score_model(workdir, data_dir, split="test", batch_size=7)
    assert summary["accuracy"] == results["test_accuracy"]
    assert summary["loss"] == pytest.approx(results["test_loss"], abs=1e-5)
    info, model = read_manifest(data_dir), open_model(workdir)
    rule = PictureRule(model.image_shape[0], rule_of(case), info.storage, info.image_size)
    samples, shown = read_samples(data_dir, info, "test", num_images=24, shown=("3",), rule=rule)
    size = STORED if case == "pixels" else SEEN
    assert samples.images.shape == (24, size, size, 3)
    np.testing.assert_array_equal(shown.images[0], samples.images[3])
    with np.load(f"{workdir}/predictions_test.npz") as saved:
        np.testing.assert_allclose(model.predict(samples.images), saved["probabilities"], rtol=0, atol=1e-5)


def test_the_rule_is_part_of_the_run_and_of_every_model(run, tmp_path):
    case, _, workdir, results = run
    storage, expected = CASES[case][0], rule_of(case)
    with open(f"{workdir}/config.json") as file:
        saved = json.load(file)
    assert saved["fit"] == saved["config"]["fit"] == results["fit"] == expected
    stored_size, side = (0, STORED) if storage == "pixels" else (STORED, SEEN)
    paths = [workdir]
    if case == "jpeg":  # what is stored does not depend on the storage
        for kind, name in (("saved_model", "a"), ("tflite", "a.tflite")):
            paths.append(str(tmp_path / name))
            export(ExportConfig(workdir=workdir, format=kind, output=paths[-1]), [])
    for path in paths:
        model = open_model(path)
        told = (model.fit, model.storage, model.stored_size, model.image_shape)
        assert told == (expected, storage, stored_size, (side, side, 3))


def test_a_rule_other_than_that_of_stored_pixels_is_refused(run):
    case, data_dir, workdir, _ = run
    if case != "pixels":
        pytest.skip("pictures stored whole are fitted by any rule")
    with pytest.raises(UserError, match="--fit=crop: the data set stores pixels that were fitted by --fit=pad"):
        train_and_evaluate(config(data_dir, f"{workdir}-other", "crop"))


def test_a_run_goes_on_with_its_rule_alone(run, tmp_path):
    """Also one of before there was the flag, whose config.json has the data set's rule beside the settings."""
    case, data_dir, workdir, results = run
    shutil.copytree(workdir, tmp_path / "run")
    path = pathlib.Path(tmp_path / "run/config.json")
    if case == "pixels":
        saved = json.loads(path.read_text())
        del saved["config"]["fit"]
        path.write_text(json.dumps(saved))
    same, other = CASES[case][2], "squash" if rule_of(case) != "squash" else "crop"
    assert train_and_evaluate(config(data_dir, tmp_path / "run", same))["test_loss"] == results["test_loss"]
    assert train_and_evaluate(config(data_dir, tmp_path / "run", rule_of(case)))["steps"] == results["steps"]
    if case != "pixels":
        with pytest.raises(UserError, match=f"other settings .fit {rule_of(case)} there, {other} here"):
            train_and_evaluate(config(data_dir, tmp_path / "run", other))
