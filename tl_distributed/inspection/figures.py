"""Figures of an inspection, in the colours and with the tools of `reporting.drawing`."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from tl_distributed.inspection.activations import LayerSimilarity
from tl_distributed.inspection.embedding import Embedding
from tl_distributed.inspection.grad_cam import Explained
from tl_distributed.inspection.layers import computes_in_head
from tl_distributed.reporting.drawing import BLUE, GREY, ORANGE, escaped, new_figure, series_styles, shortened

_TILE_INCHES, _GAP = 1.15, 0.06
_BAR_INCHES, _MOST_INCHES = 0.24, 24.0
_MOST_NUMBERED_BARS = 80
_NAME_CHARACTERS = 16
_MOST_IN_LEGEND = 24
_LEAST_OVERLAY_PIXELS = 128  # a side, so that heat is smooth over images of few pixels
_DARKEST, _GREY_SHARE = 0.3, 0.25  # of heat's colour where the image is black; of the image itself
_RIGHT_QUANTILE = 99.5  # a few extreme values would darken all others


@dataclasses.dataclass(frozen=True)
class ChannelMaps:
    """Some channels of one layer for some images, of both networks.

    Attributes:
      layer: Its name.
      channels: `[c]`, which of the layer's channels.
      rule: By which rule they were chosen, in words.
      before: `[n, height, width, c] float32`.
      after: The same.
    """

    layer: str
    channels: np.ndarray
    rule: str
    before: np.ndarray
    after: np.ndarray


def feature_maps(images: np.ndarray, captions: Sequence[str], maps: ChannelMaps, *, before: str, after: str) -> Figure:
    """Draws for each image the same channels before and, in the row below, after; one colour scale for all.

    Args:
      images: `[n, height, width, 3] uint8`; n is at least 1.
      captions: n texts.
      maps: Of the same images.
      before: What "before" is.
      after: What "after" is.
    """
    columns = 1 + len(maps.channels)
    height, width = maps.before.shape[1:3]
    figure = new_figure(_TILE_INCHES * columns + 1.6, (2 + _GAP) * _TILE_INCHES * len(images) + 1.1)
    figure.suptitle(
        f"{escaped(maps.layer)}: maps of {height} x {width}, {maps.rule}\n{escaped(before)}; {escaped(after)}",
        fontsize=10,
    )  # fmt: skip
    both = np.stack([maps.before, maps.after], axis=1).reshape(2 * len(images), height, width, -1)
    scale = _scale(both)
    # A narrow empty row between images, so that before and after are seen as a pair.
    ratios = ([1.0, 1.0, _GAP] * len(images))[:-1]
    axes = figure.subplots(len(ratios), columns, squeeze=False, gridspec_kw={"height_ratios": ratios})
    for panel in axes[2::3].ravel():
        panel.set_axis_off()
    axes = np.delete(axes, np.s_[2::3], axis=0)
    for row, row_axes in enumerate(axes):
        for panel in row_axes:
            _bare(panel)
        image = row // 2
        if row % 2 == 0:
            row_axes[0].imshow(images[image], interpolation="nearest")
            row_axes[0].set_ylabel(
                shortened(captions[image], _NAME_CHARACTERS), fontsize=8, rotation=0, ha="right", va="center"
            )
        else:
            row_axes[0].set_axis_off()
        row_axes[1].set_ylabel("after" if row % 2 else "before", fontsize=8)
        for column, panel in enumerate(row_axes[1:]):
            drawn = panel.imshow(both[row, :, :, column], interpolation="nearest", **scale)
            if row == 0:
                panel.set_title(f"channel {maps.channels[column]}", fontsize=8)
    bar = figure.colorbar(drawn, ax=axes[:, 1:], fraction=0.03, pad=0.02, aspect=40, shrink=min(1.0, 4 / len(axes)))
    bar.set_label("activation", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def _scale(values: np.ndarray) -> dict:
    """One hue from 0 up, or two hues with 0 in the middle where there are negative values."""
    limit = float(np.percentile(np.abs(values), _RIGHT_QUANTILE)) or float(np.abs(values).max()) or 1.0
    if values.min() < 0:
        return {"cmap": "PuOr", "vmin": -limit, "vmax": limit}
    return {"cmap": "viridis", "vmin": 0.0, "vmax": limit}


def similarity_by_layer(rows: Sequence[LayerSimilarity], *, num_images: int, before: str, new_head: bool) -> Figure:
    """Draws linear CKA of each layer, from the image at the top to the logits at the bottom.

    Args:
      rows: In order; at least one.
      num_images: Of which it was computed.
      before: What "before" is.
      new_head: Whether its head is known to be random.
    """
    figure = new_figure(9, min(1.7 + _BAR_INCHES * len(rows), _MOST_INCHES))
    axes = figure.subplots()
    values = np.array([row.similarity.cka for row in rows])
    debiased = np.array([row.similarity.debiased for row in rows])
    places = np.arange(len(rows))
    of_head = np.array([computes_in_head(row.name) for row in rows])
    axes.barh(places, values, color=np.where(of_head, GREY, BLUE), height=0.72)
    axes.plot(debiased, places, "D", color=ORANGE, markersize=4.5, markeredgecolor="black", markeredgewidth=0.5)
    every = -(-len(rows) // _MOST_NUMBERED_BARS)
    axes.set_yticks(places[::every], [escaped(row.name) for row in rows[::every]], fontsize=8 if every == 1 else 6)
    for place in places[::every]:
        text = "no variation" if np.isnan(values[place]) else f"{values[place]:.3f}"
        axes.text(1.01, place, text, va="center", fontsize=8 if every == 1 else 6)
    axes.set_ylim(len(rows) - 0.4, -0.6)  # downwards
    axes.set_xlim(min(0.0, float(np.nanmin([0.0, *debiased])) - 0.02), 1.09)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_xlabel("linear CKA of before and after (1: the same up to rotation and scale)")
    axes.set_title(f"after training against {escaped(before)}; {num_images} images", fontsize=10)
    axes.set_ylabel("layer, from image to logits")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    handles = [Patch(color=BLUE, label="CKA"), *axes.lines]
    axes.lines[0].set_label("debiased CKA")
    if of_head.any():
        handles.insert(1, Patch(color=GREY, label=f"CKA, head{' (random before)' if new_head else ''}"))
    figure.legend(handles=handles, loc="outside upper center", ncols=3, fontsize=8)
    return figure


def embeddings(
    before: Embedding, after: Embedding, labels: np.ndarray, class_names: Sequence[str], *, titles: tuple[str, str]
) -> Figure:
    """Draws PCA (above) and t-SNE (below) before (left) and after (right); a class has one colour and marker.

    Args:
      before: Of n images.
      after: Of the same.
      labels: `[n]` integers.
      class_names: In order of label.
      titles: What the two are.
    """
    figure = new_figure(11.5, 10)
    axes = figure.subplots(2, 2)
    styles = list(series_styles(class_names).values())
    size = 26 if len(labels) <= 1500 else 9
    for column, (embedding, title) in enumerate(zip((before, after), titles, strict=True)):
        axes[0, column].set_title(
            f"{escaped(title)}\nright by 5 nearest neighbours: {100 * embedding.neighbour_accuracy:.1f} %", fontsize=10
        )
        for row, points in enumerate((embedding.pca, embedding.tsne)):
            for label, name in enumerate(class_names):
                own, style = points[labels == label], styles[label]
                axes[row, column].scatter(
                    own[:, 0], own[:, 1], s=size, color=style.color, marker=style.marker, linewidths=0.4,
                    edgecolors="white", label=escaped(name),
                )  # fmt: skip
        for number, set_label in enumerate((axes[0, column].set_xlabel, axes[0, column].set_ylabel)):
            share = f"{100 * embedding.explained[number]:.1f} % of the variance"
            set_label(f"principal component {number + 1} ({share})")
        axes[1, column].set_xlabel("t-SNE 1 (no unit)")
        axes[1, column].set_ylabel("t-SNE 2 (no unit)")
    for panel in axes.ravel():
        panel.tick_params(labelsize=7)
        panel.grid(alpha=0.25)
        panel.set_axisbelow(True)
    handles, names = axes[0, 0].get_legend_handles_labels()
    rest = len(names) - _MOST_IN_LEGEND
    title = f"the first {_MOST_IN_LEGEND} of {len(names)} classes" if rest > 0 else None
    figure.legend(
        handles[:_MOST_IN_LEGEND], names[:_MOST_IN_LEGEND], loc="outside lower center", ncols=6, fontsize=9,
        markerscale=1.4, title=title,
    )  # fmt: skip
    return figure


def explanations(
    images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, right: Explained, wrong: Explained,
    class_names: Sequence[str], *, layer: str,
) -> Figure:  # fmt: skip
    """Draws Grad-CAM over right answers and, below, over wrong ones for the answer and for the true class.

    Args:
      images: `[n, height, width, 3] uint8`.
      labels: `[n]` integers.
      probabilities: `[n, num_classes]`.
      right: Right answers among them.
      wrong: Wrong answers among them.
      class_names: In order of label.
      layer: Whose maps they are of.
    """
    groups = [("Right answers", right, False), ("Wrong answers", wrong, True)]
    groups = [group for group in groups if len(group[1].rows)]
    columns = max((len(explained.rows) for _, explained, _ in groups), default=1)
    heights = [3 if is_wrong else 2 for _, _, is_wrong in groups]
    tile = 1.45
    figure = new_figure(tile * columns + 1.3, (tile + 0.12) * sum(heights) + 0.75 * len(groups) + 0.5)
    side = " x ".join(map(str, right.predicted.shape[1:] if len(right.rows) else wrong.predicted.shape[1:]))
    figure.suptitle(
        f"Grad-CAM at {escaped(layer)} (maps of {side}); violet: 0, yellow: the highest of each picture", fontsize=10
    )
    for part, (title, explained, is_wrong) in zip(
        np.atleast_1d(figure.subfigures(len(groups), 1, height_ratios=heights)), groups, strict=True
    ):
        part.suptitle(title, fontsize=10, fontweight="bold")
        rows = [("image", None), ("for the answer", explained.predicted)]
        rows += [("for the true class", explained.true)] if is_wrong else []
        axes = part.subplots(len(rows), columns, squeeze=False)
        for row_axes, (label, heat) in zip(axes, rows, strict=True):
            for panel in row_axes:
                _bare(panel)
            for panel in row_axes[len(explained.rows) :]:
                panel.set_axis_off()
            row_axes[0].set_ylabel(label, fontsize=9)
            for place, row in enumerate(explained.rows):
                _overlay(row_axes[place], images[row], None if heat is None else heat[place])
                told = _answer(heat, label, labels[row], probabilities[row], class_names)
                row_axes[place].set_title(told, fontsize=8)
    return figure


def _answer(
    heat: np.ndarray | None, row_label: str, label: int, probabilities: np.ndarray, class_names: Sequence[str]
) -> str:
    """What stands over a tile: the true class over the image, a class and its probability over its Grad-CAM."""
    if heat is None:
        return shortened(f"true: {class_names[label]}", _NAME_CHARACTERS)
    shown = label if row_label == "for the true class" else int(probabilities.argmax())
    return f"{shortened(class_names[shown], _NAME_CHARACTERS)} {100 * probabilities[shown]:.0f} %"


def _overlay(axes: Axes, image: np.ndarray, heat: np.ndarray | None) -> None:
    """Draws an image, or its brightness in the colours of its heat: violet for 0, yellow for the highest."""
    if heat is None:
        axes.imshow(image, interpolation="nearest")
        return
    repeat = -(-_LEAST_OVERLAY_PIXELS // max(image.shape[:2]))
    image = image.repeat(repeat, 0).repeat(repeat, 1)
    shares = Image.fromarray(heat / (float(heat.max()) or 1.0)).resize(image.shape[1::-1], Image.Resampling.BILINEAR)
    brightness = image @ np.array([0.299, 0.587, 0.114]) / 255  # BT.601
    colours = colormaps["viridis"](np.clip(np.asarray(shares), 0, 1))[..., :3]
    lit = colours * (_DARKEST + (1 - _DARKEST) * brightness[..., None])
    axes.imshow((1 - _GREY_SHARE) * lit + _GREY_SHARE * brightness[..., None], interpolation="nearest")


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
