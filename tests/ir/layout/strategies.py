"""Random layouts for hypothesis."""

from __future__ import annotations

import math

from hypothesis import strategies as st

from tilec.ir.layout.register import RegisterLayout
from tilec.ir.layout.shared import SharedLayout
from tilec.ir.layout.swizzle import Swizzle


@st.composite
def register_layouts(
    draw: st.DrawFn,
    extents: tuple[int, ...] = (1, 2, 3, 4, 5),
    max_rank: int = 3,
    max_modes: int = 3,
    limit: int = 512,
) -> RegisterLayout:
    """A register layout with random factors in random order, some replicated."""
    modes: list[tuple[int, ...]] = []
    room = limit
    for _ in range(draw(st.integers(1, max_rank))):
        dim = []
        for _ in range(draw(st.integers(0, max_modes))):
            extent = draw(st.sampled_from(extents))
            if extent <= room:
                dim.append(extent)
                room //= extent
        modes.append(tuple(dim))
    count = sum(len(dim) for dim in modes)
    order = draw(st.permutations(range(count)))
    cut = draw(st.integers(0, count))
    thread = list(order[:cut])
    for _ in range(draw(st.integers(0, 2))):
        thread.insert(draw(st.integers(0, len(thread))), -draw(st.sampled_from((2, 4))))
    shape = tuple(math.prod(dim) for dim in modes)
    return RegisterLayout(shape, tuple(modes), tuple(thread), tuple(order[cut:]))


@st.composite
def shared_layouts(draw: st.DrawFn, swizzles: bool = True) -> SharedLayout:
    """A shared layout that is dense or padded, its modes in random order, perhaps swizzled."""
    modes = [
        tuple(draw(st.lists(st.sampled_from((1, 2, 3, 4, 8)), max_size=3)))
        for _ in range(draw(st.integers(1, 3)))
    ]
    names = [(d, k) for d, dim in enumerate(modes) for k in range(len(dim))]
    stride = 1
    strides = {}
    for d, k in draw(st.permutations(names)):
        strides[d, k] = stride
        stride = stride * modes[d][k] + draw(st.sampled_from((0, 0, 0, 1, 8)))
    swizzle = Swizzle.none()
    if swizzles and draw(st.booleans()):
        bits = draw(st.integers(1, 3))
        swizzle = Swizzle(bits, draw(st.integers(0, 3)), draw(st.integers(bits, 4)))
    return SharedLayout(
        tuple(math.prod(dim) for dim in modes),
        tuple(modes),
        tuple(tuple(strides[d, k] for k in range(len(dim))) for d, dim in enumerate(modes)),
        swizzle,
    )
