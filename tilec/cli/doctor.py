"""`tilec doctor`: what tilec finds on this machine, and what to install for what it does not find."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import click

from ..config import VARIABLES
from ..errors import NoDevice, TilecError
from ..runtime.compilers import find_compilers
from ..runtime.devices import driver_of, select_device, target_for_capability
from ..runtime.emulator import find_host_compiler
from ..runtime.plugins import load_plugins
from ..runtime.user_cache import user_cache
from ..target import TARGETS
from ..version import __version__
from .output import Output, output

PACKAGES = (
    "numpy", "ml_dtypes", "jinja2", "lark", "click", "platformdirs",
    "cupy", "cupy-cuda12x", "cupy-cuda13x", "cupy-rocm-7-0", "nvidia-cuda-nvrtc",
    "nvidia-cuda-nvrtc-cu12", "ziglang", "torch", "jax",
)  # fmt: skip


@dataclass(frozen=True)
class Tool:
    """A compiler that was looked for. `remedy` says how to get one that is missing."""

    name: str
    serves: str
    version: str = ""
    where: str = ""
    problem: str = ""
    remedy: str = ""


@click.command("doctor")
def command() -> int:
    """Print what is installed here: compilers, GPUs, packages, cache; and what to install."""
    plugins = _plugins()  # first: they bring targets
    packages = _packages()
    tools = _tools()
    drivers = [_driver(kind) for kind in ("cuda", "hip")]
    chosen = select_device([])
    cache = user_cache()
    data: dict[str, Any] = {
        "tilec": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        "compilers": [asdict(tool) for tool in tools],
        "drivers": drivers,
        "device": {"name": chosen.name, "why": chosen.why, "target": chosen.target.name},
        "plugins": plugins,
        "targets": sorted(TARGETS),
        "cache": {
            "path": str(cache.directory) if cache else "",
            "problem": cache.problem if cache else "turned off by TILEC_CACHE=0",
        },
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "advice": _advice(packages, tools),
    }
    _print(output(), data)
    output().result(data)
    return 0


def _packages() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _plugins() -> list[str]:
    """The names of loaded plugins, or why they do not load."""
    try:
        return list(load_plugins())
    except TilecError as broken:
        return [broken.message]


def _tools() -> list[Tool]:
    found: list[Tool] = []
    for name, backend, compiler in find_compilers():
        if isinstance(compiler, TilecError):
            tool = Tool(name, backend, problem=compiler.message, remedy=compiler.hint)
        else:
            tool = Tool(compiler.name, backend, compiler.version, compiler.where)
        found.append(tool)
    try:
        host = find_host_compiler()
        found.append(Tool("C++", "emulator", host.version, " ".join(host.command)))
    except TilecError as missing:
        found.append(Tool("C++", "emulator", problem=missing.message, remedy=missing.hint))
    return found


def _driver(kind: str) -> dict[str, Any]:
    """The driver of a vendor and its GPUs, each with the target that runs on it."""
    try:
        driver = driver_of(kind)
    except NoDevice as absent:
        return {"kind": kind, "problem": absent.message, "gpus": []}
    gpus = []
    for index in range(driver.count):
        major, minor = driver.capability(index)
        gpu: dict[str, Any] = {
            "name": driver.device_name(index),
            "capability": f"{major}.{minor}",
            "multiprocessors": driver.multiprocessors(index),
            "shared_bytes": driver.max_shared_bytes(index),
        }
        if kind == "cuda":
            try:
                gpu["target"] = target_for_capability(major, minor).name
            except NoDevice as none:
                gpu["problem"] = none.message
        gpus.append(gpu)
    return {"kind": kind, "version": driver.version(), "gpus": gpus}


def _advice(packages: dict[str, str], tools: list[Tool]) -> list[str]:
    """What to install, one line for each thing that tilec could do and cannot."""
    found = []
    cupys = [name for name in packages if name.startswith("cupy")]
    if len(cupys) > 1:
        found.append(f"{' and '.join(cupys)} break each other: uninstall all but one")
    for serves, what in (
        ("cuda", "compile CUDA text"),
        ("hip", "compile HIP text"),
        ("emulator", "run emitted text on the CPU"),
    ):
        those = [tool for tool in tools if tool.serves == serves]
        if all(tool.problem for tool in those):
            remedies = dict.fromkeys(tool.remedy for tool in those if tool.remedy)
            found.append(f"to {what}: " + "; or ".join(remedies))
    if not cupys:
        found.append("to run on a GPU: pip install 'tilec[cuda13]' (or [cuda12], [rocm7])")
    return found


def _print(out: Output, data: dict[str, Any]) -> None:
    out.say(f"tilec {data['tilec']}, Python {data['python']}, {data['platform']}")
    out.say("packages   " + ", ".join(f"{n} {v}" for n, v in data["packages"].items()))
    for tool in data["compilers"]:
        state = tool["problem"] or f"{tool['version']} at {tool['where']}"
        out.say(f"{tool['serves']:<10} {tool['name']}: {state.splitlines()[0]}")
    for driver in data["drivers"]:
        if "problem" in driver:
            out.say(f"driver     {driver['problem'].splitlines()[0]}")
        for gpu in driver["gpus"]:
            aim = gpu.get("target") or gpu.get("problem", "")
            out.say(
                f"GPU        {gpu['name']} ({driver['kind']} {gpu['capability']}, "
                f"driver {driver['version']}): {aim}"
            )
    device = data["device"]
    out.say(f"device     {device['name']}, because {device['why']}")
    if data["plugins"]:
        out.say(f"plugins    {', '.join(data['plugins'])}")
    out.say(f"targets    {', '.join(data['targets'])}")
    cache = data["cache"]
    out.say(f"cache      {cache['path']}{': ' if cache['problem'] else ''}{cache['problem']}")
    for name, value in data["environment"].items():
        out.say(f"variable   {name}={value}")
    for line in data["advice"]:
        out.say(f"install    {line}")
