"""Draws small RGB pictures of textured figures, the images of the embedded data set.

A picture is composed from signed distances (negative inside) on a grid of twice the image's resolution. All is
float64, so that the last bit of a sine, which may differ between processors, does not reach the rounded pixel.
Coordinates run from -1 to 1 from edge to edge, so a figure is the same at any image size.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

_SUPERSAMPLING = 2
_PALETTE_TRIES = 6
_BACKGROUND_SLOPE = 0.6  # how far the background's second colour shows at the far edge
_MOST_CLUTTER = 2  # bars and disks behind the figure
_OCCLUDED_SHARE = 0.5  # of pictures with another one in front of it
_TEXTURE_PERIODS = (0.5, 0.7)  # shortest and longest, in figure radii
_TEXTURE_SHARPNESS = 2.0
_STRONGEST_LIGHT = 0.5  # relative change of brightness from the middle to a corner, about
_NOISE_DEVIATIONS = (0.01, 0.05)  # smallest and largest, of a range of 1
_SCALES = (0.6, 0.85)  # figure radius, of half the picture's width
_STRETCHES = (0.85, 1.15)
_FARTHEST_SHIFT = 0.2  # of half the picture's width

Grid = np.ndarray  # [rows, columns] float64


def _rays(u: Grid, v: Grid, points: int, inner_radius: float) -> Grid:
    """Signed distance (inside negative) to a star with `points` tips at radius 1 and notches at `inner_radius`.

    With `inner_radius = cos(pi / points)` it is the regular polygon.
    """
    half = np.pi / points
    angle = np.abs(np.mod(np.arctan2(v, u), 2 * half) - half)  # 0 at a notch, `half` at a tip
    radius = np.sqrt(u * u + v * v)
    along_x, along_y = np.cos(half) - inner_radius, np.sin(half)
    distance_x, distance_y = radius * np.cos(angle) - inner_radius, radius * np.sin(angle)
    return (distance_x * along_y - distance_y * along_x) / np.hypot(along_x, along_y)


def _disk(u: Grid, v: Grid, centre_u: float = 0.0, centre_v: float = 0.0, radius: float = 0.9) -> Grid:
    return np.sqrt((u - centre_u) ** 2 + (v - centre_v) ** 2) - radius


def _bar(u: Grid, v: Grid, half_length: float, half_width: float) -> Grid:
    return np.maximum(np.abs(u) - half_length, np.abs(v) - half_width)


OUTLINES: dict[str, Callable[[Grid, Grid], Grid]] = {
    "disk": _disk,
    "square": lambda u, v: _rays(u, v, 4, np.cos(np.pi / 4)),
    "triangle": lambda u, v: _rays(u, v, 3, np.cos(np.pi / 3)),
    "star": lambda u, v: _rays(u, v, 5, 0.45),
    "cross": lambda u, v: np.minimum(_bar(u, v, 0.95, 0.36), _bar(v, u, 0.95, 0.36)),
    "crescent": lambda u, v: np.maximum(_disk(u, v), -_disk(u, v, 0.5, 0.0, 0.7)),
    "bow": lambda u, v: np.maximum(np.abs(v) - 0.2 - 0.7 * np.abs(u), np.abs(u) - 0.95),
    "capsule": lambda u, v: _disk(np.maximum(np.abs(u) - 0.5, 0), v, 0.0, 0.0, 0.45),
}

# A texture is positive where the second colour shows.
TEXTURES: dict[str, Callable[[Grid, Grid, float, float], Grid]] = {
    "plain": lambda u, v, period, phase: np.full_like(u, -1.0),
    "striped": lambda u, v, period, phase: _wave(u, period, phase),
    "checked": lambda u, v, period, phase: _wave(u, 1.3 * period, phase) * _wave(v, 1.3 * period, phase),
    "dotted": lambda u, v, period, phase: _wave(u, period, phase) + _wave(v, period, phase) - 0.6,
    "ringed": lambda u, v, period, phase: _wave(np.sqrt(u * u + v * v), period, phase),
    "split": lambda u, v, period, phase: 4 * (u + 0.3 * (phase - 0.5)),
    "wavy": lambda u, v, period, phase: _wave(u + 0.5 * period * np.sin(9 * v), period, phase),
}


def _wave(position: Grid, period: float, phase: float) -> Grid:
    return np.sin(2 * np.pi * (position / period + phase))


PARTS = ("whole", "pierced", "horned")  # nothing more, a round hole in the middle, two bars that stick out


@dataclasses.dataclass(frozen=True)
class Figure:
    """What makes a class: an outline, a texture and a part; colours and pose are chance."""

    outline: str
    texture: str
    part: str

    @property
    def name(self) -> str:
        words = (self.texture, self.outline) if self.part == "whole" else (self.part, self.texture, self.outline)
        return "_".join(words)


def draw(figure: Figure, rng: np.random.Generator, image_size: int) -> np.ndarray:
    """Returns one picture of `figure` as `[image_size, image_size, 3] uint8`; all chance comes from `rng`."""
    samples = image_size * _SUPERSAMPLING
    sample_size = 2 / samples
    axis = (np.arange(samples) + 0.5) * sample_size - 1
    x, y = np.meshgrid(axis, axis)
    first, second, behind, far_behind = _palette(rng)

    picture = behind + _BACKGROUND_SLOPE * (far_behind - behind) * _ramp(x, y, rng)  # [3, samples, samples]
    for _ in range(rng.integers(_MOST_CLUTTER + 1)):
        _paint(picture, _clutter(x, y, rng), rng.random((3, 1, 1)), sample_size)

    u, v, scale = _pose(x, y, rng)
    texture = TEXTURES[figure.texture](u, v, rng.uniform(*_TEXTURE_PERIODS), rng.random())
    colour = first + (second - first) * np.clip(0.5 + _TEXTURE_SHARPNESS * texture, 0, 1)
    _paint(picture, _distance(figure, u, v) * scale, colour, sample_size)

    if rng.random() < _OCCLUDED_SHARE:
        _paint(picture, _clutter(x, y, rng), rng.random((3, 1, 1)), sample_size)
    picture *= 1 + rng.uniform(0, _STRONGEST_LIGHT) * (2 * _ramp(x, y, rng) - 1)
    step = _SUPERSAMPLING
    pixels = sum(picture[:, i::step, j::step] for i in range(step) for j in range(step)) / step**2
    pixels += rng.standard_normal(pixels.shape) * rng.uniform(*_NOISE_DEVIATIONS)
    return np.ascontiguousarray(np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0))


def _palette(rng: np.random.Generator) -> np.ndarray:
    """Returns `[4, 3, 1, 1]` colours in [0, 1]: of a few random palettes, the one whose first three differ most."""
    tries = rng.random((_PALETTE_TRIES, 4, 3))
    first, second, behind = tries[:, 0], tries[:, 1], tries[:, 2]
    contrast = [np.abs(one - two).mean(1) for one, two in ((first, second), (first, behind), (second, behind))]
    return tries[np.argmax(np.min(contrast, axis=0)), :, :, None, None]


def _ramp(x: Grid, y: Grid, rng: np.random.Generator) -> Grid:
    """Returns a linear slope from 0 to 1 across the picture in a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    return 0.5 + 0.35 * (x * np.cos(angle) + y * np.sin(angle))


