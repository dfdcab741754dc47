"""Backbone weights from every kind of file: all layers or an error, compared with the model that wrote them."""

import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf

from tl_distributed.errors import UserError
from tl_distributed.inference.packaging import package_model
from tl_distributed.inference.stock_layers import with_stock_layers
from tl_distributed.models.backbones import get_backbone
from tl_distributed.models.build import build_backbone
from tl_distributed.models.heads import backbone_layers, build_classifier, head_layers
from tl_distributed.models.weights import fetched_weights_file, load_backbone_weights, load_head_weights

SIZE = 32


def _randomized(model: keras.Model, seed: int) -> keras.Model:
    generator = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(generator.uniform(0.1, 1.0, weight.shape))
    return model


def _classifier(name: str = "tiny_norm", *, seed: int = 0, num_classes: int = 3) -> keras.Model:
    backbone = build_backbone(get_backbone(name), image_size=SIZE, weights="none")
    return _randomized(
        build_classifier(backbone, num_classes=num_classes, pooling="avg", head_units=(4,), dropout=0.0), seed
    )


def _values(layers: list) -> list[np.ndarray]:
    return [weight.numpy() for layer in layers for weight in layer.weights]


def _assert_only_backbone_loaded(source: keras.Model, target: keras.Model, path: str) -> str:
    head_before = _values(head_layers(target))
    summary = load_backbone_weights(target, str(path))
    for loaded, written in zip(_values(backbone_layers(target)), _values(backbone_layers(source)), strict=True):
        np.testing.assert_array_equal(loaded, written)
    for after, before in zip(_values(head_layers(target)), head_before, strict=True):
        np.testing.assert_array_equal(after, before)
    return summary


@pytest.mark.parametrize("file_name", ["m.weights.h5", "m.h5", "m.keras"])
def test_classifier_of_stock_keras_in_every_format(tmp_path, file_name):
    source = _classifier(seed=1)
    path = tmp_path / file_name
    source.save_weights(path) if file_name.endswith(".weights.h5") else source.save(path)
    summary = _assert_only_backbone_loaded(source, _classifier(seed=2, num_classes=7), path)
    assert summary.startswith("weights of 4 backbone layers") and "not of the backbone" in summary


@pytest.mark.parametrize("file_name", ["model.keras", "export.h5"])
def test_a_head_of_the_same_classes_is_kept(tmp_path, file_name):
    source, path = _classifier(seed=1), tmp_path / file_name
    packaged = package_model(source, normalization="tf", native_shape=(SIZE, SIZE, 3), image_size=SIZE)
    (packaged if file_name == "model.keras" else with_stock_layers(packaged)).save(path)
    asked, target = [], _classifier(seed=2)
    _assert_only_backbone_loaded(source, target, path)
    line = load_head_weights(target, str(path), lambda file: asked.append(file) or "")
    assert asked == [str(path)] and line == f"the head of {path} is kept, since the classes are the same"
    for loaded, written in zip(target.get_weights(), source.get_weights(), strict=True):
        np.testing.assert_array_equal(loaded, written)

    target = _classifier(seed=2)
    before = _values(head_layers(target))
    assert load_head_weights(target, str(path), lambda file: "other classes") == "the head is new: other classes"
    for after, value in zip(_values(head_layers(target)), before, strict=True):
        np.testing.assert_array_equal(after, value)
    wider = build_classifier(
        build_backbone(get_backbone("tiny_norm"), image_size=SIZE, weights="none"),
        num_classes=3, pooling="avg", head_units=(5,), dropout=0.0,
    )  # fmt: skip
    line = load_head_weights(wider, str(path), lambda file: "")
    assert line == ("the head is new: head_dense_1 has 16x5 5, the file 16x4 4; head_logits has 5x3 3, the file 4x3 3")


