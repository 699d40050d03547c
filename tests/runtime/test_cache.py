"""The disk cache: whole entries or none, whoever writes, is killed, or damages the files."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tilec import config
from tilec.runtime import cache
from tilec.runtime.binary import Binary
from tilec.runtime.build import compile_variant
from tilec.runtime.cache import ORPHAN_SECONDS, DiskCache, cache_key, source_hash
from tilec.runtime.user_cache import user_cache

KEY = "ab" + 62 * "0"
OTHER = "cd" + 62 * "1"


@pytest.fixture
def disk(tmp_path: Path) -> DiskCache:
    return DiskCache(tmp_path / "cache")


def file_of(disk: DiskCache, key: str) -> Path:
    return disk.directory / key[:2] / f"{key}.tlc"


def test_what_was_put_comes_back(disk: DiskCache) -> None:
    assert disk.get(KEY) is None
    assert disk.put(KEY, {"log": "é\n", "n": 3}, b"\0code\xff")
    entry = disk.get(KEY)
    assert entry is not None
    assert (entry.key, entry.metadata, entry.payload) == (
        KEY,
        {"log": "é\n", "n": 3},
        b"\0code\xff",
    )
    assert disk.put(KEY, {}, b"newer")
    assert disk.get(KEY).payload == b"newer"  # type: ignore[union-attr]
    assert disk.stats().entries == 1
    assert DiskCache(disk.directory).get(KEY) is not None
    assert disk.clear() == 1
    assert disk.get(KEY) is None


@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(data=st.data())
def test_any_damage_is_a_miss_and_is_removed(disk: DiskCache, data: st.DataObject) -> None:
    disk.put(KEY, {"log": "text"}, bytes(range(64)))
    path = file_of(disk, KEY)
    whole = path.read_bytes()
    kind = data.draw(st.sampled_from(["flip", "cut", "grow"]))
    at = data.draw(st.integers(0, len(whole) - 1))
    if kind == "flip":
        bit = 1 << data.draw(st.integers(0, 7))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
    else:
        path.write_bytes(whole[:at] if kind == "cut" else whole + whole[at:])
    assert disk.get(KEY) is None
    assert not path.exists()


def test_an_entry_under_another_key_is_not_served(disk: DiskCache) -> None:
    disk.put(KEY, {}, b"code")
    target = file_of(disk, OTHER)
    target.parent.mkdir()
    os.rename(file_of(disk, KEY), target)
    assert disk.get(OTHER) is None
    assert not target.exists()


def test_verify_removes_and_names_the_damaged(disk: DiskCache) -> None:
    disk.put(KEY, {}, b"code")
    disk.put(OTHER, {}, b"code")
    file_of(disk, OTHER).write_bytes(b"tilec")
    assert disk.verify() == (f"{OTHER}.tlc",)
    assert disk.stats().entries == 1


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    disk = DiskCache(tmp_path, limit=3500)
    keys = [cache_key(str(i)) for i in range(4)]
    for age, key in enumerate(keys):
        disk.put(key, {}, bytes(1000))
        os.utime(file_of(disk, key), (0, 1_000_000 + age))
    assert disk.get(keys[0]) is not None  # use makes it young
    disk.sweep()
    assert [disk.get(key) is not None for key in keys] == [True, False, True, True]


def test_publishing_keeps_the_folder_within_its_limit(tmp_path: Path) -> None:
    disk = DiskCache(tmp_path, limit=20_000)
    for i in range(3 * cache.SWEEP_EVERY):
        disk.put(cache_key(str(i)), {}, bytes(1000))
    assert disk.stats().bytes <= 20_000 + cache.SWEEP_EVERY * 1200


def test_sweeping_takes_old_temporaries_and_nothing_foreign(disk: DiskCache) -> None:
    disk.put(KEY, {}, b"code")
    folder = file_of(disk, KEY).parent
    old, young, foreign = folder / ".tmp-old", folder / ".tmp-young", folder / "notes.txt"
    for path in (old, young, foreign):
        path.write_text("x")
    past = time.time() - ORPHAN_SECONDS - 60
    for path in (old, foreign):
        os.utime(path, (past, past))
    assert disk.stats().temporaries == 2
    disk.sweep()
    assert (old.exists(), young.exists(), foreign.exists()) == (False, True, True)
    disk.clear()
    assert foreign.exists()


def test_a_folder_that_cannot_be_made_is_no_cache_and_no_error(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    disk = DiskCache(blocker / "cache")
    assert not disk.usable
    assert not disk.put(KEY, {}, b"code")
    assert disk.get(KEY) is None
    disk.sweep()
    assert disk.stats().entries == disk.clear() == 0


def test_a_full_disk_is_no_error(disk: DiskCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert not disk.put(KEY, {}, b"code")
    assert disk.get(KEY) is None
    assert disk.stats().temporaries == 0


def test_a_folder_that_went_is_made_anew(disk: DiskCache) -> None:
    shutil.rmtree(disk.directory)
    assert disk.get(KEY) is None and disk.stats().entries == 0
    assert disk.put(KEY, {}, b"code") and disk.get(KEY) is not None
    assert disk.directory.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    disk = DiskCache(folder)
    assert "others may write to it" in disk.problem
    folder.chmod(0o700)
    assert DiskCache(folder).usable


def test_a_new_folder_is_private(disk: DiskCache) -> None:
    disk.put(KEY, {}, b"code")
    assert disk.directory.stat().st_mode & 0o077 == 0
    assert file_of(disk, KEY).stat().st_mode & 0o077 == 0


def test_a_folder_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 4242)
    if (tmp_path.stat().st_uid) == 0:  # root's folders are trusted: make it somebody's
        os.chown(tmp_path, 1234, -1)
    assert DiskCache(tmp_path).problem == "it belongs to another user"


def test_keys_tell_parts_apart() -> None:
    keys = {cache_key("ab", "c"), cache_key("a", "bc"), cache_key("abc"), cache_key("ab", "c", "")}
    assert len(keys) == 4
    assert cache_key("ab", b"c") == cache_key("ab", "c")
    assert all(len(key) == 64 for key in keys)


def test_the_key_does_not_depend_on_the_process(tmp_path: Path) -> None:
    code = "from tilec.runtime.cache import cache_key; print(cache_key('a', 'b'))"
    found = set()
    for seed in ("0", "1"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.getcwd()}
        run = subprocess.run(
            [sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, check=True
        )
        found.add(run.stdout.decode().strip())
    assert found == {cache_key("a", "b")}


def test_the_key_holds_the_source_of_tilec(monkeypatch: pytest.MonkeyPatch) -> None:
    before = cache_key("a")
    monkeypatch.setattr(cache, "source_hash", lambda: "another tilec")
    assert cache_key("a") != before
    assert len(source_hash()) == 64


def payload_of(seed: int) -> bytes:
    block = hashlib.sha256(str(seed).encode()).digest()
    return block * 3000


def write_for_ever(folder: str) -> None:
    disk = DiskCache(folder)
    seed = os.getpid()
    while True:
        seed += 1
        disk.put(KEY, {"seed": seed}, payload_of(seed))


def read_and_check(folder: str, seen: Event, done: Event) -> None:
    """Reads until it is done, and says when it has read one. Exits with 1 for a wrong entry."""
    disk = DiskCache(folder)
    while not done.is_set():
        entry = disk.get(KEY)
        if entry is not None:
            seed = entry.metadata["seed"]
            if not isinstance(seed, int) or entry.payload != payload_of(seed):
                os._exit(1)
            seen.set()
    os._exit(0)


def test_killed_writers_leave_no_bad_entry(tmp_path: Path) -> None:
    """Writers die by SIGKILL in the middle of their work while others read the same key."""
    context = multiprocessing.get_context("fork")
    folder = str(tmp_path / "cache")
    seen, done = context.Event(), context.Event()
    reader = context.Process(target=read_and_check, args=(folder, seen, done))
    reader.start()
    kill = 0
    while kill < 40 or not seen.is_set():  # a slow machine writes none in 40 lives
        writer = context.Process(target=write_for_ever, args=(folder,))
        writer.start()
        time.sleep((0.004 + 0.0007 * (kill % 23)) * (1 + kill // 40))
        kill += 1
        assert writer.pid is not None and reader.is_alive()
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
    done.set()
    reader.join()
    assert reader.exitcode == 0
    disk = DiskCache(folder)
    assert disk.verify() == ()
    entry = disk.get(KEY)
    assert entry is not None
    assert entry.payload == payload_of(entry.metadata["seed"])  # type: ignore[arg-type]


def test_many_threads_on_one_key(disk: DiskCache) -> None:
    def turn(seed: int) -> bool:
        disk.put(KEY, {"seed": seed}, payload_of(seed))
        entry = disk.get(KEY)
        return entry is not None and entry.payload == payload_of(entry.metadata["seed"])  # type: ignore[arg-type]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(turn, range(64)))
    assert disk.stats() == cache.CacheStats(1, disk.stats().bytes, 0)


class CountingCompiler:
    """A compiler that counts how often it is asked."""

    name, backend, version, where = "counting", "cuda", "1", "nowhere"

    def __init__(self) -> None:
        self.calls = 0

    def compile(self, text: str, name: str, arch: str) -> Binary:
        self.calls += 1
        log = f"Compiling entry function '{name}' for '{arch}'\nUsed 7 registers"
        return Binary.from_log(text.encode(), log, "counting 1")


def test_a_variant_is_compiled_once_for_each_text_target_and_compiler(disk: DiskCache) -> None:
    compiler = CountingCompiler()

    def build_it(text: str = "text", target: str = "cuda:sm_80") -> Binary:
        return compile_variant(text, target, "k", compiler, disk)

    first = build_it()
    assert build_it() == first
    assert compiler.calls == 1
    build_it(text="text ")
    build_it(target="cuda:sm_90a")
    compiler.version = "2"
    build_it()
    assert compiler.calls == 4


def test_the_settings_choose_the_cache(tmp_path: Path) -> None:
    compiler = CountingCompiler()
    with config.scope(cache=False):
        assert user_cache() is None
        compile_variant("text", "cuda:sm_80", "k", compiler)
        compile_variant("text", "cuda:sm_80", "k", compiler)
    assert compiler.calls == 2
    with config.scope(cache_dir=str(tmp_path / "own"), cache_size=12345):
        found = user_cache()
        assert found is not None
        assert (found.directory, found.limit) == (tmp_path / "own", 12345)
        assert user_cache() is found
        compile_variant("text", "cuda:sm_80", "k", compiler)
        compile_variant("text", "cuda:sm_80", "k", compiler)
    assert compiler.calls == 3
    assert user_cache() is not found


def test_nvrtc_through_the_cache(disk: DiskCache) -> None:
    text = 'extern "C" __global__ void nothing() {}'
    cold = compile_variant(text, "cuda:sm_90a", "nothing.cu", store=disk)
    warm = compile_variant(text, "cuda:sm_90a", "nothing.cu", store=disk)
    assert warm == cold
    assert disk.stats().entries == 1
    assert warm.kernel("nothing") is not None
