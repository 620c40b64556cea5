"""Load what a study asks for: a catalogue table or the user's own."""

from __future__ import annotations

from ..datasets import Extract, load_catalogue, load_table
from .settings import Settings

__all__ = ["load"]


def load(settings: Settings) -> Extract:
    """Read, check and encode the study's data.

    Raises:
        DataError: The table breaks a rule.
    """
    if settings.path is not None:
        return load_table(settings.path, settings.options)
    return load_catalogue(settings.data, settings.options)
