"""Facts of a run for its page: data, versions, devices, speed, and the commands that use its model."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from tl_distributed.models.plugins import GIVEN_PREFIX
from tl_distributed.progress import format_number
from tl_distributed.reporting.page.render import Cell, Table, words

_SPEEDS = (
    ("images_per_second", "images a second, in training", ",.1f"),
    ("seconds", "training seconds, the feature bank included", ",.1f"),
    ("steps", "steps", ",.0f"),
    ("epochs", "epochs", ""),
    ("images_seen", "images seen", ",.0f"),
    ("checkpoints_written", "checkpoints written", ",.0f"),
    ("checkpoint_blocking_seconds", "seconds that checkpoints held the training up", ".3f"),
    ("checkpoint_write_seconds", "seconds that checkpoints were written, beside the training", ".3f"),
)


def speed_table(results: Mapping[str, Any]) -> Table:
    """Returns how long the run took and what for."""
    rows = [
        (words(title), Cell(format(results[name], form) if form else format_number(results[name])))
        for name, title, form in _SPEEDS
        if isinstance(results.get(name), int | float)
    ]
    flops = results.get("forward_flops_per_image")
    if flops:
        rows.append((words("GFLOPs an image, forward"), Cell(f"{flops / 1e9:.3g}")))
    return Table(("what", "value"), tuple(rows))


def run_facts(written: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
    """Returns commits and versions, each once, of the `config.json` of runs."""
    commits = dict.fromkeys(one.get("commit") for one in written)
    versions = dict.fromkeys(
        ", ".join(f"{name} {number}" for name, number in one.get("versions", {}).items()) for one in written
    )
    found = (("commit", ", ".join(filter(None, commits))), ("versions", "; ".join(filter(None, versions))))
    return tuple((name, text) for name, text in found if text)


def about_run(written: Mapping[str, Any]) -> tuple[tuple[tuple[str, str], ...], str]:
    """Returns (name, text) facts of a `config.json`, and the command that trained, empty if untold."""
    settings = written.get("config", {})
    facts = [
        ("data set", settings.get("data_dir", "")),
        ("SHA-256 of its manifest", written.get("dataset_sha256", "")),
        ("pictures that are not square", written.get("fit", "")),
        *run_facts([written]),
        ("devices", ", ".join(written.get("devices", ()))),
        ("replicas", str(written.get("replicas", ""))),
        ("precision", written.get("precision", "")),
        ("XLA", {True: "on", False: "off"}.get(written.get("xla"), "")),
        ("seed", str(settings.get("seed", ""))),
    ]
    command: Sequence[str] = written.get("command", ())
    line = shlex.join(["python", "-m", "tl_distributed.train", *command[1:]]) if command else ""
    # No command can say what only the program has.
    if any(word.partition("=")[2].startswith(GIVEN_PREFIX) for word in command):
        line = shlex.join(["python", command[0]])
    return tuple((name, text) for name, text in facts if text), line


def usage(workdir: str) -> tuple[tuple[str, str], ...]:
    """Returns (what for, what to type) of the run's model."""
    folder = shlex.quote(workdir)
    return (
        ("Classify pictures", f"python -m tl_distributed.predict --model={folder} photo.jpg folder/"),
        ("Score it again, or on other data", f"python -m tl_distributed.evaluate --workdir={folder} --split=test"),
        ("Turn it into another format", f"python -m tl_distributed.export --workdir={folder} --format=tflite"),
        ("In Python: stock Keras opens it without this package", (
            "import keras\n"
            f"model = keras.models.load_model({f'{workdir}/model.keras'!r})\n"
            "probabilities = model.predict(images)  # uint8 [batch, height, width, 3], as the data set's"
        )),
    )  # fmt: skip
