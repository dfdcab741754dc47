"""The plan of a study: its flags, its arms, and the runs that they make.

No TensorFlow here: every arm's flags are checked before anything runs.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence

from tl_distributed.data.settings import DataSettings
from tl_distributed.errors import UserError
from tl_distributed.runtime.settings import RuntimeSettings
from tl_distributed.settings.config import Config
from tl_distributed.settings.flags import borrowed, parse_arguments, setting
from tl_distributed.settings.recipes import all_recipes, expand_recipes, join_lists

WHAT, HOW, WORKERS = "What is compared", "How", "Workers"
_ARM_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_BEGINS_ARM = re.compile(rf"({_ARM_NAME.pattern})(?::(.*))?", re.DOTALL)
_SETTING = re.compile(r"([a-z][a-z0-9_]*)=(.*)", re.DOTALL)
# What the study decides for every run.
_OWN_FLAGS = {"data_dir", "data_copy_dir", "workdir", "seed", "images_per_class", "resume", "flagfile"}


_CLUSTER_FLAGS = ("strategy", "workers", "worker_index", "grpc_port", "control_port", "worker_timeout_seconds")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Flags of the command."""

    recipe: str = setting("", "A recipe that is a study; --recipe=list prints them all.", topic=WHAT)
    arms: str = setting(
        "", "Arms, separated by commas or semicolons: names of recipes, or NAME:flag=value,flag=value. A NAME that is "
        "no recipe is a label, and its flags say the backbone.", topic=WHAT,
    )  # fmt: skip
    common: str = setting(
        "", "flag=value,... for every arm; an arm's own flags win. Beside a --recipe it adds to the recipe's own, flag "
        "by flag.", topic=WHAT,
    )  # fmt: skip
    override: str = setting("", "flag=value,... for every arm; they win over the arms' own.", topic=WHAT)
    seeds: int = setting(
        1, "Runs of each arm, with seeds 0, 1, ...; with one, the spread between runs stays unknown.",
        topic=WHAT, minimum=1, maximum=1000,
    )  # fmt: skip
    images_per_class: tuple[int, ...] = setting(
        (), "Sizes of the training set for the data-efficiency curve, e.g. 10,50,250; 0 is all. By default all.",
        topic=WHAT, minimum=0,
    )  # fmt: skip
    tune: str = setting(
        "", "learning_rate:N tries N rates around each arm's own, half a decade apart, on the validation images with "
        "one seed, and runs the arm's seeds with the best. By default the arms' rates are taken as they are.",
        topic=WHAT,
    )  # fmt: skip
    baseline: str = setting("", "Arm that the others are compared with; by default the first.", topic=WHAT)
    data_dir: str = borrowed(DataSettings, "data_dir", topic=HOW)
    data_copy_dir: str = borrowed(DataSettings, "data_copy_dir", topic=HOW)
    workdir: str = setting("", "Folder of the study; by default runs/study, or runs/RECIPE.", topic=HOW)
    report_only: bool = setting(False, "Train nothing, report what is there.", topic=HOW)
    list_arms: bool = setting(False, "Print the arms with their numbers, and do nothing.", topic=HOW)
    arm_index: int | None = setting(
        None, "Train only the arm of this number, from 0, and write no report: each on a machine of its own, at the "
        "same time, then --report_only.", topic=HOW, minimum=0,
    )  # fmt: skip
    list_runs: bool = setting(False, "Print the runs with their numbers, and do nothing.", topic=HOW)
    run_index: int | None = setting(
        None, "Train only the run of this number, from 0, and write no report: seeds and sizes of an arm on machines "
        "of their own; after its tuning, if there is one.", topic=HOW, minimum=0,
    )  # fmt: skip
    runs_per_node: int = setting(
        1, "Runs that go on at the same time on this node, each on one of its GPUs.", topic=HOW, minimum=1, maximum=64
    )
    strategy: str = setting(
        "auto", "multi_worker: each run trains on all workers; start the study on each of them. auto: each run in one "
        "process, as its arm says.", topic=WORKERS, choices=("auto", "multi_worker"),
    )  # fmt: skip
    workers: tuple[str, ...] = borrowed(RuntimeSettings, "workers", topic=WORKERS)
    worker_index: int = borrowed(RuntimeSettings, "worker_index", topic=WORKERS)
    grpc_port: int = borrowed(RuntimeSettings, "grpc_port", topic=WORKERS)
    control_port: int = borrowed(RuntimeSettings, "control_port", topic=WORKERS)
    worker_timeout_seconds: float = borrowed(RuntimeSettings, "worker_timeout_seconds", topic=WORKERS)
    study_port: int = setting(
        0, "Port of the chief through which the study's processes watch one another; 0 is the one below the runs' "
        "--control_port.", topic=WORKERS, minimum=0, maximum=65535,
    )  # fmt: skip

    @staticmethod
    def expand_arguments(arguments: Sequence[str]) -> list[str]:
        """Puts the flags of `--recipe=NAME` in its place (`flags.parse_arguments` asks for it)."""
        return join_lists(expand_recipes(arguments, of_study=True), ("common", "override"))

    def validate(self) -> None:
        """Raises `UserError` for combinations that cannot be meant."""
        if self.run_index is not None and self.arm_index is not None:
            raise UserError("--arm_index and --run_index: give one of them")
        if self.report_only and (self.run_index is not None or self.arm_index is not None):
            raise UserError("--report_only: reports on all arms and runs; drop --arm_index and --run_index")
        if self.runs_per_node > 1 and self.strategy == "multi_worker":
            raise UserError(
                f"--runs_per_node={self.runs_per_node} shares a node between runs, --strategy=multi_worker a run "
                "between workers; drop one of them"
            )

    def cluster_arguments(self) -> tuple[str, ...]:
        """Returns the flags by which a run finds its workers; none where it is one process."""
        given = {name: getattr(self, name) for name in _CLUSTER_FLAGS}
        return tuple(
            f"--{name}={','.join(value) if isinstance(value, tuple) else value}"
            for name, value in given.items()
            if value != RuntimeSettings.__dataclass_fields__[name].default
        )

    def of_runs(self) -> RuntimeSettings:
        """Returns the settings that all runs have, as far as they say on which workers they are."""
        return RuntimeSettings(**{name: getattr(self, name) for name in _CLUSTER_FLAGS})


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