@pytest.mark.parametrize("file_name", ["m.weights.h5", "m.h5", "m.keras"])
def test_backbone_nested_in_a_users_model(tmp_path, file_name):
    inner = _classifier(seed=1)
    base = keras.Model(inner.input, backbone_layers(inner)[-1].output)
    users = keras.Sequential(
        [keras.layers.Input((SIZE, SIZE, 3)), keras.layers.Normalization(), base, keras.layers.GlobalMaxPooling2D()]
    )
    path = tmp_path / file_name
    users.save_weights(path) if file_name.endswith(".weights.h5") else users.save(path)
    _assert_only_backbone_loaded(inner, _classifier(seed=2), path)


def test_run_workdir_and_its_h5_export(tmp_path):
    for name, normalization in (("tiny_norm", "caffe"), ("tiny", "torch")):
        source = _classifier(name, seed=1)
        packaged = package_model(source, normalization=normalization, native_shape=(40, 20, 3), image_size=SIZE)
        packaged.save(tmp_path / "model.keras")
        _assert_only_backbone_loaded(source, _classifier(name, seed=2), tmp_path)
        with_stock_layers(packaged).save(tmp_path / "export.h5")
        _assert_only_backbone_loaded(source, _classifier(name, seed=2), tmp_path / "export.h5")


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "convnext_tiny", "inception_v3", "efficientnet_b0"])
def test_stock_applications_files(tmp_path, name):
    row = get_backbone(name)
    if name == "efficientnet_b0":  # its stock version of random weights is another network
        source = build_backbone(row, image_size=SIZE, weights="none")
    else:
        size = max(SIZE, row.minimum_size)
        source = getattr(keras.applications, row.constructor)(
            include_top=False, weights=None, input_shape=(size, size, 3)
        )
    target = build_backbone(row, image_size=max(SIZE, row.minimum_size), weights="none")
    source.save_weights(tmp_path / fetched_weights_file(name))
    summary = load_backbone_weights(target, str(tmp_path))
    assert "not of the backbone" not in summary
    for ours, stock in zip(target.get_weights(), source.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, stock)


def test_efficientnet_without_imagenet_normalisation_is_refused(tmp_path):
    stock = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=(SIZE, SIZE, 3))
    stock.save_weights(tmp_path / "stock.weights.h5")
    target = build_backbone(get_backbone("efficientnet_b0"), image_size=SIZE, weights="none")
    before = target.get_weights()
    with pytest.raises(UserError, match="without ImageNet's input normalisation"):
        load_backbone_weights(target, str(tmp_path / "stock.weights.h5"))
    for after, was in zip(target.get_weights(), before, strict=True):
        np.testing.assert_array_equal(after, was)


def test_normalisation_statistics_take_effect(tmp_path):
    """Keras's Normalization computes from a copy of its weights that assignment alone leaves stale."""
    source = build_backbone(get_backbone("efficientnet_b0"), image_size=SIZE, weights="none")
    next(layer for layer in source.layers if layer.name == "normalization").adapt_mean.assign([0.1, 0.2, 0.3])
    source.save_weights(tmp_path / "m.weights.h5")
    target = build_backbone(get_backbone("efficientnet_b0"), image_size=SIZE, weights="none")
    load_backbone_weights(target, str(tmp_path / "m.weights.h5"))
    layer = next(layer for layer in target.layers if layer.name == "normalization")
    image = np.full((1, SIZE, SIZE, 3), 0.5, np.float32)
    expected = (0.5 - np.array([0.1, 0.2, 0.3])) / np.sqrt([0.229, 0.224, 0.225])
    np.testing.assert_allclose(layer(image).numpy()[0, 0, 0], expected, rtol=1e-5)


