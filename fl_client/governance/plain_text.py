"""Texts that people approve by reading: what is shown is what is meant.

A name may look like another one: by letters of a second alphabet, by marks that turn the
direction of writing, or by characters that nobody sees. All of these are refused. Chinese,
accents and the punctuation of either are fine.

Source: Unicode TR 36 and TR 39 (mixed scripts); CVE-2021-42574 (bidirectional marks).
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path, PurePosixPath

from ...privacy.errors import PolicyError

__all__ = ["check_id", "check_label", "check_path", "check_text", "inside", "strange_character"]

_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.)){0,63}")
_LABEL_MARKS = frozenset(" ._-'’(),&（）·")
_LONGEST_LABEL = 100
# Alphabets whose letters pass for each other; others, such as Chinese, may stand beside any.
_ALIKE = ("LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC", "GEORGIAN", "LISU")
# Controls, lone surrogates, private use, line and paragraph separators, unseen format characters.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_BLANK_LETTERS = frozenset("\u115f\u1160\u3164\uffa0\u2800\u034f")


def strange_character(text: str, *, allow: str = "") -> str | None:
    r"""Return the code point of the first character that nobody should see, None if none.

    >>> strange_character("fine, 好的") is None, strange_character("a\u202eb")
    (True, 'U+202E')
    """
    if text.isascii() and text.isprintable():
        return None
    for character in text:
        if character in allow:
            continue
        if unicodedata.category(character) in _UNSEEN or character in _BLANK_LETTERS:
            return f"U+{ord(character):04X}"
    return None


def check_id(text: str, where: str) -> str:
    """Return a text that is a plain name: ASCII letters, digits, `.`, `_`, `-`.

    Raises:
        PolicyError: `text_not_plain`.
    """
    if _ID.fullmatch(text) is None or text.endswith("."):
        raise _strange(
            where, "it must be a plain name: letters A-Z, digits, . _ -, 64 at most, no '..'"
        )
    return text


def check_label(text: str, where: str) -> str:
    """Return a text that names something in any one alphabet, on one line of 100 at most.

    Raises:
        PolicyError: `text_not_plain`.
    """
    check_text(text, where, most=_LONGEST_LABEL)
    odd = next((c for c in text if not c.isalnum() and c not in _LABEL_MARKS), None)
    if odd is not None and unicodedata.category(odd) not in ("Mn", "Mc"):
        raise _strange(where, f"a name holds no U+{ord(odd):04X}")
    if not text or ".." in text or text != text.strip():
        raise _strange(where, "a name is not empty, has no '..' and no space around it")
    if len(_alphabets(text)) > 1:
        raise _strange(where, "it mixes alphabets whose letters look alike")
    return text


def check_text(text: str, where: str, *, most: int = 2000) -> str:
    """Return a text of one line that shows what it says.

    Raises:
        PolicyError: `text_not_plain`.
    """
    if len(text) > most:
        raise _strange(where, f"it is longer than {most} characters")
    strange = strange_character(text)
    if strange is not None:
        raise _strange(where, f"it holds {strange}, which nobody sees or which turns the text")
    if unicodedata.normalize("NFC", text) != text:
        raise _strange(where, "its accents are not in composed form (NFC)")
    for word in re.findall(r"\w+", text):
        disguised = next((c for c in word if unicodedata.normalize("NFKC", c) != c), None)
        if disguised is not None and disguised.isalpha():
            raise _strange(where, f"U+{ord(disguised):04X} is a letter in disguise")
        if len(_alphabets(word)) > 1:
            raise _strange(where, "a word mixes alphabets whose letters look alike")
    return text


def check_path(text: str, where: str) -> str:
    """Return a path that stays below the folder it starts from, as far as its text tells.

    Raises:
        PolicyError: `path_outside`.
    """
    path = PurePosixPath(text)
    plain = strange_character(text) is None and not set(text) & set('\\:~$*?"<>|')
    if (
        text in ("", ".")
        or not plain
        or path.is_absolute()
        or ".." in path.parts
        or str(path) != text
    ):
        raise PolicyError(
            "path_outside",
            f"{where}: a path is relative to the site's folder and stays below it",
            hint="Write it as data/extract.csv, without .., ~ or a leading /.",
        )
    return text


def inside(folder: Path, text: str, where: str) -> Path:
    """Return the file of a checked path; links that lead out of the folder are refused.

    Raises:
        PolicyError: `path_outside`.
    """
    root = folder.resolve()
    found = (root / check_path(text, where)).resolve()
    if not found.is_relative_to(root):
        raise PolicyError(
            "path_outside",
            f"{where}: a link leads out of the site's folder",
            hint="Mount or copy the file into the folder; a link out of it is not followed.",
        )
    return found


def _alphabets(text: str) -> set[str]:
    if text.isascii():
        return set()
    names = (unicodedata.name(character, "") for character in text if character.isalpha())
    first = {name.split(" ", 1)[0] for name in names}
    return first & set(_ALIKE)


def _strange(where: str, why: str) -> PolicyError:
    return PolicyError(
        "text_not_plain",
        f"{where}: {why}",
        hint="Ask for it in plain letters: what is read must be what is meant.",
    )
