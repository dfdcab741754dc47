"""The pages of the documentation as text: their blocks of shell, and the commands of this project in them."""

import dataclasses
import pathlib
import re
import shlex

from command_settings import COMMANDS
from paths import REPO

PAGES = (REPO / "README.md", *sorted(path for path in (REPO / "docs").rglob("*.md") if "_build" not in path.parts))
_BLOCK = re.compile(
    r"^(?P<mark><!-- run -->\n)?```(?P<language>\S*)[^\n]*\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_ENDS = ("&", "&&", "|", ";", "done;", ">")  # of a command, in a line of shell
_LAUNCHED = {
    "launch/slurm_single_node.sbatch": "tl_distributed.train", "launch/slurm_multi_node.sbatch": "tl_distributed.train",
    "launch/study_array.sbatch": "tl_distributed.study",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of shell; `is_run` says that the page promises it to end in under a minute."""

    page: pathlib.Path
    text: str
    is_run: bool


def shell_blocks(page: pathlib.Path) -> list[Block]:
    """Returns the blocks of a page that are marked as bash."""
    found = _BLOCK.finditer(page.read_text())
    return [Block(page, block["text"], block["mark"] is not None) for block in found if block["language"] == "bash"]


def prose(page: pathlib.Path) -> str:
    """Returns a page without its blocks."""
    return _BLOCK.sub("", page.read_text())


def commands(block: Block) -> list[tuple[str, list[str]]]:
    """Returns (command, its arguments) of this project's in a block, e.g. ("tl_distributed.train", ["--epochs=3"])."""
    found = []
    for line in block.text.replace("\\\n", "").splitlines():
        words = shlex.split(line, comments=True)
        for place, word in enumerate(words):
            name = words[place + 1] if word == "-m" and place + 1 < len(words) else ""
            rest = words[place + (2 if name else 1) :]
            if f"{name} {(rest or [''])[0]}" in COMMANDS:
                found.append((f"{name} {rest[0]}", _until_end(rest[1:])))
            elif name in COMMANDS or word in _LAUNCHED:
                found.append((_LAUNCHED.get(word, name), _until_end(rest)))
    return found


def _until_end(words: list[str]) -> list[str]:
    ends = [place for place, word in enumerate(words) if word in _ENDS]
    return words[: ends[0]] if ends else words
