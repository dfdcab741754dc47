"""An augmentation of one's own: a pure function of (images, targets, uniforms), compiled with the rest of the step.

It runs after the built-in ones and before MixUp and CutMix. Importing this module imports no TensorFlow.
"""

import dataclasses
from collections.abc import Callable

from tl_distributed.errors import UserError, one_line
from tl_distributed.pixels.augmentation import Tensor

NUM_DRAWS = 16  # uniform numbers an image
_FIRST_DRAW = 1024  # the built-in augmentations have those below


@dataclasses.dataclass(frozen=True)
class OwnAugmentation:
    """A function and what messages call it.

    Attributes:
      function: Maps `[batch, size, size, 3] float32` images in [0, 255], `[batch, num_classes] float32` targets and
        `[batch, 16] float32` uniform numbers in [0, 1) to images and targets of the same shapes and types. By
        TensorFlow's or Keras's operations, on static shapes, without variables and without randomness of its own: the
        uniforms are a function of (seed, step, place in the global batch), so that a resumed run draws the same.
      name: As the flag has it.
    """

    function: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    name: str

    def apply(self, images: Tensor, targets: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Calls the function while the step is traced.

        Args:
          images: As the function takes them.
          targets: Likewise.
          seeds: `[batch, 2] uint32`, see `seeds.per_image_seeds`.

        Raises:
          UserError: The function fails, or returns something else.
        """
        import tensorflow as tf

        from tl_distributed.pixels.seeds import uniforms

        try:
            returned = self.function(images, targets, uniforms(seeds, NUM_DRAWS, first=_FIRST_DRAW))
        except Exception as error:  # the user's own code, which is to be told from ours
            raise UserError(
                f"--augmentation={self.name}: it failed with {type(error).__name__} ({one_line(error)[:300]})"
            ) from error
        if not isinstance(returned, tuple | list) or len(returned) != 2:
            found = f"a {type(returned).__name__}" + (f" of {len(returned)}" if isinstance(returned, tuple) else "")
            raise UserError(f"--augmentation={self.name}: has to return the pair (images, targets), not {found}")
        changed = tuple(map(tf.convert_to_tensor, returned))
        for what, given, back in zip(("images", "targets"), (images, targets), changed, strict=True):
            if tuple(back.shape) != tuple(given.shape) or back.dtype != given.dtype:
                raise UserError(
                    f"--augmentation={self.name}: returns {what} of {back.dtype.name} {tuple(back.shape)}, was given "
                    f"{given.dtype.name} {tuple(given.shape)}"
                )
        return changed
