"""Training, loading and predicting from Python, against the files of the run and the commands."""

import dataclasses
import json
import logging
import os
import pathlib
import shlex
import signal
import sys
import threading

import keras
import numpy as np
import pytest
from PIL import Image
from toy_dataset import write_toy_dataset

import tl_distributed as tl
from tl_distributed.reporting.run_facts import about_run
from tl_distributed.settings.flags import parse_arguments
from tl_distributed.training import run as training_run

SIZE = 16


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    counts = {"train": 48, "val": 12, "test": 12}
    return write_toy_dataset(tmp_path_factory.mktemp("api") / "toy", counts=counts, size=SIZE)


@pytest.fixture(scope="module")
def flags(data_dir):
    return {
        "data_dir": data_dir, "backbone": "tiny_norm", "transfer": "scratch", "augment": "none", "epochs": 2,
        "global_batch_size": 12, "learning_rate": 0.01, "strategy": "one_device", "precision": "float32", "xla": "off",
    }  # fmt: skip


@pytest.fixture(scope="module")
def run(flags, tmp_path_factory):
    return tl.train(**flags, workdir=tmp_path_factory.mktemp("api") / "run")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        Image.fromarray(generator.integers(0, 256, (SIZE, SIZE, 3), np.uint8)).save(folder / f"{name}.png")
    return folder


def test_a_run_is_its_files(run):
    folder = pathlib.Path(run.workdir)
    assert run.results == json.loads((folder / "results.json").read_text())
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert run.history == rows and sum("val_accuracy" in row for row in rows) == 2
    assert run.config["config"]["backbone"] == "tiny_norm"


def test_the_command_that_its_card_and_page_name_trains_the_same(flags, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--of_the_program=3"])  # which is not the package's
    run = tl.train(**flags, max_steps=1, workdir=tmp_path / "python=3 run")
    line = about_run(run.config)[1]
    program, *arguments = shlex.split(line.removeprefix("python -m "))
    assert program == "tl_distributed.train"
    config = parse_arguments(tl.Config, arguments)[0].resolved(native_size=SIZE)
    assert json.loads(json.dumps(dataclasses.asdict(config))) == run.config["config"]


def test_load_is_what_train_returned(run):
    loaded = tl.load(f"{run.workdir}/")
    assert (loaded.results, loaded.workdir) == (run.results, run.workdir)
    images = np.full((2, SIZE, SIZE, 3), 200, np.uint8)
    np.testing.assert_array_equal(loaded.model.predict(images), run.model.predict(images))


def test_a_run_stays_where_it_is(run, tmp_path, monkeypatch):
    folder = pathlib.Path(run.workdir)
    monkeypatch.setenv("HOME", str(folder.parent.parent))
    monkeypatch.chdir(folder.parent)
    relative = [tl.Run(folder.name, {}), tl.load(f"{folder.name}/"), tl.load(f"~/{folder.parent.name}/{folder.name}")]
    monkeypatch.chdir(tmp_path)
    for one in relative:
        assert one.history == run.history and one.config == run.config
    assert relative[0].model.path == run.model.path
    assert tl.Run("gs://runs/one", {}).workdir == "gs://runs/one"


def test_again_in_one_process(run, flags, tmp_path):
    """The same folder is read, another one trains anew to the same numbers, and a Config does as keywords do."""
    assert tl.train(**flags, workdir=run.workdir).results == run.results
    again = tl.train(tl.Config(**flags), workdir=tmp_path / "again")
    assert again.results["test_loss"] == pytest.approx(run.results["test_loss"], abs=1e-6)


def test_predicts_arrays_as_stock_keras_does(run):
    images = np.random.default_rng(1).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8)
    expected = keras.models.load_model(f"{run.workdir}/model.keras").predict(images, verbose=0)
    found = run.model.predict(images, batch_size=2)
    assert found.shape == (5, 3) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(run.model.predict(images[0]), expected[:1], atol=1e-5)
    np.testing.assert_allclose(run.model.predict(list(images)), expected, atol=1e-5)
    np.testing.assert_allclose(run.model.keras.predict(images, verbose=0), expected, atol=1e-5)
    assert run.model.predict(images[:0]).shape == (0, 3)


def test_predicts_files_and_arrays_alike(run, pictures):
    names = sorted(pictures.iterdir())
    pixels = np.stack([np.asarray(Image.open(name)) for name in names])
    expected = run.model.predict(pixels)
    np.testing.assert_allclose(run.model.predict(pictures), expected, atol=1e-6)
    np.testing.assert_allclose(run.model.predict([names[2], pixels[0], str(names[1])]), expected[[2, 0, 1]], atol=1e-6)
    rows = run.model.classify(pictures, top=2)
    assert [row["file"] for row in rows] == list(map(str, names))
    assert [row["class"] for row in rows] == [run.model.class_names[label] for label in expected.argmax(1)]


