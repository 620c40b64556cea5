"""The strict reading of one column of a codebook, and its writing back."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from ..privacy.errors import DataError
from .columns import BooleanColumn, CategoryColumn, Column, NumberColumn, canonical

__all__ = ["PLACEHOLDER", "column_document", "column_from", "mapping_of", "number_of", "text_of"]

PLACEHOLDER = "?"  # what a draft leaves for a person to fill in

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_COMMON = ("type", "missing", "indicator", "after_outcome", "unit")
_KEYS = {
    "number": (*_COMMON, "range", "transform", "centre", "scale"),
    "category": (*_COMMON, "values", "centre", "other"),
    "boolean": (*_COMMON, "true", "false", "centre"),
}


def _refuse(code: str, text: str, hint: str = "") -> DataError:
    return DataError(code, text, hint=hint)


def mapping_of(value: object, where: str, allowed: tuple[str, ...] | None) -> Mapping[str, Any]:
    """Return a mapping with text keys out of `allowed` (None: any)."""
    if isinstance(value, Mapping):  # another YAML reader makes booleans of the two keys
        value = {
            str(key).lower() if isinstance(key, bool) else key: part for key, part in value.items()
        }
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise _refuse("codebook_type", f"{where} must be a mapping of keys to values")
    unknown = sorted(set(value) - set(allowed)) if allowed is not None else []
    if unknown:
        raise _refuse(
            "codebook_unknown_key",
            f"{where} has an unknown key {unknown[0]}",
            f"Use {', '.join(allowed or ())}.",
        )
    return value


def text_of(value: object, where: str) -> str:
    """Return a text or number as text; a placeholder is refused."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _refuse("codebook_value", f"{where} must be a text or a number")
    text = str(value).strip()
    if text == PLACEHOLDER:
        raise _refuse(
            "codebook_incomplete",
            f"{where} is still a placeholder",
            "Replace it by public knowledge, not by a figure of this table.",
        )
    return text


def number_of(value: object, where: str) -> float:
    """Return a finite number."""
    text = text_of(value, where)
    if not _NUMBER.fullmatch(text) or not math.isfinite(float(text)):
        raise _refuse("codebook_value", f"{where} must be a finite number")
    return float(text)


def _flag(part: Mapping[str, Any], key: str, where: str, default: bool) -> bool:
    value = part.get(key, default)
    text = value if isinstance(value, bool) else text_of(value, f"{where}.{key}").lower()
    if text not in (True, False, "true", "false"):
        raise _refuse("codebook_value", f"{where}.{key} must be true or false")
    return text in (True, "true")


def _texts(part: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    values = part.get(key, [])
    if not isinstance(values, list | tuple):
        raise _refuse("codebook_type", f"{where}.{key} must be a list, as in [a, b]")
    return tuple(text_of(value, f"{where}.{key}") for value in values)


def _distinct(texts: tuple[str, ...], where: str) -> None:
    if len({canonical(text) for text in texts}) != len(texts):
        raise _refuse("codebook_value", f"{where} lists one value twice (case does not count)")


def _number_column(name: str, part: Mapping[str, Any], where: str) -> NumberColumn:
    ends = part.get("range")
    if not isinstance(ends, list | tuple) or len(ends) != 2:
        raise _refuse(
            "codebook_range", f"{where}.range must be [low, high]", "State the public range."
        )
    low, high = (number_of(end, f"{where}.range") for end in ends)
    transform = text_of(part["transform"], f"{where}.transform") if "transform" in part else None
    if transform not in (None, "log1p"):
        raise _refuse("codebook_value", f"{where}.transform must be log1p, or left out")
    centre = number_of(part["centre"], f"{where}.centre") if "centre" in part else None
    scale = number_of(part["scale"], f"{where}.scale") if "scale" in part else None
    if not low < high:
        raise _refuse("codebook_range", f"{where}.range must have low < high")
    if transform == "log1p" and low < 0:
        raise _refuse("codebook_range", f"{where}: log1p needs a range that starts at 0 or above")
    if centre is not None and not low <= centre <= high:
        raise _refuse("codebook_range", f"{where}.centre must lie within the range")
    if scale is not None and scale <= 0:
        raise _refuse("codebook_range", f"{where}.scale must be > 0")
    return NumberColumn(
        name=name,
        low=low,
        high=high,
        transform="log1p" if transform else None,
        centre=centre,
        scale=scale,
        unit=text_of(part.get("unit", ""), f"{where}.unit"),
        missing=_texts(part, "missing", where),
        indicator=_flag(part, "indicator", where, False),
        after_outcome=_flag(part, "after_outcome", where, False),
    )


def _category_column(name: str, part: Mapping[str, Any], where: str) -> CategoryColumn:
    values = _texts(part, "values", where)
    _distinct(values, f"{where}.values")
    other = _flag(part, "other", where, True)
    if len(values) + other < 2:
        raise _refuse("codebook_value", f"{where}.values must list at least two values")
    centre = text_of(part["centre"], f"{where}.centre") if "centre" in part else None
    if centre is not None and canonical(centre) not in {canonical(value) for value in values}:
        raise _refuse("codebook_value", f"{where}.centre must be one of its values")
    return CategoryColumn(
        name=name,
        values=values,
        centre=centre,
        other=other,
        missing=_texts(part, "missing", where),
        indicator=_flag(part, "indicator", where, False),
        after_outcome=_flag(part, "after_outcome", where, False),
    )


def _boolean_column(name: str, part: Mapping[str, Any], where: str) -> BooleanColumn:
    true, false = _texts(part, "true", where), _texts(part, "false", where)
    if not true or not false:
        raise _refuse("codebook_value", f"{where} must list the texts for true and for false")
    _distinct(true + false, where)
    return BooleanColumn(
        name=name,
        true=true,
        false=false,
        centre=_flag(part, "centre", where, False),
        missing=_texts(part, "missing", where),
        indicator=_flag(part, "indicator", where, False),
        after_outcome=_flag(part, "after_outcome", where, False),
    )


def column_from(name: str, value: object) -> Column:
    """Check one column of a codebook.

    Raises:
        DataError: As `Codebook.from_document`.
    """
    where = f"columns.{name}"
    kind = mapping_of(value, where, None).get("type")
    if kind not in _KEYS:
        raise _refuse("codebook_value", f"{where}.type must be number, category or boolean")
    part = mapping_of(value, where, _KEYS[kind])
    if kind == "number":
        return _number_column(name, part, where)
    if kind == "category":
        return _category_column(name, part, where)
    return _boolean_column(name, part, where)


def column_document(column: Column) -> dict[str, Any]:
    """Return one column as `column_from` reads it, defaults left out."""
    if isinstance(column, NumberColumn):
        part: dict[str, Any] = {"type": "number", "range": [column.low, column.high]}
        optional = ("transform", "centre", "scale", "unit")
        part |= {
            key: getattr(column, key) for key in optional if getattr(column, key) not in (None, "")
        }
    elif isinstance(column, CategoryColumn):
        part = {"type": "category", "values": list(column.values), "other": column.other}
        part |= {} if column.centre is None else {"centre": column.centre}
    else:
        part = {"type": "boolean", "true": list(column.true), "false": list(column.false)}
        part |= {"centre": True} if column.centre else {}
    part |= {"missing": list(column.missing)} if column.missing else {}
    part |= {key: True for key in ("indicator", "after_outcome") if getattr(column, key)}
    return part
