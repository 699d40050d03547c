"""Building, the child process, and how arrays reach it."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.backends.emulation import Probe, Probes, needs_of
from tilec import config
from tilec.backends.manifest import Argument, LaunchSpec
from tilec.backends.prelude import render_source
from tilec.errors import CompilerFailed, TimedOut
from tilec.runtime import user_cache
from tilec.runtime.emulator import EmulatorError, build, run
from tilec.runtime.emulator.memory import place_arrays
from tilec.runtime.emulator.process import current_team

pytestmark = pytest.mark.emulator


def probe(body: str, *names: str) -> Probe:
    return Probe(body, needs_of(body), dict.fromkeys(names, "f32"), threads=1)


PROBES = Probes(
    {
        "copy": probe("  for (i32 i = 0; i < 8; ++i) { Y[i] = X[i] + 1.0f; }\n", "X", "Y"),
        "overflow": probe("  regs<f32, 200000> r; r[7] = 1.0f; Y[0] = r[7];\n", "Y"),
        "recursion": probe(
            "  // mine.py:3\n"
            "  struct chain { static int of(volatile int n) { return n + of(n + 1) % 3; } };\n"
            "  Y[0] = 1.0f * chain::of(0);\n",
            "Y",
        ),
        "stray": probe("  // mine.py:3\n  *(volatile int*)8 = 1;\n", "Y"),
        "division": probe("  volatile int zero = 0;\n  // mine.py:3\n  zero = 5 / zero;\n", "Y"),
        "exit": probe("  _exit(3);\n", "Y"),
        "endless": probe(
            "  i32 i = 1;\n  // mine.py:3\n  while (i != 0) { i = i | 1; Y[0] = Y[0]; }\n", "Y"
        ),
    }
)
CRASHES = {
    "overflow": r"thread 0: overflows its stack of 262144 bytes",
    "recursion": r"thread 0, at mine.py:3: overflows its stack of 262144 bytes",
    "stray": r"thread 0, at mine.py:3: dies by signal 11 \(Segmentation fault\) at address 0x8",
    "division": r"thread 0, at mine.py:3: divides an integer by zero",
    "exit": r"kernel exit: the emulator's process died by exit status 3",
}


def run_script(tmp_path: Path, text: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A program in a process of its own, to which warnings are errors, with what this file has."""
    script = tmp_path / "launch.py"
    script.write_text(
        "from tests.runtime.emulator.test_process import PROBES, build, vector\n"
        "from tilec.runtime.emulator.process import current_team\n" + text
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), **variables}
    command = (sys.executable, "-W", "error", str(script))
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done


