"""The C interface that NVRTC and hiprtc share, through ctypes: text in, machine code and log
out."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import CompilerFailed, MissingTool

_STRINGS = ctypes.POINTER(ctypes.c_char_p)
_SIZE = ctypes.POINTER(ctypes.c_size_t)
_INT = ctypes.POINTER(ctypes.c_int)
_LOG_LINES = 40


@dataclass(frozen=True)
class RtcNames:
    """How a library spells the interface: the prefix of its functions, and the two for machine
    code."""

    prefix: str
    code_size: str
    code: str


class RtcLibrary:
    """One loaded run-time compiler. Calls release the interpreter lock and may run side by side."""

    def __init__(self, path: str | Path, names: RtcNames) -> None:
        """Loads the library at `path`. OSError where it cannot be loaded, MissingTool where it is
        another library or too old."""
        self.path = str(path)
        self._library = ctypes.CDLL(self.path)
        self._names = names
        program = ctypes.c_void_p
        signatures: dict[str, tuple[object, ...]] = {
            "CreateProgram": (
                ctypes.POINTER(program), ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int, _STRINGS,
                _STRINGS,
            ),
            "CompileProgram": (program, ctypes.c_int, _STRINGS),
            "GetProgramLogSize": (program, _SIZE),
            "GetProgramLog": (program, ctypes.c_char_p),
            names.code_size: (program, _SIZE),
            names.code: (program, ctypes.c_char_p),
            "DestroyProgram": (ctypes.POINTER(program),),
            "Version": (_INT, _INT),
        }  # fmt: skip
        self._functions = {}
        for name, arguments in signatures.items():
            try:
                function = getattr(self._library, names.prefix + name)
            except AttributeError as missing:
                raise MissingTool(
                    "TLC0702", f"{self.path} has no {names.prefix}{name}: it is too old for tilec"
                ) from missing
            function.argtypes = arguments
            function.restype = ctypes.c_int
            self._functions[name] = function
        self._error_string = getattr(self._library, names.prefix + "GetErrorString")
        self._error_string.argtypes = (ctypes.c_int,)
        self._error_string.restype = ctypes.c_char_p
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._check(self._functions["Version"](major, minor), "asking for the version")
        self.version = f"{major.value}.{minor.value}"

    def supported_archs(self) -> frozenset[int] | None:
        """The architectures it can compile for, as numbers (90 for sm_90a), or None where the
        library does not tell."""
        count_of = getattr(self._library, f"{self._names.prefix}GetNumSupportedArchs", None)
        fill = getattr(self._library, f"{self._names.prefix}GetSupportedArchs", None)
        if count_of is None or fill is None:
            return None
        count = ctypes.c_int()
        self._check(count_of(ctypes.byref(count)), "asking for architectures")
        numbers = (ctypes.c_int * count.value)()
        self._check(fill(numbers), "asking for architectures")
        return frozenset(numbers)

    def compile(
        self, text: str, name: str, options: Sequence[str], compiler: str
    ) -> tuple[bytes, str]:
        """Machine code and log of `text`, which errors call `name`. Raises CompilerFailed with the
        log."""
        program = ctypes.c_void_p()
        create = self._functions["CreateProgram"]
        source = text.encode()
        self._check(create(program, source, name.encode(), 0, None, None), f"reading {name}")
        try:
            encoded = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            status = self._functions["CompileProgram"](program, len(options), encoded)
            log = (
                self._text(program, "GetProgramLogSize", "GetProgramLog")
                .rstrip(b"\0")
                .decode(errors="replace")
            )
            if status:
                raise refused(compiler, name, log or self._describe(status))
            return self._text(program, self._names.code_size, self._names.code), log
        finally:
            self._functions["DestroyProgram"](program)

    def _text(self, program: ctypes.c_void_p, size_of: str, fill: str) -> bytes:
        size = ctypes.c_size_t()
        self._check(self._functions[size_of](program, size), size_of)
        buffer = ctypes.create_string_buffer(max(1, size.value))
        self._check(self._functions[fill](program, buffer), fill)
        return buffer.raw[: size.value]

    def _describe(self, status: int) -> str:
        text = self._error_string(status)
        return f"{text.decode() if text else 'error'} ({status})"

    def _check(self, status: int, doing: str) -> None:
        if status:
            raise CompilerFailed("TLC0701", f"{self.path}: {self._describe(status)} when {doing}")


def refused(compiler: str, name: str, log: str) -> CompilerFailed:
    """The error for text that `compiler` would not take; the message ends with the log, cut to
    size."""
    lines = [line for line in log.strip().splitlines() if line.strip()]
    if len(lines) > _LOG_LINES:
        lines = [*lines[:_LOG_LINES], f"... and {len(lines) - _LOG_LINES} more lines"]
    return CompilerFailed(
        "TLC0701",
        f"{compiler} refused {name}:\n" + "\n".join("    " + line for line in lines),
        hint="tilec emitted the text: a bug of tilec, unless the kernel holds C code of its own",
    )
