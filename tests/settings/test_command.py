"""Flags from a dataclass: what is read, what is refused and how a command ends, without TensorFlow."""

import dataclasses
import os
import signal
import subprocess
import sys

import pytest
from paths import REPO

from tl_distributed.errors import UserError
from tl_distributed.settings.command import refuse_positional, run_command, start_logging
from tl_distributed.settings.config import Config
from tl_distributed.settings.flags import help_text, parse_arguments, setting

COMMANDS = ("train", "rank", "evaluate", "predict", "export", "inspect_features", "doctor")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    count: int = setting(4, "How many.", topic="Numbers", minimum=1, maximum=2**31 - 1)
    share: float = setting(0.5, "How much.", topic="Numbers", minimum=0, maximum=1)
    limit: float | None = setting(None, "Up to where.", topic="Numbers", minimum=0)
    kind: str = setting("red", "Which.", topic="Words", choices=("red", "blue"))
    name: str = setting("", "Of what.", topic="Words")
    loud: bool = setting(False, "Whether.", topic="Switches")
    quiet: bool | None = setting(None, "Whether not.", topic="Switches")
    sizes: tuple[int, ...] = setting((), "Sides in pixels.", topic="Lists", minimum=1)
    internal: int = 7  # no flag


def parse(*arguments: str) -> Settings:
    return parse_arguments(Settings, arguments)[0]


def test_defaults_are_those_of_the_dataclass():
    assert parse() == Settings()


@pytest.mark.parametrize(
    ("argument", "name", "value"),
    [
        ("--count=9", "count", 9),
        ("--share=1e-3", "share", 1e-3),
        ("--share=1", "share", 1.0),
        ("--limit=2.5", "limit", 2.5),
        ("--kind=blue", "kind", "blue"),
        ("--name=a=b,c", "name", "a=b,c"),
        ("--name=", "name", ""),
        ("--loud", "loud", True),
        ("--loud=true", "loud", True),
        ("--loud=False", "loud", False),
        ("--noloud", "loud", False),
        ("--noquiet", "quiet", False),
        ("--sizes=32, 64", "sizes", (32, 64)),
        ("--sizes=", "sizes", ()),
    ],
)
def test_values_are_read_by_their_annotation(argument, name, value):
    config = parse(argument)
    assert getattr(config, name) == value and type(getattr(config, name)) is type(value)
    assert dataclasses.replace(config, **{name: getattr(Settings(), name)}) == Settings()  # and nothing else


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--count=x", "flag --count=x: expects a whole number"),
        ("--count=1.5", "flag --count=1.5: expects a whole number"),
        ("--count=", "flag --count=: expects a whole number"),
        ("--count=0", "flag --count=0: takes at least 1 and at most 2147483647"),
        ("--share=much", "flag --share=much: expects a number"),
        ("--share=1.01", "flag --share=1.01: takes at least 0 and at most 1"),
        ("--share=nan", "flag --share=nan: expects a finite number"),
        ("--limit=inf", "flag --limit=inf: expects a finite number"),
        ("--limit=-0.1", "flag --limit=-0.1: takes at least 0"),
        ("--kind=green", "flag --kind=green: takes one of red, blue"),
        ("--loud=maybe", "flag --loud=maybe: expects true or false"),
        ("--noloud=3", "--noloud=3 does not take an argument"),
        ("--sizes=32,big", "flag --sizes=32,big: expects a whole number"),
        ("--sizes=32,0", "flag --sizes=32,0: takes at least 1"),
        ("--count", "Missing value for flag --count"),
        ("--cuont=3", "Unknown command line flag 'cuont'. Did you mean: count ?"),
        ("--internal=3", "Unknown command line flag 'internal'"),
        ("--flagfile=/nowhere/it.flags", "Unable to open flagfile: [Errno 2] No such file or directory"),
    ],
)
def test_wrong_flags_are_named_with_what_they_take(argument, message):
    with pytest.raises(UserError) as raised:
        parse(argument)
    assert message in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("path", ["s3://bucket/x", "https://example.org/x", "hdfs://host/x"])
def test_paths_that_nothing_reads_are_named(path):
    scheme = path.split(":")[0]
    words = f"{path}: there is no file system {scheme}:// here: paths are local ones or gs://; copy it to one of them"
    with pytest.raises(UserError) as raised:
        parse(f"--name={path}")
    assert str(raised.value) == f"flag --name={words}"
    with pytest.raises(UserError) as raised:
        parse("x.png", path)
    assert str(raised.value) == words
    with pytest.raises(UserError, match=f"--weights={scheme}://bucket/x"):
        parse_arguments(Config, [f"--weights={scheme}://bucket/x"])
    assert parse("--name=gs://bucket/x").name == "gs://bucket/x"
    assert parse("--name=a=s3://bucket/x").name == "a=s3://bucket/x"  # of an arm, whose own flags are checked


