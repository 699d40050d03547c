"""The emulator's process: reads requests, one JSON object a line, loads libraries and runs kernels.

Run as a script with the file number of the shared memory. It uses the standard library alone and
imports nothing of tilec, so that it starts quickly; nothing that happens in a kernel can reach the
caller's process."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import struct
import sys
from collections import OrderedDict
from contextlib import suppress

FINDING, DIED, ENDLESS = 1, 2, 3  # what a launch returns that went wrong
MESSAGE_BYTES = 8192
MAX_LIBRARIES = 64
MAX_RANK = 5
MAX_SITES = 512


class Argument(ctypes.Structure):
    """`argument` of the CPU prelude."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("bytes", ctypes.c_int64),
        ("writable", ctypes.c_int64),
        ("meets", ctypes.c_int64),
    )


class AccessSite(ctypes.Structure):
    """`access_site` of the CPU prelude."""

    _fields_ = (
        ("line", ctypes.c_char_p),
        ("instruction", ctypes.c_char_p),
        ("memory", ctypes.c_char_p),
        ("bytes", ctypes.c_int64),
        ("accesses", ctypes.c_int64),
        ("transfers", ctypes.c_int64),
        ("needed", ctypes.c_int64),
        ("worst", ctypes.c_int64),
    )


class LaunchRequest(ctypes.Structure):
    """`launch_request` of the CPU prelude."""

    _fields_ = (
        ("grid", ctypes.c_int32 * 3),
        ("threads", ctypes.c_int32),
        ("shared_bytes", ctypes.c_int32),
        ("mode", ctypes.c_int32),
        ("order", ctypes.c_int32),
        ("argument_count", ctypes.c_int32),
        ("races", ctypes.c_int32),
        ("granule", ctypes.c_int32),
        ("first_block", ctypes.c_int32),
        ("block_step", ctypes.c_int32),
        ("residents", ctypes.c_int32),
        ("seed", ctypes.c_uint64),
        ("seconds", ctypes.c_double),
        ("arena", ctypes.c_void_p),
        ("arena_bytes", ctypes.c_int64),
        ("arguments", ctypes.c_void_p),
        ("sites", ctypes.c_void_p),
        ("message", ctypes.c_void_p),
        ("message_bytes", ctypes.c_int64),
    )


class Runner:
    """Runs requests against one shared memory."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._map: mmap.mmap | None = None
        self._libraries: OrderedDict[str, ctypes.CDLL] = OrderedDict()

    def run(self, request: dict[str, object]) -> dict[str, object]:
        """{"status": 0}, or FINDING (or a deadlock), DIED or ENDLESS with a "message"; with
        "counts", where they were asked for."""
        # The prefix keeps a kernel called as a function of C apart from it.
        function = getattr(self._library(str(request["library"])), f"tilec_{request['symbol']}")
        keep: list[object] = []
        base = self._base(int(str(request["size"])))
        arguments = request["arguments"]
        assert isinstance(arguments, list)
        array = (Argument * len(arguments))(*(self._argument(a, base, keep) for a in arguments))
        message = ctypes.create_string_buffer(MESSAGE_BYTES)
        sites = (AccessSite * MAX_SITES)() if request["counts"] else None
        grid = request["grid"]
        assert isinstance(grid, list)
        launch = LaunchRequest(
            (ctypes.c_int32 * 3)(*grid),
            int(str(request["threads"])),
            int(str(request["shared_bytes"])),
            int(str(request["mode"])),
            int(str(request["order"])),
            len(arguments),
            int(str(request["races"])),
            int(str(request["granule"])),
            int(str(request["first_block"])),
            int(str(request["block_step"])),
            int(str(request["residents"])),
            int(str(request["seed"])),
            float(str(request["seconds"])),
            base,
            int(str(request["used"])),
            ctypes.addressof(array),
            None if sites is None else ctypes.addressof(sites),
            ctypes.addressof(message),
            MESSAGE_BYTES,
        )
        status = int(function(ctypes.byref(launch)))
        answer = {"status": status, "message": message.value.decode(errors="replace")}
        # A place where every lane was turned off accessed nothing.
        counts = [_as_json(site) for site in sites or () if site.accesses]
        return answer if sites is None else {**answer, "counts": counts}

    def _library(self, path: str) -> ctypes.CDLL:
        library = self._libraries.get(path)
        if library is None:
            try:
                library = self._libraries[path] = ctypes.CDLL(path)
            except OSError as problem:
                with suppress(OSError):
                    os.unlink(path)
                told = f"{problem}; it was removed, and the next call builds it anew"
                raise OSError(told) from problem
            if len(self._libraries) > MAX_LIBRARIES:
                _, oldest = self._libraries.popitem(last=False)
                close = ctypes.CDLL(None).dlclose
                close.argtypes = (ctypes.c_void_p,)
                close(oldest._handle)
        self._libraries.move_to_end(path)
        return library

    def _base(self, size: int) -> int:
        """The address of the shared memory, which the caller has made at least `size` bytes."""
        if self._map is None or len(self._map) < size:
            self._map = mmap.mmap(self._file, size)
        return ctypes.addressof(ctypes.c_char.from_buffer(self._map))

    def _argument(self, a: dict[str, object], base: int, keep: list[object]) -> Argument:
        if "value" in a:
            data = bytes.fromhex(str(a["value"]))
        elif "box" in a:
            data = _pack_tensor_map(a, base)
        else:
            place, size = base + int(str(a["offset"])), int(str(a["bytes"]))
            return Argument(place, size, bool(a["writable"]), bool(a["meets"]))
        held = ctypes.create_string_buffer(data, len(data))
        keep.append(held)
        return Argument(ctypes.addressof(held), len(data), 0)


def _as_json(site: AccessSite) -> dict[str, object]:
    values = {name: getattr(site, name) for name, *_ in AccessSite._fields_}
    texts = {
        name: (values[name] or b"").decode(errors="replace")
        for name in ("line", "instruction", "memory")
    }
    return {**values, **texts}


def _pack_tensor_map(a: dict[str, object], base: int) -> bytes:
    """`tensor_map` of the CPU prelude: dimensions innermost first, padded to MAX_RANK."""

    def padded(key: str) -> list[int]:
        values = a[key]
        assert isinstance(values, list)
        return [*values, *([1] * (MAX_RANK - len(values)))]

    rank = len(a["box"]) if isinstance(a["box"], list) else 0
    head = (
        base + int(str(a["offset"])),
        int(str(a["element"])),
        rank,
        int(str(a["swizzle"])),
        int(bool(a["writable"])),
    )
    return struct.pack("=20q", *head, *padded("extents"), *padded("strides"), *padded("box"))


def main() -> None:
    """Serves requests until the caller closes the pipe, or a kernel was stopped where it stood."""
    runner = Runner(int(sys.argv[1]))
    for line in sys.stdin:
        try:
            answer = runner.run(json.loads(line))
        except (OSError, AttributeError) as problem:
            answer = {"status": FINDING, "message": str(problem)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
        if answer["status"] in (DIED, ENDLESS):
            break


if __name__ == "__main__":
    main()
