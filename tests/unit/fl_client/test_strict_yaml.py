"""YAML as the hospital reads it: what is written, and nothing that was not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fedcohort.fl_client.governance.strict_yaml import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_NODES,
    Listed,
    Mapped,
    Node,
    Text,
    parse_yaml,
    read_yaml,
)
from fedcohort.privacy.errors import PolicyError

MOST_CALLS = 1_000_000  # for a file of 32 KiB; the longest of those below takes 310,000


def plain(node: Node) -> Any:
    if isinstance(node, Mapped):
        return {key: plain(inner) for key, inner in node.items.items()}
    if isinstance(node, Listed):
        return [plain(inner) for inner in node.items]
    return node.text


def refusal(text: str) -> PolicyError:
    with pytest.raises(PolicyError) as error:
        parse_yaml(text, "policy.yaml")
    return error.value


def test_nothing_is_given_a_type() -> None:
    words = [
        "010",
        "1:30",
        "no",
        "off",
        "~",
        "1e3",
        "2026-01-01",
        "0x1F",
        "NaN",
        ".inf",
        "=",
        "null",
    ]
    read = parse_yaml("words: [" + ", ".join(words) + "]\nempty:\n", "f")
    assert plain(read) == {"words": words, "empty": ""}
    # The positive control: what YAML makes of them by itself.
    assert yaml.safe_load("[010, 1:30, no]") == [8, 90, False]


def test_every_value_knows_its_line() -> None:
    read = parse_yaml("a: 1\nb:\n  - x\n  - y\n", "f")
    listed = read.items["b"]
    assert isinstance(listed, Listed)
    assert [item.line for item in listed.items] == [3, 4]
    assert read.items["a"] == Text(1, "1")


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        ("a: &x [1]\nb: *x\n", "yaml_alias", 1),
        ("a: 1\nb: *x\n", "yaml_alias", 2),
        ("a: !!python/object/apply:os.system [touch /tmp/x]\n", "yaml_tag", 1),
        ("a: 1\nb: !!str 1\n", "yaml_tag", 2),
        ("%YAML 1.1\n---\na: 1\n", "yaml_tag", 1),
        ("a: 1\n<<: {b: 1}\n", "yaml_merge_key", 2),
        ("a: 1\nb: 2\na: 3\n", "yaml_duplicate_key", 3),
        ('a: 1\n"a": 2\n', "yaml_duplicate_key", 2),
        ("a: {b: 1, b: 2}\n", "yaml_duplicate_key", 1),
        ("a: 1\n---\nb: 2\n", "yaml_syntax", 2),
        ("- a\n", "yaml_syntax", 1),
        ("", "yaml_syntax", 1),
        ("a\n", "yaml_syntax", 1),
        ("? [a]\n: b\n", "yaml_syntax", 1),
        ("a: b: c\n", "yaml_syntax", 1),
        ("a: [1\n", "yaml_syntax", 2),
        ("a: 1\nb: x\u202ey\n", "yaml_character", 2),
        ("a: x\u200by\n", "yaml_character", 1),
        ("a: x\x1b[31m\n", "yaml_character", 1),
        ("a: x\ty\n", "yaml_character", 1),
        ("a: 1\rb: 2\n", "yaml_character", 1),
        ('a: "x\\u202ey"\n', "yaml_character", 1),
        ('a: "x\\x1by"\n', "yaml_character", 1),
        ("a: x\u2028b: y\n", "yaml_character", 1),
        ("a: " + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "yaml_depth", 1),
        ("a: [" + "x, " * 600 + "]\n" + "b: [" + "x, " * 600 + "]\n" + "c: [" + "x, " * 600 + "]\n"
         + "d: [" + "x, " * 600 + "]\n", "yaml_size", 4),
        ("a: " + "x" * 3000, "yaml_size", 1),
        ("# no\n" * MAX_BYTES, "yaml_size", 1),
    ],
)  # fmt: skip
def test_what_is_not_plain_is_refused_with_its_line(text: str, code: str, line: int) -> None:
    error = refusal(text)
    assert error.code == code
    assert f"line {line}" in str(error)
    assert error.hint


def test_what_is_refused_is_not_repeated_on_the_screen() -> None:
    assert "\x1b" not in str(refusal("a: x\x1b[31m\n"))
    assert "\u202e" not in str(refusal("a: 1\nb: x\u202ey\n"))


BOMB = "a0: &a0 [x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
)


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        "a: " + "[" * 1900,
        "a: " + "{x: " * 450,
        "\n".join("- " * 900 for _ in range(15)),
        "\n".join(f"k{number}: v" for number in range(2 * MAX_NODES)),
        "".join(f"k{number}:\n  " + "a b " * 400 + "\n" for number in range(18)) + "k1: x\n",
        'k: "' + "\n  ".join("\\x41" * 400 for _ in range(19)) + '"\nk: x\n',
        "k: |\n" + "  x\n" * 7000 + "k: x\n",
        "? " * 900,
    ],
)
def test_a_file_that_would_grow_is_refused_before_it_does(
    text: str, calls_in: Callable[[Callable[[], object]], int]
) -> None:
    assert calls_in(lambda: refusal(text)) < MOST_CALLS


def test_the_bomb_is_one() -> None:  # the positive control
    document = yaml.safe_load(BOMB.replace("a8", "b").replace("a7", "c")[: BOMB.index("a4:")])
    assert len(json.dumps(document)) > 30 * BOMB.index("a4:")


def test_a_file_is_read_up_to_its_limit_and_must_be_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_bytes("a: 医院\n".encode())
    assert plain(read_yaml(path)) == {"a": "医院"}
    for content, code in [
        (b"a: \xff\n", "yaml_character"),
        (b"#" * (MAX_BYTES + 1), "yaml_size"),
        ("a: 医院\n".encode("utf-16"), "yaml_character"),
    ]:
        path.write_bytes(content)
        with pytest.raises(PolicyError) as error:
            read_yaml(path)
        assert error.value.code == code
    with pytest.raises(PolicyError) as error:
        read_yaml(tmp_path)
    assert error.value.code == "yaml_unreadable"


WORD = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=8)
TREE = st.recursive(
    WORD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORD, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(WORD, TREE, min_size=1, max_size=3))
def test_plain_files_come_back_as_they_were_written(document: dict[str, Any]) -> None:
    text = yaml.safe_dump(document, allow_unicode=True, default_style='"', width=1000)
    try:
        read = parse_yaml(text.replace("! ", "").replace("!!str ", ""), "f")
    except PolicyError as error:
        allowed = {"yaml_depth", "yaml_character", "yaml_merge_key"}
        assert error.code in allowed  # noqa: PT017 - a letter that nobody sees, or `<<`
    else:
        assert plain(read) == document


@given(st.text(max_size=200))
def test_whatever_is_read_is_refused_by_a_code_or_is_plain(text: str) -> None:
    try:
        read = parse_yaml(text, "f")
    except PolicyError as error:
        assert error.code.startswith("yaml_")  # noqa: PT017
    else:
        assert yaml.load(text, Loader=yaml.BaseLoader) == plain(read)  # noqa: S506 - texts only
