"""Brings a network of one's own into the form of the table's: functional, of one static image size, its own layers."""

import logging
from collections.abc import Callable
from typing import Any

from tl_distributed.errors import UserError, one_line
from tl_distributed.models.precision import main_policy, with_policy

_LOG = logging.getLogger(__name__)
_STEPS_OF_FIT = ("fit", "train_step", "compute_loss")


def as_functional(model: Any, image_size: int, *, flag: str, normalize: Callable[[Any], Any] | None = None) -> Any:
    """Returns a functional model of images `[batch, image_size, image_size, 3] float32`.

    A functional or sequential model keeps its layers. A subclassed one becomes a single layer: it trains whole or not
    at all.

    Args:
      model: What a user's function returned.
      image_size: Side in pixels.
      flag: `--backbone=NAME`, for messages.
      normalize: Put before the model; a function of a Keras tensor.

    Raises:
      UserError: No model, one of other inputs or of several outputs, one whose graph is not what it computes, or layers
        that cannot be copied where they have to be.
    """
    import keras

    if not isinstance(model, keras.Model):
        raise UserError(f"{flag}: its function returned {type(model).__name__}, not a keras.Model")
    refuse_call_beside_graph(model, flag)
    if left_out := not_called(model):
        _LOG.warning("%s: %s.", flag, left_out)
    inputs = keras.Input((image_size, image_size, 3), name="image")
    if not is_functional(model):
        outputs = model(_normalized(inputs, normalize))
    else:
        _check_input(model, image_size, flag)
        graph = _graph(model)
        if normalize is None and tuple(graph.input_shape[1:]) == (image_size, image_size, 3):
            inputs, outputs = graph.input, graph.output
        else:
            copy = copied(model, inputs, flag, normalize)
            inputs, outputs = copy.input, copy.output
    if not hasattr(outputs, "shape"):
        raise UserError(f"{flag}: returns several outputs; it has to return one tensor")
    if len(outputs.shape) not in (2, 3, 4) or None in outputs.shape[1:]:
        raise UserError(
            f"{flag}: returns features of shape {tuple(outputs.shape[1:])} an image; takes (features,), (tokens, "
            "features) or (height, width, features), all of them fixed"
        )
    return keras.Model(inputs, outputs, name=model.name)


def is_functional(model: Any) -> bool:
    """Whether a model is a graph of layers: functional, or sequential and built."""
    return _graph(model) is not None


def _graph(model: Any) -> Any:
    """Returns the functional model that a model is, or, if it is sequential and built, that it has."""
    return model if hasattr(model, "_nodes_by_depth") else getattr(model, "_functional", None)


def image_side(model: Any) -> int:
    """Returns the side in pixels of the square images that a model takes; 0 where it takes any, or does not say."""
    shape = _graph(model).input_shape if is_functional(model) else None
    is_square = isinstance(shape, tuple) and len(shape) == 4 and shape[1] == shape[2]
    return shape[1] or 0 if is_square else 0


def anew(model: Any, image_size: int, *, keep_weights: bool) -> Any:
    """Returns a model of the same config, for a strategy's scope that the given one was not made in.

    It computes in the precision that is set: layers of the one that most of the given model's have take it over, others
    keep theirs.

    Args:
      model: Functional or subclassed.
      image_size: Side in pixels, for which it is built.
      keep_weights: Whether it has the same weights, and not new ones.

    Raises:
      UserError: A model that says no config, or without weights to keep, or whose graph is not what it computes.
    """
    import keras

    flag = f"model {model.name}"
    refuse_call_beside_graph(model, flag)
    inputs = keras.Input((image_size, image_size, 3), name="image")
    policies = main_policy(model), keras.config.dtype_policy().name
    if is_functional(model):
        _check_input(model, image_size, flag)
        copy = copied(model, inputs, flag, keep_weights=keep_weights, policies=policies)
        left_out = not_called(model)
        if left_out != not_called(copy):  # of its own class, which the copy is not of
            _LOG.warning("%s: %s.", flag, left_out)
        return copy
    copy = type(model).from_config(with_policy(_config_of(model), *policies))
    copy(inputs)
    if keep_weights:
        if len(copy.weights) != len(model.weights):
            raise UserError(f"{flag}: has no weights yet; call it on images once, or drop pretrained=True")
        assign_weights(copy, model)
    return copy


