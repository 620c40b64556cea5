"""What is shipped is what is here: packages, data files, versions, pins, documented commands."""

import configparser
import importlib.metadata
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fedcohort

ROOT = Path(__file__).resolve().parents[2]
SETUP = configparser.ConfigParser(interpolation=None)
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")


def lines_of(section: str, option: str) -> list[str]:
    """Return the entries of a list in setup.cfg, comments left out."""
    entries = (line.strip() for line in SETUP[section][option].splitlines())
    return [entry for entry in entries if entry and not entry.startswith("#")]


def package_folders() -> list[Path]:
    """Return every folder of the checkout that is a package, the root left out."""
    tops = [folder for folder in ROOT.iterdir() if (folder / "__init__.py").is_file()]
    return sorted(init.parent for top in tops for init in top.rglob("__init__.py"))


def requirements() -> list[Requirement]:
    """Return every direct dependency, those of the extras too."""
    extras = [
        (section, option) for section in ["options.extras_require"] for option in SETUP[section]
    ]
    lists = [("options", "install_requires"), *extras]
    return [Requirement(line) for section, option in lists for line in lines_of(section, option)]


def pins() -> dict[str, str]:
    """Return name -> version of constraints.txt."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pairs = (line.split("==") for line in text.splitlines() if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def make_targets() -> set[str]:
    """Return the names of the Makefile's targets."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z][a-z-]*):", text, flags=re.MULTILINE))


def test_every_folder_that_is_a_package_is_shipped() -> None:
    names = {".".join(folder.relative_to(ROOT).parts) for folder in package_folders()}
    listed = set(lines_of("options", "packages"))
    assert listed == {"fedcohort"} | {f"fedcohort.{name}" for name in names}


def test_the_root_holds_no_module_that_would_ship_by_accident() -> None:
    assert [path.name for path in ROOT.glob("*.py")] == ["__init__.py"]


def test_every_data_file_in_a_package_is_shipped_with_it() -> None:
    patterns = {
        name: lines_of("options.package_data", name) for name in SETUP["options.package_data"]
    }
    left_behind = []
    for top in package_folders():
        name = "fedcohort." + ".".join(top.relative_to(ROOT).parts)
        shipped = {path for pattern in patterns.get(name, []) for path in top.glob(pattern)}
        inner = set(package_folders()) - {top}
        for path in top.rglob("*"):
            # A file of an inner package is that package's to ship.
            ours = path.is_file() and path.suffix not in {".py", ".pyc"}
            if ours and path not in shipped and not inner & set(path.parents):
                left_behind.append(str(path.relative_to(ROOT)))
    assert left_behind == []


def test_the_installed_version_is_the_one_the_package_states() -> None:
    assert importlib.metadata.version("fedcohort") == fedcohort.__version__


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "py.typed").is_file()
    assert lines_of("options.package_data", "fedcohort") == ["py.typed"]


@pytest.mark.parametrize("requirement", requirements(), ids=lambda requirement: requirement.name)
def test_every_dependency_is_pinned_inside_its_range(requirement: Requirement) -> None:
    assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)])


def test_pins_are_exact_and_name_no_local_build() -> None:
    versions = "\n".join(pins().values())
    assert re.fullmatch(r"([0-9][0-9a-z.]*\n?)+", versions), versions


def test_the_full_licence_and_the_notice_go_with_the_package() -> None:
    assert lines_of("metadata", "license_files") == ["LICENSE", "NOTICE"]
    assert "Version 2.0, January 2004" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    unnamed = [
        path.name for path in (ROOT / "datasets/tables").glob("*.csv") if path.name not in notice
    ]
    assert unnamed == []


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", ".ci/run"])
def test_the_make_targets_a_document_names_exist(document: str) -> None:
    path = ROOT / document
    if not path.exists():
        pytest.skip(f"no {document} yet")
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        text = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text, flags=re.DOTALL))
    commands = re.findall(
        r"^[`\s]*(?:\$ |timeout \S+ )?make((?: [a-z][a-z-]*)+)", text, re.MULTILINE
    )
    named = {target for command in commands for target in command.split()}
    assert named, f"{document} names no make target"
    assert named <= make_targets()


def test_help_lists_every_target_and_says_what_it_does() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    explained = set(re.findall(r"^([a-z][a-z-]*):.*?## \S", text, flags=re.MULTILINE))
    assert make_targets() - explained == {"links"}
