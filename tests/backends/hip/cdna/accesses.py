"""Instructions that access memory, and other lanes through the LDS unit: scalar loads, global and
buffer loads and stores, atomics, ds_*.

Each is checked when it is issued and lands when a wait demands it: late, as the slowest hardware
would. Source: CDNA3 ISA, "Vector Memory Instructions", "Data Share", "Scalar Memory Reads".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.backends.hip.cdna.decode import M0, Instruction, IsaError, Operand
from tests.backends.hip.cdna.registers import LANE, Array, lane_reader, scalar_reader
from tests.backends.hip.cdna.waves import SCALARS, Step, Wave

# What a load makes of its bytes: their number, and how they fill registers.
_LOADS = {
    "ubyte": (1, "u1"), "sbyte": (1, "i1"), "ushort": (2, "u2"), "sshort": (2, "i2"),
    "u8": (1, "u1"), "i8": (1, "i1"), "u16": (2, "u2"), "i16": (2, "i2"),
    "short_d16": (2, "low"), "short_d16_hi": (2, "high"),
    "u16_d16": (2, "low"), "u16_d16_hi": (2, "high"),
    "dword": (4, "words"), "dwordx2": (8, "words"), "dwordx3": (12, "words"),
    "dwordx4": (16, "words"), "b32": (4, "words"), "b64": (8, "words"), "b96": (12, "words"),
    "b128": (16, "words"),
}  # fmt: skip
# What a store takes of its registers: bytes, and from which byte on.
_STORES = {
    "byte": (1, 0), "short": (2, 0), "byte_d16_hi": (1, 2), "short_d16_hi": (2, 2),
    "b8": (1, 0), "b16": (2, 0), "b8_d16_hi": (1, 2), "b16_d16_hi": (2, 2),
    "dword": (4, 0), "dwordx2": (8, 0), "dwordx3": (12, 0), "dwordx4": (16, 0),
    "b32": (4, 0), "b64": (8, 0), "b96": (12, 0), "b128": (16, 0),
}  # fmt: skip
_RAW_BUFFER = 0x00020000  # the last word of a descriptor: 32-bit data, no swizzle
_COHERENCE = ("glc", "slc", "sc0", "sc1", "nt")
Addresses = Callable[[Wave], Array]


def memory_step(instruction: Instruction) -> Step | None:
    """What a memory instruction does; None for a mnemonic that is none of this file's."""
    space, _, rest = instruction.name.partition("_")
    kind, _, width = rest.partition("_")
    if space == "s" and re.match(r"load_dword(x\d+)?$", rest):
        return _scalar_load(instruction)
    if space in ("global", "buffer") and kind == "load" and width in _LOADS:
        return _load(instruction, space, *_LOADS[width])
    if space in ("global", "buffer") and kind == "store" and width in _STORES:
        return _store(instruction, space, *_STORES[width])
    if space == "global" and kind == "atomic" and width in _ATOMICS:
        return _atomic(instruction, *_ATOMICS[width])
    if space == "ds":
        return _shared(instruction, kind, width)
    return None


def registers_read(instruction: Instruction) -> frozenset[int]:
    """The registers that must be there when an instruction is issued, scalar ones from SCALARS on:
    all that it names, but for the result of a load, which `Wave.issue` looks after."""
    name, operands = instruction.name, instruction.operands
    loads = re.match(r"(s|global|buffer)_load|ds_(read|bpermute|swizzle)", name)
    loads = loads and "lds" not in instruction.modifiers
    if loads or ("_atomic_" in name and len(operands) == 4):
        operands = operands[1:]
    return frozenset(
        register + (SCALARS if operand.kind == "scalar" else 0)
        for operand in operands
        if operand.kind in ("vector", "scalar")
        for register in _registers(operand)
    )


def _registers(operand: Operand) -> frozenset[int]:
    return frozenset(range(operand.first, operand.first + operand.count))


# Bytes and registers


