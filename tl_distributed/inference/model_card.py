"""The card of an exported model: what it was trained on and how, how well it does, and on what terms it may be used.

Sections as in Mitchell et al. 2019, "Model Cards for Model Reporting", as far as a run knows them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tl_distributed.data.records import DatasetInfo
from tl_distributed.errors import printable
from tl_distributed.inference.compared import Compared
from tl_distributed.inference.model_info import ModelInfo
from tl_distributed.models.weight_licences import weights_licence
from tl_distributed.reporting.run_facts import about_run
from tl_distributed.reporting.shown_scores import (
    SHOWN_SCORES,
    is_classification,
    metrics_of,
    percentage,
    scores_of,
    written,
)

_IN_DATA = ("data set", "SHA-256 of its manifest")
_FITTED = {
    "squash": "squashed to a square", "crop": "cropped to its largest centred square",
    "pad": "padded with black to a square",
}  # fmt: skip
_MOST_NAMES = 100  # of classes on the card; the export has them all


@dataclasses.dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a card is made of.

    Attributes:
      title: Name of the run.
      made_as: Kind of the export, e.g. `tflite, int8`.
      config: Content of the run's `config.json`; empty where it is not there.
      results: Content of its `results.json`; an earlier version wrote less.
      info: Stored with the model.
      data: The manifest of the data set; `None` where that was not found.
      compared: With the float model; `None` where that was not measured.
      note: A sentence on how it was made, or nothing.
      script: Text of the script, and how its file is named.
    """

    title: str
    made_as: str
    config: Mapping[str, Any]
    results: Mapping[str, Any]
    info: ModelInfo
    data: DatasetInfo | None
    compared: Compared | None
    note: str
    script: tuple[str, str]


def model_card(facts: CardFacts) -> str:
    """Returns the card in Markdown."""
    sections = {
        "Use": _use(facts), "Data": _data(facts), "Scores": _scores(facts), "Calibration": _calibration(facts),
        "Licence": _licence(facts), "Training": _training(facts),
    }  # fmt: skip
    body = "".join(f"\n## {title}\n\n" + "\n".join(lines) + "\n" for title, lines in sections.items() if lines)
    settings = facts.config.get("config", {})
    kind = ", ".join(filter(None, (settings.get("backbone"), settings.get("transfer"))))
    about = f"{kind or 'A classifier of pictures'}; {facts.made_as}. {facts.note}".rstrip()
    return f"# {printable(facts.title)}\n\n{printable(about)}\n{body}"


def _use(facts: CardFacts) -> list[str]:
    height, width, _ = facts.info.image_shape
    text, name = facts.script
    fit = f"A picture that is not square is {_FITTED[facts.info.fit]}." if facts.info.fit else (
        "How pictures that are not square were fitted is not known."
    )  # fmt: skip
    return [
        f"Takes RGB pictures, `[batch, {height}, {width}, 3] uint8`, and gives a probability for each class; it "
        f"normalises them itself. {fit}",
        "",
        f"`{name}`, without the package that trained it:",
        "",
        "```python", text.rstrip(), "```",
    ]  # fmt: skip


def _data(facts: CardFacts) -> list[str]:
    names = [printable(name) for name in facts.info.class_names]
    lines = [f"- classes ({len(names)}): {', '.join(names[:_MOST_NAMES])}{', ...' if len(names) > _MOST_NAMES else ''}"]
    if facts.config.get("dataset_sha256"):
        folder = facts.config.get("config", {}).get("data_dir", "")
        lines.append(f"- data set: `{printable(folder)}`, SHA-256 of its manifest `{facts.config['dataset_sha256']}`")
    if facts.data is None:
        counts = facts.results.get("num_examples") or {}
    else:
        counts = {name: split.num_examples for name, split in facts.data.splits.items()}
        lines.append(f"- source: {printable(facts.data.source)}")
        said = facts.data.details.get("source") or {}
        lines += [f"- {key}: {' '.join(printable(str(said[key])).split())}"
                  for key in ("description", "homepage", "citation", "license") if said.get(key)]  # fmt: skip
    if counts:
        lines.append(f"- images: {', '.join(f'{name} {count:,}' for name, count in counts.items())}")
    return lines


def _scores(facts: CardFacts) -> list[str]:
    rows: list[tuple[str, str]] = []
    for split, title in (("test", "test"), ("val", "validation, which chose the epoch:")):
        if not is_classification(facts.results):
            rows += [(f"{title} {name.replace('_', ' ')}", f"{value:.4f}")
                     for name, value in metrics_of(facts.results, split).items()]  # fmt: skip
        elif facts.results.get(f"{split}_accuracy") is not None:
            rows.append((f"{title} accuracy", f"{percentage(facts.results[f'{split}_accuracy'], 2)} %"))
    found = scores_of(facts.results)
    rows += [(title, written(key, found[key])) for key, title, _ in SHOWN_SCORES
             if key in found and not _is_of_calibration(key)]  # fmt: skip
    lines = _table(("of the run, before the export", "value, on test where nothing else is said"), rows)
    if facts.compared is not None:
        lines += ["", f"Of this file: {facts.compared.line()}."]
    return lines


def _is_of_calibration(score: str) -> bool:
    return "calibration" in score or score == "temperature"


def _calibration(facts: CardFacts) -> list[str]:
    found = scores_of(facts.results)
    error, after = (found.get(f"test_expected_calibration_error{end}") for end in ("", "_calibrated"))
    lines = []
    if error is not None:
        lines.append(f"As trained, confidence and accuracy are {100 * error:.2f} points apart (expected calibration "
                     "error, test).")  # fmt: skip
    if facts.info.temperature is not None:
        change = f"; at it the error is {100 * after:.2f} points" if after is not None else ""
        lines.append(f"The temperature that fits the validation images is {facts.info.temperature:.4g}{change}.")
        lines.append(f"Its probabilities are {'those at the temperature' if facts.info.calibrated else 'as trained'}.")
    return [" ".join(lines)] if lines else []


def _licence(facts: CardFacts) -> list[str]:
    settings = facts.config.get("config", {})
    if "weights" not in settings:
        return ["Which weights it began with is not known here."]
    # A run of before it was stored began with Keras's weights or none, of which nothing is looked up.
    stored = facts.config.get("weights_licence")
    return [printable(stored or weights_licence(settings.get("backbone", ""), settings["weights"]))]


def _training(facts: CardFacts) -> list[str]:
    told, command = about_run(facts.config)
    lines = [f"- {name}: {printable(text)}" for name, text in told if name not in _IN_DATA]
    return [*(["```bash", printable(command), "```", ""] if command else []), *lines]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return []
    return [_row(header), _row(["---"] * len(header)), *map(_row, rows)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
