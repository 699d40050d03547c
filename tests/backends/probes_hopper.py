"""Probes of mbarriers, TMA of every rank, and wgmma in every layout of its operands."""

# ruff: noqa: E501 (lines of C keep their shape)

from __future__ import annotations

import itertools
from dataclasses import dataclass

from tests.backends.emulation import Probe, Probes, needs_of
from tilec.backends.manifest import TensorMapSpec
from tilec.backends.prelude import Need

BYTES = {"f16": 2, "bf16": 2, "tf32": 4, "i8": 1, "u8": 1, "e4m3": 1, "e5m2": 1}


@dataclass(frozen=True)
class Multiplication:
    """D[64, n] = A B: where A lies ("k" or "mn": which dimension is contiguous; "r": registers), B too.

    `right`: B's dtype where that is not A's; `result`: D's."""

    n: int
    dtype: str
    a: str = "k"
    b: str = "k"
    swizzle: int = 128
    right: str = ""
    result: str = "f32"

    @property
    def depth(self) -> int:
        """The extent of k: whole swizzle rows where k is contiguous, and two instructions at least."""
        return (
            32 if (self.a, self.b) == ("mn", "mn") else max(self.swizzle, 64) // BYTES[self.dtype]
        )

    @property
    def dtypes(self) -> tuple[str, str]:
        return self.dtype, self.right or self.dtype

    def __str__(self) -> str:
        dtypes = "_".join((*self.dtypes, self.result))
        return f"wgmma_{self.n}_{dtypes}_{self.a}_{self.b}_{self.swizzle}"


