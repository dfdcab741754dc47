"""The blocks that pages mark as short (`<!-- run -->` above them) are run, in their order on the page."""

import os
import pathlib
import subprocess
import sys

import pytest
from doc_pages import PAGES, shell_blocks
from paths import REPO

MARKED = {page: [block for block in shell_blocks(page) if block.is_run] for page in PAGES}
MARKED = {page: blocks for page, blocks in MARKED.items() if blocks}


def test_some_are_marked():
    assert len(MARKED) >= 4


@pytest.mark.parametrize("page", MARKED, ids=lambda page: str(page.relative_to(REPO)))
def test_blocks_run(page, tmp_path):
    path = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(REPO)}
    for block in MARKED[page]:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.text], cwd=tmp_path, env=env, capture_output=True, text=True,
            timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