def _deposit(wave: Wave, first: int, data: Array, fill: str, active: Array) -> None:
    """The bytes of the active lanes, (n, size), to registers from `first` on."""
    if fill == "words":
        words = data.view(np.uint32)
        for i in range(words.shape[1]):
            wave.vector[first + i, active] = words[:, i]
        return
    register = wave.vector[first]
    if fill in ("low", "high"):
        half = data.view(np.uint16)[:, 0].astype(np.uint32)
        old = register[active]
        low = (old & np.uint32(0xFFFF0000)) | half
        register[active] = (
            low if fill == "low" else (old & np.uint32(0xFFFF)) | half << np.uint32(16)
        )
        return
    register[active] = data.view(fill)[:, 0].astype(np.int32).view(np.uint32)


def _collect(wave: Wave, operand: Operand, size: int, start: int = 0) -> Array:
    """The bytes that the active lanes store, (n, size)."""
    words = wave.vector[operand.first : operand.first + -(-(start + size) // 4)]
    data = np.ascontiguousarray(words.T[wave.active]).view(np.uint8)
    return np.ascontiguousarray(data[:, start : start + size])


# Global memory


def _scalar_load(instruction: Instruction) -> Step:
    instruction.allow(*_COHERENCE)
    result, base, offset = instruction.operands
    read_base, read_offset = scalar_reader(base, 64), scalar_reader(offset, 32)
    touched = frozenset(SCALARS + r for r in _registers(result))

    def step(wave: Wave) -> None:
        first = read_base(wave) + read_offset(wave)
        address = np.uint64(first) + np.arange(result.count, dtype=np.uint64) * np.uint64(4)
        wave.memory.check(address, 4, write=False)

        def land() -> None:
            words = wave.memory.read(address, 4).view(np.uint32)[:, 0]
            wave.scalar[result.first : result.first + result.count] = words.tolist()

        wave.issue("scalar", touched, land)

    return step


def _global_addresses(instruction: Instruction, lanes: Operand, base: Operand) -> Addresses:
    """64-bit addresses in two vector registers, or 32-bit offsets from a scalar base."""
    offset = np.int64(int(instruction.modifiers.get("offset", "0")))
    if base.text == "off":
        read = lane_reader(lanes, "i64")
        return lambda wave: (read(wave) + offset).view(np.uint64)
    read_offset, read_base = lane_reader(lanes, "u32"), scalar_reader(base, 64)
    return lambda wave: (
        read_offset(wave).astype(np.int64) + np.int64(read_base(wave)) + offset
    ).view(np.uint64)


def _buffer_places(instruction: Instruction, size: int) -> Callable[[Wave], tuple[Array, Array]]:
    """Addresses of the words of each lane, (64, words), and whether each lies in the buffer.

    Of a raw buffer each word, or shorter access, is checked for itself (CDNA3 ISA, "Buffer
    Addressing: range checking").
    """
    lanes, resource, scalar = instruction.operands[-3:]
    read_scalar = scalar_reader(scalar, 32)
    offset = int(instruction.modifiers.get("offset", "0"))
    if "offen" in instruction.modifiers:
        read = lane_reader(lanes, "u32")
    elif lanes.text == "off":
        read = lambda registers: np.zeros(64, np.uint32)  # noqa: E731
    else:
        raise IsaError(f"{instruction.text}: an index into a buffer")
    within = np.arange(0, size, 4, dtype=np.uint64)

    def places(wave: Wave) -> tuple[Array, Array]:
        base, high, records, format_ = wave.scalar[resource.first : resource.first + 4]
        if format_ != _RAW_BUFFER or high >> 16:
            raise IsaError(f"{instruction.text}: no descriptor of a raw buffer")
        words = (np.broadcast_to(read(wave), 64).astype(np.uint64) + np.uint64(offset))[
            :, None
        ] + within
        inside = words + np.uint64(min(size, 4)) <= np.uint64(max(records - read_scalar(wave), 0))
        return words + np.uint64((base | high << 32) + read_scalar(wave)), inside

    return places


def _load(instruction: Instruction, space: str, size: int, fill: str) -> Step:
    instruction.allow("offset", "offen", "lds", *_COHERENCE)
    if "lds" in instruction.modifiers:
        return _copy_to_shared(instruction, space, size)
    result = instruction.operands[0]
    touched = _registers(result)
    if space == "buffer":
        return _buffer_load(instruction, size, fill)
    addresses = _global_addresses(instruction, *instruction.operands[1:])

    def step(wave: Wave) -> None:
        active = wave.active
        places = np.broadcast_to(addresses(wave), 64)[active]
        wave.memory.check(places, size, write=False)

        def land() -> None:
            _deposit(wave, result.first, wave.memory.read(places, size), fill, active)

        wave.issue("vector", touched, land)

    return step


def _buffer_reader(instruction: Instruction, size: int) -> Callable[[Wave], Callable[[], Array]]:
    """Checks the active lanes' words of a buffer when it is issued; what it gives reads their bytes,
    (n, size), zeros outside."""
    places = _buffer_places(instruction, size)
    word = min(size, 4)

    def issue(wave: Wave) -> Callable[[], Array]:
        words, inside = (x[wave.active] for x in places(wave))
        wave.memory.check(words[inside], word, write=False)

        def read() -> Array:
            data = np.zeros((*words.shape, word), np.uint8)
            data[inside] = wave.memory.read(words[inside], word)
            return data.reshape(len(words), size)

        return read

    return issue


def _buffer_load(instruction: Instruction, size: int, fill: str) -> Step:
    result, reader = instruction.operands[0], _buffer_reader(instruction, size)

    def step(wave: Wave) -> None:
        active, read = wave.active, reader(wave)
        land = lambda: _deposit(wave, result.first, read(), fill, active)  # noqa: E731
        wave.issue("vector", _registers(result), land)

    return step


def _copy_to_shared(instruction: Instruction, space: str, size: int) -> Step:
    """A buffer load whose lane l writes LDS at M0 + offset + l * size; until it lands the bytes there
    are poison (CDNA4 ISA, 9.1.9). Of more than a word, M0 has just been given by an instruction that
    is not the one before (4.5, manually inserted wait states)."""
    if space != "buffer" or size not in (4, 12, 16) or "offen" not in instruction.modifiers:
        raise IsaError(f"{instruction.text}: unknown load to LDS")
    reader, offset = _buffer_reader(instruction, size), _offset(instruction)

    def step(wave: Wave) -> None:
        active, read = wave.active, reader(wave)
        lanes = LANE[active].astype(np.uint64) * np.uint64(size)
        places = lanes + np.uint64(wave.scalar[M0] + offset)
        wave.shared.check(places, size, 4)
        if wave.mode == "late":
            wave.shared.write(places, np.full((len(places), size), 0xFF, np.uint8))
        wave.issue("vector", frozenset(), lambda: wave.shared.write(places, read()))

    return step


def _store(instruction: Instruction, space: str, size: int, start: int) -> Step:
    instruction.allow("offset", "offen", *_COHERENCE)
    if space == "buffer":
        return _buffer_store(instruction, size, start)
    lanes, data, base = instruction.operands
    addresses = _global_addresses(instruction, lanes, base)

    def step(wave: Wave) -> None:
        places = np.broadcast_to(addresses(wave), 64)[wave.active]
        wave.memory.check(places, size, write=True)
        values = _collect(wave, data, size, start)
        wave.issue("vector", frozenset(), lambda: wave.memory.write(places, values))

    return step


def _buffer_store(instruction: Instruction, size: int, start: int) -> Step:
    data, places = instruction.operands[0], _buffer_places(instruction, size)
    word = min(size, 4)

    def step(wave: Wave) -> None:
        words, inside = (x[wave.active] for x in places(wave))
        wave.memory.check(words[inside], word, write=True)
        values = _collect(wave, data, size, start).reshape(*words.shape, word)[inside]
        kept = words[inside]
        wave.issue("vector", frozenset(), lambda: wave.memory.write(kept, values))

    return step


# By name: dtype of an element, and what it becomes of the old one and the operand.
_ATOMICS: dict[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "add": ("u4", np.add), "sub": ("u4", np.subtract), "add_x2": ("u8", np.add),
    "smax": ("i4", np.maximum), "smin": ("i4", np.minimum), "umax": ("u4", np.maximum),
    "umin": ("u4", np.minimum), "and": ("u4", np.bitwise_and), "or": ("u4", np.bitwise_or),
    "add_f32": ("f4", np.add), "add_f64": ("f8", np.add), "pk_add_f16": ("f2", np.add),
    "cmpswap": ("u4", lambda old, data: np.where(old == data[1:], data[:1], old)),
    "cmpswap_x2": ("u8", lambda old, data: np.where(old == data[1:], data[:1], old)),
}  # fmt: skip


def _atomic(instruction: Instruction, dtype: str, combine: Callable[[Any, Any], Any]) -> Step:
    """Lane by lane; with glc or sc0 the old value is returned."""
    instruction.allow("offset", *_COHERENCE)
    returns = len(instruction.operands) == 4
    *result, lanes, data, base = instruction.operands
    addresses = _global_addresses(instruction, lanes, base)
    swaps = "cmpswap" in instruction.name
    size = data.count * 4 // (2 if swaps else 1)
    touched = _registers(result[0]) if returns else frozenset()

    def step(wave: Wave) -> None:
        active = wave.active
        places = np.broadcast_to(addresses(wave), 64)[active]
        wave.memory.check(places, size, write=True)
        operands = _collect(wave, data, data.count * 4).view(dtype)

        def land() -> None:
            found = np.zeros((len(places), size), np.uint8)
            for i, operand in enumerate(operands):
                found[i] = wave.memory.read(places[i : i + 1], size)[0]
                new = np.asarray(combine(found[i].view(dtype), operand), dtype)
                wave.memory.write(places[i : i + 1], new.view(np.uint8)[None])
            if returns:
                _deposit(wave, result[0].first, found, "words", active)

        wave.issue("vector", touched, land)

    return step


# The LDS unit


def _shared(instruction: Instruction, kind: str, width: str) -> Step | None:
    instruction.allow("offset", "offset0", "offset1")
    if kind == "read" and width in _LOADS:
        return _shared_read(instruction, *_LOADS[width], [_offset(instruction)])
    if kind == "write" and width in _STORES:
        size, start = _STORES[width]
        return _shared_write(instruction, size, start, [_offset(instruction)])
    if kind in ("read2", "write2", "read2st64", "write2st64") and width in ("b32", "b64"):
        size = _LOADS[width][0]
        unit = size * (64 if kind.endswith("st64") else 1)
        offsets = [int(instruction.modifiers.get(f"offset{i}", "0")) * unit for i in (0, 1)]
        if kind.startswith("read"):
            return _shared_read(instruction, size, "words", offsets)
        return _shared_write(instruction, size, 0, offsets)
    if instruction.name == "ds_read_b64_tr_b16":
        return _transposed_read(instruction)
    if instruction.name == "ds_bpermute_b32":
        return _permute(instruction)
    if instruction.name == "ds_swizzle_b32":
        return _swizzle(instruction)
    return None


def _offset(instruction: Instruction) -> int:
    return int(instruction.modifiers.get("offset", "0"))


def _shared_places(wave: Wave, address: Array, offset: int, size: int) -> Array:
    """Addresses of 32 bits: clang gives an offset to a base below zero."""
    places = (np.broadcast_to(address, 64)[wave.active] + np.uint32(offset)).astype(np.uint64)
    wave.shared.check(places, size, min(size, 16))
    return places


def _shared_read(instruction: Instruction, size: int, fill: str, offsets: list[int]) -> Step:
    result, address = instruction.operands
    read = lane_reader(address, "u32")

    def step(wave: Wave) -> None:
        active, base = wave.active, read(wave)
        places = [_shared_places(wave, base, offset, size) for offset in offsets]

        def land() -> None:
            for i, place in enumerate(places):
                data = wave.shared.read(place, size)
                _deposit(wave, result.first + i * size // 4, data, fill, active)

        wave.issue("shared", _registers(result), land)

    return step


def _transposed_read(instruction: Instruction) -> Step:
    """Each lane reads 4 elements of 16 bits; of the 4 x 16 that 16 lanes read, 4 lanes a row, it gets
    a column (CDNA4 ISA, 11.4)."""
    result, address = instruction.operands
    read, offset = lane_reader(address, "u32"), _offset(instruction)

    def step(wave: Wave) -> None:
        if not wave.full:
            raise IsaError("a transposing read by a part of a wave")
        places = _shared_places(wave, read(wave), offset, 8)

        def land() -> None:
            rows = wave.shared.read(places, 8).view(np.uint16).reshape(4, 4, 16)
            columns = np.ascontiguousarray(rows.transpose(0, 2, 1)).reshape(64, 4)
            _deposit(wave, result.first, columns.view(np.uint8), "words", wave.active)

        wave.issue("shared", _registers(result), land)

    return step


def _shared_write(instruction: Instruction, size: int, start: int, offsets: list[int]) -> Step:
    address, *data = instruction.operands
    read = lane_reader(address, "u32")

    def step(wave: Wave) -> None:
        base = read(wave)
        writes = [
            (_shared_places(wave, base, offset, size), _collect(wave, operand, size, start))
            for operand, offset in zip(data, offsets, strict=True)
        ]

        def land() -> None:
            for places, values in writes:
                wave.shared.write(places, values)

        wave.issue("shared", frozenset(), land)

    return step


def _permute(instruction: Instruction) -> Step:
    """Each lane takes the value of the lane that its address, in bytes, names; 0 of one that is
    not active."""
    result, address, source = instruction.operands
    read_address, read = lane_reader(address, "u32"), lane_reader(source, "u32")
    offset = _offset(instruction)

    def step(wave: Wave) -> None:
        lanes = (
            (np.broadcast_to(read_address(wave), 64) + np.uint32(offset))
            // np.uint32(4)
            % np.uint32(64)
        )
        _exchange(wave, result, np.broadcast_to(read(wave), 64), lanes)

    return step


def _swizzle(instruction: Instruction) -> Step:
    """Lanes of a group of 32 exchanged by the bits of their numbers: SWAP, or BITMASK_PERM in its
    general form."""
    result, source = instruction.operands
    text = instruction.modifiers["offset"]
    if match := re.match(r"swizzle\(SWAP,(\d+)\)", text):
        and_mask, or_mask, xor_mask = 31, 0, int(match[1])
    elif re.match(r"^\d+$", text) and int(text) < 1 << 15:
        bits = int(text)
        and_mask, or_mask, xor_mask = bits & 31, bits >> 5 & 31, bits >> 10 & 31
    else:
        raise IsaError(f"{instruction.text}: unknown swizzle")
    lanes = LANE & ~31 | ((LANE & 31 & and_mask) | or_mask) ^ xor_mask
    read = lane_reader(source, "u32")
    return lambda wave: _exchange(wave, result, np.broadcast_to(read(wave), 64), lanes)


def _exchange(wave: Wave, result: Operand, values: Array, lanes: Array) -> None:
    active = wave.active
    found = np.where(active[lanes], values[lanes], np.uint32(0))[active]

    def land() -> None:
        wave.vector[result.first, active] = found

    wave.issue("shared", _registers(result), land)