def _pose(x: Grid, y: Grid, rng: np.random.Generator) -> tuple[Grid, Grid, float]:
    """Returns the figure's own coordinates under a random shift, turn, scale and stretch, and its scale."""
    scale, stretch, angle = rng.uniform(*_SCALES), rng.uniform(*_STRETCHES), rng.uniform(0, 2 * np.pi)
    shift_x, shift_y = rng.uniform(-_FARTHEST_SHIFT, _FARTHEST_SHIFT, 2)
    cosine, sine = np.cos(angle) / scale, np.sin(angle) / scale
    u = (x - shift_x) * cosine + (y - shift_y) * sine
    v = (y - shift_y) * cosine - (x - shift_x) * sine
    return u * stretch, v / stretch, scale


def _distance(figure: Figure, u: Grid, v: Grid) -> Grid:
    """Signed distance to the figure in its own coordinates, its part included."""
    outline = OUTLINES[figure.outline](u, v)
    if figure.part == "pierced":
        return np.maximum(outline, -_disk(u, v, 0.0, 0.0, 0.3))
    if figure.part == "horned":
        horns = _bar(np.abs(u) - 0.5, v + 0.8, 0.12, 0.45)
        return np.minimum(outline, horns)
    return outline


def _clutter(x: Grid, y: Grid, rng: np.random.Generator) -> Grid:
    """Signed distance to a small bar or disk anywhere in the picture."""
    centre_x, centre_y = rng.uniform(-1, 1, 2)
    angle, length, width = rng.uniform(0, np.pi), rng.uniform(0.1, 0.5), rng.uniform(0.05, 0.2)
    if rng.random() < 0.5:
        return _disk(x, y, centre_x, centre_y, width)
    u = (x - centre_x) * np.cos(angle) + (y - centre_y) * np.sin(angle)
    v = (y - centre_y) * np.cos(angle) - (x - centre_x) * np.sin(angle)
    return _bar(u, v, length, width)


def _paint(picture: np.ndarray, distance: Grid, colour: np.ndarray, sample_size: float) -> None:
    """Lays `colour` over `picture` where `distance` is negative, with an edge one sample wide."""
    coverage = np.clip(0.5 - distance / sample_size, 0, 1)
    change = colour - picture
    change *= coverage
    picture += change
