"""TFDS sets without the network: mocked metadata and data, and small sets that are really prepared."""

# ruff: noqa: RUF012 - the features of a set are never changed

import numpy as np
import pytest

tfds = pytest.importorskip("tensorflow_datasets")

from stored_pictures import pixel_rule, read_arrays  # noqa: E402

from data_prep.sources.tfds import TfdsSource  # noqa: E402 - needs the line above
from tl_distributed.errors import UserError  # noqa: E402

CIFAR10_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


class _Builder(tfds.core.GeneratorBasedBuilder):
    """Base of the sets below, which exist in these tests only."""

    SKIP_REGISTERING = True
    VERSION = tfds.core.Version("1.0.0")
    FEATURES, KEYS, SPLITS = None, ("image", "label"), ("train", "test")

    def _info(self):
        features = tfds.features.FeaturesDict(self.FEATURES)
        return tfds.core.DatasetInfo(
            builder=self, features=features, supervised_keys=self.KEYS, description="Ten pictures.",
            homepage="https://example.org", citation="@misc{ten}", license="CC BY 4.0",
        )  # fmt: skip

    def _split_generators(self, download_manager):
        return {split: self._generate_examples(split) for split in self.SPLITS}

    def _generate_examples(self, split):
        for number in range(10):
            yield f"{split}{number}", self.example(split, number)


class PhotoSet(_Builder):
    """Images of many sizes with a third feature; its test split has no public labels."""

    FEATURES = {
        "image": tfds.features.Image(),
        "label": tfds.features.ClassLabel(names=["cat", "dog"]),
        "text": tfds.features.Text(),
    }
    SPLITS = ("train", "validation", "test")

    def example(self, split, number):
        image = np.full((8 + number, 12, 3), 20 * number, np.uint8)
        return {"image": image, "label": -1 if split == "test" else number % 2, "text": "x"}


class GreySet(_Builder):
    """Grey images of one size, no validation split."""

    FEATURES = {"image": tfds.features.Image(shape=(8, 8, 1)), "label": tfds.features.ClassLabel(num_classes=3)}

    def example(self, split, number):
        return {"image": np.full((8, 8, 1), number, np.uint8), "label": number % 3}


class FixedSet(_Builder):
    """Images that need no resize, so that they are read in batches."""

    FEATURES = {"image": tfds.features.Image(shape=(8, 8, 3)), "label": tfds.features.ClassLabel(num_classes=2)}

    def example(self, split, number):
        image = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        return {"image": image, "label": number % 2}


class TextSet(_Builder):
    FEATURES = {"image": tfds.features.Text(), "label": tfds.features.ClassLabel(num_classes=2)}

    def example(self, split, number):
        return {"image": "x", "label": 0}


class UnpairedSet(_Builder):
    FEATURES = {"image": tfds.features.Image()}
    KEYS = None

    def example(self, split, number):
        return {"image": np.zeros((4, 4, 3), np.uint8)}


class NoTrainSet(GreySet):
    SPLITS = ("test",)


@pytest.fixture
def use_builder(tmp_path, monkeypatch):
    """Makes `tfds.builder` build one of the sets above in a temporary folder."""

    def use(builder_class):
        monkeypatch.setattr(tfds, "builder", lambda name, data_dir: builder_class(data_dir=tmp_path))

    return use


def open_source(tfds_name, data_dir=""):
    return TfdsSource(name="tfds", tfds_name=tfds_name, data_dir=data_dir)


def read(source, split, size=8):
    return read_arrays(source, split, pixel_rule(size))


def write_metadata(data_dir):
    """Writes the metadata of a prepared CIFAR-10: with it the mocked set has the split names of the real one."""
    builder = tfds.builder("cifar10", data_dir=data_dir)
    template = tfds.core.ShardedFileTemplate(
        data_dir=builder.data_dir, dataset_name="cifar10", split="train", filetype_suffix="tfrecord"
    )
    builder.info.set_splits(
        tfds.core.SplitDict(
            [
                tfds.core.SplitInfo(
                    name=name, shard_lengths=[300], num_bytes=1, filename_template=template.replace(split=name)
                )
                for name in ("train", "test")
            ]
        )
    )
    builder.info.features["label"].names = CIFAR10_NAMES
    builder.data_path.mkdir(parents=True)
    builder.info.write_to_directory(builder.data_dir)


