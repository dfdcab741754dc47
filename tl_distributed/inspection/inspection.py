"""A whole inspection: from a run's workdir to figures, numbers and what TensorBoard shows."""

import logging
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from tl_distributed.data.records import DatasetInfo, read_manifest
from tl_distributed.errors import UserError, printable
from tl_distributed.files import read_json, write_file, write_json
from tl_distributed.inference.class_order import why_other_classes, why_other_order
from tl_distributed.inference.model_info import ModelInfo, read_model_info
from tl_distributed.inference.pictures import PictureRule
from tl_distributed.inference.run_data import find_data_dir
from tl_distributed.inspection import figures
from tl_distributed.inspection.activations import LayerSimilarity, compare_layers, compute_activations
from tl_distributed.inspection.board import write_images, write_projector
from tl_distributed.inspection.embedding import FEWEST_IMAGES, Embedding, embed
from tl_distributed.inspection.figures import ChannelMaps
from tl_distributed.inspection.grad_cam import Explained, explain
from tl_distributed.inspection.layers import Layers
from tl_distributed.inspection.networks import Network, open_after, open_before, read_run_config
from tl_distributed.inspection.samples import Samples, Shown, check_images, read_samples
from tl_distributed.inspection.settings import InspectConfig
from tl_distributed.progress import Progress
from tl_distributed.reporting.drawing import figure_png
from tl_distributed.reporting.scores import classification_summary

_LOG = logging.getLogger(__name__)
FEATURES_BEFORE, FEATURES_AFTER = "features before", "features after"


def inspect_run(config: InspectConfig) -> list[str]:
    """Looks inside a run; see the command.

    Returns:
      The files written: figures, then `inspection.json`.

    Raises:
      UserError: A run that has not finished, layers or images that do not exist, weights that cannot be had.
    """
    workdir = config.workdir.rstrip("/")
    run = read_run_config(workdir, config.plugin)
    data_dir = config.data_dir or find_data_dir(workdir)
    info = read_manifest(data_dir)
    if info.is_multi_label:
        raise UserError(f"{data_dir}: its pictures have any number of labels; this command is for one label a picture")
    if config.split not in info.splits:
        raise UserError(f"--split={config.split}: {data_dir} has {', '.join(info.splits)}")
    count = info.splits[config.split].num_examples
    if count < FEWEST_IMAGES:
        raise UserError(
            f"--split={config.split}: {data_dir} has {count} images in it, too few to compare by; takes at least "
            f"{FEWEST_IMAGES} (--split=train may have them)"
        )
    check_images(config.images, info, config.split)
    after = open_after(workdir)
    stored = _check_data(after, info, data_dir, f"{workdir}/model.keras")
    before = open_before(config.before.rstrip("/"), run, after, info.class_names)
    if before.image_shape != after.image_shape:
        raise UserError(f"--before={config.before}: takes images of {before.image_shape}, the run {after.image_shape}")
    inspection = _Inspection(config, info, before, after)
    samples, shown = read_samples(
        data_dir, info, config.split, num_images=config.num_images, shown=config.images,
        rule=_picture_rule(after, info, stored), max_megapixels=config.max_megapixels,
    )  # fmt: skip
    folder = (config.output_dir or f"{workdir}/inspection").rstrip("/")
    return inspection.write(folder, samples, shown, step=_steps(workdir))


def _check_data(after: Network, info: DatasetInfo, data_dir: str, model_path: str) -> ModelInfo | None:
    """Raises `UserError` where the data set is of other images or classes; returns what is stored with the model."""
    if info.storage == "pixels" and after.image_shape != info.image_shape:
        raise UserError(f"the run takes images of {after.image_shape}, {data_dir} has {info.image_shape}")
    outputs = after.classifier.output.shape[-1]
    if outputs != info.num_classes:
        raise UserError(f"the run tells {outputs} classes apart, {data_dir} has {info.num_classes}")
    stored, _ = read_model_info(model_path, outputs)
    if stored and stored.class_names and (why := why_other_classes(stored.class_names, info.class_names)):
        raise UserError(f"the run was trained on other classes than those of {data_dir}: {why}")
    if stored and stored.class_names and (why := why_other_order(stored.class_names, info.class_names)):
        raise UserError(f"{data_dir} has the run's classes in another order: {why}; name the data set of the run")
    return stored


def _picture_rule(after: Network, info: DatasetInfo, stored: ModelInfo | None) -> PictureRule:
    fit = (stored and stored.fit) or info.fit
    return PictureRule(after.image_shape[0], fit, info.storage, 0 if info.storage == "pixels" else info.image_size)


