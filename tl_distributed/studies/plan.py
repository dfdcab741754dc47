"""The plan of a study: its flags, its arms, and the runs that they make.

No TensorFlow here: every arm's flags are checked before anything runs.
"""

import dataclasses
import re
from collections.abc import Sequence

from tl_distributed.commandline import UserError, parse_arguments, setting
from tl_distributed.config import Config
from tl_distributed.recipes import all_recipes, expand_recipes

WHAT, HOW = "What is compared", "How"
_ARM_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_BEGINS_ARM = re.compile(rf"({_ARM_NAME.pattern})(?::(.*))?", re.DOTALL)
_SETTING = re.compile(r"([a-z][a-z0-9_]*)=(.*)", re.DOTALL)
# What the study decides for every run.
_OWN_FLAGS = {"data_dir", "workdir", "seed", "images_per_class", "resume", "flagfile"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Flags of the command."""

    recipe: str = setting("", "A recipe that is a study; --recipe=list prints them all.", topic=WHAT)
    arms: str = setting(
        "", "Arms, separated by commas or semicolons: names of recipes, or NAME:flag=value,flag=value. A NAME that is "
        "no recipe is a label, and its flags say the backbone.", topic=WHAT,
    )  # fmt: skip
    common: str = setting("", "flag=value,... for every arm; an arm's own flags win.", topic=WHAT)
    override: str = setting("", "flag=value,... for every arm; they win over the arms' own.", topic=WHAT)
    seeds: int = setting(
        1, "Runs of each arm, with seeds 0, 1, ...; with one, the spread between runs stays unknown.",
        topic=WHAT, minimum=1, maximum=1000,
    )  # fmt: skip
    images_per_class: tuple[int, ...] = setting(
        (), "Sizes of the training set for the data-efficiency curve, e.g. 10,50,250; 0 is all. By default all.",
        topic=WHAT, minimum=0,
    )  # fmt: skip
    baseline: str = setting("", "Arm that the others are compared with; by default the first.", topic=WHAT)
    data_dir: str = setting("data/cifar10", "Folder that data_prep.build_tfrecords wrote.", topic=HOW)
    workdir: str = setting("", "Folder of the study; by default runs/study, or runs/RECIPE.", topic=HOW)
    report_only: bool = setting(False, "Train nothing, report what is there.", topic=HOW)

    @staticmethod
    def expand_arguments(arguments: Sequence[str]) -> list[str]:
        """Puts the flags of `--recipe=NAME` in its place (`commandline.parse_arguments` asks for it)."""
        return expand_recipes(arguments, of_study=True)


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way of training: its name, and the flags of `train` that make it."""

    name: str
    arguments: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Run:
    """One training: an arm, a size of the training set (0: all) and a seed."""

    arm: Arm
    images_per_class: int
    seed: int

    @property
    def folder(self) -> str:
        """Where it is kept, below the study's workdir."""
        size = f"{self.images_per_class}_per_class" if self.images_per_class else "all_images"
        return f"arms/{self.arm.name}/{size}/seed_{self.seed}"

    def __str__(self) -> str:
        size = f"{self.images_per_class} images a class" if self.images_per_class else "all images"
        return f"{self.arm.name}, {size}, seed {self.seed}"


@dataclasses.dataclass(frozen=True)
class Plan:
    """Arms in their order, the baseline's name, and all runs: seeds outermost, so that early results cover all arms."""

    arms: tuple[Arm, ...]
    baseline: str
    runs: tuple[Run, ...]


def make_plan(config: StudyConfig) -> Plan:
    """Returns the plan that the flags describe.

    Raises:
      UserError: No arms, two of one name, an arm whose flags `train` does not take, or an unknown baseline.
    """
    common, override = (_settings(getattr(config, name), f"--{name}") for name in ("common", "override"))
    arms = tuple(_arm(name, own, common, override) for name, own in parse_arms(config.arms))
    if not arms:
        raise UserError("no arms: name them by --arms=RECIPE,NAME:flag=value,... or --recipe=STUDY")
    names = [arm.name for arm in arms]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"--arms: two arms are called {twice}; give one of them a name of its own")
    if config.baseline and config.baseline not in names:
        raise UserError(f"--baseline={config.baseline}: no such arm; there are {', '.join(names)}")
    sizes = tuple(sorted(set(config.images_per_class), key=lambda size: size or 1 << 62)) or (0,)
    runs = tuple(Run(arm, size, seed) for seed in range(config.seeds) for size in sizes for arm in arms)
    return Plan(arms, config.baseline or names[0], runs)


def parse_arms(text: str) -> list[tuple[str, list[str]]]:
    """Splits the value of `--arms` into (name, [flag=value, ...]).

    A part without `=`, or with a name and a colon before it, begins an arm; a part that is a number continues the
    list before it (`head_units=512,128`).

    Raises:
      UserError: A part that is none of these.
    """
    arms: list[tuple[str, list[str]]] = []
    for piece in filter(None, (piece.strip() for piece in text.split(";"))):
        fresh = True  # a semicolon ends an arm
        for part in filter(None, (part.strip() for part in piece.split(","))):
            if not fresh and part[0].isdigit() and arms[-1][1]:
                arms[-1][1][-1] += f",{part}"
            elif not fresh and _SETTING.fullmatch(part):
                arms[-1][1].append(part)
            elif match := _BEGINS_ARM.fullmatch(part):
                arms.append((match[1], [match[2]] if match[2] else []))
            else:
                raise UserError(f"--arms: {part!r} is neither a recipe nor NAME:flag=value nor flag=value of an arm")
            fresh = False
    return arms


def _arm(name: str, own: Sequence[str], common: Sequence[str], override: Sequence[str]) -> Arm:
    own_settings = _settings(",".join(own), f"--arms: {name}")
    recipes = {recipe.name: recipe for recipe in all_recipes()}
    given = {argument.partition("=")[0] for argument in (*own_settings, *common)}
    if name in recipes:
        own_settings = [f"--recipe={name}", *common, *own_settings]
    elif given & {"--backbone", "--recipe"}:
        named = [argument for argument in own_settings if argument.startswith("--recipe=")]
        own_settings = [*named, *common, *(argument for argument in own_settings if argument not in named)]
    else:
        raise UserError(
            f"--arms: {name} is no recipe, so its flags must say the backbone ({name}:backbone=...); "
            "python -m tl_distributed.train --recipe=list prints the recipes"
        )
    arguments = (*own_settings, *override)
    try:
        config, positional = parse_arguments(Config, arguments)
        config.validate()
    except UserError as error:
        raise UserError(f"arm {name}: {error}") from None
    if config.strategy == "multi_worker":
        raise UserError(
            f"arm {name}: --strategy=multi_worker: a study trains each run in one process, on one machine's devices; "
            "drop it"
        )
    if positional:
        raise UserError(f"arm {name}: unexpected {positional[0]!r}; its flags are written flag=value")
    return Arm(name, arguments)


def _settings(text: str, where: str) -> list[str]:
    """Returns `flag=value,...` as arguments; a part without `=` continues the value before it (a list)."""
    arguments: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = _SETTING.fullmatch(part)
        if match is None and arguments and part[0].isdigit():
            arguments[-1] += f",{part}"
        elif match is None:
            raise UserError(f"{where}: {part!r} is not flag=value")
        elif match[1] in _OWN_FLAGS:
            raise UserError(f"{where}: --{match[1]} is the study's own; give it to the study itself")
        else:
            arguments.append(f"--{part}")
    return arguments
