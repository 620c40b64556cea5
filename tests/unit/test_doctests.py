"""Every example in a docstring is run: what the documentation shows is what happens."""

import doctest
import importlib
import pkgutil

import pytest

import fedcohort

# Of the extra `deep`: modules that need them are left out where they are not installed.
OPTIONAL = {"torch", "opacus"}


def module_names() -> list[str]:
    """Return every module and package of fedcohort, by name."""
    found = pkgutil.walk_packages(fedcohort.__path__, "fedcohort.")
    # The root is the package, so its path also holds folders that are no part of it.
    return ["fedcohort", *sorted(module.name for module in found)]


@pytest.mark.parametrize("name", module_names())
def test_examples_of(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in OPTIONAL:
            pytest.skip(f"{name} needs {error.name}")
        raise
    failed, _ = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert failed == 0, f"{failed} examples of {name} fail; their output is above"
