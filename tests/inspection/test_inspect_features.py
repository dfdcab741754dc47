"""The whole command on finished runs of a few steps: what before and after are, its files, TensorBoard, mistakes."""

import csv
import dataclasses
import io
import json
import pathlib
import urllib.parse

import image_files
import keras
import numpy as np
import pytest
from blank_charts import blank_charts
from PIL import Image
from tensorboard_server import serve
from toy_dataset import CLASS_NAMES, write_toy_dataset

from tl_distributed.data.dataset import load_splits
from tl_distributed.data.decode import decode_image
from tl_distributed.data.records import read_manifest
from tl_distributed.errors import UserError
from tl_distributed.inference.pictures import PictureRule
from tl_distributed.inference.saved import open_model
from tl_distributed.inspect_features import main
from tl_distributed.inspection import figures
from tl_distributed.inspection.inspection import choose_channels
from tl_distributed.inspection.networks import open_after, open_before, read_run_config
from tl_distributed.inspection.samples import read_samples
from tl_distributed.inspection.settings import InspectConfig
from tl_distributed.settings.command import run_command
from tl_distributed.settings.config import Config
from tl_distributed.settings.flags import parse_arguments
from tl_distributed.training.run import train_and_evaluate

SIZE, TESTS = 16, 45
FILES = {
    "cka.png", "embedding.png", "grad_cam.png", "inspection.json", "metadata.tsv", "sprite.png", "checkpoint",
    "features.ckpt.index", "features.ckpt.data-00000-of-00001", "projector_config.pbtxt",
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder of runs: `source`; `tuned` from it, its first layers frozen; `still`, whose weights hardly move."""
    folder = tmp_path_factory.mktemp("runs")
    data_dir = write_toy_dataset(folder / "data", counts={"train": 60, "val": 12, "test": TESTS}, size=SIZE)
    common = Config(
        backbone="tiny_norm", data_dir=data_dir, epochs=1, global_batch_size=20, strategy="one_device",
        learning_rate=0.01, finetune_learning_rate=0.002,
    )  # fmt: skip
    source = str(folder / "source")
    for name, settings in {
        "source": {},
        "board/tuned": {"weights": source, "transfer": "partial", "unfreeze_from": "conv2", "head_units": (5,)},
        "still": {"backbone": "baseline_cnn", "learning_rate": 1e-9, "weight_decay": 0.0, "seed": 3},
    }.items():
        config = dataclasses.replace(common, workdir=str(folder / name), **settings)
        config.validate()
        with blank_charts():
            train_and_evaluate(config)
    return folder


def inspect(runs: pathlib.Path, name: str, **settings) -> dict:
    """Runs the command; returns inspection.json."""
    small = {"images": ("0", "1"), "channels": 3, "grad_cam_images": 3}  # drawing is what takes long
    config = InspectConfig(workdir=str(runs / name), **{**small, **settings})
    main(config, [])
    folder = pathlib.Path(config.output_dir or runs / name / "inspection")
    return json.loads((folder / "inspection.json").read_text())


@pytest.fixture(scope="module")
def tuned(runs):
    """inspection.json of `tuned`, looked into twice."""
    inspect(runs, "board/tuned", layer=("relu2",), num_images=12)
    return inspect(runs, "board/tuned", layer=("relu1", "relu2"), num_images=30, cka_layers=("all",))


def test_frozen_layers_are_the_same_and_the_rest_is_not(tuned):
    assert tuned["before"] == "before: weights of source"
    found = {row["layer"]: row["cka"] for row in tuned["cka"]}
    assert list(found) == ["conv1", "bn1", "conv2", "bn2", "head_dense_1", "head_logits"]
    for layer, cka in found.items():
        assert (cka == pytest.approx(1, abs=1e-5)) == (layer in ("conv1", "bn1")), layer
    assert all(0 < cka < 1.00001 for cka in found.values())
    assert [(row["layer"], len(row["channels"])) for row in tuned["feature_maps"]] == [("relu1", 3), ("relu2", 3)]


def test_files(runs, tuned):
    folder = runs / "board" / "tuned" / "inspection"
    names = {path.name for path in folder.iterdir()}
    events = {name for name in names if name.startswith("events.out.tfevents.")}
    assert names - events == FILES | {"feature_maps_relu1.png", "feature_maps_relu2.png"}
    assert len(events) == 1  # those of the first look are gone
    for name in names:
        if name.endswith(".png"):
            with Image.open(folder / name) as image:
                pixels = np.asarray(image.convert("RGB"))
            assert np.ptp(pixels) > 150 and min(pixels.shape[:2]) >= 32, name


def test_numbers_are_those_of_the_saved_model(runs, tuned):
    workdir = runs / "board" / "tuned"
    info = read_manifest(str(runs / "data"))
    split = load_splits(str(runs / "data"), info, ("test",), input_mode="memory")["test"]
    (batch,) = split.eval_batches(TESTS)
    probabilities = open_model(str(workdir)).predict(batch.images)
    rows = list(csv.DictReader((workdir / "inspection" / "metadata.tsv").open(), delimiter="\t"))
    places = [int(row["place in test"]) for row in rows]
    assert len(places) == len(set(places)) == 30 and (places[0], places[-1]) == (0, TESTS - 1)
    assert [row["label"] for row in rows] == [CLASS_NAMES[batch.labels[place]] for place in places]
    assert [row["prediction"] for row in rows] == [CLASS_NAMES[probabilities[place].argmax()] for place in places]
    found = [float(row["probability"]) for row in rows]
    np.testing.assert_allclose(found, probabilities[places].max(1), atol=1e-4)
    right = [row["right"] == "yes" for row in rows]
    assert tuned["accuracy"] == pytest.approx(np.mean(right))
    assert 0 < sum(right) < 30, "nothing to tell apart: train for longer or shorter"
    for kind, is_right in (("right", True), ("wrong", False)):
        for row in tuned["grad_cam"][kind]:
            assert (row["label"] == row["prediction"]) == is_right
            assert row["probability"] == pytest.approx(probabilities[row["place"]].max(), abs=1e-4)
            assert row["label"] == CLASS_NAMES[batch.labels[row["place"]]]
    for when in ("before", "after"):
        assert len(tuned["embedding"][when]["pca"]) == len(tuned["embedding"][when]["tsne"]) == 30


def test_before_are_the_random_weights_that_the_run_started_from(runs):
    """Of a run whose weights hardly moved: before is after, the random head included; another seed's are not."""
    found = inspect(runs, "still", num_images=20)
    assert found["before"] == "before: random weights of seed 3"
    assert [row["layer"] for row in found["cka"]] == ["pool1", "flatten", "dense1", "head_logits"]
    assert [row["cka"] for row in found["cka"]] == pytest.approx([1] * 4, abs=1e-5)
    config, after = read_run_config(str(runs / "still")), open_after(str(runs / "still"))
    kernels = [
        open_before("", dataclasses.replace(config, seed=seed), after).classifier.get_layer("conv1").kernel.numpy()
        for seed in (3, 4)
    ]
    expected = after.classifier.get_layer("conv1").kernel.numpy()
    np.testing.assert_allclose(kernels[0], expected, atol=1e-6)
    assert np.abs(kernels[1] - expected).max() > 0.01


def test_before_may_be_another_run_its_model_or_weights(runs, tmp_path):
    workdir = str(runs / "source")
    weights = str(tmp_path / "tiny.weights.h5")
    after = open_after(workdir)
    after.classifier.save_weights(weights)
    config = read_run_config(workdir)
    for before in (workdir, f"{workdir}/model.keras", weights):
        network = open_before(before, config, after)
        for layer in after.classifier.layers:
            if layer.weights and (before != weights or not layer.name.startswith("head_")):
                found = network.classifier.get_layer(layer.name).get_weights()
                for weight, expected in zip(found, layer.get_weights(), strict=True):
                    np.testing.assert_array_equal(weight, expected, err_msg=f"{before}: {layer.name}")
    kernel = network.classifier.get_layer("head_logits").kernel.numpy()  # a file of weights is of the backbone alone
    assert np.abs(kernel - after.classifier.get_layer("head_logits").kernel.numpy()).max() > 0.01


def test_prepared_as_the_saved_model_prepares(runs):
    """Shrinking from another native size is inside the packaged model; its parts give what the whole gives."""
    after = open_after(str(runs / "source"))
    images = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3)).astype(np.uint8)
    logits = after.classifier(after.prepare(images), training=False)
    expected = open_model(str(runs / "source")).predict(images)
    np.testing.assert_allclose(keras.ops.softmax(logits), expected, atol=1e-5)


