"""Settings of a ranking of backbones, and the candidates that they name.

No TensorFlow here: a wrong flag is refused before any device is touched.
"""

import dataclasses
import hashlib
import re
from typing import Any

from tl_distributed.bank.settings import BankSettings
from tl_distributed.data.settings import DataSettings
from tl_distributed.errors import UserError
from tl_distributed.models.backbones import BACKBONES, NORMALIZATIONS, Backbone, get_backbone
from tl_distributed.models.plugins import import_plugins, is_own
from tl_distributed.models.settings import ModelSettings
from tl_distributed.pixels.settings import PixelSettings
from tl_distributed.runtime.settings import RuntimeSettings
from tl_distributed.settings.flags import borrowed, setting
from tl_distributed.training.settings import RunSettings

WHAT, HOW = "What is ranked", "How"
ALL, RANDOM = "all", "random"
_DEVICE_FLAGS = ("virtual_devices", "precision", "xla", "gpu_memory_limit_mib")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankConfig:
    """Flags of the command."""

    backbones: tuple[str, ...] = setting(
        (), "Backbones, separated by commas, or all that have ImageNet weights. NAME@PATH takes weights as --weights "
        "does, NAME:random has none; MODULE:FUNCTION is of your own, with the weights that it returns.", topic=WHAT,
    )  # fmt: skip
    weights: str = setting(
        "imagenet", "Weights of the backbones that name none: imagenet, or the folder of data_prep.fetch_weights. "
        "Those that cannot be had are named and left out.", topic=WHAT,
    )  # fmt: skip
    images_per_class: int = setting(
        50, "Training images of each class that the probes learn from, chosen by --seed; 0 is all.",
        topic=WHAT, minimum=0,
    )  # fmt: skip
    eval_images_per_class: int = setting(
        100, "Images of each class of validation, which chooses and ranks, and as many of test; 0 is all.",
        topic=WHAT, minimum=0,
    )  # fmt: skip
    few_shot: tuple[int, ...] = setting(
        (1, 5, 10, 50), "Training images of each class for the few-shot curve; those beyond --images_per_class are "
        "left out.", topic=WHAT, minimum=1,
    )  # fmt: skip
    draws: int = setting(
        5, "Draws of the training images at each size of the few-shot curve.", topic=WHAT, minimum=1, maximum=1000
    )
    cost: str = setting(
        "seconds", "What a backbone costs, for the best at each cost: seconds for 1,000 images here, macs "
        "(multiply-accumulates an image) or parameters.", topic=WHAT, choices=("seconds", "macs", "parameters"),
    )  # fmt: skip
    image_size: int = borrowed(PixelSettings, "image_size", topic=WHAT)
    pooling: str = borrowed(ModelSettings, "pooling", topic=WHAT)
    normalization: str = borrowed(ModelSettings, "normalization", topic=WHAT)
    plugin: tuple[str, ...] = borrowed(ModelSettings, "plugin", topic=WHAT)
    seed: int = borrowed(RunSettings, "seed", topic=WHAT)
    data_dir: str = borrowed(DataSettings, "data_dir", topic=HOW)
    data_copy_dir: str = borrowed(DataSettings, "data_copy_dir", topic=HOW)
    fit: str = borrowed(PixelSettings, "fit", topic=HOW)
    workdir: str = setting("", "Folder of the ranking; by default runs/rank.", topic=HOW)
    bank_dir: str = setting(
        "", "Folder of the features, from which the same command goes on; by default WORKDIR/feature_bank.", topic=HOW
    )
    batch_size: int = setting(64, "Images at once, over all devices.", topic=HOW, minimum=1)
    virtual_devices: int = borrowed(RuntimeSettings, "virtual_devices", topic=HOW)
    precision: str = borrowed(RuntimeSettings, "precision", topic=HOW)
    xla: str = borrowed(RuntimeSettings, "xla", topic=HOW)
    gpu_memory_limit_mib: int = borrowed(RuntimeSettings, "gpu_memory_limit_mib", topic=HOW)

    @property
    def folder(self) -> str:
        """The ranking's workdir."""
        return (self.workdir or "runs/rank").rstrip("/")

    @property
    def sizes(self) -> dict[str, int]:
        """Images of each class that are taken of each split; 0 is all."""
        return {
            "train": self.images_per_class, "val": self.eval_images_per_class, "test": self.eval_images_per_class
        }  # fmt: skip

    def data_settings(self, split: str) -> DataSettings:
        """Returns the settings of the data by which a split is read."""
        return DataSettings(
            data_dir=self.data_dir, data_copy_dir=self.data_copy_dir, images_per_class=self.sizes[split]
        )

    def bank_settings(self) -> BankSettings:
        folder = self.bank_dir.rstrip("/") or f"{self.folder}/feature_bank"
        return BankSettings(feature_bank="on", bank_mode="memory", bank_dir=folder)

    def runtime_settings(self) -> RuntimeSettings:
        return RuntimeSettings(**{name: getattr(self, name) for name in _DEVICE_FLAGS})

    def validate(self) -> None:
        """Raises `UserError` for combinations that cannot be meant; imports the plug-ins."""
        import_plugins(self.plugin)
        if self.virtual_devices and self.batch_size % self.virtual_devices:
            raise UserError(
                f"--batch_size={self.batch_size} does not divide by --virtual_devices={self.virtual_devices}"
            )
        candidates = self.candidates()
        if any(is_own(one.backbone) for one in candidates) and not self.normalization:
            raise UserError(
                f"--backbones: MODULE:FUNCTION needs --normalization ({', '.join(NORMALIZATIONS)} or MODULE:FUNCTION): "
                "what it expects of an image"
            )

    def candidates(self) -> list["Candidate"]:
        """Returns what is ranked, each once, in the order given.

        Raises:
          UserError: No backbones, or one that is not there.
        """
        if not self.backbones:
            raise UserError("--backbones: name some, e.g. --backbones=mobilenet_v2,efficientnet_b0, or all")
        if self.weights in ("none", "own"):
            raise UserError(f"--weights={self.weights}: takes imagenet or a folder; --backbones=NAME:random has none")
        found: dict[str, Candidate] = {}
        for text in self.backbones:
            names = [name for name, row in BACKBONES.items() if row.has_imagenet_weights] if text == ALL else [text]
            for name in names:
                found.setdefault(name, self._candidate(name))
        return list(found.values())

    def _candidate(self, text: str) -> "Candidate":
        name, at, path = text.partition("@")
        head, _, ending = name.rpartition(":")
        is_random = ending == RANDOM and head != ""
        if is_random:
            name = head
        try:
            row = get_backbone(name)
        except UserError as error:
            raise UserError(str(error).replace("--backbone=", "--backbones=", 1)) from None
        if is_own(name) and (is_random or at):
            raise UserError(f"--backbones={text}: has the weights that its function returns; give it as {name}")
        if at and (is_random or not path):
            raise UserError(f"--backbones={text}: takes NAME, NAME@PATH or NAME:random")
        if is_random:
            weights = "none"
        elif is_own(name) or (row.pretrained and not path):
            weights = "own"
        else:
            weights = path or self.weights
        return Candidate(text, name, weights)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A backbone with its weights.

    Attributes:
      name: As it was given.
      backbone: What `train --backbone` takes.
      weights: What `train --weights` takes: imagenet, own, none or a path.
    """

    name: str
    backbone: str
    weights: str

    @property
    def folder(self) -> str:
        """Where its result is kept, below the ranking's workdir."""
        plain = re.sub(r"[^.A-Za-z0-9_-]+", "_", self.name)
        digest = "" if plain == self.name else f"_{hashlib.sha256(self.name.encode()).hexdigest()[:8]}"
        return f"candidates/{plain}{digest}"

    @property
    def is_named(self) -> bool:
        """Whether the weights are those of a name, and no file's, which may have changed."""
        return self.weights in ("imagenet", "none") and not is_own(self.backbone)

    def row(self, normalization: str) -> Backbone:
        """Returns the backbone's row, of one's own with its normalisation."""
        return self.model_settings(normalization).backbone_row()

    def model_settings(self, normalization: str, **more: Any) -> ModelSettings:
        """Returns the settings of its model."""
        own = {"normalization": normalization, "pretrained": True} if is_own(self.backbone) else {}
        return ModelSettings(backbone=self.backbone, weights=self.weights, dropout=0.0, **own, **more)
