"""Columns that name a person: they are no features, whatever they would predict.

Two rules, both documented for the user: by the column's name, and by its content when
almost every row has a text of its own. A miss is possible; a person still reads the list.
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from .columns import to_numbers

__all__ = ["IDENTIFIER_NAMES", "looks_like_identifier", "named_like_identifier"]

# Whole names, after splitting into words joined by '_' (PatientID -> patient_id).
IDENTIFIER_NAMES = frozenset(
    [
        *("id", "ids", "pid", "uid", "uuid", "guid", "mrn", "ssn", "passport", "accession"),
        *("name", "names", "first_name", "last_name", "full_name", "given_name", "family_name"),
        *("surname", "forename", "patient", "patient_name", "patient_number"),
        *("phone", "telephone", "tel", "mobile", "fax", "email", "e_mail", "address"),
        *("postcode", "post_code", "zip", "zipcode", "zip_code"),
        *("dob", "date_of_birth", "birth_date", "birthdate", "birthday"),
        *("record_number", "chart_number", "hospital_number"),
        *("insurance_number", "social_security", "national_insurance", "medicare_number"),
    ]
)
_LAST_WORDS = frozenset(["id", "ids", "mrn", "ssn", "uuid", "guid", "phone", "email", "passport"])
_CHINESE = frozenset(
    [
        *("身份证", "姓名", "电话", "手机", "住址", "地址", "邮箱", "联系方式", "护照", "出生日期"),
        *("住院号", "病历号", "病案号", "门诊号", "登记号", "就诊卡", "医保号", "社保号"),
        *("患者编号", "病人编号"),
    ]
)

_MANY = 10  # rows from which content can be judged
_NEARLY_ALL = 0.9


def _words(name: str) -> str:
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip())
    return re.sub(r"[\W_]+", "_", spaced).strip("_").lower()


def named_like_identifier(name: str) -> bool:
    """Return whether a column's name says that it names persons."""
    words = _words(name)
    return (
        words in IDENTIFIER_NAMES
        or words.rpartition("_")[2] in _LAST_WORDS
        or any(part in name for part in _CHINESE)
    )


def _numbered(text: pd.Series[str], numbers: np.ndarray[tuple[int], np.dtype[np.float64]]) -> bool:
    """Return whether whole numbers, none twice, look issued: padded, long or counted from 1."""
    if not text.str.fullmatch(r"\d+").all() or text.nunique() < len(text):
        return False
    padded = bool(text.str.startswith("0").mean() > 0.5)
    long = bool((text.str.len() >= 7).all())
    return padded or long or (numbers.min() <= 1 and float(np.ptp(numbers)) == len(numbers) - 1)


def looks_like_identifier(name: str, text: pd.Series[str], *, described: bool) -> bool:
    """Return whether a column names persons.

    Args:
        name: The column's name.
        text: Its content.
        described: The codebook says the column is a number: then digits are not judged.
    """
    if named_like_identifier(name):
        return True
    known = text.dropna()
    if len(known) < _MANY:
        return False
    numbers = to_numbers(known)
    if np.isnan(numbers).mean() > 0.5:
        return known.nunique() >= _NEARLY_ALL * len(known)
    return not described and _numbered(known, numbers)