@pytest.fixture(scope="module")
def board(runs, tuned):
    with serve(str(runs / "board"), expected_runs=2) as client:
        yield client


def test_tensorboard_shows_the_figures(runs, board):
    tags = {"feature_maps/relu1", "feature_maps/relu2", "cka", "embedding", "grad_cam"}
    assert board.tags("images")["tuned/inspection"] == tags
    for tag in tags:
        (image,) = board.get("data/plugin/images/images", run="tuned/inspection", tag=tag, sample=0)
        assert image["step"] == 3
        content = board.get_bytes("data/plugin/images/individualImage", **dict(urllib.parse.parse_qsl(image["query"])))
        with Image.open(io.BytesIO(content)) as served:
            expected = Image.open(runs / "board" / "tuned" / "inspection" / f"{tag.replace('/', '_')}.png")
            np.testing.assert_array_equal(np.asarray(served), np.asarray(expected.convert("RGB")))


def test_tensorboard_shows_the_features(runs, board):
    (run,) = board.get("data/plugin/projector/runs")
    assert run == "tuned/inspection"
    embeddings = board.get("data/plugin/projector/info", run=run)["embeddings"]
    assert {embedding["tensorName"]: embedding["tensorShape"] for embedding in embeddings} == {
        "features before": [30, 16], "features after": [30, 16]
    }  # fmt: skip
    split = load_splits(str(runs / "data"), read_manifest(str(runs / "data")), ("test",), input_mode="memory")["test"]
    (batch,) = split.eval_batches(TESTS)
    metadata = board.get_bytes("data/plugin/projector/metadata", run=run, name="features after").decode()
    rows = list(csv.DictReader(io.StringIO(metadata), delimiter="\t"))
    images = batch.images[[int(row["place in test"]) for row in rows]]
    for name, workdir in (("features before", runs / "source"), ("features after", runs / "board" / "tuned")):
        content = board.get_bytes("data/plugin/projector/tensor", run=run, name=name)
        network = open_after(str(workdir))
        classifier = network.classifier
        part = keras.Model(classifier.input, classifier.get_layer("head_pooling").output)
        expected = part.predict(np.asarray(network.prepare(images)), verbose=0)
        np.testing.assert_allclose(np.frombuffer(content, np.float32).reshape(30, 16), expected, atol=1e-5)
    sprite = Image.open(io.BytesIO(board.get_bytes("data/plugin/projector/sprite_image", run=run, name=name)))
    assert embeddings[0]["sprite"]["singleImageDim"] == [SIZE, SIZE]
    assert sprite.size == (6 * SIZE, 6 * SIZE)
    for place in (0, 7, 29):
        column, row = SIZE * (place % 6), SIZE * (place // 6)
        tile = np.asarray(sprite)[row : row + SIZE, column : column + SIZE]
        np.testing.assert_array_equal(tile, images[place])


def test_images_by_place_and_by_file(runs, tmp_path):
    path = tmp_path / "some.png"
    Image.fromarray(image_files.pixels(1, side=23)[:15]).save(path)
    data_dir = str(runs / "data")
    info = read_manifest(data_dir)
    split = load_splits(data_dir, info, ("test",), input_mode="memory")["test"]
    (batch,) = split.eval_batches(TESTS)
    rule = PictureRule(SIZE, "crop")
    samples, shown = read_samples(data_dir, info, "test", num_images=10, shown=("44", str(path), "0", "44"), rule=rule)
    expected = decode_image(path.read_bytes(), size=SIZE, fit="crop")
    np.testing.assert_array_equal(shown.images, [batch.images[44], expected, batch.images[0], batch.images[44]])
    names = [CLASS_NAMES[batch.labels[place]] for place in (44, 0)]
    assert shown.captions == (f"{names[0]}\ntest 44", "some.png", f"{names[1]}\ntest 0", f"{names[0]}\ntest 44")
    np.testing.assert_array_equal(samples.images, batch.images[samples.places])
    np.testing.assert_array_equal(samples.labels, batch.labels[samples.places])
    assert len(samples.places) == 10
    every, shown = read_samples(data_dir, info, "test", num_images=1000, shown=(), rule=rule)
    np.testing.assert_array_equal(every.images, batch.images)
    firsts = [int(np.flatnonzero(batch.labels == label)[0]) for label in range(3)]
    np.testing.assert_array_equal(shown.images, batch.images[firsts])
    assert shown.captions == tuple(f"{name}\ntest {place}" for name, place in zip(CLASS_NAMES, firsts, strict=True))


def test_channels_by_both_rules():
    before = np.zeros((2, 3, 3, 4), np.float32)
    after = before.copy()
    before[..., 1], after[..., 1] = 9, 9
    after[..., 2], before[..., 0], after[0, ..., 3] = -2, 1, 3
    assert choose_channels(before, after, rule="changed", count=2)[0].tolist() == [2, 3]
    channels, words = choose_channels(before, after, rule="active", count=3)
    assert channels.tolist() == [1, 2, 3] and words == "the 3 of 4 channels that are the most active on average"
    assert len(choose_channels(before, after, rule="active", count=32)[0]) == 4


def test_maps_are_drawn_with_one_scale():
    maps = np.zeros((1, 2, 2, 1), np.float32)
    maps[0, 0, 0, 0] = 4
    chosen = figures.ChannelMaps("layer_$1", np.array([7]), "a rule", maps, maps / 4)
    image = np.zeros((1, 5, 5, 3), np.uint8)
    figure = figures.feature_maps(image, ["cat"], chosen, before="before", after="after")
    drawn = [panel.images[0] for panel in figure.axes if panel.images and panel.images[0].get_array().ndim == 2]
    assert len(drawn) == 2 and len({image.get_clim() for image in drawn}) == 1
    assert [float(image.get_array().max()) for image in drawn] == [4, 1]
    signed = dataclasses.replace(chosen, after=-maps)
    figure = figures.feature_maps(image, ["cat"], signed, before="before", after="after")
    low, high = next(p.images[0].get_clim() for p in figure.axes if p.images and p.images[0].get_array().ndim == 2)
    assert low == -high


MISTAKES = {
    ("--workdir={source}", "--layer=relu3"): "--layer=relu3: tiny_norm has no such layer; near it: relu",
    ("--workdir={source}", "--cka_layers=conv9"): "--cka_layers=conv9: tiny_norm has no such layer; near it: conv",
    ("--workdir={source}", "--images=45"): "--images=45: test has 45 images, so the last place is 44",
    ("--workdir={source}", "--images=no.png"): "--images=no.png: no such file, nor a place in the split (0 to 44)",
    ("--workdir={source}", "--images=" + ",".join(map(str, range(17)))): "--images: 17 images; at most 16",
    ("--workdir={source}", "--images={data}/dataset.json"): "dataset.json: not a JPEG, PNG, BMP, GIF, WebP, TIFF",
    ("--workdir={source}", "--before=nowhere"): "--before=nowhere: no such file or folder",
    ("--workdir={source}", "--before=no.keras"): "--before=no.keras: no such file",
    ("--workdir={source}", "--before={still}"): "have no layer of the same name and size below the head",
    ("--workdir={data}",): "no config.json there; name the folder of a run",
    ("--workdir={unfinished}",): "no model.keras there; the run has not finished",
    ("--workdir={source}", "--data_dir={source}"): "dataset.json",
    (): "name the run: --workdir=runs/NAME",
    ("--workdir={source}", "extra"): "unexpected argument 'extra'",
}


@pytest.mark.parametrize("arguments", MISTAKES)
def test_mistakes_end_with_one_line_and_leave_nothing(arguments, runs, tmp_path, capfd):
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "config.json").write_bytes((runs / "source" / "config.json").read_bytes())
    folders = {"source": runs / "source", "data": runs / "data", "still": runs / "still", "unfinished": unfinished}
    given = [argument.format(**folders) for argument in arguments]
    with pytest.raises(SystemExit) as ended:
        run_command(main, InspectConfig, "", [*given, f"--output_dir={tmp_path / 'out'}"])
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert ended.value.code == 2 and len(errors) == 1
    assert MISTAKES[arguments] in errors[0]
    assert not (tmp_path / "out").exists()


