"""Which layers train: the head only, the top of the backbone too, or all."""

import difflib
from typing import Any

from tl_distributed.errors import UserError
from tl_distributed.models.heads import backbone_layers, head_layers
from tl_distributed.models.lora import has_lora, is_of_lora

_MODES = ("scratch", "frozen", "partial", "norms", "lora", "full")
_RATE_BEFORE_FREEZING = "rate_before_freezing"


def freeze_for(
    classifier: Any, mode: str, *, unfreeze_last_layers: int, unfreeze_from: str, batch_norm_trains: bool = True
) -> None:
    """Sets which layers of `classifier` train. May be called again for the next phase.

    A frozen layer behaves as in inference, also when the model is called with `training=True`: BatchNorm
    uses its moving statistics and leaves them as they are (Keras does that for `trainable=False`), and
    dropout, noise and stochastic depth pass their input through (Keras would go on dropping), so that a frozen
    backbone is a fixed function of the image, as under the published `backbone(x, training=False)`. Augmentation by
    layers of a network of one's own goes on, see `draws_at_random`.

    Args:
      classifier: Model of `heads.build_classifier`.
      mode: "scratch" and "full" train everything, "frozen" the head, "partial" the head and the top of
        the backbone, "norms" the head and of the backbone the scales and offsets of its normalisation layers and all
        biases (BitFit: Ben Zaken et al., arXiv:2106.10199; BatchNorm alone: Frankle et al., arXiv:2003.00152),
        "lora" the head and the backbone's low-rank updates, see `lora.enable_lora`.
      unfreeze_last_layers: With "partial", how many of the backbone's layers train, counted from its
        output in the order of `model.layers`; layers without weights count too, as in `base.layers[-30:]`.
      unfreeze_from: With "partial", the name of the first layer that trains; empty to count instead.
      batch_norm_trains: With "partial" and "full", whether the backbone's BatchNorm layers train like others; else they
        stay as they are, statistics, scales and offsets, as Keras's guide to fine-tuning advises.

    Raises:
      UserError: "partial" with neither or both of the two, more layers than there are, or an unknown
        layer, the nearest name is suggested; "norms" where there are neither norms nor biases.
    """
    if mode not in _MODES:
        raise ValueError(f"mode must be one of {', '.join(_MODES)}, not {mode!r}")
    layers = backbone_layers(classifier)
    first_trained = 0
    if mode == "frozen":
        first_trained = len(layers)
    elif mode == "partial":
        first_trained = _first_trained(layers, unfreeze_last_layers, unfreeze_from)
    classifier.trainable = True
    for index, layer in enumerate(layers):
        _set_trains(layer, index >= first_trained)
    if mode in ("partial", "full") and not batch_norm_trains:
        _fix_batch_norm(layers)
    for layer in head_layers(classifier):
        _set_trains(layer, True)
    if mode == "lora":
        for layer in layers:
            _fix_all_but_lora(layer)
    if mode == "norms":
        _fix_all_but_norms_and_biases(layers)


def _fix_batch_norm(layers: list[Any]) -> None:
    from keras.layers import BatchNormalization

    for part in (part for layer in layers for part in layer._flatten_layers()):
        if isinstance(part, BatchNormalization):
            _set_trains(part, False)


def _fix_all_but_lora(layer: Any) -> None:
    """Fixes a layer and what is inside, but for low-rank updates: what has one inside is left as one that trains."""
    if not any(has_lora(part) for part in layer._flatten_layers()):
        _set_trains(layer, False)
        return
    for part in layer._flatten_layers():
        if not any(has_lora(inner) for inner in part._flatten_layers()):
            _set_trains(part, False)
    for part in layer._flatten_layers():
        for variable in part._trainable_variables:
            variable.trainable = has_lora(part) and is_of_lora(variable)


