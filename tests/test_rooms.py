"""The rooms of the code: who may import whom. Below, from the ground up; an import goes down or stays on its floor."""

import ast
import pathlib

import pytest
from paths import REPO

FLOORS = (
    ("errors", "files", "progress", "settings.flags", "streams"),  # the ground, with how a room declares its flags
    ("data", "models", "pixels", "reporting"),
    ("settings", "bank.settings", "runtime.settings", "training.settings"),  # the config, and all that it composes
    ("inference", "runtime"),
    ("bank",),
    ("training",),
    ("benchmarks", "diagnosis", "inspection", "ranking", "studies"),
    ("api",),  # of Python; the commands call it
    # The commands.
    ("benchmark", "doctor", "evaluate", "export", "inspect_features", "predict", "rank", "study", "train"),
)
MAY_IMPORT_DATA_PREP = ("tl_distributed.benchmarks", "data_prep")
FILES = {
    ".".join(path.relative_to(REPO).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("tl_distributed", "data_prep")
    for path in (REPO / package).rglob("*.py")
}


def imports_of(path: pathlib.Path) -> set[str]:
    """Returns the modules of this repository that a file imports anywhere, also for type checkers alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module in FILES:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update(name if name in FILES else node.module for name in names)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name in FILES)
    return found


IMPORTS = {module: imports_of(path) for module, path in FILES.items()}


def floor_of(module: str) -> int:
    """Returns the floor of a module of `tl_distributed`; the longest name that fits tells."""
    name = module.removeprefix("tl_distributed").removeprefix(".")
    places = [
        (len(room), floor) for floor, rooms in enumerate(FLOORS) for room in rooms if f"{name}.".startswith(f"{room}.")
    ]
    assert places or not name, f"{module} has no floor: put it into a room, or name its room in FLOORS"
    return max(places)[1] if name else 0


@pytest.mark.parametrize("module", [module for module in FILES if module.startswith("tl_distributed")])
def test_imports_go_down(module):
    for other in sorted(IMPORTS[module]):
        if other.startswith("data_prep"):
            assert module.startswith(MAY_IMPORT_DATA_PREP), f"{module} imports {other}: move what it needs to a room"
        else:
            assert floor_of(other) <= floor_of(module), (
                f"{module} imports {other}, which is above it: hand it what it needs, or move that down"
            )


@pytest.mark.parametrize("module", [module for module in FILES if module.startswith("data_prep")])
def test_data_prep_stands_on_the_data_alone(module):
    below = (
        "data",
        "settings",
        "errors",
        "files",
        "progress",
        *(["models"] if module.endswith("fetch_weights") else []),
    )
    for other in sorted(IMPORTS[module]):
        rooms = tuple(f"tl_distributed.{room}" for room in below)
        assert other.startswith(("data_prep", *rooms)), f"{module} imports {other}: data_prep stands on {below}"


def test_no_circles():
    done, path = set(), []

    def visit(module: str) -> None:
        assert module not in path, f"a circle: {' -> '.join([*path, module])}; move what both need below both"
        if module not in done:
            path.append(module)
            for other in sorted(IMPORTS[module]):
                visit(other)
            done.add(path.pop())

    for module in FILES:
        visit(module)


def test_rooms_of_one_floor_are_in_no_circle():
    rooms = {}
    for module, others in IMPORTS.items():
        room = module.split(".")[1] if module.count(".") > 1 else module
        rooms.setdefault(room, set()).update(other.split(".")[1] for other in others if other.count(".") > 1)
    for first, others in rooms.items():
        for second in others - {first}:
            same = any(first in floor and second in floor for floor in FLOORS)
            assert not (same and first in rooms[second]), f"{first} and {second} import each other: one stands below"