def test_paths_that_tensorflow_does_not_take_are_named():
    with pytest.raises(UserError, match=r"flag --name=caf.*: is not UTF-8; rename it") as raised:
        parse(os.fsdecode(b"--name=caf\xe9"))
    assert "\n" not in str(raised.value)
    assert parse("--name=café").name == "café"
    picture = os.fsdecode(b"caf\xe9.png")
    assert parse_arguments(Settings, [picture])[1] == [picture]  # of `predict`, which opens it itself


def test_later_flags_win_over_a_flagfile_and_earlier_ones_lose(tmp_path):
    recipe = tmp_path / "recipe.flags"
    recipe.write_text("# a comment\n--count=2\n--kind=blue\n\n--loud\n")
    assert parse(f"--flagfile={recipe}") == Settings(count=2, kind="blue", loud=True)
    assert parse("--count=3", f"--flagfile={recipe}").count == 2
    assert parse(f"--flagfile={recipe}", "--count=3", "--noloud") == Settings(count=3, kind="blue")


def test_a_wrong_value_in_a_flagfile_is_named(tmp_path):
    recipe = tmp_path / "recipe.flags"
    recipe.write_text("--count=two\n")
    with pytest.raises(UserError, match="--count=two: expects a whole number"):
        parse(f"--flagfile={recipe}")


def test_positional_arguments_are_handed_over_in_order():
    config, positional = parse_arguments(Settings, ["--count=2", "one", "two", "--", "--three"])
    assert config.count == 2 and positional == ["one", "two", "--three"]
    refuse_positional([])
    with pytest.raises(UserError, match="unexpected argument 'one'"):
        refuse_positional(positional)


def test_help_lists_every_flag_under_its_topic():
    text = help_text(Settings, "What it does.")
    assert text.startswith("What it does.\n\nNumbers:\n  --count\n      How many. [default: 4]\n")
    topics = {part.splitlines()[0]: part for part in text.split("\n\n")[1:]}
    assert list(topics) == ["Numbers:", "Words:", "Switches:", "Lists:"]
    assert "(red|blue) [default: red]" in topics["Words:"]
    assert topics["Numbers:"].endswith("--limit\n      Up to where.")  # no default to show
    assert "internal" not in text


def _exit_code(main, *arguments: str) -> int:
    with pytest.raises(SystemExit) as raised:
        run_command(main, Settings, "What it does.", arguments)
    return raised.value.code


def test_exit_codes_and_lines(capsys):
    def refuse(config, positional):
        raise UserError("--name=x: two\nlines of cause")

    def interrupted(config, positional):
        raise KeyboardInterrupt

    assert _exit_code(lambda config, positional: None) == 0
    assert _exit_code(lambda config, positional: 1) == 1
    assert capsys.readouterr() == ("", "")
    assert _exit_code(refuse) == 2
    assert capsys.readouterr().err == "error: --name=x: two lines of cause\n"
    assert _exit_code(interrupted) == 128 + signal.SIGINT
    assert capsys.readouterr().err == "interrupted\n"
    assert _exit_code(lambda config, positional: 1, "--help", "--count=x") == 0
    assert capsys.readouterr().out.startswith("What it does.")


def test_defects_keep_their_traceback():
    def defect(config, positional):
        raise ZeroDivisionError

    def broken_pipe_elsewhere(config, positional):
        raise BrokenPipeError

    for main in (defect, broken_pipe_elsewhere):
        with pytest.raises((ZeroDivisionError, BrokenPipeError)):
            run_command(main, Settings, "", [])


def test_log_lines_go_to_standard_error_once(capsys):
    import logging

    logger = logging.getLogger("tl_distributed")
    before = (logger.handlers[:], logger.level, logger.propagate)
    try:
        start_logging()
        start_logging()
        logging.getLogger("tl_distributed.part").info("hello")
        output = capsys.readouterr()
    finally:
        logger.handlers[:], logger.level, logger.propagate = before
    assert output.out == "" and output.err.endswith(" hello\n") and output.err.count("\n") == 1


def start(*arguments: str, **options) -> subprocess.Popen:
    """Starts `python -m tl_distributed.<command> ...`; what it imports is written to standard error."""
    command = [sys.executable, "-X", "importtime", "-m", f"tl_distributed.{arguments[0]}", *arguments[1:]]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    return subprocess.Popen(command, env=environment, **pipes, **options)