def _steps(workdir: str) -> int:
    results = read_json(f"{workdir}/results.json")
    return int(results["best_step"]) if results else 0


class _Inspection:
    """What the parts of one inspection share; every flag has been checked once it is made."""

    def __init__(self, config: InspectConfig, info: DatasetInfo, before: Network, after: Network):
        self._config, self._info, self._before, self._after = config, info, before, after
        self._layers = layers = Layers(before.classifier, after.classifier)
        self._maps = layers.maps(config.layer)
        self._grad_cam_layer = layers.grad_cam(config.grad_cam_layer)
        self._compared = {name: layers.shapes[name] for name in layers.compared(config.cka_layers)}
        self._features = layers.features()
        if not self._compared:
            raise UserError(f"--cka_layers={','.join(config.cka_layers)}: no layer that both networks have")

    def write(self, folder: str, samples: Samples, shown: Shown, *, step: int) -> list[str]:
        """Computes everything, then writes it; returns the paths."""
        config, num_images = self._config, len(samples.images)
        _LOG.info("After: the best weights of %s. %s.", config.workdir, self._before.description.capitalize())
        maps = [self._channel_maps(name, shown) for name in self._maps]
        features, probabilities = self._features_and_answers(samples)
        rows = compare_layers(self._before, self._after, samples.images, self._compared, batch_size=config.batch_size)
        _log_averaged(rows)
        _LOG.info("Laying out %d images by PCA and t-SNE, twice.", num_images)
        layouts = {name: embed(values, samples.labels, seed=config.seed) for name, values in features.items()}
        _LOG.info("Grad-CAM at %s.", self._grad_cam_layer)
        right, wrong = (self._explained(samples, probabilities, right=right) for right in (True, False))

        drawn = {f"feature_maps/{chosen.layer}": self._draw_maps(chosen, shown) for chosen in maps}
        drawn |= self._draw_numbers(samples, rows, layouts, probabilities, right, wrong)
        contents = {tag: figure_png(figure) for tag, figure in drawn.items()}
        tf.io.gfile.makedirs(folder)
        paths = {tag: f"{folder}/{re.sub('[^A-Za-z0-9_.-]', '_', tag)}.png" for tag in drawn}
        for tag, content in contents.items():
            write_file(paths[tag], content)
        write_images(folder, contents, step)
        write_projector(folder, features, self._columns(samples, probabilities), samples.images)
        summary = self._summary(samples, probabilities, maps, rows, layouts, right, wrong)
        write_json(f"{folder}/inspection.json", summary)
        return [*paths.values(), f"{folder}/inspection.json"]

    def _channel_maps(self, layer: str, shown: Shown) -> ChannelMaps:
        with Progress(total=2 * len(shown.images), unit="images", label=f"Maps of {layer}") as progress:
            before, after = (
                compute_activations(
                    network, shown.images, {layer: 1}, batch_size=self._config.batch_size, progress=progress
                )[layer]
                for network in (self._before, self._after)
            )
        channels, rule = choose_channels(before, after, rule=self._config.channel_rule, count=self._config.channels)
        return ChannelMaps(layer, channels, rule, before[..., channels], after[..., channels])

    def _features_and_answers(self, samples: Samples) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Returns (features before and after, `[n, num_classes]` probabilities after)."""
        logits = self._after.classifier.operations[-1].name
        wanted = {"batch_size": self._config.batch_size}
        with Progress(total=2 * len(samples.images), unit="images", label="Features") as progress:
            wanted["progress"] = progress
            before = compute_activations(self._before, samples.images, {self._features: 1}, **wanted)
            after = compute_activations(self._after, samples.images, {self._features: 1, logits: 1}, **wanted)
        features = {
            name: values[self._features].reshape(len(samples.images), -1)
            for name, values in ((FEATURES_BEFORE, before), (FEATURES_AFTER, after))
        }
        return features, tf.nn.softmax(after[logits]).numpy()

    def _explained(self, samples: Samples, probabilities: np.ndarray, *, right: bool) -> Explained:
        return explain(
            self._after, self._grad_cam_layer, samples.images, samples.labels, probabilities, right=right,
            count=self._config.grad_cam_images, batch_size=self._config.batch_size,
        )  # fmt: skip

    def _draw_maps(self, maps: ChannelMaps, shown: Shown) -> Figure:
        descriptions = {"before": self._before.description, "after": self._after.description}
        return figures.feature_maps(shown.images, shown.captions, maps, **descriptions)

    def _draw_numbers(
        self, samples: Samples, rows: Sequence[LayerSimilarity], layouts: dict[str, Embedding],
        probabilities: np.ndarray, right: Explained, wrong: Explained,
    ) -> dict[str, Figure]:  # fmt: skip
        names, before = self._info.class_names, self._before.description
        return {
            "cka": figures.similarity_by_layer(
                rows, num_images=len(samples.images), before=before, new_head=self._before.has_new_head
            ),
            "embedding": figures.embeddings(
                layouts[FEATURES_BEFORE], layouts[FEATURES_AFTER], samples.labels, names,
                titles=(before, self._after.description),
            ),
            "grad_cam": figures.explanations(
                samples.images, samples.labels, probabilities, right, wrong, names, layer=self._grad_cam_layer
            ),
        }  # fmt: skip

    def _columns(self, samples: Samples, probabilities: np.ndarray) -> dict[str, Sequence]:
        """Returns what the Projector tells of each image."""
        names, answers = self._info.class_names, probabilities.argmax(1)
        return {
            "label": [names[label] for label in samples.labels],
            "prediction": [names[answer] for answer in answers],
            "right": ["yes" if right else "no" for right in answers == samples.labels],
            "probability": [f"{value:.4f}" for value in probabilities.max(1)],
            f"place in {self._config.split}": samples.places.tolist(),
            **({"id": [printable(one) for one in samples.ids]} if samples.ids else {}),
        }

    def _summary(
        self, samples: Samples, probabilities: np.ndarray, maps: Sequence[ChannelMaps],
        rows: Sequence[LayerSimilarity], layouts: dict[str, Embedding], right: Explained, wrong: Explained,
    ) -> dict[str, Any]:  # fmt: skip
        """Returns the content of `inspection.json`."""
        names, answers = self._info.class_names, probabilities.argmax(1)
        scores = classification_summary(labels=samples.labels, probabilities=probabilities, class_names=names)

        def told(explained: Explained) -> list[dict[str, Any]]:
            return [
                {
                    "place": samples.places[row],
                    **({"id": samples.ids[row]} if samples.ids else {}),
                    "label": names[samples.labels[row]],
                    "prediction": names[answers[row]],
                    "probability": probabilities[row].max(),
                }
                for row in explained.rows
            ]

        return {
            "workdir": self._config.workdir,
            "before": self._before.description,
            "split": self._config.split,
            "num_images": len(samples.images),
            "accuracy": scores["accuracy"],
            "feature_maps": [
                {"layer": chosen.layer, "channels": chosen.channels, "rule": chosen.rule} for chosen in maps
            ],
            "cka": [
                {
                    "layer": row.name,
                    "output_shape": row.shape,
                    "averaged_over_cells_of_side": row.cell_side,
                    "cka": row.similarity.cka,
                    "debiased_cka": row.similarity.debiased,
                }
                for row in rows
            ],
            "embedding": {
                "layer": self._features,
                **{
                    name.split()[-1]: {
                        "pca_explained_variance": layout.explained,
                        "nearest_neighbour_accuracy": layout.neighbour_accuracy,
                        "pca": np.round(layout.pca, 4),
                        "tsne": np.round(layout.tsne, 3),
                    }
                    for name, layout in layouts.items()
                },
            },
            "grad_cam": {"layer": self._grad_cam_layer, "right": told(right), "wrong": told(wrong)},
        }


def choose_channels(before: np.ndarray, after: np.ndarray, *, rule: str, count: int) -> tuple[np.ndarray, str]:
    """Chooses the channels that are shown.

    Args:
      before: `[n, height, width, channels]`.
      after: The same of the other network.
      rule: "changed", the largest mean difference; "active", the largest mean magnitude of both.
      count: At most so many.

    Returns:
      (Their numbers, the first by the rule first; the rule in words.)
    """
    if rule == "changed":
        scores, words = np.abs(after - before).mean((0, 1, 2)), "that changed most on average"
    else:
        scores, words = (np.abs(before) + np.abs(after)).mean((0, 1, 2)), "that are the most active on average"
    channels = np.argsort(-scores, kind="stable")[:count]
    return channels, f"the {len(channels)} of {len(scores)} channels {words}"


def _log_averaged(rows: Sequence[LayerSimilarity]) -> None:
    averaged = [f"{row.name} ({row.cell_side} x {row.cell_side})" for row in rows if row.cell_side > 1]
    if averaged:
        _LOG.info("Maps of large layers were averaged over cells before CKA: %s.", ", ".join(averaged))