@dataclass(frozen=True)
class _Operand:
    """How one operand gets into shared memory from byte `start` on, and its descriptor."""

    name: str
    major: str
    rows: int
    start: int
    case: Multiplication

    @property
    def dtype(self) -> str:
        return self.case.dtypes[self.name == "B"]

    @property
    def size(self) -> int:
        return self.rows * self.case.depth * BYTES[self.case.dtype]

    @property
    def box(self) -> tuple[int, int]:
        """Outermost first: as much of the contiguous dimension as a swizzle row holds."""
        width = self.case.swizzle // BYTES[self.case.dtype]
        return (self.case.depth, width) if self.major == "mn" else (self.rows, width)

    def load(self) -> str:
        """Statements of one thread (TMA) or of all (no swizzle: core matrices of 8 rows by 16 bytes)."""
        item, name = BYTES[self.case.dtype], self.name
        if self.case.swizzle:
            span = self.rows if self.major == "mn" else self.case.depth
            lines = [
                f"    tma_load<2>({name}_s, {i * self.box[0] * self.box[1]}, {name}_map, full, 0, {i * self.box[1]}, 0);"
                for i in range(span // self.box[1])
            ]
            return "\n".join(lines)
        per = 16 // item
        x, extent = ("k", self.rows) if self.major == "mn" else ("r", self.case.depth)
        y = "r" if x == "k" else "k"
        return f"""
    for (i32 r = 0; r < {self.rows}; ++r) {{
      for (i32 k = thread_id(); k < {self.case.depth}; k += 128)
        {name}_s[{x} / 8 * {8 * extent} + {y} / {per} * {8 * per} + {x} % 8 * {per} + {y} % {per}] = {name}[{x} * {extent} + {y}];
    }}"""

    def descriptor(self) -> str:
        """The descriptor of the whole operand."""
        w, item, depth = self.case.swizzle, BYTES[self.case.dtype], self.case.depth
        if not w:
            extent = self.rows if self.major == "mn" else depth
            near, far = (
                128,
                8 * extent * item,
            )  # 16-byte chunks of the contiguous dimension; groups of 8 of the other
            lbo, sbo = (far, near) if self.major == "mn" else (near, far)
        elif self.major == "mn":
            lbo, sbo = depth * w, 8 * w
        else:
            lbo, sbo = 16, 8 * w
        return f"make_descriptor<{w}>({self.name}_s, 0, {lbo}, {sbo})"

    def step(self) -> int:
        """What one instruction's depth adds to the descriptor, in units of 16 bytes."""
        w, item = self.case.swizzle, BYTES[self.case.dtype]
        if self.major == "mn":
            return 32 // item * w // 16 if w else 2 * 8 * self.rows * item // 16
        return {0: 16, 32: 2 * self.rows}.get(w, 2)

    def buffer(self) -> str:
        return f"  shared<{self.dtype}> {self.name}_s = shared_buffer<{self.dtype}>({self.start}, {self.size // BYTES[self.dtype]});"


def _load(case: Multiplication, operands: list[_Operand]) -> str:
    text = "\n".join(o.load() for o in operands)
    if not case.swizzle:
        return text + "\n  fence_proxy_async();\n  barrier();"
    return f"""  if (thread_id() == 0) {{
    mbarrier_expect(full, 0, {sum(o.size for o in operands)});
{text}
  }}
  mbarrier_wait(full, 0, 0);"""


def _issue_rs(case: Multiplication, b: _Operand) -> tuple[str, str, Need]:
    """Statements before the fence, the instruction of step s, its need: A in registers."""
    item, depth = BYTES[case.dtype], case.depth
    per = max(1, 4 // item)
    trans = "true" if case.b == "mn" else "false"
    issue = f"wgmma_rs<{case.n}, {case.result}, {', '.join(case.dtypes)}, {trans}>(d, 0, a, s * {16 // item}, desc_b + s * {b.step()}, s > 0);"
    prepare = f"""  regs<{case.dtype}, {depth // 2}> a;
  #pragma unroll
  for (i32 e = 0; e < {depth // 2}; ++e)
    a[e] = A[(warp * 16 + lane / 4 + e / {per} % 2 * 8) * {depth} + e / {4 * per} * {32 // item} + lane % 4 * {per} + e % {per} + e / {2 * per} % 2 * {4 * per}];"""
    return prepare, issue, Need("wgmma_rs", (case.n, case.result, *case.dtypes, case.b == "mn"))


def _issue_ss(case: Multiplication, a: _Operand, b: _Operand) -> tuple[str, str, Need]:
    """The same with A in shared memory."""
    trans = f"{'true' if case.a == 'mn' else 'false'}, {'true' if case.b == 'mn' else 'false'}"
    issue = f"wgmma_ss<{case.n}, {case.result}, {', '.join(case.dtypes)}, {trans}>(d, 0, desc_a + s * {a.step()}, desc_b + s * {b.step()}, s > 0);"
    prepare = f"  const wgmma_descriptor desc_a = {a.descriptor()};"
    orders = case.a == "mn", case.b == "mn"
    return prepare, issue, Need("wgmma_ss", (case.n, case.result, *case.dtypes, *orders))


def make_probe(case: Multiplication) -> Probe:
    d = case.result
    b = _Operand("B", case.b, case.n, 16384, case)
    a = None if case.a == "r" else _Operand("A", case.a, 64, 0, case)
    operands = [b] if a is None else [a, b]
    prepare, issue, family = _issue_rs(case, b) if a is None else _issue_ss(case, a, b)
    body = f"""
{chr(10).join(o.buffer() for o in operands)}
  shared<mbarrier> full = shared_buffer<mbarrier>(81920, 1);
  const i32 warp = thread_id() / 32;
  const i32 lane = thread_id() % 32;
  if (thread_id() == 0) {{
    mbarrier_init(full, 0, 1);
    mbarrier_init_fence();
  }}
  barrier();
{_load(case, operands)}
{prepare}
  const wgmma_descriptor desc_b = {b.descriptor()};
  regs<{d}, {case.n // 2}> d;
  wgmma_fence({"a" if a is None else ""});
  #pragma unroll
  for (i32 s = 0; s < {case.depth * BYTES[case.dtype] // 32}; ++s)
    {issue}
  wgmma_commit();
  wgmma_wait<0>(d);
  #pragma unroll
  for (i32 e = 0; e < {case.n // 2}; ++e)
    D[(warp * 16 + lane / 4 + e / 2 % 2 * 8) * {case.n} + e / 4 * 8 + lane % 4 * 2 + e % 2] = d[e];
"""
    in_maps = bool(case.swizzle)
    maps = (
        {f"{o.name}_map": TensorMapSpec(o.name, o.box, case.swizzle) for o in operands}
        if in_maps
        else {}
    )
    pointers = {o.name: f"const {o.dtype}" for o in operands} if not in_maps else {}
    if a is None:
        pointers["A"] = f"const {case.dtype}"
    families = (family, *((Need("tma_load", (2,)),) if in_maps else ()))
    return Probe(
        body,
        needs_of(body, *families),
        {**pointers, "D": d},
        maps=maps,
        threads=128,
        shared_bytes=81928,
        arch="sm_90a",
    )


_CASES = (
    *(Multiplication(n, "f16") for n in (8, 64, 256)),
    *(Multiplication(64, "f16", swizzle=w) for w in (0, 32, 64)),
    *(
        Multiplication(64, "f16", a, b, w)
        for a, b in (("mn", "k"), ("k", "mn"), ("mn", "mn"))
        for w in (128, 64, 32)
    ),
    *(Multiplication(64, "f16", "mn", "mn", w) for w in (0,)),
    Multiplication(256, "bf16", "mn", "mn", 128),
    *(Multiplication(64, t) for t in ("bf16", "tf32")),
    *(
        Multiplication(64, *x, right=y, result="i32")
        for x, y in itertools.product((("i8",), ("u8", "r", "k", 64)), ("i8", "u8"))
    ),
    *(
        Multiplication(n, x, right=y, result=d)
        for n, d in ((64, "f32"), (256, "f16"))
        for x, y in itertools.product(("e4m3", "e5m2"), repeat=2)
    ),
    Multiplication(128, "f16", "mn", "mn", result="f16"),
    *(Multiplication(128, "f16", "r", b, 128) for b in ("k", "mn")),
    *(Multiplication(32, t, "r", "k", 64) for t in ("bf16", "tf32")),
    Multiplication(32, "e4m3", "r", "k", 64, right="e5m2"),
    Multiplication(32, "e5m2", "r", "k", 64, right="e4m3", result="f16"),
    Multiplication(32, "i8", "r", "k", 64, result="i32"),
    *(Multiplication(8, t, swizzle=w) for t in ("e4m3", "tf32") for w in (0, 32, 64)),
)
WGMMA = {str(case): case for case in _CASES}


def _box(rank: int) -> Probe:
    """A box of X from (..., c1, c0) on to shared memory, and from there to Y from (..., d1, d0) on."""
    box = (2, 2, 2, 4, 8)[-rank:]
    places = [[f"{letter}{i}" for i in range(rank)] for letter in "cd"]
    start, end = (", ".join(names) for names in places)
    count = 1
    for extent in box:
        count *= extent
    expect = f"mbarrier_expect(full, 0, {4 * count});"
    if rank % 2:  # said apart
        expect = f"mbarrier_announce(full, 0, {4 * count}); mbarrier_arrive(full, 0);"
    body = f"""
  shared<f32> S = shared_buffer<f32>(1024, {count});
  shared<mbarrier> full = shared_buffer<mbarrier>(0, 1);
  if (thread_id() == 0) {{
    prefetch_tensor_map(X_map);
    mbarrier_init(full, 0, 1);
    mbarrier_init_fence();
    {expect}
    tma_load<{rank}>(S, 0, X_map, full, 0, {start});
    mbarrier_wait(full, 0, 0);
    tma_store<{rank}>(Y_map, S, 0, {end});
    bulk_commit();
    bulk_wait_read<0>();
    bulk_wait<0>();
    for (i32 i = 0; i < {count}; ++i) Z[i] = S[i];
  }}
"""
    maps = {"X_map": TensorMapSpec("X", box), "Y_map": TensorMapSpec("Y", box)}
    scalars = dict.fromkeys(itertools.chain(*places), "i32")
    needs = needs_of(body, Need("tma_load", (rank,)), Need("tma_store", (rank,)))
    return Probe(body, needs, {"Z": "f32"}, scalars, maps, 32, 2048, "sm_90a")


_RING = """
  shared<i32> S = shared_buffer<i32>(0, 64);
  shared<mbarrier> full = shared_buffer<mbarrier>(256, 2);
  shared<mbarrier> empty = shared_buffer<mbarrier>(272, 2);
  const i32 t = thread_id();
  if (t < 2) { mbarrier_init(full, t, 32); mbarrier_init(empty, t, 32); }
  barrier();
  i32 sum = 0;
  for (i32 i = 0; i < 7; ++i) {
    const i32 slot = i % 2;
    const i32 phase = i / 2 % 2;
    if (warp_uniform(t / 32) == 0) {
      mbarrier_wait(empty, slot, phase ^ 1);
      S[slot * 32 + t] = i * 100 + t;
      mbarrier_arrive(full, slot);
    } else {
      mbarrier_wait(full, slot, phase);
      sum = sum + S[slot * 32 + (t + 1) % 32];
      mbarrier_arrive(empty, slot);
      named_barrier<3, 32>();
    }
  }
  Y[t] = sum;
"""

# The same with copies that the writers do not wait for; of every third turn odd elements are zeros.
_COPIED_RING = _RING.replace(
    "S[slot * 32 + t] = i * 100 + t;\n      mbarrier_arrive(full, slot);",
    "cp_async<4>(S, slot * 32 + t, X, i * 32 + t, i % 3 != 0 || t % 2 == 0);\n      cp_async_arrive(full, slot);",
)

HOPPER_PROBES = Probes(
    {
        **{f"box_{rank}": _box(rank) for rank in range(1, 6)},
        "ring": Probe(
            _RING, needs_of(_RING), {"Y": "i32"}, threads=64, shared_bytes=288, arch="sm_90a"
        ),
        "copied_ring": Probe(
            _COPIED_RING,
            needs_of(_COPIED_RING),
            {"X": "const i32", "Y": "i32"},
            threads=64,
            shared_bytes=288,
            arch="sm_90a",
        ),
    }
)
WGMMA_PROBES = Probes({name: make_probe(case) for name, case in WGMMA.items()})
