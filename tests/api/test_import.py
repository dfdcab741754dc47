"""`import tl_distributed` is light, offers what it says, and keeps its functions beside the commands of their names."""

import ast
import json
import os
import platform
import subprocess
import sys

import pytest
from paths import REPO

import tl_distributed as tl

PACKAGE = REPO / "tl_distributed"


def in_process(program: str, **environment: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if name != "TF_ENABLE_ONEDNN_OPTS"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, check=False,
        env={**inherited, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_imports_nothing_heavy():
    program = (
        "import json, sys, time; before = set(sys.modules); start = time.perf_counter(); import tl_distributed; "
        "seconds = time.perf_counter() - start; print(json.dumps([seconds, sorted(set(sys.modules) - before)]))"
    )
    seconds, modules = json.loads(in_process(program))
    heavy = {"tensorflow", "keras", "numpy", "absl", "PIL", "matplotlib", "h5py", "tqdm"}
    assert not heavy & {name.partition(".")[0] for name in modules}
    assert [name for name in modules if name.startswith("tl_distributed")] == ["tl_distributed"]
    assert seconds < 0.5  # 0.1 s on an idle machine


def test_offers_what_it_says_without_tensorflow():
    program = (
        "import sys, tl_distributed as tl; names = [getattr(tl, name) for name in tl.__all__]; tl.Config(epochs=2); "
        "assert set(tl.__all__) <= set(dir(tl)); print('tensorflow' in sys.modules or 'keras' in sys.modules)"
    )
    assert in_process(program).strip() == "False"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="elsewhere TensorFlow decides")
@pytest.mark.parametrize(("environment", "is_used"), [({}, True), ({"TF_ENABLE_ONEDNN_OPTS": "0"}, False)])
def test_tensorflow_convolves_by_onednn_unless_told_otherwise(environment, is_used):
    program = (
        "import tl_distributed, tensorflow as tf; "
        "print(tf.function(tf.nn.conv2d)(tf.ones([8, 24, 24, 64]), tf.ones([3, 3, 64, 32]), 1, 'SAME').shape)"
    )
    printed = in_process(program, ONEDNN_VERBOSE="1", **environment)
    assert ("exec,cpu,convolution" in printed) == is_used


def test_an_unknown_name_is_said():
    program = "import tl_distributed as tl\ntry: tl.trian\nexcept AttributeError as error: print(error)"
    assert "no attribute 'trian'" in in_process(program)


def test_functions_stay_where_commands_are_imported():
    program = (
        "import tl_distributed as tl; import tl_distributed.train, tl_distributed.study; "
        "from tl_distributed.train import main; print(tl.train.__module__, tl.study.__module__, main.__module__); "
        "from tl_distributed import train; print(train is tl.train)"
    )
    expected = "tl_distributed.api.run tl_distributed.api.study tl_distributed.train\nTrue\n"
    assert in_process(program) == expected


def test_types_are_stated_for_every_name():
    """The stub names what `__all__` does, from where it is; `py.typed` says that types hold, and both are packaged."""
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text())
    named = {node.names[0].asname: node.module for node in stub.body if isinstance(node, ast.ImportFrom)}
    assert named == tl._HOMES
    assert all(getattr(tl, name).__module__ == home for name, home in named.items())
    packaged = (REPO / "setup.py").read_text()
    assert (PACKAGE / "py.typed").exists() and '"py.typed"' in packaged and '"__init__.pyi"' in packaged