def test_weights_that_are_gone_are_named(runs, tmp_path):
    workdir = tmp_path / "moved"
    workdir.mkdir()
    for name in ("config.json", "model.keras"):
        (workdir / name).write_bytes((runs / "board" / "tuned" / name).read_bytes())
    text = (workdir / "config.json").read_text()
    (workdir / "config.json").write_text(text.replace(str(runs / "source"), "/gone"))
    with pytest.raises(
        UserError, match=r"--before=PATH must name what the run started from, .*--weights=/gone: no such"
    ):
        main(InspectConfig(workdir=str(workdir)), [])


def test_a_model_that_is_no_run_is_refused(runs, tmp_path):
    inputs = keras.Input((SIZE, SIZE, 3))
    path = tmp_path / "other.keras"
    keras.Model(inputs, keras.layers.Flatten()(inputs)).save(path)
    with pytest.raises(UserError, match=r"other.keras is no model of a run; takes the model.keras that a run leaves"):
        main(InspectConfig(workdir=str(runs / "source"), before=str(path)), [])
    path.write_bytes(b"no model")
    with pytest.raises(UserError, match=r"--before=.*other.keras: cannot be opened as a model") as raised:
        main(InspectConfig(workdir=str(runs / "source"), before=str(path)), [])
    assert "\n" not in str(raised.value)