def test_other_sizes_are_fitted(run):
    image = np.random.default_rng(2).integers(0, 256, (2 * SIZE, 2 * SIZE, 3), np.uint8)
    small = np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(run.model.predict(image), run.model.predict(small), atol=1e-6)


def test_evaluate_is_what_the_run_says(run, data_dir):
    assert run.model.evaluate(data_dir)["accuracy"] == pytest.approx(run.results["test_accuracy"])


def test_mistakes_about_pictures(run, pictures, tmp_path):
    (tmp_path / "no.png").write_text("no picture")
    for wrong, line in (
        (np.zeros((2, SIZE, SIZE, 3)), "uint8 images .* not float64"),
        (np.zeros((2, SIZE, SIZE), np.uint8), "uint8 images"),
        ([], "no images"),
        (tmp_path / "no.png", r"no\.png: "),
        (tmp_path / "nowhere.png", "no such file"),
    ):
        with pytest.raises(tl.UserError, match=line):
            run.model.predict(wrong)


def test_no_pictures_have_no_answers_and_arrays_are_no_paths(run):
    assert run.model.predict(np.zeros((0, SIZE + 1, SIZE + 1, 3), np.uint8)).shape == (0, len(run.model.class_names))
    for arrays in (np.zeros((2, SIZE, SIZE, 3), np.uint8), [np.zeros((SIZE, SIZE, 3), np.uint8)]):
        with pytest.raises(tl.UserError, match="classify takes paths of pictures, not ndarray; predict takes arrays"):
            run.model.classify(arrays)


@pytest.mark.parametrize("wrong", [0, -1, 2.0, None])
def test_numbers_that_would_answer_nothing(run, pictures, data_dir, wrong):
    calls = (
        lambda: run.model.predict(np.zeros((2, SIZE, SIZE, 3), np.uint8), batch_size=wrong),
        lambda: run.model.classify(pictures, batch_size=wrong),
        lambda: run.model.classify(pictures, top=wrong),
        lambda: run.model.evaluate(data_dir, batch_size=wrong),
    )
    for call in calls:
        with pytest.raises(tl.UserError, match=rf"(batch_size|top)={wrong}: takes a whole number, at least 1"):
            call()


def test_no_run_there(tmp_path):
    with pytest.raises(tl.UserError, match="no run there"):
        tl.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(tl.UserError, match="has not ended"):
        tl.load(tmp_path)


def test_errors_of_files_are_user_errors(flags, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(tl.UserError, match="file"):
        tl.train(**flags, workdir=tmp_path / "file" / "run")
    with pytest.raises(tl.UserError, match="data_dir"):
        tl.train(**{**flags, "data_dir": tmp_path / "nowhere"}, workdir=tmp_path / "run")


def test_a_signal_stops_after_a_checkpoint_and_the_same_call_goes_on(flags, tmp_path, monkeypatch):
    execute = training_run.RunPhases.execute

    def interrupted(self, position):
        timer = threading.Timer(0.0, os.kill, (os.getpid(), signal.SIGTERM))
        prepare = self._prepare

        def then_signal(*arguments):
            timer.start()
            timer.join()
            return prepare(*arguments)

        self._prepare = then_signal
        return execute(self, position)

    monkeypatch.setattr(training_run.RunPhases, "execute", interrupted)
    with pytest.raises(tl.Stopped, match="SIGTERM") as stopped:
        tl.train(**flags, workdir=tmp_path / "run")
    assert isinstance(stopped.value, KeyboardInterrupt) and stopped.value.signal_number == signal.SIGTERM
    monkeypatch.undo()
    assert tl.train(**flags, workdir=tmp_path / "run").results["finished"]


def test_trains_outside_of_the_main_thread(flags, tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(tl.train(**flags, workdir=tmp_path / "run").results))
    thread.start()
    thread.join()
    assert results and results[0]["finished"]


def test_a_programs_own_log_level_stays(run, flags):
    logger = logging.getLogger("tl_distributed")
    handlers, level = logger.handlers[:], logger.level
    try:
        logger.handlers.clear()
        logger.setLevel(logging.WARNING)
        tl.load(run.workdir)
        assert logger.level == logging.WARNING and len(logger.handlers) == 1
    finally:
        logger.handlers[:] = handlers
        logger.setLevel(level)


def test_the_log_follows_standard_error(run, flags, capsys):
    """A notebook puts its own stream in place; so do tests."""
    logging.getLogger("tl_distributed").handlers.clear()
    tl.train(**flags, workdir=run.workdir)
    assert "has finished already" in capsys.readouterr().err
