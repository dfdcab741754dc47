"""The augmentations: each is a module here, and nowhere else. Importing it imports no TensorFlow.

It has:

- `Settings`: a frozen dataclass of its flags, each declared by `strength`. While all of them are as in the set `none`,
  the augmentation is off and leaves no operation behind. Random amounts are uniform over the range given unless said
  otherwise.
- `DRAWS`: the numbers of its random draws, at least one. They are part of a run's reproducibility: a new augmentation
  takes the next free ones, and none is ever given to another purpose. So switching one on leaves what the
  others draw as it was. `--help` and `config.json` list the augmentations in this order, which is that of their age.
- `ORDER`: its place among those of the same stage, the lowest first.
- A function for each stage at which it works, one at least:

  `change_view(view, uniforms, settings, source_size) -> view`. All that changes the geometry is collected in one
  `View`, so that pixels are interpolated once; `source_size` is the source's height and width in pixels: two numbers,
  or `[batch] float32` each where every picture has its own.

  `change_source(images, uniforms, settings, sizes) -> images`, `[batch, height, width, 3]`, uint8 or float32 in and
  float32 out, RGB in [0, 255]. For what may as well be done on the source, usually the smaller image: 49 times fewer
  pixels from 32 to 224. `sizes` is `None`, or `[batch, 2] int32`: height and width of the picture at the top left of
  each image. What lies outside of it is anything, and is never shown.

  `change_output(images, uniforms, settings) -> images`, `[batch, size, size, 3] float32` in [0, 255], as the model
  sees them.

  `mix(images, labels, uniforms, settings) -> (images, labels)`, the same and `[batch, num_classes] float32`, rows that
  sum to 1: for what takes other images of the batch.

`uniforms` holds `[batch] float32` in [0, 1) for each of `DRAWS`; `settings` are the module's own, resolved.
"""

import importlib
import pkgutil
from types import ModuleType

STAGES = ("change_view", "change_source", "change_output", "mix")


def _modules() -> tuple[ModuleType, ...]:
    """Returns all augmentations by age.

    Raises:
      ValueError: Two have a draw in common.
    """
    found = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    owners: dict[int, ModuleType] = {}
    for module in found:
        for draw in module.DRAWS:
            if owners.setdefault(draw, module) is not module:
                raise ValueError(f"{owners[draw].__name__} and {module.__name__} both have draw {draw}")
    return tuple(sorted(found, key=lambda module: min(module.DRAWS)))


MODULES = _modules()