@pytest.mark.real_data
def test_real_imagenet_weights_equal_what_keras_loads(real_data_dir):
    path = str(real_data_dir / fetched_weights_file("mobilenet_v2"))
    stock = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(SIZE, SIZE, 3))
    stock.load_weights(path)
    ours = build_backbone(get_backbone("mobilenet_v2"), image_size=SIZE, weights="none")
    assert load_backbone_weights(ours, path).startswith("weights of 104 backbone layers, 2,257,984 numbers")
    image = np.random.default_rng(0).uniform(-1, 1, (2, SIZE, SIZE, 3)).astype(np.float32)
    np.testing.assert_array_equal(ours(image), stock(image))


@pytest.mark.parametrize("file_name", ["m.weights.h5", "m.h5", "m.keras"])
def test_another_network_is_named_layer_by_layer_and_changes_nothing(tmp_path, file_name):
    source = _classifier("tiny", seed=1)
    path = tmp_path / file_name
    source.save_weights(path) if file_name.endswith(".weights.h5") else source.save(path)
    target = _classifier("tiny_norm", seed=2)
    before = target.get_weights()
    with pytest.raises(UserError, match=r"does not fit tiny_norm: \d of its 4 layers differ: .*bn1") as caught:
        load_backbone_weights(target, str(path))
    assert "\n" not in str(caught.value)
    for after, was in zip(target.get_weights(), before, strict=True):
        np.testing.assert_array_equal(after, was)


def test_mismatch_shows_both_shapes(tmp_path):
    layers = [keras.layers.Input((SIZE, SIZE, 3)), keras.layers.Conv2D(8, 3, use_bias=False, name="other")]
    layers += [keras.layers.BatchNormalization(), keras.layers.Conv2D(99, 3, use_bias=False)]
    keras.Sequential([*layers, keras.layers.BatchNormalization()]).save_weights(tmp_path / "m.weights.h5")
    with pytest.raises(UserError, match=r"2 of its 4 layers differ: conv2 has 3x3x8x16, the file .*3x3x8x99; bn2 has"):
        load_backbone_weights(_classifier(), str(tmp_path / "m.weights.h5"))


@pytest.mark.parametrize("save", ["weights.h5", "h5", "keras"])
def test_a_deeper_network_with_the_same_names_is_refused(tmp_path, save):
    """ResNet-152 has a layer of every name of ResNet-101, of the same shape."""

    def stack(blocks: int) -> keras.Model:
        inputs = keras.Input((SIZE, SIZE, 3))
        x = keras.layers.Conv2D(8, 3, name="stem")(inputs)
        for index in range(blocks):
            x = keras.layers.Conv2D(8, 3, name=f"block{index}")(x)
        return keras.Model(inputs, keras.layers.Conv2D(16, 3, name="top")(x), name="stack")

    path = tmp_path / f"m.{save}"
    stack(4).save_weights(path) if save == "weights.h5" else stack(4).save(path)
    with pytest.raises(UserError, match="does not fit stack"):
        load_backbone_weights(stack(2), str(path))


def _write(path, content: bytes):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.h5", b"", "an empty file"),
        ("model.pkl", pickle.dumps([1.0]), "a pickle, which could run code"),
        ("weights.bin", b"abcdefghij", "not a weight file of Keras"),
        ("ckpt-1.index", b"\x00\x00\x01\x02\x03\x04\x05\x06", "a TensorFlow checkpoint"),
        ("cut.weights.h5", b"\x89HDF\r\n\x1a\n" + b"\0" * 64, "damaged or incomplete HDF5"),
        ("cut.keras", b"PK\x03\x04" + b"\0" * 64, "damaged or incomplete archive"),
    ],
)
def test_strangers_are_named(tmp_path, name, content, message):
    with pytest.raises(UserError, match=message):
        load_backbone_weights(_classifier(), str(_write(tmp_path / name, content)))


def _damage(path, part: bytes) -> None:
    content = path.read_bytes()
    assert part in content
    path.write_bytes(content.replace(part, bytes(len(part))))


