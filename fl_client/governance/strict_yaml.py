"""YAML without surprises: mappings, lists and texts, each with its line, and nothing else.

PyYAML only tokenises. Aliases, anchors, tags, merge keys, directives, repeated keys and second
documents are refused at the first one met, so that a file that would grow when it is read never
does. No text is given a type here: `no`, `010` and `1:30` stay what was written until the
schema asks for a kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import yaml

from ...privacy.errors import PolicyError
from .plain_text import strange_character

__all__ = [
    "MAX_BYTES",
    "MAX_DEPTH",
    "MAX_NODES",
    "Listed",
    "Mapped",
    "Node",
    "Text",
    "parse_yaml",
    "read_yaml",
]

MAX_BYTES = 32 * 2**10  # a site's files are written by people
MAX_DEPTH = 8
MAX_NODES = 2000
_LONGEST_LINE = 2000  # characters


@dataclass(frozen=True, slots=True)
class Text:
    """A scalar, as it was written.

    Attributes:
        line: 1-based.
        text: What it says; an empty value is the empty text.
    """

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Listed:
    """A list."""

    line: int
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Mapped:
    """A mapping; its keys are texts, each there once."""

    line: int
    items: dict[str, Node]


Node = Text | Listed | Mapped


def read_yaml(path: Path) -> Mapped:
    """Read a file; it must be a mapping.

    Raises:
        PolicyError: `yaml_unreadable`, or as `parse_yaml`.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise PolicyError(
            "yaml_unreadable", f"{path} cannot be read", hint="Check the file and its mode."
        ) from error
    if len(raw) > MAX_BYTES:
        raise _refuse("yaml_size", path.name, 1, f"the file is larger than {MAX_BYTES} bytes")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise _refuse("yaml_character", path.name, 1, "the file is not UTF-8") from None
    return parse_yaml(text, path.name)


def parse_yaml(text: str, name: str) -> Mapped:
    """Read YAML text; see the module's docstring.

    Args:
        text: The whole file.
        name: What the refusals call it.

    Raises:
        PolicyError: `yaml_size`, `yaml_depth`, `yaml_alias`, `yaml_tag`, `yaml_merge_key`,
            `yaml_duplicate_key`, `yaml_character` or `yaml_syntax`; each with its line.
    """
    _check_characters(text, name)
    # A SafeLoader's events only: its constructors, which make objects, are never asked.
    root = _Builder(name, _events(text, name)).document()
    if not isinstance(root, Mapped):
        _syntax(name, root.line, "the file must be a mapping of keys to values")
    return root


def _check_characters(text: str, name: str) -> None:
    if len(bytes(text, "utf-8", "surrogatepass")) > MAX_BYTES:
        raise _refuse("yaml_size", name, 1, f"the file is larger than {MAX_BYTES} bytes")
    for number, line in enumerate(re.split(r"\r\n|\n", text), start=1):
        if len(line) > _LONGEST_LINE:
            raise _refuse("yaml_size", name, number, f"more than {_LONGEST_LINE} characters")
        strange = strange_character(line)
        if strange is not None:
            raise _refuse(
                "yaml_character", name, number, f"{strange} is a control or a hidden character"
            )


def _events(text: str, name: str) -> Iterator[yaml.Event]:
    try:
        yield from yaml.parse(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        _syntax(name, 1 if mark is None else mark.line + 1, "this is not YAML")


class _Builder:
    """Turns events into nodes, refusing at the first event that is not plain."""

    def __init__(self, name: str, events: Iterator[yaml.Event]) -> None:
        self._name = name
        self._events = events
        self._nodes = 0

    def document(self) -> Node:
        root: Node | None = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if event.version is not None or event.tags:
                    self._refuse_tag(event, "a directive")
                if root is not None:
                    _syntax(self._name, _line(event), "a second document")
                root = self._node(next(self._events), depth=1)
        if root is None:
            _syntax(self._name, 1, "the file is empty")
        return root

    def _node(self, event: yaml.Event, *, depth: int) -> Node:
        self._check(event, depth)
        line = _line(event)
        if isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(inner := next(self._events), yaml.SequenceEndEvent):
                items.append(self._node(inner, depth=depth + 1))
            return Listed(line, tuple(items))
        if isinstance(event, yaml.MappingStartEvent):
            return Mapped(line, self._pairs(depth))
        if not isinstance(event, yaml.ScalarEvent):
            _syntax(self._name, line, "a value is missing")
        strange = strange_character(event.value, allow="\n")  # written as an escape
        if strange is not None:
            raise _refuse("yaml_character", self._name, line, f"{strange}, by an escape")
        return Text(line, event.value)

    def _pairs(self, depth: int) -> dict[str, Node]:
        pairs: dict[str, Node] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._node(event, depth=depth + 1)
            if not isinstance(key, Text):
                _syntax(self._name, key.line, "a key must be a text")
            if key.text == "<<":
                raise _refuse("yaml_merge_key", self._name, key.line, "a merge key")
            if key.text in pairs:
                raise _refuse(
                    "yaml_duplicate_key", self._name, key.line, f"the key {key.text!r} repeats"
                )
            pairs[key.text] = self._node(next(self._events), depth=depth + 1)
        return pairs

    def _check(self, event: yaml.Event, depth: int) -> None:
        line = _line(event)
        self._nodes += 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _refuse("yaml_alias", self._name, line, "an anchor or an alias")
        if getattr(event, "tag", None) is not None:
            self._refuse_tag(event, "a tag")
        if depth > MAX_DEPTH:
            raise _refuse("yaml_depth", self._name, line, f"nested deeper than {MAX_DEPTH}")
        if self._nodes > MAX_NODES:
            raise _refuse("yaml_size", self._name, line, f"more than {MAX_NODES} values")

    def _refuse_tag(self, event: yaml.Event, what: str) -> NoReturn:
        raise _refuse("yaml_tag", self._name, _line(event), what)


def _line(event: yaml.Event) -> int:
    mark = event.start_mark
    return 1 if mark is None else int(mark.line) + 1


def _syntax(name: str, line: int, why: str) -> NoReturn:
    raise _refuse("yaml_syntax", name, line, why)


def _refuse(code: str, name: str, line: int, why: str) -> PolicyError:
    return PolicyError(
        code,
        f"{name}, line {line}: {why}",
        hint="Write plain YAML: keys, lists and texts, each key once, everything in full.",
    )
