"""Probes of scalars, conversions, shuffles and plain memory accesses."""

# ruff: noqa: E501 (lines of C keep their shape)

from __future__ import annotations

from tests.backends.emulation import Probe, Probes, needs_of

SCALARS = (
    "bool",
    "i8",
    "i16",
    "i32",
    "i64",
    "u8",
    "u16",
    "u32",
    "u64",
    "f16",
    "bf16",
    "f32",
    "f64",
)
SMALL_FLOATS = ("e4m3", "e5m2", "e2m3", "e3m2")
PAIRED = ("i8", "i32", "f16", "bf16", "f32", *SMALL_FLOATS)
FUNCTIONS = (
    "exp2", "log2", "exp", "log", "sqrt", "rsqrt", "tanh", "sin", "cos", "erf", "floor", "ceil", "round", "trunc",
)  # fmt: skip


def _conversion(source: str, targets: tuple[str, ...], arch: str = "sm_80") -> Probe:
    """Y_t[i] = convert<t>(X[i]), one element at a time and through registers by twos."""
    lines = "\n".join(f"  Y_{t}[i] = convert<{t}>(X[i]);" for t in targets)
    paired = "\n".join(
        f"  regs<{t}, 2> r_{t}; convert_registers<2>(r_{t}, 0, x, 0); "
        f"Z_{t}[i] = r_{t}[0]; if (i + 1 < n) {{ Z_{t}[i + 1] = r_{t}[1]; }}"
        for t in targets
        if t in PAIRED
    )
    body = f"""
  for (i32 i = thread_id(); i < n; i += 32) {{
{lines}
  }}
  for (i32 i = 2 * thread_id(); i < n; i += 64) {{
  regs<{source}, 2> x;
  x[0] = X[i];
  x[1] = X[min(i + 1, n - 1)];
{paired}
  }}
"""
    pointers = {"X": f"const {source}"}
    for t in targets:
        pointers |= {f"Y_{t}": t} | ({f"Z_{t}": t} if t in PAIRED else {})
    return Probe(body, needs_of(body), pointers, {"n": "i32"}, arch=arch)


def _arithmetic(dtype: str) -> Probe:
    body = f"""
  const i32 i = thread_id();
  const {dtype} a = A[i];
  const {dtype} b = B[i];
  Y[i] = a + b;
  Y[32 + i] = a - b;
  Y[64 + i] = a * b;
  Y[96 + i] = a / b;
  Y[128 + i] = -a;
  Y[160 + i] = min(a, b);
  Y[192 + i] = max(a, b);
  Y[224 + i] = abs(a);
  P[i] = a < b;
  P[32 + i] = a <= b;
  P[64 + i] = a > b;
  P[96 + i] = a >= b;
  P[128 + i] = a == b;
  P[160 + i] = a != b;
"""
    pointers = {"A": f"const {dtype}", "B": f"const {dtype}", "Y": dtype, "P": "bool"}
    return Probe(body, needs_of(body), pointers)


_FUNCTIONS = "\n".join(f"  Y[{32 * i} + i] = {name}(X[i]);" for i, name in enumerate(FUNCTIONS))
_FUNCTION_BODY = f"""
  const i32 i = thread_id();
{_FUNCTIONS}
  Y[{32 * len(FUNCTIONS)} + i] = pow(X[i], 1.5f);
  Y[{32 * len(FUNCTIONS) + 32} + i] = fma(X[i], X[i], 0.25f);
"""

_INTEGER_BODY = """
  const i32 i = thread_id();
  Y[i] = floordiv(A[i], B[i]);
  Y[32 + i] = floormod(A[i], B[i]);
  Y[64 + i] = min(A[i], 3);
  Y[96 + i] = max(A[i], B[i]);
  Y[128 + i] = abs(A[i]);
  Y[160 + i] = (A[i] & 12) | (B[i] << 2);
  Y[192 + i] = A[i] > 0 ? A[i] : 0;
  U[i] = reinterpret<u32>(F[i]);
  F[i] = reinterpret<f32>(U[i] ^ 0x80000000u);
"""