def _fix_all_but_norms_and_biases(layers: list[Any]) -> None:
    """Fixes single variables; a layer's own `trainable` would set all of its variables again."""
    from keras.layers import BatchNormalization, GroupNormalization, LayerNormalization, RMSNormalization

    norms = (BatchNormalization, GroupNormalization, LayerNormalization, RMSNormalization)
    left = 0
    for part in (part for layer in layers for part in layer._flatten_layers()):
        for variable in part._trainable_variables:  # of the layer itself, not of those inside
            variable.trainable = isinstance(part, norms) or variable.name == "bias"
            left += variable.trainable
    if not left:
        raise UserError("--transfer=norms: the backbone has no normalisation layers and no biases; use frozen or full")


def came_frozen(model: Any, mode: str) -> str:
    """Returns what to say of layers with `trainable=False` that will train nevertheless, or nothing.

    Args:
      model: A backbone as it was built.
      mode: Of `--transfer`.
    """
    frozen = [layer.name for layer in model._flatten_layers() if layer._trainable_variables and not layer.trainable]
    if not frozen or mode in ("frozen", "norms", "lora"):
        return ""
    return (
        f"{len(frozen)} of its layers, {frozen[0]} first, have trainable=False, but --transfer={mode} alone says what "
        "trains; what is never to train is made by add_weight(trainable=False)"
    )


def parameter_counts(classifier: Any) -> tuple[int, int]:
    """Returns (trainable, frozen) numbers of parameters; BatchNorm's moving statistics count as frozen."""
    trainable = sum(_size(weight) for weight in classifier.trainable_weights)
    frozen = sum(_size(weight) for weight in classifier.non_trainable_weights)
    return trainable, frozen


def _first_trained(layers: list[Any], unfreeze_last_layers: int, unfreeze_from: str) -> int:
    if bool(unfreeze_last_layers) == bool(unfreeze_from):
        raise UserError(
            "--transfer=partial: needs one of --unfreeze_last_layers=N and --unfreeze_from=LAYER, "
            f"got {'both' if unfreeze_from else 'neither'}"
        )
    if not unfreeze_from:
        if unfreeze_last_layers > len(layers):
            raise UserError(
                f"--unfreeze_last_layers={unfreeze_last_layers}: the backbone has {len(layers)} layers; "
                "use --transfer=full to train all"
            )
        return len(layers) - unfreeze_last_layers
    names = [layer.name for layer in layers]
    if unfreeze_from in names:
        return names.index(unfreeze_from)
    nearest = difflib.get_close_matches(unfreeze_from, names, n=3, cutoff=0.5)
    suggestion = f"did you mean {' or '.join(nearest)}?" if nearest else f"its last ones are {', '.join(names[-5:])}"
    raise UserError(f"--unfreeze_from={unfreeze_from}: the backbone has no such layer; {suggestion}")


def _set_trains(layer: Any, trains: bool) -> None:
    layer.trainable = trains  # reaches the layers inside
    for part in layer._flatten_layers():
        for variable in part._trainable_variables:  # single ones may be fixed, which Keras leaves as it is
            variable.trainable = trains
        for attribute in _drop_rates(part):
            before = getattr(part, _RATE_BEFORE_FREEZING, getattr(part, attribute))
            setattr(part, _RATE_BEFORE_FREEZING, before)
            setattr(part, attribute, before if trains else 0.0)


def draws_at_random(layer: Any) -> bool:
    """Whether a layer or one inside may draw at random in training though it is frozen: not dropout and its kin."""
    return any(part._seed_generators and not _drop_rates(part) for part in layer._flatten_layers())


def _drop_rates(layer: Any) -> list[str]:
    """Names of the attributes of `layer` that hold a probability of dropping, or how strong noise is."""
    import keras

    dropouts = (keras.layers.Dropout, keras.layers.GaussianDropout, keras.layers.AlphaDropout)
    if isinstance(layer, dropouts):  # the spatial dropouts are kinds of Dropout
        return ["rate"]
    if isinstance(layer, keras.layers.GaussianNoise):
        return ["stddev"]
    if type(layer).__name__.endswith("DropPath"):  # KerasHub's stochastic depth
        return [name for name in ("rate", "drop_prob") if hasattr(layer, name)]
    return ["drop_path_rate"] if hasattr(layer, "drop_path_rate") else []  # ConvNeXt's StochasticDepth


def _size(weight: Any) -> int:
    size = 1
    for dimension in weight.shape:
        size *= dimension
    return size
