"""Where in the user's files the code that is running now stands.

Python knows the line and columns of the instruction that each frame executes, so an op gets its
place from the frames above the function that builds it: the innermost frame that is not tilec's is
the place, the frames between it and the kernel are the chain of inlined calls.
"""

from __future__ import annotations

import linecache
import sys
from types import CodeType, FrameType, TracebackType

from ..errors import UNKNOWN, Loc

_Span = tuple[int | None, int | None, int | None, int | None]  # line, its end; columns
_NOWHERE: _Span = (None, None, None, None)
_ROOT = __name__.split(".", maxsplit=1)[0]
_INTERNAL = tuple(
    f"{_ROOT}.{part}"
    for part in ("language", "parser", "ir", "quantize", "layout", "errors", "runtime")
)
# Frames that Python makes inside a function; their place counts as the function's.
_INLINE = frozenset({"<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>", "<lambda>"})
_SHOWN = 8  # calls at either end of a long chain
_MOST = 4096  # code objects that are kept
_cache: dict[int, tuple[CodeType, list[_Span], dict[int, Loc]]] = {}
"""By the number of a code object, which is kept: where its instructions stand, and their places. Equal code
of two files is equal to Python; and to find an instruction from the start takes longer the later it is."""


def is_users(frame: FrameType) -> bool:
    """Whether a frame runs code that is not tilec's own."""
    return not str(frame.f_globals.get("__name__", "")).startswith(_INTERNAL)


def characters(file: str, line: int, byte: int) -> int:
    """The column in characters of a UTF-8 byte offset, which is what Python's positions count."""
    text = linecache.getline(file, line)
    return byte if text.isascii() else len(text.encode()[:byte].decode(errors="ignore"))


def _point(code: CodeType, offset: int) -> Loc:
    """The place of one instruction, without its callers."""
    known = _cache.get(id(code))
    if known is None:
        if len(_cache) >= _MOST:
            _cache.clear()
        known = _cache[id(code)] = code, list(code.co_positions()), {}
    _, spans, places = known
    found = places.get(offset)
    if found is None:
        line, end_line, start, end = (
            spans[offset // 2] if 0 <= offset < 2 * len(spans) else _NOWHERE
        )
        file = code.co_filename
        line = line or code.co_firstlineno
        column = characters(file, line, start or 0)
        if end is None:
            stop = None
        elif end_line == line:
            stop = characters(file, line, end)
        else:
            stop = len(linecache.getline(file, line).rstrip("\n"))
        found = places[offset] = Loc(file, line, column, stop, code.co_name)
    return found


def _chain(points: list[tuple[CodeType, int]]) -> Loc:
    """One place from the instructions of nested frames, innermost first."""
    places: list[Loc] = []
    inline: Loc | None = None
    for code, offset in points:
        place = _point(code, offset)
        if inline is not None:
            place = Loc(inline.file, inline.line, inline.column, inline.end_column, place.function)
        inline = place if code.co_name in _INLINE else None
        if inline is None:
            places.append(place)
    if inline is not None:
        places.append(inline)
    if len(places) > 2 * _SHOWN:
        places = places[:_SHOWN] + places[-_SHOWN:]
    chained = UNKNOWN
    for place in reversed(places):
        chained = place.called_from(chained) if chained.known else place
    return chained


def locate(until: CodeType | None = None) -> Loc:
    """The user's place that led here: with `until`, up to and including the frame that runs it."""
    frame: FrameType | None = sys._getframe(1)
    points: list[tuple[CodeType, int]] = []
    while frame is not None:
        if is_users(frame):
            points.append((frame.f_code, frame.f_lasti))
            if until is None and frame.f_code.co_name not in _INLINE:
                break
        if frame.f_code is until:
            break
        frame = frame.f_back
    return _chain(points)


def locate_outside(package: str) -> Loc:
    """The place that called its way into a package of tilec, such as tilec.ops."""
    frame: FrameType | None = sys._getframe(1)
    points: list[tuple[CodeType, int]] = []
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if is_users(frame) and not f"{name}.".startswith(f"{package}."):
            points.append((frame.f_code, frame.f_lasti))
            if frame.f_code.co_name not in _INLINE:
                break
        frame = frame.f_back
    return _chain(points)


def locate_error(traceback: TracebackType | None, until: CodeType | None) -> Loc:
    """The user's place from which an exception came."""
    points: list[tuple[CodeType, int]] = []
    inside = until is None
    while traceback is not None:
        inside = inside or traceback.tb_frame.f_code is until
        if inside and is_users(traceback.tb_frame):
            points.append((traceback.tb_frame.f_code, traceback.tb_lasti))
        traceback = traceback.tb_next
    return _chain(points[::-1])


def is_internal_type(kind: type) -> bool:
    """Whether a class is tilec's own."""
    return str(kind.__module__).startswith(_ROOT + ".")
