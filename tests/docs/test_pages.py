"""What the pages name is there: flags with their values, files, links."""

import dataclasses
import re
import urllib.parse

import pytest
from command_settings import COMMANDS, settings_class
from doc_pages import PAGES, commands, prose, shell_blocks
from paths import REPO

from tl_distributed.settings.flags import parse_arguments
from tl_distributed.studies.plan import StudyConfig, make_plan

# Flags in the text that are others': of sbatch and srun, pip, apptainer, TensorFlow, campaigns and scripts.
OTHERS = {
    "help", "flagfile", "gpus-per-node", "exclusive", "mem", "signal", "nv", "bind", "cifar10", "kills",
    "tf_xla_persistent_cache_directory", "xla_gpu_autotune_level", "upgrade", "logdir", "noNAME", "check",
}  # fmt: skip
KNOWN = {field.name for command in COMMANDS for field in dataclasses.fields(settings_class(command))}
PATH = re.compile(r"\b(?:launch|tests|tl_distributed|data_prep|docs)/[\w./-]+\.(?:py|sh|sbatch|md|ipynb|png)\b")
LINK = re.compile(r"\]\(([^)\s]+)\)")
by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))


@by_page
def test_commands_take_their_flags(page):
    """Name and value of each; a value that the shell or the reader fills in is left out."""
    for block in shell_blocks(page):
        for command, arguments in commands(block):
            given = [word for word in arguments if not re.search(r"[$\[]|\.\.\.$|^--help$", word)]
            taken = [word for word in given if word.startswith("--")]
            config, _ = parse_arguments(settings_class(command), taken)
            if isinstance(config, StudyConfig) and given == arguments and config.recipe != "list":
                assert make_plan(config).runs


@by_page
def test_flags_in_the_text_exist(page):
    named = set(re.findall(r"(?<![\w-])--([a-z][\w-]*)", prose(page)))
    unknown = {name for name in named if name not in KNOWN and name.removeprefix("no") not in KNOWN} - OTHERS
    assert not unknown


@by_page
def test_files_exist(page):
    assert not [path for path in PATH.findall(page.read_text()) if not (REPO / path).exists()]


@by_page
def test_links_lead_somewhere(page):
    for target in LINK.findall(prose(page)):
        address = urllib.parse.urlsplit(target)
        if address.scheme:
            assert address.scheme == "https" and "." in address.netloc, target
        elif address.path and not address.path.endswith("transfer_learning.ipynb"):  # made by the build
            assert (page.parent / address.path).exists(), target


def test_every_command_has_its_flags_on_the_page():
    page = (REPO / "docs/reference/flags.md").read_text()
    described = set(re.findall(r"^```\{flags\} (\S+ \S+)$", page, re.MULTILINE))
    classes = {settings_class(command) for command in COMMANDS}
    assert {tuple(name.split()) for name in described} >= {(kind.__module__, kind.__name__) for kind in classes}


def test_the_readme_is_short():
    assert len((REPO / "README.md").read_text().splitlines()) <= 150
