"""The private methods of the arms `dp_sum` and `dp_each`: which, with which numbers.

A model family names its default and a preset for each method that it can be trained by; a key
of `model.private` that is given replaces the preset's number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ..privacy.errors import ConfigError

__all__ = ["METHODS", "PrivateMethod", "private_method"]

METHODS = ("gradient", "newton_gram", "whitened")
_NUMBERS = ("steps", "learning_rate", "clip", "l2")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateMethod:
    """One method with its numbers, checked.

    Attributes:
        name: The analysis of `study.analyses`, one of `METHODS`.
        steps: Noisy gradients.
        learning_rate: Step length.
        clip: L2 bound of one patient's part of a sum.
        l2: Ridge.
    """

    name: str
    steps: int
    learning_rate: float
    clip: float
    l2: float

    @property
    def releases(self) -> int:
        """Noisy sums: a count or the moments, then the gradients."""
        return self.steps + 1

    def parameters(self, clip: float, noise_scale: float) -> dict[str, Any]:
        """Return the analysis' parameters.

        Args:
            clip: The clip norm of the plan.
            noise_scale: Standard deviation of the noise in an opened sum, over the clip norm.
        """
        found = {
            "steps": self.steps,
            "learning_rate": self.learning_rate,
            "l2": self.l2,
            "clip": clip,
        }
        return found if self.name == "gradient" else found | {"noise_scale": noise_scale}


def private_method(model: DictConfig) -> PrivateMethod | None:
    """Return how a model family is trained with noise; None where it cannot be.

    Raises:
        ConfigError: `model_private_..._invalid`: an unknown method, or a number out of range.
    """
    if model.private is None:
        return None
    presets: Mapping[str, Mapping[str, Any]] = OmegaConf.to_container(model.private.presets)  # type: ignore[assignment]
    name = model.private.method
    if name not in METHODS or name not in presets:
        what = (
            f"{model.name} has no preset for it" if name in METHODS else "there is no such method"
        )
        raise _refused("method", f"{name!r}: {what}", f"Choose from: {', '.join(presets)}.")
    numbers = {
        key: presets[name][key] if model.private[key] is None else model.private[key]
        for key in _NUMBERS
    }
    for key, value in numbers.items():
        _check(key, value)
    return PrivateMethod(
        name=name,
        steps=int(numbers["steps"]),
        learning_rate=float(numbers["learning_rate"]),
        clip=float(numbers["clip"]),
        l2=float(numbers["l2"]),
    )


def _check(key: str, value: object) -> None:
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if key == "steps":
        if not (isinstance(value, int) and 1 <= number <= 10_000):
            raise _refused(key, f"it must lie in [1, 10000], got {value!r}", "Use 8.")
    elif key == "l2":
        if not (math.isfinite(number) and number >= 0):
            raise _refused(key, f"it must be finite and >= 0, got {value!r}", "Use 1.0.")
    elif not (math.isfinite(number) and number > 0):
        raise _refused(key, f"it must be a number > 0, got {value!r}", "Use 1.0.")


def _refused(key: str, rule: str, remedy: str) -> ConfigError:
    where = f"model.private.{key}"
    return ConfigError(f"{where.replace('.', '_')}_invalid", f"{where}: {rule}", hint=remedy)
