"""Normalisation against keras.applications."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tl_distributed.pixels.normalize import NORMALIZATION_MODES, normalize

IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 5, 6, 3)).astype(np.float32)
PREPROCESSORS = {
    "tf": keras.applications.mobilenet_v2.preprocess_input,
    "torch": keras.applications.densenet.preprocess_input,
    "caffe": keras.applications.vgg16.preprocess_input,
    "internal": keras.applications.convnext.preprocess_input,
}


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("mode", NORMALIZATION_MODES)
def test_equals_keras(mode, jit_compile):
    found = tf.function(lambda images: normalize(images, mode), jit_compile=jit_compile)(IMAGES)
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, PREPROCESSORS[mode](IMAGES.copy()), rtol=0, atol=1e-4)


def test_unknown_mode_is_refused():
    with pytest.raises(ValueError, match=r"'imagenet'.*tf, torch, caffe, internal"):
        normalize(tf.constant(IMAGES), "imagenet")
