"""What the front end takes: seconds of the processor from a kernel to its text."""

from __future__ import annotations

import statistics
import time

import pytest

from tests.kernels import programs
from tests.kernels.machines import TARGETS
from tests.kernels.programs import TILES
from tilec.runtime.lowering import lower_program
from tilec.target import find_target

LIMIT = 0.3


@pytest.mark.parametrize("target", TARGETS)
def test_lowering_a_gemm_takes_less_than_a_third_of_a_second(target: str) -> None:
    """The processor's own time, so that a busy machine does not count; after a first run, which
    loads templates and fills tables, the median of three.
    """
    kernel = programs.gemm()
    seconds: list[float] = []
    for stages in (2, 3, 4, 5):
        start = time.process_time()
        constants = TILES[0].constants(stages)
        program = kernel.trace(constants, kernel.const_dims(constants, {}))
        assert "matmul_kernel" in lower_program(program, find_target(target)).text
        seconds.append(time.process_time() - start)
    assert statistics.median(seconds[1:]) <= LIMIT, seconds
