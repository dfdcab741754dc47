"""What a run learns: its targets and losses, how it is scored, what chooses its epoch, what its model returns.

Everything else of the engine is the same for every task: `Classification` and `MultiLabel` are built in, and a subclass
of `Task` of one's own goes through the same programs. Importing this module imports no TensorFlow.

What is written for a step or an evaluation is plain tensor arithmetic on static shapes: it is compiled with the rest,
runs in each replica on its part of a batch, and reads no variable.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tl_distributed.errors import UserError
from tl_distributed.reporting import label_scores, scores
from tl_distributed.training.settings import OptimizationSettings

Tensor = Any  # a `tf.Tensor`


class Scored(NamedTuple):
    """What came of a split, on the host, in the split's order, whatever the replicas and the batches were.

    Attributes:
      labels: `[n] int32`; of a data set whose pictures have any number of labels `[n, most_labels]`, -1 where one has
        fewer.
      figures: Of `Task.figures`, `[n, ...]` each.
      probabilities: `[n, num_classes] float32`, of `Task.activation`; `None` where they were not kept.
      num_classes: Of the data set.
    """

    labels: np.ndarray
    figures: dict[str, np.ndarray]
    probabilities: np.ndarray | None
    num_classes: int

    def mean(self, name: str) -> float:
        """Returns the mean of a figure; NaN without examples."""
        values = self.figures[name]
        return float(np.mean(values, dtype=np.float64)) if len(values) else math.nan


class Task:
    """What a run learns. A subclass has to have `losses`; the rest is one label a picture, scored by its loss.

    Attributes:
      name: For people, and in `results.json`.
      activation: From the network's outputs to what the saved model returns: softmax, sigmoid or linear.
      takes_several_labels: Whether pictures may have any number of labels, and not exactly one.
      measure_names: Of `measures`.
      chosen_by: The metric that chooses the epoch where `--select_by` does not.
      smaller_is_better: Metrics of which the smallest is the best, not the largest.
      is_weighted: Whether `weights` says what each image counts; the mean of the losses is by the sum of weights.
      needs_probabilities: Whether `metrics` takes those of all images, which have the room of images times classes.
      calibrates: Whether a temperature is fitted to the validation split, as for softmax and one label.
    """

    name: str = "own"
    activation: str = "softmax"
    takes_several_labels: bool = False
    measure_names: tuple[str, ...] = ()
    chosen_by: str = "loss"
    smaller_is_better: tuple[str, ...] = ("loss",)
    is_weighted: bool = False
    needs_probabilities: bool = False
    calibrates: bool = False

    @property
    def metric_names(self) -> tuple[str, ...]:
        """What `metrics` returns, whatever the data set."""
        return ("loss", *self.measure_names)

    def names_to_choose_by(self, num_classes: int) -> tuple[str, ...]:
        """Returns what `--select_by=val_NAME` takes: those of `metrics` that there are with as many classes."""
        del num_classes
        return self.metric_names

    def targets(self, labels: Tensor, num_classes: int) -> Tensor:
        """Returns what the network is to answer, `[batch, num_classes] float32`: one-hot or multi-hot.

        MixUp and CutMix, and an augmentation of one's own, mix these.

        Args:
          labels: `[batch] int32`, or `[batch, most_labels]` with -1 where a picture has fewer.
          num_classes: Of the data set, and the network's outputs.
        """
        import tensorflow as tf

        hot = tf.one_hot(labels, num_classes, dtype=tf.float32)  # of -1 zeros
        return hot if labels.shape.rank == 1 else tf.reduce_max(hot, axis=1)

    def losses(self, targets: Tensor, outputs: Tensor) -> Tensor:
        """Returns the loss of each image, `[batch] float32`, whose mean over the global batch is trained on.

        Args:
          targets: Of `targets`, after augmentation.
          outputs: `[batch, num_classes] float32`, of the network, before `activation`.
        """
        raise UserError(f"task {self.name}: {type(self).__name__} has no losses(targets, outputs)")

    def weights(self, targets: Tensor) -> Tensor:
        """Returns what each image counts, `[batch] float32` of 0 or more; asked where `is_weighted`."""
        raise UserError(f"task {self.name}: {type(self).__name__} has no weights(targets), though it is_weighted")

    def measures(self, labels: Tensor, outputs: Tensor) -> Sequence[Tensor]:
        """Returns numbers of each image, `[batch] float32`, one for each of `measure_names`.

        Their sums over images, replicas and steps are what the log of training has the means of.
        """
        del labels, outputs
        return ()

    def training_measures(self, labels: Tensor, targets: Tensor, outputs: Tensor) -> Sequence[Tensor]:
        """Returns `measures` of images in training, whose `targets` may be mixed of several images'."""
        del targets
        return self.measures(labels, outputs)

    def figures(self, labels: Tensor, outputs: Tensor) -> dict[str, Tensor]:
        """Returns what `metrics` needs to know of each image of an evaluation, by name, `[batch, ...]` each.

        Of float32 or int64: TensorFlow keeps int32 on the host.
        """
        targets = self.targets(labels, outputs.shape[-1])
        named = zip(self.measure_names, self.measures(labels, outputs), strict=True)
        return {"loss": self.losses(targets, outputs), **dict(named)}

    def metrics(self, scored: Scored) -> dict[str, float]:
        """Returns the metrics of a split, by `metric_names`: here the means of its figures."""
        if missing := [name for name in self.metric_names if name not in scored.figures]:
            raise UserError(f"task {self.name}: its figures lack {missing[0]}; return it there, or in metrics")
        return {name: scored.mean(name) for name in self.metric_names}

    def summary(self, scored: Scored, class_names: Sequence[str]) -> dict[str, Any]:
        """Returns the metrics and what else is to be said of a split, as JSON values; `per_class` by class name."""
        del class_names
        return {"num_examples": len(scored.labels), **self.metrics(scored)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """One label a picture: softmax and cross-entropy; of a data set whose pictures have one label each.

    Attributes:
      label_smoothing: Share of the label that is spread evenly over all classes.
      class_weights: none, balanced or the path of a file, as the flag `--class_weights`.
      focal_gamma: Exponent of the focal loss (Lin et al. 2017), 0 or more; `None` for cross-entropy.
      weight_of_class: Of each class, in order of label, as the run found it; `None` where all count alike.
    """

    label_smoothing: float = OptimizationSettings.label_smoothing
    class_weights: str = OptimizationSettings.class_weights
    focal_gamma: float | None = None
    weight_of_class: tuple[float, ...] | None = None

    name = "classification"
    measure_names = ("accuracy",)
    chosen_by = "accuracy"
    calibrates = True

    @property
    def is_weighted(self) -> bool:
        return self.weight_of_class is not None

    @property
    def metric_names(self) -> tuple[str, ...]:
        return ("accuracy", "loss", "balanced_accuracy", "macro_f1", "expected_calibration_error")

    def names_to_choose_by(self, num_classes: int) -> tuple[str, ...]:
        top = f"top{scores.TOP_K}_accuracy"
        return (*self.metric_names, top) if num_classes > scores.TOP_K else self.metric_names

    @property
    def smaller_is_better(self) -> tuple[str, ...]:
        return ("loss", "expected_calibration_error")

    def losses(self, targets: Tensor, outputs: Tensor) -> Tensor:
        from tl_distributed.training.losses import image_losses

        return image_losses(targets, outputs, label_smoothing=self.label_smoothing, focal_gamma=self.focal_gamma)

    def weights(self, targets: Tensor) -> Tensor:
        from tl_distributed.training.losses import image_weights

        return image_weights(targets, self.weight_of_class)

    def measures(self, labels: Tensor, outputs: Tensor) -> Sequence[Tensor]:
        import tensorflow as tf

        hits = tf.equal(tf.argmax(outputs, axis=-1, output_type=tf.int32), labels)
        return (tf.cast(hits, tf.float32),)

    def training_measures(self, labels: Tensor, targets: Tensor, outputs: Tensor) -> Sequence[Tensor]:
        """Whether the class of the image's larger part is found, as Keras's CategoricalAccuracy counts."""
        import tensorflow as tf

        return self.measures(tf.argmax(targets, axis=-1, output_type=tf.int32), outputs)

    def figures(self, labels: Tensor, outputs: Tensor) -> dict[str, Tensor]:
        """The loss is the cross-entropy in nats, without label smoothing, weights or focus."""
        import tensorflow as tf

        # As a stable sort would have it: classes of the same logit in their order.
        own = tf.gather(outputs, labels, batch_dims=1)[:, tf.newaxis]
        before = tf.range(outputs.shape[1])[tf.newaxis] < labels[:, tf.newaxis]
        better = tf.reduce_sum(tf.cast((outputs > own) | ((outputs == own) & before), tf.float32), axis=1)
        return {
            "prediction": tf.argmax(outputs, axis=-1),
            "loss": tf.nn.sparse_softmax_cross_entropy_with_logits(labels, outputs),
            "confidence": tf.reduce_max(tf.nn.softmax(outputs), axis=1),
            "in_top_k": tf.cast(better < scores.TOP_K, tf.float32),
        }

    def example_scores(self, scored: Scored) -> scores.ExampleScores:
        """Returns the figures as those of a classification."""
        found = scored.figures
        return scores.ExampleScores(
            labels=scored.labels, predictions=found["prediction"], losses=found["loss"],
            in_top_k=found["in_top_k"] > 0, confidences=found["confidence"],
        )  # fmt: skip

    def metrics(self, scored: Scored) -> dict[str, float]:
        return scores.figures_of(self.example_scores(scored), scored.num_classes)

    def summary(self, scored: Scored, class_names: Sequence[str]) -> dict[str, Any]:
        return scores.summarise(self.example_scores(scored), class_names)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiLabel(Task):
    """Any number of labels a picture: a sigmoid and binary cross-entropy for each class, scored by average precision.

    Attributes:
      label_smoothing: Share of each class's answer that is spread evenly over yes and no.
      focal_gamma: Exponent of the focal loss (Lin et al. 2017) of each class, 0 or more; `None` for cross-entropy.
    """

    label_smoothing: float = OptimizationSettings.label_smoothing
    focal_gamma: float | None = None

    name = "multi_label"
    activation = "sigmoid"
    takes_several_labels = True
    measure_names = ("subset_accuracy",)
    chosen_by = "mean_average_precision"
    smaller_is_better = ("loss", "hamming_loss")
    needs_probabilities = True

    @property
    def metric_names(self) -> tuple[str, ...]:
        return label_scores.FIGURES

    def losses(self, targets: Tensor, outputs: Tensor) -> Tensor:
        """The mean over the classes of each one's loss, in nats."""
        from tl_distributed.training.losses import binary_losses

        return binary_losses(targets, outputs, label_smoothing=self.label_smoothing, focal_gamma=self.focal_gamma)

    def measures(self, labels: Tensor, outputs: Tensor) -> Sequence[Tensor]:
        """Whether just the classes with a probability above a half are the picture's own."""
        return self.training_measures(labels, self.targets(labels, outputs.shape[-1]), outputs)

    def training_measures(self, labels: Tensor, targets: Tensor, outputs: Tensor) -> Sequence[Tensor]:
        """Whether just the classes that are in half of the image or more have a probability above a half."""
        import tensorflow as tf

        right = tf.equal(outputs > 0.0, targets >= 0.5)
        return (tf.cast(tf.reduce_all(right, axis=1), tf.float32),)

    def figures(self, labels: Tensor, outputs: Tensor) -> dict[str, Tensor]:
        """The loss is the binary cross-entropy, without label smoothing or focus."""
        from tl_distributed.training.losses import binary_losses

        targets = self.targets(labels, outputs.shape[-1])
        return {"loss": binary_losses(targets, outputs, label_smoothing=0.0, focal_gamma=None)}

    def metrics(self, scored: Scored) -> dict[str, float]:
        truth = label_scores.multi_hot(scored.labels, scored.num_classes)
        return label_scores.figures_of(truth, scored.probabilities, scored.figures["loss"])

    def summary(self, scored: Scored, class_names: Sequence[str]) -> dict[str, Any]:
        truth = label_scores.multi_hot(scored.labels, scored.num_classes)
        return label_scores.summarise(truth, scored.probabilities, class_names, scored.figures["loss"])