def digest_source(model: Any, *, with_weights: bool) -> bytes:
    """Returns bytes that tell one model from another: its config, and its weights where they count.

    Raises:
      UserError: A model that says no config.
    """
    import json

    from keras.saving import serialize_keras_object

    config = json.dumps(serialize_keras_object(_config_of(model)), sort_keys=True, default=str).encode()
    return config + b"".join(weight.tobytes() for weight in model.get_weights()) if with_weights else config


def _config_of(model: Any) -> dict[str, Any]:
    try:
        return model.get_config()
    except NotImplementedError as error:
        raise UserError(
            f"model {model.name}: its class says no config ({one_line(error)[:120]}), so it cannot be made anew on the "
            "run's devices; write its get_config, or give a function that builds it"
        ) from None


def refuse_what_cannot_be_saved(classifier: Any, flag: str) -> None:
    """Makes a classifier anew from its config, as the saved model will be: now, and not after the training.

    Raises:
      UserError: A class or function that Keras does not find again.
    """
    try:
        type(classifier).from_config(classifier.get_config())
    except (NotImplementedError, TypeError, ValueError) as error:
        reason = one_line(error).partition(" Full object config")[0][:300]
        raise UserError(
            f"{flag}: could not be saved ({reason}); decorate its classes with "
            "@keras.saving.register_keras_serializable(), and give them a get_config"
        ) from None


def refuse_call_beside_graph(model: Any, flag: str) -> None:
    """Raises `UserError` for a network, or one inside, whose class computes something else than its graph of layers.

    Such is a subclass that is given inputs and outputs and has a `call` of its own. Whatever goes by the graph would
    pass it by: a copy of the layers, the bank's boundary, convolutions that take over BatchNorm, counts.
    """
    import keras

    for part in model._flatten_layers():
        if not isinstance(part, keras.Sequential) and not is_functional(part):
            continue
        kind = next(kind for kind in type(part).__mro__ if "call" in vars(kind))
        if kind.__module__.partition(".")[0] not in ("keras", "keras_hub"):
            raise UserError(
                f"{flag}: {kind.__name__} is a graph of layers and has a call of its own, of which training by its "
                "graph would see nothing; drop one of the two: build it without inputs and outputs, or without a call"
            )


def not_called(model: Any) -> str:
    """Returns what to say of a network with steps of `fit` of its own, which no run calls, or nothing."""
    import keras

    models = [part for part in model._flatten_layers() if isinstance(part, keras.Model)]
    found = [
        f"{name} of {type(part).__name__}"
        for part in models
        for name in _STEPS_OF_FIT
        if getattr(type(part), name) is not getattr(keras.Model, name)
    ]
    listed = ", ".join(dict.fromkeys(found))
    return f"has {listed}, which training here does not call; a loss of your own is a task's (--task)" if found else ""


def copied(
    model: Any,
    inputs: Any,
    flag: str,
    normalize: Callable[[Any], Any] | None = None,
    *,
    keep_weights: bool = True,
    policies: tuple[str, str] | None = None,
) -> Any:
    """Returns a copy of a functional or sequential model on other inputs, with weights of its own.

    Args:
      model: To be copied.
      inputs: A Keras tensor.
      flag: For messages.
      normalize: Of the inputs, put before the copy.
      keep_weights: Whether the copy has the model's weights, and not new ones.
      policies: A dtype policy, and the one that the copy's layers have in its place.

    Raises:
      UserError: A layer that cannot be made anew from its config.
    """
    import keras

    model = _graph(model)
    normalized = _normalized(inputs, normalize)

    def call(layer: Any, *arguments: Any, **keywords: Any) -> Any:
        arguments, keywords = keras.tree.map_structure(
            lambda value: normalized if value is inputs else value, (arguments, keywords)
        )
        return layer(*arguments, **keywords)

    def anew_of(layer: Any) -> Any:
        config = layer.get_config()
        return type(layer).from_config(with_policy(config, *policies) if policies else config)

    try:
        copy = keras.models.clone_model(model, input_tensors=inputs, clone_function=anew_of, call_function=call)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise UserError(
            f"{flag}: a layer of it cannot be made anew ({one_line(error)}); give its class a get_config, or a "
            "function --backbone=MODULE:FUNCTION that builds it for the image size, with --normalization=internal"
        ) from None
    if keep_weights:
        assign_weights(copy, model)
    return copy


