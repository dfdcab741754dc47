"""How every command that trains claims the devices and builds the model of its config."""

import logging
from collections.abc import Sequence

import keras

from tl_distributed.inference.kept_head import head_of_classes
from tl_distributed.models.backbones import Backbone
from tl_distributed.models.batch_norm import refuse_synchronized_batch_norm
from tl_distributed.models.build import build_backbone, build_model
from tl_distributed.models.lora import enable_lora
from tl_distributed.models.settings import ModelSettings
from tl_distributed.models.weights import weights_digest
from tl_distributed.runtime.devices import Runtime, start_runtime
from tl_distributed.runtime.settings import RuntimeSettings
from tl_distributed.runtime.workers import Workers
from tl_distributed.settings.config import Config
from tl_distributed.training.layer_state import refuse_weights_of_other_types

_LOG = logging.getLogger(__name__)


def start_devices(config: Config, backbone: Backbone, workers: Workers) -> Runtime:
    """Starts the runtime that a config asks for; raises as `devices.start_runtime` does."""
    return start_runtime(
        config.part(RuntimeSettings),
        workers,
        global_batch_size=config.global_batch_size,
        seed=config.seed,
        deterministic=config.deterministic,
        model_family=backbone.family or backbone.name,
    )


def start_model(
    config: Config,
    backbone: Backbone,
    runtime: Runtime,
    *,
    num_classes: int,
    load_weights: bool,
    class_names: Sequence[str] = (),
) -> keras.Model:
    """Builds the classifier of a resolved config on the devices.

    The head of `--weights=PATH` is kept where it was trained on `class_names`, in this order.

    Where several workers download ImageNet weights, perhaps into one home, the chief is first: the others find them.

    Raises:
      UserError: As `build.build_model` does; BatchNorm of all replicas' statistics or weights of another type than
        float32 are to train; or a worker has read other weights than the chief, as each may of its own disk: gradients
        of different networks would be summed.
    """
    workers = runtime.workers
    if workers.count > 1 and load_weights and config.weights == "imagenet":
        if workers.is_chief:  # outside the strategy, whose variables all workers make together
            build_backbone(backbone, image_size=config.image_size, weights="imagenet")
        workers.exchange("the weights are there", None)
    with runtime.strategy.scope():
        model = build_model(
            config.part(ModelSettings),
            backbone,
            image_size=config.image_size,
            num_classes=num_classes,
            load_weights=load_weights,
            why_new_head=head_of_classes(class_names),
        )
        if config.transfer == "lora":
            _LOG.info("%s", enable_lora(model, config.lora_rank))
    trains_batch_norm = config.batch_norm == "train" and config.transfer not in ("frozen", "lora")
    if trains_batch_norm and runtime.num_replicas > 1:
        refuse_synchronized_batch_norm(model)
    if config.transfer != "frozen":
        refuse_weights_of_other_types(model)
    if workers.count > 1 and load_weights and config.weights != "none":
        workers.require_same({"weights of SHA-256": weights_digest(model)}, "give all the same file (--weights)")
    return model
