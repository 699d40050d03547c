"""Probes of cp.async, ldmatrix, stmatrix and mma."""

from __future__ import annotations

from tests.backends.emulation import Probe, Probes, needs_of
from tilec.backends.prelude import Need


def _copy(dtype: str, bytes_: int, item: int) -> Probe:
    """Two groups of copies; the second with a predicate, and through L1."""
    n = bytes_ // item
    body = f"""
  shared<{dtype}> S = shared_buffer<{dtype}>(0, {64 * n});
  const i32 t = thread_id();
  cp_async<{bytes_}>(S, t * {n}, X, t * {n});
  cp_async_commit();
  cp_async_reused<{bytes_}>(S, (32 + t) * {n}, X, (32 + t) * {n}, t % 2 == 0);
  cp_async_commit();
  cp_async_wait<1>();
  regs<{dtype}, {n}> r;
  load_shared<{n}>(r, 0, S, t * {n});
  store_global<{n}>(Y, t * {n}, r, 0);
  cp_async_wait<0>();
  load_shared<{n}>(r, 0, S, (32 + t) * {n});
  store_global<{n}>(Y, (32 + t) * {n}, r, 0);
"""
    return Probe(
        body, needs_of(body), {"X": f"const {dtype}", "Y": dtype}, shared_bytes=64 * bytes_
    )


def _rows(name: str, x: int, dtype: str = "f16") -> Probe:
    """Y[lane][e] of ldmatrix from X, whose rows of 16 bytes lie at a stride of 80 bytes; then stmatrix to Z, which
    has the rows again."""
    per = 16 // (1 if dtype == "i8" else 2)
    stride, own = 5 * per, x * per // 4
    body = f"""
  shared<{dtype}> S = shared_buffer<{dtype}>(0, {32 * stride});
  const i32 t = thread_id();
  regs<{dtype}, {per}> line;
  load_global<{per}>(line, 0, X, t * {per});
  store_shared<{per}>(S, t * {stride}, line, 0);
  warp_sync();
  regs<{dtype}, {own}> r;
  {name}<{x}>(r, 0, S, t % {8 * x} * {stride});
  for (i32 e = 0; e < {own}; ++e) {{ Y[t * {own} + e] = r[e]; }}
  shared<{dtype}> T = shared_buffer<{dtype}>(4096, {32 * stride});
  {name.replace("ld", "st")}<{x}>(T, t % {8 * x} * {stride}, r, 0);
  warp_sync();
  load_shared<{per}>(line, 0, T, t % {8 * x} * {stride});
  store_global<{per}>(Z, t * {per}, line, 0);
"""
    return Probe(
        body,
        needs_of(body),
        {"X": f"const {dtype}", "Y": dtype, "Z": dtype},
        shared_bytes=8192,
        arch="sm_90a",
    )


def _multiply(m: int, n: int, k: int, d: str, a: str) -> Probe:
    """D += A B, loaded and stored by the fragments' definition in the PTX ISA manual."""
    bits = {"f16": 16, "bf16": 16, "i8": 8, "u8": 8, "f32": 32, "f64": 64, "e4m3": 8, "e5m2": 8}[a]
    per, halves = max(1, 32 // bits), m // 8
    body = f"""
  const i32 lane = thread_id();
  const i32 group = lane / 4;
  const i32 within = lane % 4;
  regs<{a}, {m * k // 32}> a;
  regs<{a}, {n * k // 32}> b;
  regs<{d}, {m * n // 32}> d;
  #pragma unroll
  for (i32 e = 0; e < {m * k // 32}; ++e)
    a[e] = A[(group + e / {per} % {halves} * 8) * {k} + within * {per} + e % {per} + e / {per * halves} * {4 * per}];
  #pragma unroll
  for (i32 e = 0; e < {n * k // 32}; ++e)
    b[e] = B[(within * {per} + e % {per} + e / {per} * {4 * per}) * {n} + group];
  #pragma unroll
  for (i32 e = 0; e < {m * n // 32}; ++e)
    d[e] = D[(group + e / 2 * 8) * {n} + within * 2 + e % 2];
  mma<{m}, {n}, {k}>(d, 0, a, 0, b, 0);
  #pragma unroll
  for (i32 e = 0; e < {m * n // 32}; ++e)
    D[(group + e / 2 * 8) * {n} + within * 2 + e % 2] = d[e];
"""
    arch = "sm_90a" if a in ("e4m3", "e5m2") or (a == "f64" and m == 16) else "sm_80"
    needs = needs_of(body, Need("mma", (m, n, k, d, a)))
    return Probe(body, needs, {"A": f"const {a}", "B": f"const {a}", "D": d}, arch=arch)


SHAPES = (
    (16, 8, 16, "f32", "f16"), (16, 8, 8, "f32", "f16"), (16, 8, 16, "f16", "f16"), (16, 8, 16, "f32", "bf16"),
    (16, 8, 8, "f32", "bf16"), (16, 8, 8, "f32", "f32"), (16, 8, 4, "f32", "f32"), (16, 8, 32, "i32", "i8"),
    (16, 8, 16, "i32", "i8"), (16, 8, 32, "i32", "u8"), (8, 8, 16, "i32", "i8"), (8, 8, 4, "f64", "f64"),
    (16, 8, 32, "f32", "e4m3"), (16, 8, 32, "f32", "e5m2"), (16, 8, 4, "f64", "f64"), (16, 8, 8, "f64", "f64"),
    (16, 8, 16, "f64", "f64"),
)  # fmt: skip

MULTIPLICATIONS = {f"mma_{m}_{n}_{k}_{d}_{a}": (m, n, k, d, a) for m, n, k, d, a in SHAPES}
COPIES = {
    f"copy_{t}_{b}": (t, b, i)
    for t, b, i in (("f16", 4, 2), ("bf16", 8, 2), ("f32", 16, 4), ("i8", 16, 1))
}
LOADS = {f"{name}_{x}": (name, x) for name in ("ldmatrix", "ldmatrix_trans") for x in (1, 2, 4)}

MATRIX_PROBES = Probes(
    {
        **{name: _multiply(*shape) for name, shape in MULTIPLICATIONS.items()},
        **{name: _copy(*copy) for name, copy in COPIES.items()},
        **{name: _rows(*load) for name, load in LOADS.items()},
        "ldmatrix_bytes": _rows("ldmatrix", 4, "i8"),
    }
)
