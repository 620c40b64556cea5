"""A key has one use, whatever happens between two writes of the counter."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from fedcohort.privacy.errors import ProtocolError
from fedcohort.privacy.secagg.store import FileRoundStore, MemoryRoundStore, RoundStore

if TYPE_CHECKING:
    from tests.unit.privacy.secagg import driver as driver_module

EPOCH, OTHER = b"\x01" * 32, b"\x02" * 32


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> RoundStore:
    if request.param == "memory":
        return MemoryRoundStore()
    return FileRoundStore(tmp_path / "counter.json")


def refused(store: RoundStore, epoch: bytes, key: int) -> str:
    with pytest.raises(ProtocolError) as error:
        store.use(epoch, key)
    return error.value.code


def test_a_key_is_used_once_and_none_before_it_after(store: RoundStore) -> None:
    store.use(EPOCH, 0)
    store.use(EPOCH, 4)
    store.use(OTHER, 0)
    for key in range(5):
        assert refused(store, EPOCH, key) == "r1_29_key_used"
    store.use(EPOCH, 5)
    assert refused(store, OTHER, 0) == "r1_29_key_used"


def test_the_file_is_its_owners_whatever_the_umask_or_leftovers(tmp_path: Path) -> None:
    path = tmp_path / "counter.json"
    (tmp_path / ".counter.json.tmp").write_text("left by somebody")
    (tmp_path / ".counter.json.tmp").chmod(0o666)
    before = os.umask(0)
    try:
        FileRoundStore(path).use(EPOCH, 0)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(path.read_text()) == {EPOCH.hex(): 0}


def test_the_file_is_not_written_through_a_link(tmp_path: Path) -> None:
    path = tmp_path / "counter.json"
    victim = tmp_path / "victim"
    (tmp_path / ".counter.json.tmp").symlink_to(victim)
    FileRoundStore(path).use(EPOCH, 0)
    assert not victim.exists()


class Killed(BaseException):
    """The process dies here."""


@pytest.mark.parametrize("point", ["open", "fsync", "replace"])
def test_a_kill_before_the_rename_leaves_the_old_counter_whole(
    tmp_path: Path, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "counter.json"
    FileRoundStore(path).use(EPOCH, 3)

    def die(*arguments: object, **options: object) -> int:
        raise Killed

    with monkeypatch.context() as patch:
        if point == "replace":
            patch.setattr(Path, "replace", die)
        elif point == "fsync":
            patch.setattr(os, "fsync", die)
        else:
            patch.setattr(os, "open", die)
        with pytest.raises(Killed):
            FileRoundStore(path).use(EPOCH, 4)
    restarted = FileRoundStore(path)
    assert refused(restarted, EPOCH, 3) == "r1_29_key_used"
    restarted.use(EPOCH, 4)  # nothing had left: `use` did not return


def test_a_kill_after_the_rename_keeps_the_key_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "counter.json"
    store = FileRoundStore(path)
    store.use(EPOCH, 3)
    real = os.fsync
    synced: list[int] = []

    def die_at_the_folder(handle: int) -> None:
        synced.append(handle)
        if len(synced) == 2:
            raise Killed
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", die_at_the_folder)
        with pytest.raises(Killed):
            store.use(EPOCH, 4)
    assert refused(FileRoundStore(path), EPOCH, 4) == "r1_29_key_used"


def test_the_counter_is_synced_before_use_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    real_sync, real_replace = os.fsync, Path.replace

    def sync(handle: int) -> None:
        steps.append("sync")
        real_sync(handle)

    def rename(path: Path, target: Path) -> Path:
        steps.append("rename")
        return real_replace(path, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", rename)
    FileRoundStore(tmp_path / "counter.json").use(EPOCH, 0)
    assert steps == ["sync", "rename", "sync"]  # the content, its name, the folder


@pytest.mark.parametrize("content", ["", "[]", "3", "{", '{"aa": null}', '{"aa": "x"}', "\x00"])
def test_a_broken_file_stops_the_site(tmp_path: Path, content: str) -> None:
    path = tmp_path / "counter.json"
    path.write_text(content)
    assert refused(FileRoundStore(path), EPOCH, 0) == "store_broken"
    assert path.read_text() == content


def _use_many(path: Path, results: multiprocessing.Queue[list[int]]) -> None:
    won = []
    for key in range(30):
        try:
            FileRoundStore(path).use(EPOCH, key)
        except ProtocolError:
            continue
        won.append(key)
    results.put(won)


def test_two_copies_of_a_process_never_both_get_a_key(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results: multiprocessing.Queue[list[int]] = context.Queue()
    path = tmp_path / "counter.json"
    people = [context.Process(target=_use_many, args=(path, results)) for _ in range(4)]
    for person in people:
        person.start()
    won = [key for _ in people for key in results.get(timeout=60)]
    for person in people:
        person.join()
    assert sorted(won) == sorted(set(won))
    assert 29 in won


def test_a_copied_site_cannot_use_a_key_that_the_original_used(
    federation: type[driver_module.Federation], tmp_path: Path
) -> None:
    """A backup of the process's memory, restored after a report left."""
    fed = federation.of(4, store=lambda place: FileRoundStore(tmp_path / f"{place}.json"))
    fed.set_up()
    backup = copy.deepcopy(fed.sites[1])
    vectors = {place: np.arange(5, dtype=np.int64) for place in fed.sites}
    fed.report(vectors)
    backup.open_round(fed.plan, fed.expected(5))
    with pytest.raises(ProtocolError) as error:
        backup.report(vectors[1] * 2)
    assert error.value.code == "r1_29_key_used"


def test_a_restarted_site_has_no_keys_at_all(
    federation: type[driver_module.Federation],
) -> None:
    fed, fresh = federation.of(4), federation.of(4)
    fed.set_up()
    fed.report({place: np.arange(5, dtype=np.int64) for place in fed.sites})
    with pytest.raises(ProtocolError) as error:
        fresh.sites[1].open_round(fed.plan, fed.expected(5))
    assert error.value.code == "phase_order"
