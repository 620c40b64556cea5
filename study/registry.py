"""Find an analysis or a model by its name: one file each, imported only when a plan names it.

A name from a plan is looked up among the modules this release ships; it is never imported
unchecked, so that a message cannot make a hospital load code.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from ..privacy.errors import ConfigError

__all__ = ["build", "names"]


def names(package: ModuleType) -> tuple[str, ...]:
    """Return the names a package offers: its public modules."""
    found = (module.name for module in pkgutil.iter_modules(package.__path__))
    return tuple(sorted(name for name in found if not name.startswith("_")))


def build(package: ModuleType, kind: str, name: str, fields: Mapping[str, Any]) -> Any:
    """Make the object that module `name` of `package` calls its `KIND`, from plain fields.

    Args:
        package: Where to look, e.g. `fedcohort.study.analyses`.
        kind: What is asked for, for people: `analysis` or `model`.
        name: The module's name.
        fields: The fields of its dataclass.

    Raises:
        ConfigError: `unknown_<kind>` or `unknown_parameter`, naming what exists; or
            `bad_parameter`, one is missing or of another type; or `missing_extra`, when it
            needs a package that is not installed.
    """
    offered = names(package)
    if name not in offered:
        raise ConfigError(
            f"unknown_{kind}",
            f"there is no {kind} named {name!r}",
            hint=f"Choose one of: {', '.join(offered)}.",
        )
    try:
        module = importlib.import_module(f"{package.__name__}.{name}")
    except ModuleNotFoundError as error:
        raise ConfigError(
            "missing_extra",
            f"the {kind} {name!r} needs the package {error.name!r}",
            hint="Install the extra: pip install 'fedcohort[deep]'.",
        ) from error
    factory = getattr(module, kind.upper())
    known = {field.name for field in dataclasses.fields(factory) if field.init}
    unknown = sorted(set(fields) - known)
    if unknown:
        raise ConfigError(
            "unknown_parameter",
            f"the {kind} {name!r} has no parameter {unknown[0]!r}",
            hint=f"Its parameters are: {', '.join(sorted(known))}.",
        )
    try:
        return factory(**fields)
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            "bad_parameter", f"the {kind} {name!r} cannot be made of these parameters: {error}"
        ) from error