def test_cifar10_by_mocked_data(tmp_path):
    write_metadata(tmp_path)
    with tfds.testing.mock_data(num_examples=300, data_dir=str(tmp_path)):
        source = TfdsSource(name="cifar10", tfds_name="cifar10", data_dir=str(tmp_path))
        assert source.count("test") == 300
        assert source.class_names == tuple(CIFAR10_NAMES)
        assert source.splits == ("train", "test")
        images, labels = read(source, "train", size=32)
    assert images.shape == (300, 32, 32, 3) and images.dtype == np.uint8
    assert set(labels) == set(range(10))


def test_images_of_any_size_are_resized_and_unlabelled_splits_left_out(use_builder):
    use_builder(PhotoSet)
    source = open_source("photo_set")
    assert source.splits == ("train", "val")
    assert source.class_names == ("cat", "dog")
    assert "left out test, it has no labels" in source.notes[0]
    images, labels = read(source, "val", size=6)
    assert source.count("val") == 10
    # One grey value an image, so any resize gives that value; the value tells the label.
    np.testing.assert_array_equal(images, np.broadcast_to(images[:, :1, :1], (10, 6, 6, 3)))
    assert sorted(zip(images[:, 0, 0, 0].tolist(), labels.tolist(), strict=True)) == [
        (20 * i, i % 2) for i in range(10)
    ]


def test_what_the_set_says_of_itself_is_kept_and_ids_are_places(use_builder):
    use_builder(PhotoSet)
    source = open_source("photo_set")
    said = {"description": "Ten pictures.", "homepage": "https://example.org", "citation": "@misc{ten}"}
    assert {**said, "license": "CC BY 4.0"}.items() <= source.details.items()
    assert [name for chunk in source.chunks("val", pixel_rule()) for name in chunk.names] == [
        f"val/{n:05d}" for n in range(10)
    ]


def test_grey_images_become_rgb(use_builder):
    use_builder(GreySet)
    images, labels = read(open_source("grey_set"), "test")
    assert images.shape == (10, 8, 8, 3)
    np.testing.assert_array_equal(images[:, 0, 0, 0] % 3, labels)


def test_images_of_the_right_size_keep_every_pixel(use_builder):
    use_builder(FixedSet)
    images, labels = read(open_source("fixed_set"), "train")
    expected = [FixedSet.example(None, "train", number) for number in range(10)]
    found = sorted((image.tobytes(), label) for image, label in zip(images, labels.tolist(), strict=True))
    assert found == sorted((example["image"].tobytes(), example["label"]) for example in expected)


@pytest.mark.parametrize("builder_class", [TextSet, UnpairedSet])
def test_sets_that_are_no_image_classification_are_refused(use_builder, builder_class):
    use_builder(builder_class)
    with pytest.raises(UserError, match="not images with one class label each"):
        open_source("other_set")


def test_set_without_train_is_refused(use_builder):
    use_builder(NoTrainSet)
    with pytest.raises(UserError, match="no labelled train split"):
        open_source("no_train_set")


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(UserError, match="knows no such set; did you mean oxford_flowers102"):
        open_source("oxford_flower102")


def test_failed_download_gives_one_line_with_the_cause_and_the_offline_ways(tmp_path, monkeypatch):
    import requests

    def refuse(*_, **__):
        raise requests.exceptions.ConnectionError("Name or service not known: www.cs.toronto.edu")

    monkeypatch.setattr(requests.Session, "send", refuse)
    with pytest.raises(UserError) as error:
        open_source("cifar10", data_dir=str(tmp_path))
    message = str(error.value)
    assert "Name or service not known: www.cs.toronto.edu" in message and "\n" not in message
    for way in ("--source=cifar10_archive", "--source=image_folder", "--source=synthetic", "--input="):
        assert way in message
