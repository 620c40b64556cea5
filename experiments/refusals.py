"""A refusal as people and scripts see it: one line, its remedy, and an exit code."""

from __future__ import annotations

from rich.console import Console

from ..privacy.errors import ConfigError, FedCohortError

__all__ = ["file_refusal", "refuse"]


def refuse(error: FedCohortError, console: Console) -> int:
    """Print a refusal for people and return its exit code for scripts."""
    console.print(f"[bold red]refused[/] ({error.code}): ", end="")
    console.print(_printable(str(error)), markup=False, soft_wrap=True)
    if error.hint:
        console.print(_printable(error.hint), style="dim", markup=False, soft_wrap=True)
    return error.exit_code


def _printable(text: str) -> str:
    from .reporting._view import printable  # here: it takes long to import

    return "\n".join(printable(line) for line in text.splitlines())


def file_refusal(error: OSError) -> ConfigError:
    """Say in one line which file could not be read or written."""
    return ConfigError(
        "file_error",
        f"{error.filename or 'a file'}: {error.strerror or type(error).__name__}",
        hint="Check that the folder exists, is yours to write, and has room.",
    )
