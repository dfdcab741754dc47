"""Stock Keras: `model.fit` and `model.predict`, as tutorials use them and at their best.

Keras 3 on TensorFlow or on JAX, or tf-keras, which is Keras 2. The network is the very one of our table, which is that
of `keras.applications`; all around it is stock.
"""

import importlib
from types import ModuleType
from typing import Any

import numpy as np
import tensorflow as tf

from tl_distributed.benchmarks.contenders.auto_clustering import Clustered
from tl_distributed.benchmarks.contenders.keras_devices import Devices, jax_devices, tensorflow_devices
from tl_distributed.benchmarks.contenders.keras_fit import Fit, Predict
from tl_distributed.benchmarks.contenders.keras_input import best_dataset, tutorial_dataset
from tl_distributed.benchmarks.contenders.keras_networks import best_model, tutorial_model

_RATE, _WEIGHT_DECAY = 1e-4, 1e-4


def start(settings: dict[str, Any]) -> Any:
    """Builds and compiles the model.

    Args:
      settings: `backbone`, `image_size`, `native_size`, `images`, `global_batch_size`, `augment`, `precision`,
        `replicas`, `mode`; `library`, "keras" or "tf_keras"; `jax`: Keras's backend is JAX, as the environment says
        too; `jit_compile` as `compile` takes it; `clustered`: the environment asks for auto-clustering; `folder` of
        image files by class, from which a tutorial reads, or nothing for arrays in memory; `augment_in_map`: the
        tutorial's layers are in the dataset, not in the model.

    Raises:
      NotMeasured: The library has no such network, or JAX does not see the GPUs.
    """
    devices = (jax_devices if settings["jax"] else tensorflow_devices)(settings["replicas"])
    keras = importlib.import_module(settings["library"])
    keras.utils.set_random_seed(0)
    _set_precision(keras, settings["precision"], devices)
    with devices.scope():
        from_files = bool(settings["folder"])
        model = tutorial_model(keras, settings) if from_files else best_model(keras, settings, on_gpu=devices.on_gpu)
        model.compile(
            keras.optimizers.AdamW(_RATE, weight_decay=_WEIGHT_DECAY),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            jit_compile=settings["jit_compile"],
        )
    dataset = tutorial_dataset(keras, settings) if from_files else best_dataset(settings, on_gpu=devices.on_gpu)
    batch_size = settings["global_batch_size"]
    if settings["mode"] == "forward":
        contender = Predict(model, dataset, devices, batch_size)
    else:
        contender = Fit(keras, model, dataset, devices, batch_size)
    contender.facts = _facts(keras, model, dataset, devices)
    return Clustered(contender) if settings["clustered"] else contender


def _set_precision(keras: ModuleType, precision: str, devices: Devices) -> None:
    if precision == "auto":
        precision = "mixed_bfloat16" if devices.on_gpu else "float32"
    keras.mixed_precision.set_global_policy(precision)  # Keras 3 has this name of Keras 2 too


def _facts(keras: ModuleType, model: Any, dataset: tf.data.Dataset, devices: Devices) -> dict[str, Any]:
    facts = {
        "device": ", ".join(devices.names),
        "replicas": len(devices.names),
        "xla": bool(model.jit_compile),
        "precision": keras.mixed_precision.global_policy().name,
        "parameters": model.count_params(),
        "bytes_to_device_per_image": sum(
            int(np.prod(spec.shape[1:])) * spec.dtype.size for spec in tf.nest.flatten(dataset.element_spec)
        ),
    }
    if keras.__name__ == "keras":  # its layers are what the count knows
        from tl_distributed.models.flops import count_macs

        facts["macs_per_image"] = count_macs(model)
    return facts
