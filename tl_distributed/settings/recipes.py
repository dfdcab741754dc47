"""Recipes: absl flagfiles in `recipes/`, each with a head comment that says what it shows and what it costs."""

import dataclasses
import difflib
import importlib.resources
from collections.abc import Sequence

from absl import flags

from tl_distributed.errors import UserError

_FOLDER = importlib.resources.files("tl_distributed") / "recipes"
_ENDING = ".flags"
_FLAG = "recipe"
_JOINED = {"--arms=": ";", "--common=": ","}  # a study's lists, which may take several lines


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One flagfile.

    Attributes:
      name: What `--recipe` takes.
      summary: First line of its head comment.
      arguments: Its flags as command-line arguments; of a study, all `--arms` are one argument, as are all `--common`.
      is_study: Whether it compares several arms and so is for `tl_distributed.study`.
    """

    name: str
    summary: str
    arguments: tuple[str, ...]
    is_study: bool


def all_recipes() -> list[Recipe]:
    """Returns every recipe, in order of name."""
    return [read_recipe(name) for name in _names()]


def read_recipe(name: str) -> Recipe:
    """Reads a recipe.

    Raises:
      UserError: No such recipe; the nearest names are suggested.
    """
    if name not in _names():
        nearest = difflib.get_close_matches(name, _names(), n=2, cutoff=0.5)
        suggestion = f"did you mean {' or '.join(nearest)}?" if nearest else "--recipe=list prints them all"
        raise UserError(f"--recipe={name}: no such recipe; {suggestion}")
    text = (_FOLDER / f"{name}{_ENDING}").read_text()
    lines = [line.strip() for line in text.splitlines()]
    arguments = [line for line in lines if line and not line.startswith("#")]
    for prefix, separator in _JOINED.items():
        values = [argument.removeprefix(prefix) for argument in arguments if argument.startswith(prefix)]
        arguments = [argument for argument in arguments if not argument.startswith(prefix)]
        arguments += [prefix + separator.join(values)] if values else []
    return Recipe(
        name=name,
        summary=lines[0].removeprefix("#").strip(),
        arguments=tuple(arguments),
        is_study=any(argument.startswith("--arms=") for argument in arguments),
    )


def expand_recipes(arguments: Sequence[str], *, of_study: bool = False) -> list[str]:
    """Puts a recipe's flags behind each `--recipe=NAME`, so that a later flag wins over the recipe.

    Args:
      arguments: Of the command line; flagfiles are read already.
      of_study: Whether the command is the study, which takes studies and no others.

    Raises:
      UserError: No such recipe, one for the other command, or two studies, whose arms and `--common` would mix.
      flags.Error: `--recipe` at the end without a value.
    """
    expanded: list[str] = []
    remaining, names = list(arguments), set()
    while remaining:
        argument = remaining.pop(0)
        if argument == "--":
            return [*expanded, argument, *remaining]
        expanded.append(argument)
        flag, equals, name = argument.partition("=")
        if flag not in (f"--{_FLAG}", f"-{_FLAG}"):
            continue
        if not equals:
            if not remaining:
                raise flags.Error(f"--{_FLAG} needs a name; --{_FLAG}=list prints them all")
            name = remaining.pop(0)
            expanded.append(name)
        if name not in ("", "list"):
            expanded += _arguments_for(read_recipe(name), of_study)
            names.add(name)
        if of_study and len(names) > 1:
            raise UserError(f"--recipe={name}: a study takes one recipe, and {min(names - {name})} is given too")
    return expanded


def join_lists(arguments: Sequence[str], names: Sequence[str]) -> list[str]:
    """Puts all values of each of these flags into one of it, in their order: a later one adds to those before.

    So a study's `--common` on the command line leaves what it does not name as the recipe's `--common` has it.

    Args:
      arguments: Of the command line, recipes and flagfiles read.
      names: Of flags whose values are `flag=value,...`.
    """
    values: dict[str, list[str]] = {}
    others: list[str] = []
    remaining = list(arguments)
    while remaining and remaining[0] != "--":
        argument = remaining.pop(0)
        flag, equals, value = argument.partition("=")
        name = flag.lstrip("-")
        if name not in names or not flag.startswith("-") or not (equals or remaining):
            others.append(argument)
        else:
            values.setdefault(name, []).append(value if equals else remaining.pop(0))
    return [*(f"--{name}={','.join(given)}" for name, given in values.items()), *others, *remaining]


def _arguments_for(recipe: Recipe, of_study: bool) -> tuple[str, ...]:
    if recipe.is_study and not of_study:
        raise UserError(
            f"--recipe={recipe.name} compares several ways of training; "
            f"run it with python -m tl_distributed.study --recipe={recipe.name}"
        )
    if of_study and not recipe.is_study:
        raise UserError(f"--recipe={recipe.name} is one arm; compare it with others by --arms={recipe.name},OTHER")
    return recipe.arguments


def _names() -> list[str]:
    files = (file.name for file in _FOLDER.iterdir())
    return sorted(file.removesuffix(_ENDING) for file in files if file.endswith(_ENDING))
