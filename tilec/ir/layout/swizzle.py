"""The XOR that spreads a column of shared memory over the banks."""

from __future__ import annotations

from dataclasses import dataclass

from .term import IntArray

SPANS = (128, 64, 32)
"""Bytes of a row within which TMA and wgmma can permute 16-byte chunks, widest first."""
ATOM_ROWS = 8
"""Rows of a span after which a swizzle repeats."""
CHUNK_BYTES = 16
"""What TMA and wgmma permute."""
LINE_BYTES = 128
"""What the banks serve at once: the number of a line is what its chunks are permuted by."""


@dataclass(frozen=True, slots=True)
class Swizzle:
    """Exchange of `bits` bits of an element offset: x ^ ((x >> shift) & (2^bits - 1 << base)).

    Bits [base + shift, base + shift + bits) are added, without carry, to bits [base, base + bits).
    shift >= bits, so a swizzle is its own inverse.

    Raises:
        ValueError: a field is negative, or shift < bits.
    """

    bits: int
    base: int
    shift: int

    def __post_init__(self) -> None:
        if min(self.bits, self.base, self.shift) < 0 or self.shift < self.bits:
            raise ValueError(f"{self}: fields must be >= 0 and shift >= bits")
        if self.bits == 0:
            object.__setattr__(self, "base", 0)
            object.__setattr__(self, "shift", 0)

    @classmethod
    def none(cls) -> Swizzle:
        """The swizzle that changes nothing."""
        return cls(0, 0, 0)

    @classmethod
    def for_bytes(cls, span: int, itemsize_bits: int, chunk: int = CHUNK_BYTES) -> Swizzle:
        """The swizzle of TMA and wgmma with `span` bytes a row, on offsets in elements.

        On byte addresses it is addr[6:4] ^= addr[9:7] for 128 bytes, addr[5:4] ^= addr[8:7] for 64
        and addr[4] ^= addr[7] for 32 (PTX ISA, "Swizzling modes"); 0 is none. With larger chunks the
        lowest bits stay: of 32 bytes, addr[6:5] ^= addr[8:7] for 128.

        Raises:
            ValueError: `span` is none of these, an element's width is no power of two in 4..128, or
                `chunk` is no power of two from 16 to `span`.
        """
        if span == 0:
            return cls.none()
        if span not in SPANS:
            raise ValueError(f"no swizzle of {span} bytes: 0, 32, 64 or 128")
        if itemsize_bits not in (4, 8, 16, 32, 64, 128):
            raise ValueError(f"elements of {itemsize_bits} bits cannot be swizzled")
        if chunk not in (CHUNK_BYTES, *SPANS) or chunk > span:
            raise ValueError(f"a swizzle of {span} bytes does not move chunks of {chunk} bytes")
        elements, shift = chunk * 8 // itemsize_bits, LINE_BYTES // chunk
        return cls(*(n.bit_length() - 1 for n in (span // chunk, elements, shift)))

    @property
    def mask(self) -> int:
        """The bits of an offset that change."""
        return ((1 << self.bits) - 1) << self.base

    @property
    def period(self) -> int:
        """Elements after which the pattern repeats."""
        return 1 << (self.base + self.shift + self.bits) if self.bits else 1

    def apply(self, offset: IntArray) -> IntArray:
        """The swizzled offsets, elementwise."""
        return offset ^ ((offset >> self.shift) & self.mask)

    def span(self, itemsize_bits: int) -> int | None:
        """Bytes a row of the TMA mode that this is for elements of that width; None if none is."""
        if self.bits == 0:
            return 0
        if itemsize_bits not in (4, 8, 16, 32, 64, 128):
            return None
        return next((s for s in SPANS if self == Swizzle.for_bytes(s, itemsize_bits)), None)