def test_other_classes_and_another_order_are_told_apart(runs, tmp_path):
    for names, words in {
        ("dark", "grey", "bright"): r"other classes .*: 'middle' is of the model alone, 'grey' is of the data alone",
        ("middle", "dark", "bright"): r"in another order: label 0 is 'dark' in the model, 'middle' in the data; name",
    }.items():
        data_dir = write_toy_dataset(tmp_path / names[0], counts={"test": 12}, size=SIZE, class_names=names)
        with pytest.raises(UserError, match=words):
            main(InspectConfig(workdir=str(runs / "source"), data_dir=data_dir), [])


def test_lists_of_the_command_line():
    config, _ = parse_arguments(InspectConfig, ["--workdir=a", "--images=0,5,b.png", "--layer=x,y"])
    assert (config.images, config.layer, config.cka_layers) == (("0", "5", "b.png"), ("x", "y"), ("blocks",))


def test_a_split_of_few_images_is_one_line(runs, tmp_path):
    data_dir = write_toy_dataset(tmp_path / "few", counts={"train": 10, "val": 4, "test": 5}, size=SIZE)
    with pytest.raises(UserError, match=r"--split=test: .*/few has 5 images in it, too few .* at least 6"):
        main(InspectConfig(workdir=str(runs / "source"), data_dir=data_dir), [])
    with pytest.raises(UserError, match=r"--split=val: .*/few has 4 images in it"):
        main(InspectConfig(workdir=str(runs / "source"), data_dir=data_dir, split="val"), [])
