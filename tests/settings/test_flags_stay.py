"""Flags that people and scripts use keep their name, default, topic and values, wherever they are declared."""

import dataclasses
import json
import pathlib
import sys

import pytest
from command_settings import settings_class

from tl_distributed.models.backbones import BACKBONES
from tl_distributed.settings.config import Config

VERSION_1 = json.loads((pathlib.Path(__file__).parent / "flags_of_version_1.json").read_text())


def topics_of(command: str) -> dict[str, dict[str, dataclasses.Field]]:
    """Returns the flags of a command by topic, both in the order of `--help`."""
    topics: dict[str, dict[str, dataclasses.Field]] = {}
    for field in dataclasses.fields(settings_class(command)):
        if "topic" in field.metadata:
            topics.setdefault(field.metadata["topic"], {})[field.name] = field
    return topics


@pytest.mark.parametrize("command", VERSION_1)
def test_flags_of_version_1_stay(command):
    now = topics_of(command)
    assert [topic for topic in now if topic in VERSION_1[command]] == list(VERSION_1[command])
    for topic, flags in VERSION_1[command].items():
        assert [name for name in now[topic] if name in flags] == list(flags), f"flags of the topic {topic}"
        for name, before in flags.items():
            field = now[topic][name]
            expected = sys.executable if before["default"] == "sys.executable" else before["default"]
            assert json.loads(json.dumps(field.default)) == expected, f"default of --{name}"
            missing = set(before.get("choices", ())) - set(field.metadata["choices"])
            assert not missing, f"--{name} no longer takes {missing}"


def test_config_json_keeps_its_fields():
    """What a run saves is flat, a field a flag, so that a run of version 1 can go on."""
    saved = dataclasses.asdict(Config().resolved(native_size=32))
    flags = [name for topic in VERSION_1["tl_distributed.train"].values() for name in topic]
    assert [name for name in saved if name in flags] == flags
    assert saved["image_size"] == BACKBONES[saved["backbone"]].default_size