_SHUFFLE_BODY = """
  const i32 t = thread_id();
  const i32 lane = t % 32;
  Y[t] = shuffle(X[t], (lane + 5) % 32);
  Y[64 + t] = shuffle_xor(X[t], 3);
  H[t] = shuffle(G[t], lane / 4 * 4);
  H[64 + t] = shuffle_xor(G[t], 16);
  E[t] = shuffle_xor(D[t], 1);
  E[64 + t] = shuffle(D[t], lane / 2);
  Q[t] = shuffle_xor(P[t], 8);
  Q[64 + t] = shuffle(P[t], 31);
  warp_sync();
  I[t] = warp_uniform(t / 32) * 100 + block_id<0>() * 10 + block_id<1>() + block_count<0>() + block_count<1>() + block_id<2>() + block_count<2>();
  I[64 + t] = shuffle(t, 1);
"""


def _moves(dtype: str, width: int) -> Probe:
    """X to registers to shared memory, across the threads, to registers, to Y; predicated at the end."""
    body = f"""
  shared<{dtype}> S = shared_buffer<{dtype}>(1024, {32 * width});
  const i32 t = thread_id();
  regs<{dtype}, {width + 16}> r;
  load_global<{width}>(r, 16, X, t * {width}, t != 7);
  store_shared<{width}>(S, t * {width}, r, 16);
  barrier();
  regs<{dtype}, {width}> q;
  load_shared<{width}>(q, 0, S, (31 - t) * {width});
  copy_registers<{width}>(r, 0, q, 0);
  gather_registers<{width}, 1>(q, 0, r, 0);
  gather_registers<1, 16>(r, {width} - 1, q, {width} - 1);
  store_global<{width}>(Y, t * {width}, r, 0, t < 30);
  if (t == 31) {{
    load_global<{width}>(q, 0, X, 0);
    store_global<{width}>(Y, t * {width}, q, 0);
  }}
  if (t == 30) {{
    fill_registers<{width}>(q, 0, convert<{dtype}>(1));
    store_global<{width}>(Y, t * {width}, q, 0);
  }}
  barrier();
  if (t == 29) {{
    S[3] = X[1];
    Y[29 * {width}] = S[3];
  }}
"""
    return Probe(body, needs_of(body), {"X": f"const {dtype}", "Y": dtype}, shared_bytes=4096)


MOVES = {
    f"move_{dtype}_{size // bytes}": _moves(dtype, size // bytes)
    for dtype, bytes in (
        ("i8", 1),
        ("u16", 2),
        ("f16", 2),
        ("bf16", 2),
        ("i32", 4),
        ("f32", 4),
        ("f64", 8),
        ("i64", 8),
    )
    for size in (1, 2, 4, 8, 16)
    if size >= bytes
}

SCALAR_PROBES = Probes(
    {
        **{f"convert_{s}": _conversion(s, SCALARS) for s in SCALARS},
        **{f"arithmetic_{d}": _arithmetic(d) for d in ("f16", "bf16", "f32")},
        "functions": Probe(
            _FUNCTION_BODY, needs_of(_FUNCTION_BODY), {"X": "const f32", "Y": "f32"}
        ),
        "integers": Probe(
            _INTEGER_BODY,
            needs_of(_INTEGER_BODY),
            {"A": "const i32", "B": "const i32", "Y": "i32", "U": "u32", "F": "f32"},
        ),
        "shuffles": Probe(
            _SHUFFLE_BODY,
            needs_of(_SHUFFLE_BODY),
            {
                "X": "const f32",
                "Y": "f32",
                "G": "const f16",
                "H": "f16",
                "I": "i32",
                "D": "const f64",
                "E": "f64",
                "P": "const i8",
                "Q": "i8",
            },
            threads=64,
        ),
    }
)
MOVE_PROBES = Probes(MOVES)
SMALL_FLOAT_PROBES = Probes(
    {
        **{f"convert_{s}": _conversion(s, SMALL_FLOATS) for s in ("f16", "bf16", "f32", "i32")},
        **{
            f"convert_{s}": _conversion(s, ("f16", "bf16", "f32", "f64", "i32"))
            for s in SMALL_FLOATS
        },
    }
)