@pytest.mark.parametrize("part", [b"TREE", b"SNOD", b"HEAP"])  # what HDF5 finds its groups by
@pytest.mark.parametrize("name", ["m.weights.h5", "m.h5"])
def test_damage_within_a_file_is_named(tmp_path, name, part):
    path = tmp_path / name
    if name == "m.h5":
        _classifier().save(path)
    else:
        _classifier().save_weights(path)
    _damage(path, part)
    with pytest.raises(UserError, match=r"m\..*h5: damaged or incomplete HDF5 file \(.+\); copy it again"):
        load_backbone_weights(_classifier(), str(path))


def test_zip_that_is_no_keras_model(tmp_path):
    np.savez(tmp_path / "arrays.npz", a=np.zeros(3))
    with pytest.raises(UserError, match=r"not a \.keras model"):
        load_backbone_weights(_classifier(), str(tmp_path / "arrays.npz"))


def test_lambda_code_is_not_run(tmp_path):
    inputs = keras.Input((SIZE, SIZE, 3))
    keras.Model(inputs, keras.layers.Lambda(lambda x: x)(inputs)).save(tmp_path / "evil.keras")
    with pytest.raises(UserError, match="without running its code"):
        load_backbone_weights(_classifier(), str(tmp_path / "evil.keras"))


def test_missing_paths_and_folders(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        load_backbone_weights(_classifier(), str(tmp_path / "nothing.h5"))
    with pytest.raises(UserError, match=r"neither model\.keras .* nor tiny_norm_imagenet_notop"):
        load_backbone_weights(_classifier(), str(tmp_path))
    (tmp_path / "ckpt-7.index").write_bytes(b"")
    with pytest.raises(UserError, match="a TensorFlow checkpoint"):
        load_backbone_weights(_classifier(), str(tmp_path / "ckpt-7"))
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(UserError, match="a SavedModel"):
        load_backbone_weights(_classifier(), str(tmp_path))


def test_mixed_precision_target_and_remote_path(tmp_path, monkeypatch):
    source = _classifier(seed=1)
    source.save_weights(tmp_path / "m.weights.h5")
    keras.config.set_dtype_policy("mixed_bfloat16")
    _assert_only_backbone_loaded(source, _classifier(seed=2), tmp_path / "m.weights.h5")
    copied = []
    original_exists, original_copy = tf.io.gfile.exists, tf.io.gfile.copy
    local = str(tmp_path / "m.weights.h5")
    monkeypatch.setattr(tf.io.gfile, "exists", lambda path: original_exists(path.replace("gs://bucket", str(tmp_path))))
    monkeypatch.setattr(tf.io.gfile, "isdir", lambda path: False)
    monkeypatch.setattr(tf.io.gfile, "copy", lambda path, to: (copied.append(path), original_copy(local, to)))
    _assert_only_backbone_loaded(source, _classifier(seed=3), "gs://bucket/m.weights.h5")
    assert copied == ["gs://bucket/m.weights.h5"]


def test_files_of_older_keras(tmp_path):
    """Keras 1 and 2 wrote `LAYER_W_1:0` or `LAYER/kernel:0`, and cut lists of names longer than 64 KB."""
    import h5py

    source, target = _classifier("tiny", seed=1), _classifier("tiny", seed=2)
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file.attrs["layer_names0"] = np.array([b"input_1", b"conv1"])
        file.attrs["layer_names1"] = np.array([b"relu1", b"conv2"])
        for name in ("input_1", "conv1", "relu1", "conv2"):
            group = file.create_group(name)
            group.attrs["weight_names"] = np.array([], dtype="S1")
            if name.startswith("conv"):
                kernel, bias = source.get_layer(name).get_weights()
                names = [f"{name}_W_1:0", f"{name}_b_1:0"] if name == "conv1" else [f"x/{name}/k:0", f"x/{name}/b:0"]
                group.attrs["weight_names"] = np.array([text.encode() for text in names])
                group[names[0]], group[names[1]] = kernel, bias
    _assert_only_backbone_loaded(source, target, tmp_path / "old.h5")