def assign_weights(target: Any, source: Any) -> None:
    """Gives a model the weights of an equal one."""
    import keras

    target.set_weights(source.get_weights())
    for layer in target._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # it computes from a copy of its weights


def ends_in_logits(model: Any, num_classes: int, *, flag: str) -> Any:
    """Returns a whole classifier with its last layer named as the head's, and float32 logits.

    A softmax that is the last layer, or its activation, is taken off, and so is a sigmoid: the loss takes logits.

    Args:
      model: Of `as_functional`.
      num_classes: Of the data set.
      flag: For messages.

    Raises:
      UserError: Another number of outputs, or probabilities that are no layer's.
    """
    import keras

    from tl_distributed.models.heads import HEAD_PREFIX

    outputs = model.output
    last = outputs._keras_history.operation
    taken_off = (keras.activations.softmax, keras.activations.sigmoid)
    is_softmax = _activation(last) in taken_off
    if isinstance(last, keras.layers.Softmax) or (is_softmax and not last.weights):
        outputs = last.input
        last = outputs._keras_history.operation
    if _activation(last) in taken_off:
        last.activation = keras.activations.linear
    if tuple(outputs.shape[1:]) != (num_classes,):
        raise UserError(
            f"{flag}: returns {tuple(outputs.shape[1:])} an image, and the data set has {num_classes} classes; build "
            "it for as many, or drop --head=own"
        )
    model = keras.Model(model.input, outputs, name=model.name)
    _refuse_probabilities(model, flag)
    if len(model.layers) > 2 and last.weights:  # one that is a single layer has no head apart
        last.name = f"{HEAD_PREFIX}{last.name}"
    logits = keras.layers.Activation("linear", dtype="float32", name=f"{HEAD_PREFIX}logits")(outputs)
    return keras.Model(model.input, logits, name=model.name)


def _refuse_probabilities(model: Any, flag: str) -> None:
    import numpy as np

    images = np.random.default_rng(0).normal(size=(4, *model.input_shape[1:])).astype("float32")
    rows = np.asarray(model(images, training=False), np.float32)
    if rows.shape[1] > 1 and (rows >= 0).all() and np.allclose(rows.sum(1), 1, atol=1e-2):
        raise UserError(f"{flag}: returns probabilities; with --head=own it has to return logits, before any softmax")


def _activation(operation: Any) -> Any:
    return getattr(operation, "activation", None)


def _normalized(images: Any, normalize: Callable[[Any], Any] | None) -> Any:
    if normalize is None:
        return images
    try:
        normalized = normalize(images)
    except Exception as error:  # the user's own code, which is to be told from ours
        raise UserError(
            f"--normalization: the function does not take a Keras tensor ({one_line(error)[:200]}); write it by "
            "arithmetic and keras.ops"
        ) from error
    if getattr(normalized, "shape", None) != images.shape:
        raise UserError("--normalization: the function has to return images of the same shape")
    return normalized


def _check_input(model: Any, image_size: int, flag: str) -> None:
    shape = _graph(model).input_shape
    shape = shape if isinstance(shape, tuple) else ()
    if len(shape) != 4 or shape[-1] not in (3, None):
        raise UserError(f"{flag}: takes {_graph(model).input_shape}, not images (batch, height, width, 3)")
    if any(side not in (None, image_size) for side in shape[1:3]):
        raise UserError(f"{flag}: takes images of {shape[1]} x {shape[2]} pixels; give --image_size={shape[1]}")
