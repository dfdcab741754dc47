"""What a candidate's process measures, against stock Keras and scikit-learn on the same images."""

import json

import keras
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from toy_dataset import write_toy_dataset

from tl_distributed.data.dataset import load_splits, load_subset
from tl_distributed.data.records import SPLITS, read_manifest
from tl_distributed.errors import UserError
from tl_distributed.ranking.measure import measure
from tl_distributed.ranking.probes import L2_STRENGTHS
from tl_distributed.ranking.sample import write_sample
from tl_distributed.ranking.settings import RankConfig

SIZE, PER_CLASS = 32, 8


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("rank") / "toy"
    return write_toy_dataset(folder, counts={"train": 60, "val": 30, "test": 45}, size=SIZE)


@pytest.fixture(scope="module")
def stock(tmp_path_factory) -> tuple[keras.Model, str]:
    """Stock Keras's MobileNetV2 with weights that tell brightness apart, and their file."""
    keras.utils.set_random_seed(1)
    model = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(SIZE, SIZE, 3), pooling="avg")
    path = str(tmp_path_factory.mktemp("weights") / "stock.weights.h5")
    model.save_weights(path)
    return model, path


def measured(data_dir, folder, name: str, **flags) -> dict:
    settings = {
        "images_per_class": PER_CLASS, "eval_images_per_class": 0, "few_shot": (1, 4, 50), "draws": 2,
        "image_size": SIZE, "precision": "float32", "xla": "off", "batch_size": 16, **flags,
    }  # fmt: skip
    config = RankConfig(data_dir=data_dir, workdir=str(folder), backbones=(name,), **settings)
    config.validate()
    sample = folder / f"sample{len(list(folder.iterdir())) if folder.exists() else 0}"
    sample.mkdir(parents=True)
    write_sample(str(sample), config, read_manifest(data_dir))
    return measure(config, config.candidates()[0], str(sample), {})


def images_and_labels(data_dir: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    info = read_manifest(data_dir)
    splits = load_splits(data_dir, info, SPLITS, input_mode="memory")
    splits["train"] = load_subset(data_dir, info, "train", images_per_class=PER_CLASS, seed=0)
    return {name: split.examples(np.arange(split.num_examples))[:2] for name, split in splits.items()}


@pytest.mark.slow
def test_accuracies_are_scikit_learns_on_stock_keras_features(data_dir, stock, tmp_path):
    model, path = stock
    result = measured(data_dir, tmp_path, f"mobilenet_v2@{path}")
    preprocess = keras.applications.mobilenet_v2.preprocess_input
    features, labels = {}, {}
    for name, (images, own) in images_and_labels(data_dir).items():
        features[name] = model.predict(preprocess(images.astype(np.float32)), verbose=0).astype(np.float64)
        labels[name] = own
    mean = features["train"].mean(0)
    scale = np.sqrt(((features["train"] - mean) ** 2).sum(1).mean())
    rows = {name: (own - mean) / scale for name, own in features.items()}
    count = {name: len(own) for name, own in labels.items()}
    assert result["num_images"] == count == {"train": 3 * PER_CLASS, "val": 30, "test": 45}

    def fitted(strength: float) -> LogisticRegression:
        strong = LogisticRegression(C=1 / (strength * count["train"]), tol=1e-8, max_iter=10_000)
        return strong.fit(rows["train"], labels["train"])

    best = max(fitted(strength).score(rows["val"], labels["val"]) for strength in L2_STRENGTHS)
    chosen = fitted(result["logistic_l2"])
    assert result["logistic_val_accuracy"] == pytest.approx(best, abs=1.01 / 30)
    for name in ("val", "test"):
        own = chosen.score(rows[name], labels[name])
        assert result[f"logistic_{name}_accuracy"] == pytest.approx(own, abs=1.01 / count[name])  # one on the border
    nearest = KNeighborsClassifier(result["knn_k"], metric="cosine").fit(features["train"], labels["train"])
    if result["knn_k"] == 1:  # of more, ties are broken otherwise
        assert result["knn_test_accuracy"] == pytest.approx(nearest.score(features["test"], labels["test"]), abs=0.03)
    assert result["parameters"] == model.count_params() and result["features"] == 1280
    assert result["macs"] == pytest.approx(2_995e5 * (SIZE / 224) ** 2, rel=0.02)
    assert result["seconds_per_1000_images"] > 0


def test_the_result_is_written_and_holds_the_curve(data_dir, tmp_path):
    result = measured(data_dir, tmp_path, "baseline_cnn:random")
    (path,) = tmp_path.glob("candidates/*/result.json")
    assert json.loads(path.read_text()) == json.loads(json.dumps(result))
    assert [(one["images_per_class"], len(one["accuracies"])) for one in result["few_shot"]] == [(1, 2), (4, 2)]
    assert len(result["logistic_val_right"]) == 30
    assert result["logistic_val_right"].count("1") / 30 == pytest.approx(result["logistic_val_accuracy"])
    assert result["logistic_test_accuracy"] > 0.6  # brightness tells the classes


def test_another_size_of_the_sample_is_another_bank(data_dir, tmp_path):
    first = measured(data_dir, tmp_path, "baseline_cnn:random", eval_images_per_class=4)
    second = measured(data_dir, tmp_path, "baseline_cnn:random", eval_images_per_class=6)
    alone = measured(data_dir, tmp_path / "alone", "baseline_cnn:random", eval_images_per_class=6)
    assert (first["num_images"]["val"], second["num_images"]["val"]) == (12, 18)
    assert second["logistic_val_right"] == alone["logistic_val_right"]


def test_networks_of_ones_own_are_measured_with_their_weights(data_dir, tmp_path):
    flags = {"normalization": "tf", "images_per_class": 0, "pooling": "cls"}
    result = measured(data_dir, tmp_path, "own_networks:subclassed", **flags)
    assert (result["weights"], result["features"], result["num_images"]["train"]) == ("own", 12, 60)


def test_what_cannot_be_measured_says_why(data_dir, tmp_path):
    with pytest.raises(UserError, match="xception takes at least 71 pixels"):
        measured(data_dir, tmp_path / "small", "xception:random")
    (tmp_path / "weights").mkdir()
    with pytest.raises(UserError, match="nor vgg16_imagenet_notop"):
        measured(data_dir, tmp_path / "none", "vgg16", weights=str(tmp_path / "weights"))
