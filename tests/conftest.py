"""What every test gets: golden texts, markers, and an environment with no TILEC_* of the user's."""

from __future__ import annotations

import ctypes
import difflib
import functools
import gc
import os
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parent
GOLDEN = TESTS / "golden"
QUICK_COMPILER = "quick_cxx"  # tests/quick_cxx


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tilec")
    group.addoption("--update-golden", action="store_true", help="write the golden texts anew")
    group.addoption("--nightly", action="store_true", help="run the tests marked nightly too")
    group.addoption("--on-gpu", action="store_true", help="run the prelude's probes on the GPU")
    group.addoption("--require-gpu", action="store_true", help="fail gpu tests where there is none")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--update-golden") and os.environ.get("CI"):
        raise pytest.UsageError("--update-golden in CI would make every golden test pass")
    # tilec may read its configuration when it is imported, which is before any fixture.
    for name in [name for name in os.environ if name.startswith("TILEC_")]:
        del os.environ[name]
    if config.getoption("--on-gpu"):
        from tests.backends import emulation, on_gpu

        emulation.Probes.on_gpu = on_gpu.run_probe


@functools.cache
def gpu_present() -> bool:
    """Whether a CUDA or HIP driver answers with at least one device."""
    for library, init, count_devices in (
        ("libcuda.so.1", "cuInit", "cuDeviceGetCount"),
        ("libamdhip64.so", "hipInit", "hipGetDeviceCount"),
    ):
        try:
            driver = ctypes.CDLL(library)
        except OSError:
            continue  # this vendor's driver is not installed
        count = ctypes.c_int(0)
        if getattr(driver, init)(0) == 0:
            getattr(driver, count_devices)(ctypes.byref(count))
        if count.value > 0:
            return True
    return False


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out nightly tests unless asked for, and on a GPU those that ask for a finding of the
    emulator: they count as deselected, which pytest prints."""
    nightly = config.getoption("--nightly") or "nightly" in config.getoption("-m")
    unwanted = [] if nightly else ["nightly"]
    if config.getoption("--on-gpu"):
        unwanted.append("finding")
    left_out = [item for item in items if any(item.get_closest_marker(m) for m in unwanted)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What collecting makes lives to the end, and to look for garbage among it takes seconds; so
    does most of what tests compile: the collector comes less often.
    """
    gc.disable()
    result = yield
    gc.freeze()
    gc.set_threshold(10_000, 10, 40)
    gc.enable()
    return result


def pytest_runtest_setup(item: pytest.Item) -> None:
    """The one allowed skip of the suite: a test of the GPU on a machine without one."""
    if item.get_closest_marker("gpu") and not gpu_present():
        if item.config.getoption("--require-gpu"):
            pytest.fail("--require-gpu was given and no driver answers with a device")
        pytest.skip("no GPU")


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all workers of a run: what one of them has compiled the others need not."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "tilec-cache"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@pytest.fixture(autouse=True)
def tilec_env(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, session_cache: Path
) -> None:
    """No TILEC_* but a cache of this run's own, and quick builds for the emulator, whose launches
    here are small but for tests marked `optimised`; what a test sets is undone after it.

    Clang builds in half of g++'s time. g++, which users get, builds what is `optimised`, and every
    function of the prelude (`tests.backends.emulation.Probes`).
    """
    for name in [name for name in os.environ if name.startswith("TILEC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TILEC_CACHE_DIR", str(session_cache))
    optimised = request.node.get_closest_marker("optimised")
    monkeypatch.setenv("TILEC_EMULATOR_LEVEL", "1" if optimised else "0")
    monkeypatch.setenv("PATH", f"{TESTS}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TILEC_CXX", "g++" if optimised else QUICK_COMPILER)
    monkeypatch.setenv("NO_COLOR", "1")
    # A process that a test starts finds tilec compiled, but never beside the source.
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(session_cache.with_name("bytecode")))


class GoldenText:
    """One golden file, compared with text by `==`; a missing one fails with what it should hold."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, path: Path, update: bool) -> None:
        self.path = path
        self.update = update

    def __eq__(self, text: object) -> bool:
        if not isinstance(text, str):
            return NotImplemented
        if self.update:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(text, encoding="utf-8")
            return True
        if not self.path.exists():
            pytest.fail(
                f"no golden {self.shown}; read this text, then run with --update-golden\n{text}",
                pytrace=False,
            )
        return text == self.path.read_text(encoding="utf-8")

    @property
    def shown(self) -> str:
        return self.path.relative_to(TESTS.parent).as_posix()

    def diff(self, text: str) -> list[str]:
        """The lines that differ, golden first."""
        golden = self.path.read_text(encoding="utf-8").splitlines()
        lines = difflib.unified_diff(golden, text.splitlines(), self.shown, "this run", lineterm="")
        return list(lines) or ["the texts differ only in their line ends"]

    def __repr__(self) -> str:
        return f"golden {self.shown}"


class Golden:
    """`assert text == golden("cu")`: compares with tests/golden/<test file>/<test name>.cu."""

    def __init__(self, node: pytest.Item, update: bool) -> None:
        self.folder = GOLDEN / node.path.relative_to(TESTS).with_suffix("")
        self.test = re.sub(r"[^A-Za-z0-9_.=+-]+", "-", node.name).strip("-")
        self.update = update

    def __call__(self, ext: str = "txt", name: str | None = None) -> GoldenText:
        """The golden with extension `ext`; `name` tells several of one test apart."""
        stem = self.test if name is None else f"{self.test}.{name}"
        return GoldenText(self.folder / f"{stem}.{ext}", self.update)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(request.node, request.config.getoption("--update-golden"))


def pytest_assertrepr_compare(op: str, left: Any, right: Any) -> list[str] | None:
    text, file = (right, left) if isinstance(left, GoldenText) else (left, right)
    if op == "==" and isinstance(file, GoldenText) and isinstance(text, str):
        return [f"the text is not {file!r}", *file.diff(text)]
    return None
