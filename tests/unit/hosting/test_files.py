"""What was written stays written: after a power cut, and whoever was there before."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedcohort.experiments.reporting.folder import write_atomic
from fedcohort.hosting import (
    append_line,
    private_folder,
    read_private,
    remove_file,
    replace_file,
    write_new,
)
from fedcohort.privacy.durable_files import replace_synced, write_synced
from fedcohort.privacy.errors import PolicyError

Watch = Callable[..., Any]
WRITERS: dict[str, Callable[[Path, bytes], None]] = {
    "hosting.replace_file": replace_file,
    "durable_files.replace_synced": replace_synced,
    "reporting.write_atomic": write_atomic,
}
MAKERS: dict[str, Callable[[Path, bytes], None]] = {
    **WRITERS,
    "hosting.write_new": write_new,
    "durable_files.write_synced": write_synced,
    "hosting.append_line": lambda path, content: append_line(path, content[:-1].decode()),
}


@pytest.mark.parametrize("name", WRITERS)
def test_after_a_power_cut_the_new_file_is_there_and_the_old_one_is_not(
    tmp_path: Path, disk: Watch, name: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_bytes(b"old\n")
    watched = disk(folder)
    for content in (b"new\n", b"newer, and longer\n", b"n\n"):
        WRITERS[name](folder / "file", content)
        for after in watched.cuts(tmp_path / str(len(content))):
            assert {file.name: file.read_bytes() for file in after.iterdir()} == {"file": content}


@pytest.mark.parametrize("name", MAKERS)
def test_after_a_power_cut_a_file_that_was_made_is_there(
    tmp_path: Path, disk: Watch, name: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    watched = disk(folder)
    MAKERS[name](folder / "file", b"new\n")
    for after in watched.cuts(tmp_path / "after"):
        assert (after / "file").read_bytes() == b"new\n"


def test_after_a_power_cut_every_line_is_there(tmp_path: Path, disk: Watch) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    watched = disk(folder)
    for number in range(3):
        append_line(folder / "lines", str(number))
        found = watched.cut(tmp_path / str(number)) / "lines"
        assert found.read_text().splitlines() == [str(n) for n in range(number + 1)]


def test_after_a_power_cut_a_file_that_was_removed_is_not_back(tmp_path: Path, disk: Watch) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_bytes(b"old\n")
    watched = disk(folder)
    remove_file(folder / "file")
    remove_file(folder / "file")  # gone is gone
    remove_file(folder / "nowhere" / "file")
    assert list(watched.cut(tmp_path / "after").iterdir()) == []


def test_after_a_power_cut_a_private_folder_is_there_with_what_is_in_it(
    tmp_path: Path, disk: Watch
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    watched = disk(root)
    write_new(private_folder(root / "a" / "b") / "file", b"new\n")
    after = watched.cut(tmp_path / "after")
    assert (after / "a" / "b" / "file").read_bytes() == b"new\n"


def test_the_disk_of_these_tests_drops_what_was_not_synced(tmp_path: Path, disk: Watch) -> None:
    """The positive control: the usual ways to write a file, each without one of its syncs."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "old").write_bytes(b"old")
    watched = disk(folder)

    def sync(path: Path) -> None:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)

    (folder / "new").write_bytes(b"new")
    (folder / "new").replace(folder / "old")
    assert (watched.cut(tmp_path / "1") / "old").read_bytes() == b"old"  # nothing was synced
    assert (watched.cut(tmp_path / "2", lucky=True) / "old").read_bytes() == b""  # torn
    sync(folder)
    assert (watched.cut(tmp_path / "3") / "old").read_bytes() == b""  # the name only
    sync(folder / "old")
    assert (watched.cut(tmp_path / "4") / "old").read_bytes() == b"new"
    (folder / "old").write_bytes(b"newer")
    (folder / "more").write_bytes(b"more")
    sync(folder / "more")
    after = watched.cut(tmp_path / "5")
    assert (after / "old").read_bytes() == b"new"
    assert not (after / "more").exists()  # the content only
    (folder / "old").unlink()
    assert (watched.cut(tmp_path / "6") / "old").read_bytes() == b"new"


def test_a_file_is_never_overwritten_by_accident_and_is_its_owners(tmp_path: Path) -> None:
    write_new(tmp_path / "file", b"first")
    with pytest.raises(PolicyError) as refused:
        write_new(tmp_path / "file", b"second")
    assert refused.value.code == "file_exists"
    assert read_private(tmp_path / "file") == b"first"
    replace_file(tmp_path / "file", b"second")
    assert read_private(tmp_path / "file") == b"second"  # of mode 0600, or it refuses


def test_a_file_replaces_a_link_and_never_writes_through_it(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("not yours")
    (tmp_path / "file").symlink_to(victim)
    (tmp_path / f".file.{os.getpid()}.tmp").symlink_to(victim)
    replace_file(tmp_path / "file", b"ours")
    assert victim.read_text() == "not yours"
    assert (tmp_path / "file").read_bytes() == b"ours"
    assert not (tmp_path / "file").is_symlink()
