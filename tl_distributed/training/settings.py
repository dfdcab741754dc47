"""Settings of the optimization, and of the run as a whole."""

import dataclasses

from tl_distributed.errors import UserError
from tl_distributed.models.plugins import function_of, is_own
from tl_distributed.reporting.trackers import TRACKERS, refuse_without_tracker
from tl_distributed.settings.flags import setting

OPTIMIZATION, RUN = "Optimization", "Run"
TASKS = ("auto", "classification", "multi_label")
OF_BUILT_IN_TASKS = ("label_smoothing", "loss", "focal_gamma", "class_weights")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizationSettings:
    """Flags of the optimization."""

    epochs: int = setting(10, "Epochs of the main phase.", topic=OPTIMIZATION, minimum=1)
    head_epochs: int = setting(
        3, "two_phase: epochs in which only the head trains, before the main phase.", topic=OPTIMIZATION, minimum=1
    )
    min_steps: int = setting(
        0, "Steps that each phase takes at least: small training sets, as of --images_per_class, then get more epochs.",
        topic=OPTIMIZATION, minimum=0,
    )  # fmt: skip
    global_batch_size: int = setting(128, "Images in a step, over all replicas.", topic=OPTIMIZATION, minimum=1)
    learning_rate: float = setting(
        1e-3, "Peak rate where only new weights train (scratch, frozen, norms, lora, two_phase's head).",
        topic=OPTIMIZATION, minimum=0,
    )  # fmt: skip
    finetune_learning_rate: float = setting(
        1e-4, "Peak rate where pretrained weights train (partial, full, two_phase's main phase).",
        topic=OPTIMIZATION, minimum=0,
    )  # fmt: skip
    optimizer: str = setting(
        "adamw", "Keras optimizer.", topic=OPTIMIZATION, choices=("adam", "adamw", "sgd", "lamb", "lion")
    )
    momentum: float = setting(0.9, "sgd: Nesterov momentum.", topic=OPTIMIZATION, minimum=0, maximum=0.9999)
    schedule: str = setting(
        "cosine", "Course of the rate within a phase, after warm-up; step divides by 10 at 1/2 and 3/4.",
        topic=OPTIMIZATION, choices=("constant", "cosine", "linear", "step"),
    )  # fmt: skip
    warmup_epochs: float = setting(
        0.0, "Epochs of linear warm-up at the start of each phase.", topic=OPTIMIZATION, minimum=0
    )
    finetune_warmup_fraction: float = setting(
        0.1, "Share of a phase that is linear warm-up where pretrained weights train (partial, full, two_phase's main "
        "phase), so that an optimizer without a history does not spoil them; the longer of this and --warmup_epochs "
        "counts. Not with --schedule=constant.", topic=OPTIMIZATION, minimum=0, maximum=1,
    )  # fmt: skip
    layer_decay: float = setting(
        1.0, "Factor on the rate from each block of the backbone to the block below; the head keeps the full rate, "
        "1 is off.", topic=OPTIMIZATION, minimum=0.01, maximum=1,
    )  # fmt: skip
    weight_decay: float = setting(
        1e-4, "Decoupled decay, times the rate; not on biases, norms and layer scales.", topic=OPTIMIZATION, minimum=0
    )
    clip_norm: float = setting(0.0, "Largest global norm of the gradient; 0 is off.", topic=OPTIMIZATION, minimum=0)
    ema_decay: float = setting(
        0.0, "Decay a step of the averaged weights that are evaluated and saved; 0 is off.",
        topic=OPTIMIZATION, minimum=0, maximum=0.99999,
    )  # fmt: skip
    task: str = setting(
        TASKS[0], "What is learnt: classification (one label a picture), multi_label (any number of them), or "
        "MODULE:CLASS of your own, a tl_distributed.Task; auto goes by the data set.", topic=OPTIMIZATION,
    )  # fmt: skip
    label_smoothing: float = setting(
        0.0, "Share of the label spread evenly over all classes; multi_label: of each class's, over yes and no.",
        topic=OPTIMIZATION, minimum=0, maximum=0.9,
    )  # fmt: skip
    loss: str = setting(
        "cross_entropy", "Training loss; focal is that of Lin et al. 2017, which counts what is answered right less.",
        topic=OPTIMIZATION, choices=("cross_entropy", "focal"),
    )  # fmt: skip
    focal_gamma: float = setting(
        2.0, "focal: exponent of one minus the probability; 0 is cross-entropy.", topic=OPTIMIZATION,
        minimum=0, maximum=20,
    )  # fmt: skip
    class_weights: str = setting(
        "none", "Weight of each image's loss, whose mean is by the sum of weights: none; balanced, so that all classes "
        "count alike in all; or a JSON or CSV file of class names and weights.", topic=OPTIMIZATION,
    )  # fmt: skip
    early_stopping_epochs: int = setting(
        0, "End a phase after this many epochs without a better measure of --select_by; 0 is off.",
        topic=OPTIMIZATION, minimum=0,
    )  # fmt: skip
    validate_every_epochs: int = setting(
        1, "Epochs between validations, and between checkpoints where --checkpoint_every_steps is 0; the end of a "
        "phase is always validated. More than 1 suits few training and many validation images.", topic=OPTIMIZATION,
        minimum=1,
    )  # fmt: skip
    select_by: str = setting(
        "auto", "What chooses the epoch whose weights are kept, of equal ones the one with the lower validation loss: "
        "val_accuracy, val_loss, val_balanced_accuracy, or val_ and another metric of the task; auto is val_accuracy, "
        "for multi_label val_mean_average_precision, for a task of your own what its class says.", topic=OPTIMIZATION,
    )  # fmt: skip

    def validate(self) -> None:
        """Raises `UserError` for combinations that cannot be meant."""
        self._check_task()
        if self.select_by != "auto" and not self.select_by.startswith("val_"):
            raise UserError(f"--select_by={self.select_by}: takes auto, or val_ and a metric, e.g. val_loss")
        if self.loss != "focal" and self.focal_gamma != OptimizationSettings.focal_gamma:
            raise UserError(f"--focal_gamma={self.focal_gamma:g} has no effect without --loss=focal; add it or drop it")

    def _check_task(self) -> None:
        if self.task not in TASKS and not is_own(self.task):
            raise UserError(f"--task={self.task}: takes {', '.join(TASKS)}, or MODULE:CLASS of your own")
        if is_own(self.task):
            function_of("task", self.task)
        without = OF_BUILT_IN_TASKS if is_own(self.task) else ("class_weights",) if self.task == "multi_label" else ()
        defaults = OptimizationSettings.__dataclass_fields__
        given = [name for name in without if getattr(self, name) != defaults[name].default]
        if given:
            raise UserError(
                f"--{given[0]}={getattr(self, given[0])} has no effect with --task={self.task}; drop one of them"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Flags of the run: its folder, its seed, what it keeps and when it ends."""

    recipe: str = setting(
        "", "Flags of a published walk-through or of good practice; a later flag wins. --recipe=list prints them all.",
        topic=RUN,
    )  # fmt: skip
    workdir: str = setting(
        "", "Folder of the run; by default runs/RECIPE, or runs/BACKBONE_TRANSFER without one.", topic=RUN
    )
    seed: int = setting(0, "Seed of weights, order, augmentation and dropout.", topic=RUN, minimum=0, maximum=2**31 - 1)
    deterministic: bool = setting(False, "Use deterministic kernels only (slower on GPUs).", topic=RUN)
    checkpoint_every_steps: int = setting(
        0, "Steps between checkpoints; 0 is at each validation.", topic=RUN, minimum=0
    )
    keep_checkpoints: int = setting(2, "Newest checkpoints kept, beside the best.", topic=RUN, minimum=1)
    log_every_steps: int = setting(
        0, "Steps between lines of metrics.jsonl; 0 is about 20 an epoch.", topic=RUN, minimum=0
    )
    resume: str = setting(
        "auto", "auto goes on where the workdir's run stopped; never wants an empty workdir; must wants a checkpoint.",
        topic=RUN, choices=("auto", "never", "must"),
    )  # fmt: skip
    max_steps: int = setting(0, "Stop after this many steps in all, for trying things; 0 is off.", topic=RUN, minimum=0)
    track: str = setting(
        "none", "A tracker that gets the scalars too; where it is, its own variables say: MLFLOW_TRACKING_URI, "
        "WANDB_MODE=offline, ...", topic=RUN, choices=TRACKERS,
    )  # fmt: skip
    scaling_reference: str = setting(
        "", "Workdir of a run of one replica like this one: its speed is what scaling_efficiency is measured by.",
        topic=RUN,
    )  # fmt: skip
    profile_steps: tuple[int, ...] = setting((), "A,B: profile from step A to B for TensorBoard.", topic=RUN)
    export_h5: str = setting(
        "", "Write the model as this Keras HDF5 file too, e.g. cifar10.h5, in the workdir.", topic=RUN
    )

    def validate(self) -> None:
        """Raises `UserError` for values that cannot be meant."""
        refuse_without_tracker(self.track)
        edges = self.profile_steps
        if edges and (len(edges) != 2 or not 0 <= edges[0] < edges[1]):
            raise UserError(f"--profile_steps={','.join(map(str, edges))}: takes two steps A,B with A < B")
        if self.export_h5 and ("/" in self.export_h5 or not self.export_h5.endswith(".h5")):
            raise UserError(f"--export_h5={self.export_h5}: takes a file name that ends in .h5, without folders")
