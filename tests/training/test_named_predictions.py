"""A run names the pictures that it got wrong, where its data set has ids."""

import numpy as np
import pytest
from image_files import class_files, write_folder

from data_prep.build import build
from data_prep.config import BuildConfig
from tl_distributed.data.records import read_manifest
from tl_distributed.settings.config import Config
from tl_distributed.training.examples import misclassified
from tl_distributed.training.run import train_and_evaluate
from tl_distributed.training.tasks import Classification


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("named")
    files = class_files({"train/a": 8, "train/b": 8, "test/a": 5, "test/b": 4})
    settings = {"source": "image_folder", "image_size": 8, "num_shards": 2}
    build(BuildConfig(input=write_folder(folder / "in", files), output_dir=str(folder / "ds"), **settings))
    config = Config(
        data_dir=str(folder / "ds"), workdir=str(folder / "run"), backbone="tiny", transfer="scratch", epochs=1,
        global_batch_size=4, strategy="one_device", xla="off",
    )  # fmt: skip
    train_and_evaluate(config)
    return folder


def test_predictions_have_the_name_of_each_row(run):
    with np.load(run / "run/predictions_test.npz", allow_pickle=False) as saved:
        labels, ids = saved["labels"], saved["ids"]
    assert sorted(ids) == sorted(str(path.relative_to(run / "in")) for path in (run / "in/test").rglob("*.png"))
    names = read_manifest(str(run / "ds")).class_names
    assert [names[label] for label in labels] == [path.split("/")[1] for path in ids]


def test_captions_of_misclassified_images_name_the_file():
    class Scores:
        labels, predictions, confidences = np.array([0, 1, 1]), np.array([1, 1, 0]), np.array([0.6, 0.9, 0.8])

    class Evaluation:
        scores, task = Scores, Classification()

    class Split:
        def eval_batches(self, batch_size):
            del batch_size
            yield type("Batch", (), {"images": np.arange(3 * 12).reshape(3, 2, 2, 3), "num_valid": 3, "sizes": None})

    ids = ["test/a/1.png", "test/b/2.png", "test/b/a_name_that_is_much_too_long_for_a_caption_0003.png"]
    captions = misclassified(Split(), Evaluation, ("a", "b"), ids, image_size=4, fit=None).captions
    assert [caption.splitlines()[-1] for caption in captions] == ["...g_for_a_caption_0003.png", "1.png"]
    captions = misclassified(Split(), Evaluation, ("a", "b"), image_size=4, fit=None).captions
    assert [caption.splitlines()[-1] for caption in captions] == ["a 80%", "b 60%"]
