"""The table of products that benchmarks/gemm.py measures, and what each row is to show."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A product M x N x K. `layout` is "NT" where a row of B is contiguous along K, as BLAS counts
    it; `bar` the least ratio of the peer's time to ours; `bandwidth` the least share of that of a
    copy of as many bytes. `kind` is "plain", "fused" (bias and GELU) or "fp8".
    """

    group: str
    M: int
    N: int
    K: int
    bar: float
    dtype: str = "float16"
    layout: str = "NT"
    kind: str = "plain"
    bandwidth: float = 0.0
    fast: bool = True  # 8-bit floats: sums as the instruction makes them, not in more bits

    @property
    def name(self) -> str:
        """What `--rows` selects by, and what the table shows."""
        form = self.kind if self.kind != "plain" else self.layout
        if self.kind == "fp8":
            form += "" if self.fast else "-exact"
        return f"{self.group}:{self.M}x{self.N}x{self.K}:{self.dtype}:{form}"

    @property
    def flops(self) -> float:
        """Operations of the product."""
        return 2.0 * self.M * self.N * self.K

    @property
    def bytes(self) -> int:
        """A and B read once, C written once."""
        size = 1 if "float8" in self.dtype else 2
        return size * self.K * (self.M + self.N) + 2 * self.M * self.N


_LARGE = (
    (4096, 4096, 4096), (8192, 8192, 8192), (16384, 16384, 4096), (4096, 11008, 4096),
    (4096, 4096, 16384),
)  # fmt: skip
_SKINNY = dict(N=8192, K=8192)

TABLE: tuple[Row, ...] = (
    *(Row("large", *shape, 0.99, dtype) for dtype in ("float16", "bfloat16") for shape in _LARGE),
    *(Row("transposes", 8192, 8192, 8192, 1.0, layout=layout) for layout in ("NN", "TN", "TT")),
    *(Row("thin", 8192, 8192, k, 1.0) for k in (512, 128)),
    *(Row("small", n, n, n, bar) for n, bar in ((2048, 1.0), (1024, 0.90), (512, 0.85))),
    *(Row("skinny", m, bar=1.15, bandwidth=0.8, **_SKINNY) for m in (1, 8, 16, 64)),
    *(Row("skinny", m, bar=1.0, **_SKINNY) for m in (128, 256)),
    Row("ragged", 4000, 5000, 3000, 1.0),
    Row("ragged", 1000, 8200, 520, 1.0),
    Row("ragged", 4095, 4097, 4099, 1.5),
    *(
        Row("fp8", n, n, n, 1.0, "float8_e4m3fn", kind="fp8", fast=fast)
        for n in (4096, 8192)
        for fast in (True, False)
    ),
    Row("fused", 8192, 8192, 8192, 1.05, kind="fused"),
)
"""The rows of the issue that asks for this benchmark. The large ones are also to have a geometric
mean of LARGE_MEAN."""
LARGE_MEAN = 1.03
PEER_BAR = 1.05
"""The least ratio to Triton and to TileLang, on every row that they run."""
MET = 0.01
"""A bar is met at this much less: what two runs differ by."""


def select(words: Iterable[str]) -> list[Row]:
    """The rows whose names have any of the words; all rows without words.

    Raises ValueError for a word that no row has.
    """
    wanted = list(words)
    for word in wanted:
        if not any(word in row.name for row in TABLE):
            names = ", ".join(row.name for row in TABLE)
            raise ValueError(f"no row has {word!r} in its name; rows are {names}")
    return [r for r in TABLE if not wanted or any(word in r.name for word in wanted)]


def given(shape: str) -> Row:
    """A row for a product that the table does not have: "MxNxK", "MxNxK:NN", "MxNxK:NT:bfloat16".

    Raises ValueError for what is none.
    """
    extents, layout, dtype, *rest = [*shape.split(":"), "", ""]
    sizes = extents.split("x")
    plain = dtype in ("", "float16", "bfloat16") and layout in ("", "NT", "NN", "TN", "TT")
    if (
        any(rest)
        or not plain
        or len(sizes) != 3
        or not all(n.isdecimal() and int(n) for n in sizes)
    ):
        raise ValueError(f"{shape!r} is no product; one is 4000x5000x3000:NT:float16")
    m, n, k = map(int, sizes)
    return Row("given", m, n, k, 1.0, dtype or "float16", layout or "NT")
