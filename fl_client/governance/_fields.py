"""Read typed values out of strict YAML: what is asked for is checked, what is left is refused."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import NoReturn, TypeVar

from ...privacy.errors import PolicyError
from .plain_text import check_id, check_label, check_path, check_text
from .strict_yaml import Listed, Mapped, Node, Text

__all__ = ["Fields"]

T = TypeVar("T")
_WHOLE = re.compile(r"0|[1-9][0-9]{0,8}")
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,12})?(e-?[0-9]{1,2})?")
_HEX = re.compile(r"[0-9a-f]{64}")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class Fields:
    """One mapping of a file, read key by key; `done` refuses the keys that nobody asked for.

    Args:
        node: The mapping.
        file: Name of the file, for refusals.
        where: Dotted name of the mapping in it; empty at the top.

    Raises:
        PolicyError: `yaml_value`, `yaml_missing_key`, `yaml_unknown_key`, `text_not_plain` or
            `path_outside`, naming the file, the line and the key.
    """

    def __init__(self, node: Mapped, file: str, where: str = "") -> None:
        self._node = node
        self._file = file
        self._where = where
        self._asked: set[str] = set()

    def has(self, key: str) -> bool:
        """Whether an optional key is there."""
        self._asked.add(key)
        return key in self._node.items

    def section(self, key: str) -> Fields:
        """Return the mapping under a key."""
        node = self._get(key)
        if not isinstance(node, Mapped):
            self._wrong(key, "must be a mapping")
        return Fields(node, self._file, self._name(key))

    def is_text(self, key: str) -> bool:
        """Whether a key holds a single value."""
        return isinstance(self._get(key), Text)

    def text(self, key: str, *, most: int = 300) -> str:
        """Return a text of one line that is not empty."""
        found = self._scalar(key)
        if not found:
            self._wrong(key, "must not be empty")
        return check_text(found, self._place(key), most=most)

    def label(self, key: str) -> str:
        """Return a name in any one alphabet."""
        return check_label(self._scalar(key), self._place(key))

    def id(self, key: str) -> str:
        """Return a plain name."""
        return check_id(self._scalar(key), self._place(key))

    def path(self, key: str) -> str:
        """Return a path below the site's folder."""
        return check_path(self._scalar(key), self._place(key))

    def sha256(self, key: str) -> str:
        """Return 64 lower-case hex digits."""
        found = self._scalar(key)
        if _HEX.fullmatch(found) is None:
            self._wrong(key, "must be 64 hex digits, 0-9 and a-f")
        return found

    def choice(self, key: str, allowed: Collection[str]) -> str:
        """Return one of a few words."""
        found = self._scalar(key)
        if found not in allowed:
            self._wrong(key, f"must be one of: {', '.join(sorted(allowed))}")
        return found

    def flag(self, key: str) -> bool:
        """Return true or false; `yes`, `on` and their like are neither."""
        return self.choice(key, ("true", "false")) == "true"

    def whole(self, key: str, low: int, high: int) -> int:
        """Return a whole number; `010` is none."""
        found = self._scalar(key)
        if _WHOLE.fullmatch(found) is None or not low <= int(found) <= high:
            self._wrong(key, f"must be a whole number from {low} to {high}")
        return int(found)

    def number(self, key: str, *, above: float, most: float) -> float:
        """Return a decimal number in (above, most]."""
        found = self._scalar(key)
        value = float(found) if _NUMBER.fullmatch(found) else math.nan
        if not above < value <= most:
            self._wrong(key, f"must be a decimal number above {above:g}, at most {most:g}")
        return value

    def date(self, key: str) -> dt.date:
        """Return a date, YYYY-MM-DD."""
        found = self._scalar(key)
        try:
            if _DATE.fullmatch(found) is None:
                raise ValueError("another form")
            return dt.date.fromisoformat(found)
        except ValueError:
            self._wrong(key, "must be a date, YYYY-MM-DD")

    def texts(self, key: str, check: Callable[[str, str], str]) -> tuple[str, ...]:
        """Return a list of texts, each once, each as `check` (of `plain_text`) wants it."""
        node = self._get(key)
        if not isinstance(node, Listed):
            self._wrong(key, "must be a list; an empty one is []")
        found = []
        for item in node.items:
            if not isinstance(item, Text) or not item.text:
                self._wrong(key, "must be a list of texts")
            found.append(check(item.text, f"{self._file}, line {item.line}, {self._name(key)}"))
        if len(set(found)) < len(found):
            self._wrong(key, "repeats a value")
        return tuple(found)

    def pairs(
        self,
        key: str,
        read: Callable[[Fields, str], T],
        check: Callable[[str, str], str] = check_label,
    ) -> dict[str, T]:
        """Return a mapping whose keys are the file's own, each as `check` wants it."""
        section = self.section(key)
        names = tuple(section._node.items)
        return {check(name, section._place(name)): read(section, name) for name in names}

    def done(self) -> None:
        """Refuse the keys that nobody asked for: a key that does nothing is a false promise."""
        unknown = [key for key in self._node.items if key not in self._asked]
        if unknown:
            line = self._node.items[unknown[0]].line
            shown = unknown[0] if unknown[0].isascii() and len(unknown[0]) < 80 else "a key"
            raise PolicyError(
                "yaml_unknown_key",
                f"{self._file}, line {line}: there is no key {self._name(shown)}",
                hint=f"Known here: {', '.join(sorted(self._asked))}.",
            )

    def refuse(self, key: str, why: str) -> NoReturn:
        """Refuse a value for a reason of the caller's.

        Raises:
            PolicyError: `yaml_value`.
        """
        self._wrong(key, why)

    def _get(self, key: str) -> Node:
        self._asked.add(key)
        if key not in self._node.items:
            raise PolicyError(
                "yaml_missing_key",
                f"{self._file}, line {self._node.line}: {self._name(key)} is missing",
                hint="Every key is stated: what is not written is not allowed.",
            )
        return self._node.items[key]

    def _scalar(self, key: str) -> str:
        node = self._get(key)
        if not isinstance(node, Text):
            self._wrong(key, "must be a single value")
        return node.text

    def _name(self, key: str) -> str:
        return f"{self._where}.{key}" if self._where else key

    def _place(self, key: str) -> str:
        items: Mapping[str, Node] = self._node.items
        line = items[key].line if key in items else self._node.line
        return f"{self._file}, line {line}, {self._name(key)}"

    def _wrong(self, key: str, rule: str) -> NoReturn:
        raise PolicyError(
            "yaml_value",
            f"{self._place(key)}: {rule}",
            hint="See docs/reference/policy.md for every key and its range.",
        )
