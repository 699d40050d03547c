"""The HIP prelude as clang compiles it for each machine: what its names become."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest

from tests.backends.hip.gemm_gfx942 import gemm_frame
from tilec.backends.prelude import (
    FrameParameter,
    KernelFrame,
    Need,
    prelude_names,
    render_kernel,
    render_prelude,
)
from tilec.runtime.amd_isa import KernelIsa
from tilec.runtime.clang import Assembled, find_amd_clang
from tilec.target import find_target

pytestmark = pytest.mark.hip
ARCHES = ("gfx90a", "gfx942", "gfx950")


def assemble(frame: KernelFrame, arch: str = "gfx942") -> Assembled:
    return find_amd_clang(arch).assemble(render_kernel("hip", frame), f"{frame.name}.hip", arch)


def probe(body: str, *needs: str | Need, dtype: str = "f32", arch: str = "gfx942") -> KernelIsa:
    """A kernel of one wave with pointers P (read) and Q (written) of `dtype`, integers m and n."""
    frame = KernelFrame(
        name="probe",
        parameters=(
            FrameParameter("pointer", "P", dtype, const=True),
            FrameParameter("pointer", "Q", dtype),
            FrameParameter("symbol", "n"),
            FrameParameter("scalar", "m", "i32"),
        ),
        threads=64,
        shared_bytes=8192,
        body=body,
        needs=(Need("thread_id"), *(n if isinstance(n, Need) else Need(n) for n in needs)),
    )
    assembled = assemble(frame, arch)
    assert "warning" not in assembled.log
    return assembled.kernel("probe")


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("dtype", ["f16", "bf16"])
@pytest.mark.parametrize(("edge", "matrix"), [(32, 16), (16, 32)])
def test_gemm_compiles_to_what_it_says(arch: str, dtype: str, edge: int, matrix: int) -> None:
    assembled = assemble(gemm_frame(dtype, edge), arch)
    assert "warning" not in assembled.log
    isa = assembled.kernel(f"gemm_{dtype}_{edge}")
    assert (isa.vgpr_spills, isa.sgpr_spills, isa.scratch) == (0, 0, 0)
    assert isa.count("scratch_") == isa.count("flat_") == isa.count("global_") == 0
    shape = "32x32x8" if edge == 32 else "16x16x16"
    suffix = {"f16": "f16", "bf16": "bf16_1k"}[dtype] if arch == "gfx90a" else f"_{dtype}"
    spelling = f"v_mfma_f32_{shape}{suffix}"
    assert isa.counts[spelling] == isa.count("v_mfma") == matrix
    # The first tile and the next one; every fragment of a step.
    assert isa.counts["buffer_load_dwordx4"] == isa.count("buffer_load") == 8
    assert isa.counts["ds_write_b128"] == isa.count("ds_write") == 8
    assert isa.counts["ds_read_b128"] == isa.count("ds_read") == 8
    assert isa.counts["s_barrier"] == 2
    store = "buffer_store_dwordx2" if edge == 32 else "buffer_store_short"
    assert isa.counts[store] == isa.count("buffer_store") == (16 if edge == 32 else 64)
    assert isa.vgprs + isa.agprs <= 168 and isa.occupancy(256, 32768) >= 2


def test_gemm_loop_is_free_of_register_moves_and_keeps_loads_in_flight() -> None:
    text = assemble(gemm_frame("f16", 32)).assembly
    loop = max(re.split(r"^\.LBB\w+:", text, flags=re.M), key=lambda part: part.count("v_mfma"))
    lines = [line.split() for line in loop.splitlines() if re.match(r"^\t[a-z]", line)]
    names = [line[0] for line in lines]
    assert names.count("v_mfma_f32_32x32x8_f16") == 16
    assert not [n for n in names if n.startswith(("v_accvgpr", "v_mov", "scratch"))]
    # The loads of the next tile are issued before the matrix instructions, and waited for after
    # them.
    loads = [i for i, n in enumerate(names) if n == "buffer_load_dwordx4"]
    matrix = [i for i, n in enumerate(names) if n.startswith("v_mfma")]
    waits = [i for i, line in enumerate(lines) if line[0] == "s_waitcnt" and "vmcnt" in line[1]]
    assert len(loads) == 4 and max(loads) < min(matrix) and min(waits) > max(matrix) - 1
    barrier = names.index("s_barrier")
    assert lines[barrier - 1] == ["s_waitcnt", "lgkmcnt(0)"]
    # set_priority stays around the matrix instructions that it is about.
    priority = [int(line[1]) for line in lines if line[0] == "s_setprio"]
    assert priority == [1, 0, 1, 0]
    raised = False
    for line in lines:
        raised = line[1] == "1" if line[0] == "s_setprio" else raised
        assert raised or not line[0].startswith("v_mfma")


@pytest.mark.parametrize(
    ("dtype", "count", "suffix"),
    [
        ("f16", 8, "dwordx4"), ("f16", 4, "dwordx2"), ("bf16", 2, "dword"), ("f16", 1, "short"),
        ("i8", 16, "dwordx4"), ("u8", 1, "byte"), ("f32", 4, "dwordx4"), ("f64", 2, "dwordx4"),
        ("i64", 1, "dwordx2"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("space", ["global", "buffer"])
def test_memory_accesses_are_one_instruction(
    dtype: str, count: int, suffix: str, space: str
) -> None:
    at = f"thread_id() * {count}"
    if space == "global":
        body = f"load_global<{count}>(r, 0, P, {at});\nstore_global<{count}>(Q, {at}, r, 0);"
        needs = ("regs", "load_global", "store_global")
    else:
        body = f"""buffer<{dtype}> B = make_buffer(P, n);
        buffer<{dtype}> C = make_buffer(Q, n);
        buffer_load<{count}>(r, 0, B, {at}, m > 3);
        buffer_store<{count}>(C, {at}, r, 0, m > 4);"""
        needs = ("regs", "make_buffer", "buffer_load", "buffer_store")
    isa = probe(f"regs<{dtype}, {count}> r;\n{body}", dtype, *needs, dtype=dtype)
    load = {"short": "ushort", "byte": "ubyte"}.get(suffix, suffix)
    assert isa.counts[f"{space}_load_{load}"] == isa.count(f"{space}_load") == 1
    assert isa.counts[f"{space}_store_{suffix}"] == isa.count(f"{space}_store") == 1
    assert isa.count("flat_") == isa.count("scratch_") == 0
    if space == "buffer":
        assert not any(line.startswith("s_cbranch") for line in isa.instructions)


def test_predicated_global_accesses_do_not_happen() -> None:
    body = """regs<f32, 4> r;
    load_global<4>(r, 0, P, thread_id() * 4, thread_id() < n);
    store_global<4>(Q, thread_id() * 4, r, 0, thread_id() < m);"""
    isa = probe(body, "regs", "load_global", "store_global")
    assert isa.counts["global_load_dwordx4"] == isa.counts["global_store_dwordx4"] == 1
    masks = [i for i, line in enumerate(isa.instructions) if line.startswith("s_and_saveexec")]
    accesses = [i for i, line in enumerate(isa.instructions) if line.startswith("global_")]
    assert masks[0] < accesses[0] < masks[-1] < accesses[1]


@pytest.mark.parametrize(
    ("dtype", "count", "bits"), [("f16", 8, "b128"), ("f32", 2, "b64"), ("f16", 2, "b32")]
)
def test_shared_accesses(dtype: str, count: int, bits: str) -> None:
    body = f"""regs<{dtype}, {count}> r;
    shared<{dtype}> s = shared_buffer<{dtype}>(1024, 1024);
    load_global<{count}>(r, 0, P, thread_id() * {count});
    store_shared<{count}>(s, thread_id() * {count}, r, 0);
    barrier();
    load_shared<{count}>(r, 0, s, (63 - thread_id()) * {count});
    store_global<{count}>(Q, thread_id() * {count}, r, 0);"""
    names = ("shared_buffer", "load_global", "store_global", "load_shared", "store_shared")
    isa = probe(body, dtype, "barrier", *names, dtype=dtype)
    assert isa.counts[f"ds_write_{bits}"] == isa.count("ds_write") == 1
    assert isa.counts[f"ds_read_{bits}"] == isa.count("ds_read") == 1


def test_barrier_lets_global_loads_fly() -> None:
    body = """regs<f32, 1> r;
    load_global<1>(r, 0, P, thread_id());
    barrier();
    store_global<1>(Q, thread_id(), r, 0);"""
    lines = probe(body, "regs", "barrier", "load_global", "store_global").instructions
    load = next(i for i, line in enumerate(lines) if line.startswith("global_load"))
    barrier = lines.index("s_barrier")
    assert load < barrier
    assert lines[barrier - 1] == "s_waitcnt lgkmcnt(0)"
    assert not any("vmcnt" in line for line in lines[load:barrier])
    assert any("vmcnt(0)" in line for line in lines[barrier:])


@pytest.mark.parametrize(
    ("call", "mnemonic", "operand"),
    [
        ("shuffle(x, n)", "ds_bpermute_b32", ""),
        ("shuffle_xor(x, n)", "ds_bpermute_b32", ""),
        ("shuffle_xor(x, 1)", "v_", "quad_perm:[1,0,3,2]"),
        ("shuffle_xor(x, 2)", "v_", "quad_perm:[2,3,0,1]"),
        ("shuffle_xor(x, 3)", "v_", "quad_perm:[3,2,1,0]"),
        ("shuffle_xor(x, 4)", "ds_swizzle_b32", "swizzle(SWAP,4)"),
        ("shuffle_xor(x, 8)", "v_", "row_ror:8"),
        ("shuffle_xor(x, 16)", "ds_swizzle_b32", "swizzle(SWAP,16)"),
        ("shuffle_xor(x, 32)", "ds_bpermute_b32", ""),
    ],
)
@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_shuffles(call: str, mnemonic: str, operand: str, dtype: str) -> None:
    body = f"const {dtype} x = P[thread_id()];\nQ[thread_id()] = {call};"
    isa = probe(body, dtype, call.split("(")[0], dtype=dtype)
    hits = [i for i in isa.instructions if i.startswith(mnemonic) and operand in i]
    assert len(hits) == 1
    exchanges = isa.count("ds_") + sum("quad_perm" in i or "row_ror" in i for i in isa.instructions)
    assert exchanges == 1


def test_named_instructions() -> None:
    isa = probe(
        """set_priority<2>();
        warp_sync();
        Q[warp_uniform(thread_id() / 3) + block_id<1>()] = exp2(P[0]) + rsqrt(P[1]) + sqrt(P[n]);
        Q[n] = fma(P[3], P[4], round(P[5])) + max(P[6], floor(P[7])) + abs(P[8]);""",
        "set_priority", "warp_sync", "warp_uniform", "block_id", "exp2", "rsqrt", "sqrt", "fma",
        "round", "max", "floor", "abs",
    )  # fmt: skip
    assert "s_setprio 2" in isa.instructions
    for mnemonic in ("v_readfirstlane", "v_exp_f32", "v_rsq_f32", "v_rndne_f32", "v_floor_f32"):
        assert isa.count(mnemonic) == 1, mnemonic
    assert isa.count("v_sqrt_f32") == 1


def test_half_arithmetic_is_not_fused_and_float_arithmetic_is() -> None:
    body = """const {t} x = P[thread_id()];
    Q[thread_id()] = x * P[n + thread_id()] + P[m + thread_id()];"""
    half = probe(body.format(t="f16"), "f16", dtype="f16")
    assert half.count("v_mul_f16") == half.count("v_add_f16") == 1
    assert half.count("v_fma") == half.count("v_pk_fma") == half.count("v_mad") == 0
    single = probe(body.format(t="f32"))
    assert single.count("v_fma") == 1 and single.count("v_mul") == single.count("v_add_f32") == 0


def test_conversion_rounds_to_nearest_even() -> None:
    body = """regs<f32, 2> x; regs<f16, 2> y;
    load_global<2>(x, 0, P, thread_id() * 2);
    convert_registers<2>(y, 0, x, 0);
    Q[thread_id()] = reinterpret<f32>(n) + convert<f32>(y[0]) + convert<f32>(y[1]);"""
    isa = probe(body, "f16", "load_global", "convert_registers", "reinterpret", "convert")
    assert isa.count("v_cvt_f16_f32") == 2
    assert isa.count("v_cvt_pkrtz") == 0


def spellings(shape: str, operand: str, old: str = "") -> dict[str, str]:
    """What an instruction of CDNA2 is called on each machine; `old` by the first, "" if not so."""
    later = f"v_mfma_{shape}_{operand}"
    old = old and f"v_mfma_{shape}{old}"
    return {"gfx90a": old or later, "gfx942": later, "gfx950": later}


def only(spelling: str, *arches: str) -> dict[str, str]:
    return {arch: f"v_mfma_{spelling}" for arch in arches}


Key = tuple[Any, ...]
LATER = ("gfx942", "gfx950")
FLOATS = (
    "e4m3",
    "e5m2",
    "e2m3",
    "e3m2",
)  # that f8f6f4 multiplies with each other, and without scales
SHAPES: list[tuple[Key, dict[str, str]]] = [
    ((32, 32, 8, "f32", "f16"), spellings("f32_32x32x8", "f16", "f16")),
    ((16, 16, 16, "f32", "f16"), spellings("f32_16x16x16", "f16", "f16")),
    ((32, 32, 8, "f32", "bf16"), spellings("f32_32x32x8", "bf16", "bf16_1k")),
    ((16, 16, 16, "f32", "bf16"), spellings("f32_16x16x16", "bf16", "bf16_1k")),
    ((32, 32, 2, "f32", "f32"), spellings("f32_32x32x2", "f32", "f32")),
    ((16, 16, 4, "f32", "f32"), spellings("f32_16x16x4", "f32", "f32")),
    ((16, 16, 4, "f64", "f64"), spellings("f64_16x16x4", "f64", "f64")),
    ((32, 32, 8, "i32", "i8"), only("i32_32x32x8i8", "gfx90a")),
    ((16, 16, 16, "i32", "i8"), only("i32_16x16x16i8", "gfx90a")),
    ((32, 32, 16, "i32", "i8"), only("i32_32x32x16_i8", *LATER)),
    ((16, 16, 32, "i32", "i8"), only("i32_16x16x32_i8", *LATER)),
    ((32, 32, 4, "f32", "tf32"), only("f32_32x32x4_xf32", "gfx942")),
    ((16, 16, 8, "f32", "tf32"), only("f32_16x16x8_xf32", "gfx942")),
    ((32, 32, 16, "f32", "f16"), only("f32_32x32x16_f16", "gfx950")),
    ((16, 16, 32, "f32", "f16"), only("f32_16x16x32_f16", "gfx950")),
    ((32, 32, 16, "f32", "bf16"), only("f32_32x32x16_bf16", "gfx950")),
    ((16, 16, 32, "f32", "bf16"), only("f32_16x16x32_bf16", "gfx950")),
    ((32, 32, 32, "i32", "i8"), only("i32_32x32x32_i8", "gfx950")),
    ((16, 16, 64, "i32", "i8"), only("i32_16x16x64_i8", "gfx950")),
    ((32, 32, 16, "f32", "e4m3"), only("f32_32x32x16_fp8_fp8", "gfx950")),
    ((16, 16, 32, "f32", "e4m3"), only("f32_16x16x32_fp8_fp8", "gfx950")),
    ((32, 32, 16, "f32", "e5m2"), only("f32_32x32x16_bf8_bf8", "gfx950")),
    ((16, 16, 32, "f32", "e5m2"), only("f32_16x16x32_bf8_bf8", "gfx950")),
    ((32, 32, 16, "f32", "e4m3fnuz"), only("f32_32x32x16_fp8_fp8", "gfx942")),
    ((16, 16, 32, "f32", "e4m3fnuz"), only("f32_16x16x32_fp8_fp8", "gfx942")),
    ((32, 32, 16, "f32", "e5m2fnuz"), only("f32_32x32x16_bf8_bf8", "gfx942")),
    ((16, 16, 32, "f32", "e5m2fnuz"), only("f32_16x16x32_bf8_bf8", "gfx942")),
    *(
        ((m, m, k, "f32", *dtypes), only(f"f32_{m}x{m}x{k}_{names}", arch))
        for m, k in ((32, 16), (16, 32))
        for arch, dtypes, names in (
            ("gfx950", ("e4m3", "e5m2"), "fp8_bf8"), ("gfx950", ("e5m2", "e4m3"), "bf8_fp8"),
            ("gfx942", ("e4m3fnuz", "e5m2fnuz"), "fp8_bf8"),
            ("gfx942", ("e5m2fnuz", "e4m3fnuz"), "bf8_fp8"),
        )
    ),
    *(
        ((m, m, k, "f32", *dtypes), only(f"f32_{m}x{m}x{k}_f8f6f4", "gfx950"))
        for m, k in ((32, 64), (16, 128))
        for left, right in itertools.product(FLOATS, FLOATS)
        for dtypes in (tuple(dict.fromkeys((left, right))),)
    ),
]  # fmt: skip


@pytest.mark.parametrize("arch", ARCHES)
def test_the_shapes_here_are_those_of_the_target(arch: str) -> None:
    table = {
        (i.m, i.n, i.k, i.accumulator, *dict.fromkeys(i.operands))
        for i in find_target(f"hip:{arch}").matrix
        if "e2m1" not in i.operands  # only with scales
    }
    assert table == {key for key, spelled in SHAPES if arch in spelled}


@pytest.mark.parametrize(("key", "spelled"), SHAPES)
def test_every_mfma_is_its_instruction(key: Key, spelled: dict[str, str]) -> None:
    m, n, k, accumulator, operand = key[:5]
    right = key[-1]
    count = m * k // 64
    body = f"""regs<{operand}, {count}> a; regs<{right}, {count}> b;
    regs<{accumulator}, {m * n // 64}> d;
    fill_registers<{m * n // 64}>(d, 0, convert<{accumulator}>(n));
    #pragma unroll
    for (i32 e = 0; e < {count}; ++e) {{
      a[e] = P[thread_id() + e * 64];
      b[e] = reinterpret<{right}>(P[n + thread_id() + e * 64]);
    }}
    mfma<{m}, {n}, {k}>(d, 0, a, 0, b, 0);
    {accumulator} sum = convert<{accumulator}>(0);
    #pragma unroll
    for (i32 r = 0; r < {m * n // 64}; ++r) sum = sum + d[r];
    Q[thread_id()] = convert<{operand}>(sum);"""
    for arch, mnemonic in spelled.items():
        isa = probe(
            body, operand, right, accumulator, "regs", "fill_registers", "convert", "reinterpret",
            Need("mfma", key),
            dtype=operand, arch=arch,
        )  # fmt: skip
        assert isa.counts[mnemonic] == isa.count("v_mfma") == 1
        assert isa.count("scratch_") == 0


# Of f8f6f4: how a lane holds elements, in how many bytes; how many registers it takes, what cbsz or blgp says.
FORMATS = {
    "e4m3": ("e4m3", 32, 8, 0), "e5m2": ("e5m2", 32, 8, 1), "e2m3": ("e2m3", 32, 6, 2),
    "e3m2": ("e3m2", 32, 6, 3), "e2m1": ("e2m1x2", 16, 4, 4),
}  # fmt: skip


@pytest.mark.parametrize(("m", "k"), [(32, 64), (16, 128)])
def test_every_product_with_scales_is_its_instruction(m: int, k: int) -> None:
    """Of each pair of formats, in registers as many as an element has bits."""
    pairs = {i.operands for i in find_target("hip:gfx950").matrix if i.scaled and i.m == m}
    assert pairs == set(itertools.product(FORMATS, FORMATS))
    for left, right in sorted(pairs):
        (a, held, a_words, cbsz), (b, b_held, b_words, blgp) = FORMATS[left], FORMATS[right]
        text = f"""regs<{a}, {held}> a; regs<{b}, {b_held}> b;
        regs<u8, 2> s; regs<f32, {m * m // 64}> d;
        fill_registers<{m * m // 64}>(d, 0, convert<f32>(n));
        #pragma unroll
        for (i32 e = 0; e < {held}; ++e) a[e] = reinterpret<{a}>(P[thread_id() + e * 64]);
        #pragma unroll
        for (i32 e = 0; e < {b_held}; ++e) b[e] = reinterpret<{b}>(P[n + thread_id() + e * 64]);
        s[0] = P[m + thread_id()];
        s[1] = P[2 * m + thread_id()];
        mfma_scaled<{m}, {m}, {k}>(d, 0, a, 0, b, 0, s, 0, s, 1);
        f32 sum = convert<f32>(0);
        #pragma unroll
        for (i32 r = 0; r < {m * m // 64}; ++r) sum = sum + d[r];
        Q[thread_id()] = convert<u8>(sum);"""
        isa = probe(
            text, a, b, "u8", "f32", "regs", "fill_registers", "convert", "reinterpret",
            Need("mfma_scaled", (m, m, k, "f32", a, b)), dtype="u8", arch="gfx950",
        )  # fmt: skip
        (line,) = [x for x in isa.instructions if x.startswith("v_mfma")]
        found = re.fullmatch(
            rf"v_mfma_scale_f32_{m}x{m}x{k}_f8f6f4 [av]\S+ v\[(\d+):(\d+)\], v\[(\d+):(\d+)\],.*",
            line,
        )
        assert found is not None, line
        ends = [int(x) for x in found.groups()]
        assert (ends[1] - ends[0] + 1, ends[3] - ends[2] + 1) == (a_words, b_words)
        codes = [re.search(rf"{name}:(\d)", line) for name in ("cbsz", "blgp")]
        assert [int(c[1]) if c else 0 for c in codes] == [cbsz, blgp]
        assert isa.count("scratch_") == 0


LATE = ("load_transposed",)
"""What only a compiler of gfx950 knows."""


def test_a_shape_that_does_not_exist_is_refused() -> None:
    with pytest.raises(Exception, match="64, 64"):
        probe("", Need("mfma", (64, 64, 4, "f32", "f16")))


def test_every_name_brings_what_it_requires() -> None:
    parts = [
        f"namespace alone_{name} {{\n{render_prelude('hip', [Need(name)])}}}\n"
        for name in prelude_names("hip")
        if name not in ("mfma", *LATE)
    ]
    parts.append(
        f"namespace alone_mfma {{\n{render_prelude('hip', [Need('mfma', SHAPES[0][0])])}}}\n"
    )
    parts.append('extern "C" __attribute__((global)) void nothing() {}\n')
    assembled = find_amd_clang().assemble("".join(parts), "alone.hip", "gfx942")
    assert "warning" not in assembled.log


def test_only_what_is_needed_is_printed() -> None:
    text = render_prelude("hip", [Need("load_shared"), Need("f16")])
    assert "struct f16" in text and "load_shared" in text
    for absent in ("bf16", "mfma", "buffer", "store_shared", "shuffle", "#include", "tanh"):
        assert absent not in text
    assert text == render_prelude("hip", [Need("f16"), Need("load_shared"), Need("f16")])
    for unknown in ("named_barrier", "cp_async", "wgmma_ss", "tma_load"):
        with pytest.raises(KeyError, match=unknown):
            render_prelude("hip", [Need(unknown)])


@pytest.mark.parametrize("arch", ARCHES)
def test_clang_has_instructions_for_every_conversion(arch: str) -> None:
    types = (
        "bool",
        "i8",
        "u8",
        "i16",
        "u16",
        "i32",
        "u32",
        "i64",
        "u64",
        "f16",
        "bf16",
        "f32",
        "f64",
    )
    given = {source: f"convert<{source}>(P[t])" for source in types} | {"bool": "(P[t] > 0.5f)"}
    pairs = [(to, source) for to in types[1:] for source in types if to != source]
    body = "  const i32 t = thread_id();\n" + "".join(
        f"  reinterpret_cast<{to}*>(Q)[{512 * i} + t] = convert<{to}>({given[source]});\n"
        for i, (to, source) in enumerate(pairs)
    )
    probe(body, "convert", *types[1:], arch=arch)


@pytest.mark.parametrize("arch", ARCHES)
def test_the_whole_prelude_compiles_without_a_warning(arch: str) -> None:
    known = set(prelude_names("hip")) - {"mfma", *(() if arch == "gfx950" else LATE)}
    names = [Need(name) for name in prelude_names("hip") if name in known]
    matrix = [Need("mfma", key) for key, spelled in SHAPES if arch in spelled]
    frame = KernelFrame("nothing", (), 64, 0, "  return;", (*names, *matrix))
    assembled = assemble(frame, arch)
    assert "warning" not in assembled.log
    assert assembled.kernel("nothing").instructions[-1] == "s_endpgm"