def vector(*values: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array(values or range(8), np.float32)


@pytest.mark.parametrize("name", CRASHES)
def test_a_crash_is_an_error_and_the_next_launch_runs(name: str) -> None:
    with pytest.raises(EmulatorError, match=CRASHES[name]) as crash:
        PROBES.run(name, {"Y": vector()})
    assert crash.value.code == "TLC0782"
    y = vector()
    PROBES.run("copy", {"X": vector(), "Y": y})
    assert y.tolist() == list(range(1, 9))


@pytest.mark.parametrize("compiler", ["g++", "clang++-19"])
@pytest.mark.parametrize("fast", [False, True])
def test_a_large_frame_does_not_step_over_the_guard(compiler: str, fast: bool) -> None:
    """However it is compiled: the stack of the thread below must stay as it is."""
    body = """
  const i32 i = convert<i32>(Y[thread_id()]);
  volatile int large[150000];
  large[i] = 7;
  Y[thread_id()] = 1.0f * large[i];
"""
    frame = Probe(body, needs_of(body), {"Y": "f32"}, threads=2)
    library = build(render_source("cpu", [frame.frame("large")]), compiler, fast=fast)
    with pytest.raises(EmulatorError, match="overflows its stack"):
        run(library, frame.launch("large"), {"Y": vector()})


def test_a_kernel_without_end_is_stopped_and_says_where() -> None:
    with pytest.raises(EmulatorError, match=r"thread 0, at mine.py:3: no end after 0.3 s") as late:
        PROBES.run("endless", {"Y": vector()}, timeout=0.3)
    assert late.value.code == "TLC0783" and late.value.exit_status == TimedOut.exit_status
    y = vector()
    PROBES.run("copy", {"X": vector(), "Y": y})
    assert y[7] == 8


def test_a_damaged_library_is_built_anew(tmp_path: Path) -> None:
    text = render_source("cpu", [PROBES.probes["copy"].frame("copy")])
    with config.scope(cache_dir=str(tmp_path)):
        library = build(text)
        library.write_bytes(library.read_bytes()[:100])
        launch, y = PROBES.probes["copy"].launch("copy"), vector()
        with pytest.raises(EmulatorError, match="removed, and the next call builds it anew"):
            run(library, launch, {"X": vector(), "Y": y})
        run(build(text), launch, {"X": vector(), "Y": y})
    assert y.tolist() == list(range(1, 9))


def test_one_process_runs_many_launches() -> None:
    children = set()
    for _ in range(5):
        PROBES.run("copy", {"X": vector(), "Y": vector()})
        children.add(current_team().workers[0].process_id)
    assert len(children) == 1 and None not in children and os.getpid() not in children


def test_arrays_that_grow() -> None:
    for size in (8, 1 << 16, 1 << 21, 8):
        x, y = np.full(size, 2, np.float32), np.zeros(size, np.float32)
        PROBES.run("copy", {"X": x, "Y": y})
        assert y[:8].tolist() == [3] * 8 and not y[8:].any()


def test_arrays_that_overlap() -> None:
    whole = np.arange(16, dtype=np.float32)
    PROBES.run("copy", {"X": whole[:8], "Y": whole[4:12]})
    assert whole.tolist() == [0, 1, 2, 3, 1, 2, 3, 4, 2, 3, 4, 5, 12, 13, 14, 15]


def test_the_same_array_twice() -> None:
    x = vector()
    PROBES.run("copy", {"X": x, "Y": x})
    assert x.tolist() == list(range(1, 9))


def test_placing_keeps_alignment_and_overlap() -> None:
    buffer = np.zeros(64, np.float32)
    arrays = {"a": buffer[1:9], "b": buffer[4:6], "c": buffer[20:], "d": np.zeros(0, np.float32)}
    extents, size = place_arrays(arrays)
    assert extents["b"].offset - extents["a"].offset == 12
    assert extents["c"].offset >= extents["a"].offset + 32
    for name, array in arrays.items():
        extent = extents[name]
        assert extent.bytes == array.nbytes and extent.offset + extent.bytes <= size
        assert extent.offset % 16 == array.__array_interface__["data"][0] % 16


def test_negative_strides_are_refused() -> None:
    with pytest.raises(EmulatorError, match="X: an array with negative strides"):
        PROBES.run("copy", {"X": vector()[::-1], "Y": vector()})


def test_missing_arguments_are_named() -> None:
    with pytest.raises(EmulatorError, match="X: an array is needed"):
        PROBES.run("copy", {"X": 3, "Y": vector()})
    launch = LaunchSpec("copy", (Argument("symbol", "M"),), (1, 1, 1), 1, 0)
    with pytest.raises(EmulatorError, match="M: a number is needed"):
        run(PROBES.library, launch, {})


def test_an_empty_grid_launches_nothing() -> None:
    launch = LaunchSpec("no_such_kernel", (), (("floordiv", "M", 64), 1, 1), 1, 0)
    run(PROBES.library, launch, {"M": 5})


def test_an_unknown_symbol_is_an_error() -> None:
    with pytest.raises(EmulatorError, match="no_such_kernel"):
        run(PROBES.library, LaunchSpec("no_such_kernel", (), (1, 1, 1), 1, 0), {})


def test_a_text_is_built_once(tmp_path: Path) -> None:
    text = 'extern "C" int nothing() { return 0; }\n'
    with config.scope(cache_dir=str(tmp_path)):
        first = build(text)
        file = first.stat().st_ino
        assert build(text) == first and first.stat().st_ino == file
        assert build(text + "\n") != first
        assert sorted(first.parent.iterdir()) == sorted({first, build(text + "\n")})
    with config.scope(cache=False):
        assert tmp_path not in build(text).parents


def test_old_libraries_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules[build.__module__]  # the package's `build` is the function
    monkeypatch.setattr(module, "MAX_LIBRARIES", 4)
    with config.scope(cache_dir=str(tmp_path)):
        built = [build(f"int f{i};\n", optimize=0) for i in range(4)]
        for age, path in enumerate(built):
            os.utime(path, (1000 + age, 1000 + age))
        build("int f0;\n", optimize=0)
        newest = build("int f4;\n", optimize=0)
        assert set(newest.parent.iterdir()) == {built[0], newest}


def test_a_folder_that_others_can_write_is_not_used(tmp_path: Path) -> None:
    folder = tmp_path / "emulator"
    folder.mkdir()
    folder.chmod(0o777)
    with config.scope(cache_dir=str(tmp_path)):
        assert build("int g;\n").parent != folder
    assert not list(folder.iterdir())


def test_a_full_disk_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor what was not put there whole, nor a folder that went."""
    real = os.fsync

    def full(file: int) -> None:
        if os.readlink(f"/proc/self/fd/{file}").startswith(str(tmp_path)):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file)

    with config.scope(cache_dir=str(tmp_path)):
        folder = build("int g = 1;\n", optimize=0).parent
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            found = build("int g = 2;\n", optimize=0)
            assert found.parent != folder and found.exists()
            assert len(list(folder.iterdir())) == 1
            assert build("int g = 2;\n", optimize=0) == found
        shutil.rmtree(tmp_path)
        assert build("int g = 3;\n", optimize=0).parent == folder


@pytest.mark.parametrize("folder", ["here", "~/here"])
def test_a_folder_that_is_not_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    user_cache._absolute.cache_clear()
    with config.scope(cache_dir=folder):
        built = build(f"int g{len(folder)};\n", optimize=0)
        assert built.parent == tmp_path / "here" / "emulator"
        monkeypatch.chdir("elsewhere")
        assert build(f"int g{len(folder)};\n", optimize=0) == built


def test_an_interrupt_at_the_terminal_is_for_the_caller(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        "import os, signal, time\n"
        "os.setsid()\n"
        "heard = []\n"
        "signal.signal(signal.SIGINT, lambda *_: heard.append(1))\n"
        "ours = []\n"
        "for _ in range(2):\n"
        "    PROBES.run('copy', {'X': vector(), 'Y': vector()})\n"
        "    ours.append(current_team().workers[0].process_id)\n"
        "    os.killpg(0, signal.SIGINT)\n"
        "    time.sleep(0.2)\n"
        "assert heard == [1, 1] and ours[0] == ours[1]\n",
    )
    assert not done.stderr


def test_a_forked_process_has_a_team_and_a_folder_of_its_own(tmp_path: Path) -> None:
    """Beside its parent's, which it leaves alone, also when it ends."""
    done = run_script(
        tmp_path,
        "import os, sys\n"
        "from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor\n"
        "from multiprocessing import get_context\n"
        "def launch(value):\n"
        "    y = vector()\n"
        "    PROBES.run('copy', {'X': vector(*[value] * 8), 'Y': y})\n"
        "    assert y.tolist() == [value + 1] * 8\n"
        "with ThreadPoolExecutor(4) as pool:\n"
        "    list(pool.map(launch, range(4)))\n"
        "first = PROBES.library.parent\n"
        "ours = current_team().workers[0].process_id\n"
        "if child := os.fork():\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
        "    launch(2)\n"
        "    assert current_team().workers[0].process_id == ours\n"
        "    assert build('int g;').parent == first\n"
        "    with ProcessPoolExecutor(1, get_context('fork')) as pool:\n"
        "        print(first, pool.submit(build, 'int i;').result().parent)\n"
        "else:\n"
        "    launch(3)\n"
        "    assert current_team().workers[0].process_id != ours\n"
        "    assert build('int h;').parent != first\n",
        TILEC_CACHE="0",
    )
    assert not done.stderr
    folders = {Path(word) for word in done.stdout.split()}
    assert len(folders) == 2 and not any(folder.exists() for folder in folders)


def test_a_refused_text_shows_the_compilers_words() -> None:
    with pytest.raises(CompilerFailed, match=r"kernel.cpp:1:.*error"):
        build("int f( { }\n")


def test_the_process_ends_with_the_caller(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        "PROBES.run('copy', {'X': vector(), 'Y': vector()})\n"
        "print(current_team().workers[0].process_id)\n",
    )
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)