def finish(process: subprocess.Popen) -> tuple[int, str, list[str], set[str]]:
    """Returns the exit code, standard output, lines of standard error, and the modules that were imported."""
    output, errors = process.communicate(timeout=60)
    lines = errors.splitlines()
    imported = {line.rsplit("|", 1)[1].strip() for line in lines if line.startswith("import time:")}
    assert "tl_distributed.settings.command" in imported  # the list is complete
    return process.returncode, output, [line for line in lines if not line.startswith("import time:")], imported


def test_help_of_every_command_needs_no_tensorflow():
    for process in [start(command, "--help") for command in COMMANDS]:
        code, output, errors, imported = finish(process)
        assert (code, errors) == (0, [])
        assert f"python -m {process.args[4]}" in output and "--" in output
        assert not {"tensorflow", "keras"} & imported


def test_mistakes_end_with_one_line_before_tensorflow(tmp_path):
    mistakes = {
        ("train", "--epochs=x"): "error: flag --epochs=x: expects a whole number",
        ("train", "--backbone=mobilnet_v2"): "error: --backbone=mobilnet_v2: no such backbone; did you mean mobilenet",
        ("train", "--transfer=partial"): "error: --transfer=partial needs --unfreeze_last_layers=N",
        ("train", "extra"): "error: unexpected argument 'extra'",
        ("rank",): "error: --backbones: name some",
        ("rank", "--backbones=mobilnet_v2"): "error: --backbones=mobilnet_v2: no such backbone; did you mean mobilenet",
        ("evaluate",): "error: name one of --workdir=RUN and --model=FILE",
        ("evaluate", "--model=a", "--workdir=b"): "error: name one of --workdir=RUN and --model=FILE",
        ("evaluate", "--model=a.keras"): "error: --model needs --data_dir=FOLDER",
        ("evaluate", "--workdir=a", "--split=dev"): "error: flag --split=dev: takes one of train, val, test",
        ("predict", "a.png"): "error: name the model: --model=",
        ("predict", "--model=a"): "error: name image files or folders",
        ("predict", "--model=a", "--top=0", "a.png"): "error: flag --top=0: takes at least 1",
        ("export",): "error: name the run: --workdir=",
        ("doctor", "--strategy=many"): "error: flag --strategy=many: takes one of auto, one_device, mirrored",
        ("doctor", "--transfer=partial"): "error: --transfer=partial needs --unfreeze_last_layers=N",
        ("doctor", "--json=nowhere/report.json"): "error: --json=nowhere/report.json: no such folder",
        (
            "export",
            "--workdir=a",
            "--format=coreml",
        ): "error: flag --format=coreml: takes one of keras, h5, saved_model",
    }
    for arguments, message in mistakes.items():
        code, output, errors, imported = finish(start(*arguments, cwd=tmp_path))
        assert (code, output, len(errors)) == (2, "", 1), (arguments, errors)
        assert errors[0].startswith(message), errors[0]
        assert "tensorflow" not in imported
    assert not list(tmp_path.iterdir())


def test_output_that_nobody_reads_is_no_defect():
    process = start("train", "--backbone=list")
    process.stdout.close()
    errors = [line for line in process.stderr if not line.startswith("import time:")]
    process.stderr.close()
    assert process.wait(timeout=60) == 128 + signal.SIGPIPE
    assert errors == []


def run_with_streams(streams: str, *code: str) -> subprocess.CompletedProcess:
    """Runs a command whose main is `code`, behind a shell's `streams`."""
    body = "\n".join(f"    {line}" for line in code)
    script = f"from tl_distributed.settings.command import run_to_exit\ndef main():\n{body}\nrun_to_exit(main)"
    command = ["bash", "-c", f'"$0" -c "$1" {streams}', sys.executable, script]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("code", ["print('results', flush=True)", "print('results')"])
def test_output_on_a_full_disk_is_one_line(code):
    process = run_with_streams(">/dev/full", code)
    assert process.returncode == UserError.exit_code
    assert process.stderr == "error: standard output: no space left on device; make room, or send it elsewhere\n"


@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_files_of_others(streams, tmp_path):
    """A file that is opened first would be standard error, and hold the lines of C++ libraries."""
    path = tmp_path / "shard"
    process = run_with_streams(
        streams,
        "import os, sys",
        f"file = open({str(path)!r}, 'wb')",
        "print('results')",
        "print('a warning', file=sys.stderr, flush=True)",
        "os.write(2, b'of C++')",
        "file.write(b'record')",
    )
    assert process.returncode == 0, process.stderr
    assert path.read_bytes() == b"record"


@pytest.mark.parametrize("argument", ["--name=~/runs", "--name=~"])
def test_tilde_is_home_in_every_path(argument, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert parse(argument).name == argument.removeprefix("--name=").replace("~", "/home/somebody")
    assert parse("--name=a~b").name == "a~b"