def make_plan(config: StudyConfig, given: Mapping[str, Sequence[str]] | None = None) -> Plan:
    """Returns the plan that the flags describe.

    Args:
      config: Of the study.
      given: The arms instead of `--arms`: the `--flag=value` of each by its name.

    Raises:
      UserError: No arms, two of one name, an arm whose flags `train` does not take, or an unknown baseline.
    """
    config.validate()
    common, override = (_settings(getattr(config, name), f"--{name}") for name in ("common", "override"))
    cluster = config.cluster_arguments()
    named = [(name, _settings(",".join(own), f"--arms: {name}")) for name, own in parse_arms(config.arms)]
    if given is not None:
        named = [(name, _arguments_of(name, arguments)) for name, arguments in given.items()]
    arms = tuple(_arm(name, own, common, override, cluster) for name, own in named)
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


def plan_of_arm(plan: Plan, index: int) -> Plan:
    """Returns the plan with the runs of one arm only.

    Raises:
      UserError: There is no arm of that number.
    """
    if index >= len(plan.arms):
        names = ", ".join(f"{number} {arm.name}" for number, arm in enumerate(plan.arms))
        raise UserError(f"--arm_index={index}: no such arm; there are {names}")
    runs = tuple(run for run in plan.runs if run.arm == plan.arms[index])
    return dataclasses.replace(plan, runs=runs)


def plan_of_run(plan: Plan, index: int) -> Plan:
    """Returns the plan with one run only.

    Raises:
      UserError: There is no run of that number.
    """
    if index >= len(plan.runs):
        raise UserError(
            f"--run_index={index}: no such run; there are {len(plan.runs)}, from 0 ({plan.runs[0]}) to "
            f"{len(plan.runs) - 1} ({plan.runs[-1]})"
        )
    return dataclasses.replace(plan, runs=(plan.runs[index],))


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


def _arm(
    name: str, own_settings: list[str], common: Sequence[str], override: Sequence[str], cluster: Sequence[str]
) -> Arm:
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
        own_strategy = parse_arguments(Config, arguments)[0].strategy
        config, positional = parse_arguments(Config, [*arguments, *cluster])
        config.validate()
    except UserError as error:
        raise UserError(f"arm {name}: {error}") from None
    if own_strategy == "multi_worker" or (config.strategy == "multi_worker" and own_strategy != "auto"):
        raise UserError(
            f"arm {name}: --strategy={own_strategy}: whether runs train on several workers is the study's own; drop it "
            "there, and give --strategy=multi_worker to the study itself, on every worker"
        )
    if config.task not in ("auto", "classification"):
        raise UserError(f"arm {name}: --task={config.task}: a study compares accuracies of classification; drop it")
    if positional:
        raise UserError(f"arm {name}: unexpected {positional[0]!r}; its flags are written flag=value")
    return Arm(name, arguments)


def _arguments_of(name: str, arguments: Sequence[str]) -> list[str]:
    """Checks an arm that a program gives: its name is that of a folder, too."""
    if not _ARM_NAME.fullmatch(name):
        raise UserError(f"arm {name!r}: its name begins with a letter and holds letters, digits, _, . and - alone")
    for argument in arguments:
        _refuse_own_flag(argument.partition("=")[0].removeprefix("--"), f"arm {name}")
    return list(arguments)


def _refuse_own_flag(flag: str, where: str) -> None:
    if flag in _OWN_FLAGS:
        raise UserError(f"{where}: --{flag} is the study's own; give it to the study itself")


def _settings(text: str, where: str) -> list[str]:
    """Returns `flag=value,...` as arguments; a part without `=` continues the value before it (a list)."""
    arguments: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = _SETTING.fullmatch(part)
        if match is None and arguments and part[0].isdigit():
            arguments[-1] += f",{part}"
        elif match is None:
            raise UserError(f"{where}: {part!r} is not flag=value")
        else:
            _refuse_own_flag(match[1], where)
            arguments.append(f"--{part}")
    return arguments
