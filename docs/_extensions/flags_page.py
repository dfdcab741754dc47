"""The directive `flags`: the flags of a command, by topic, from the dataclass that declares them.

  ```{flags} tl_distributed.evaluate EvaluateConfig
  ```

Two words, module and class; `:only: TOPIC` leaves the other topics out.
"""

import dataclasses
import importlib
import sys
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Flags(SphinxDirective):
    """See the module."""

    required_arguments = 2
    option_spec = {"only": directives.unchanged}  # noqa: RUF012 - as docutils asks for it

    def run(self) -> list[nodes.Node]:
        module, name = self.arguments
        config_class = getattr(importlib.import_module(module), name)
        self.env.note_dependency(sys.modules[config_class.__module__].__file__)
        topics: dict[str, list[dataclasses.Field]] = {}
        for field in dataclasses.fields(config_class):
            topic = field.metadata.get("topic")
            if topic and topic == self.options.get("only", topic):
                topics.setdefault(topic, []).append(field)
        return [node for topic, fields in topics.items() for node in self._topic(topic, fields)]

    def _topic(self, topic: str, fields: list[dataclasses.Field]) -> list[nodes.Node]:
        rows = nodes.definition_list(classes=["flags"])
        rows.extend(self._flag(field) for field in fields)
        return [nodes.rubric(text=topic), rows]

    def _flag(self, field: dataclasses.Field) -> nodes.definition_list_item:
        text = field.metadata["help"].strip()
        definition = nodes.definition("", nodes.paragraph("", "", *_words(text)))
        facts = _facts(field)
        if facts:
            definition += nodes.paragraph("", "", *facts)
        return nodes.definition_list_item("", nodes.term("", "", nodes.literal(text=f"--{field.name}")), definition)


def _words(text: str) -> list[nodes.Node]:
    """Returns the help with the flags that it names set as code."""
    parts: list[nodes.Node] = []
    for index, word in enumerate(text.split(" ")):
        bare = word.rstrip(".,;:)")
        if index:
            parts.append(nodes.Text(" "))
        if bare.startswith("--"):
            parts += [nodes.literal(text=bare), nodes.Text(word[len(bare) :])]
        else:
            parts.append(nodes.Text(word))
    return parts


def _facts(field: dataclasses.Field) -> list[nodes.Node]:
    """Returns what it takes, and its default."""
    meta, facts = field.metadata, []
    if meta["choices"]:
        facts += [nodes.Text("One of ")]
        for index, choice in enumerate(meta["choices"]):
            facts += [nodes.Text(", ")] if index else []
            facts.append(nodes.literal(text=choice))
        facts.append(nodes.Text(". "))
    bounds = [f"{word} {meta[key]:,}" for word, key in (("at least", "minimum"), ("at most", "maximum"))
              if meta[key] is not None]  # fmt: skip
    if bounds:
        text = " and ".join(bounds)
        facts.append(nodes.Text(f"{text[0].upper()}{text[1:]}. "))
    default = _shown(field.default)
    if default:
        facts += [nodes.Text("Default: "), nodes.literal(text=default), nodes.Text(".")]
    return facts


def _shown(default: Any) -> str:
    if default is None or default in ("", ()):
        return ""
    if default == sys.executable:
        return "the Python that runs the command"
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)


def setup(app: Sphinx) -> dict[str, Any]:
    """What Sphinx calls."""
    app.add_directive("flags", Flags)
    return {"version": "1", "parallel_read_safe": True}
