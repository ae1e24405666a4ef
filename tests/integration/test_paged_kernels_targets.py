"""Kernels compile, without a GPU, for each one we support, within the shared memory it has.

This is a choice that takes half a minute; `pytest tests/gpu/test_paged_targets.py` compiles every
kernel for every target in bf16 and fp16, which takes some ten.
"""

import functools

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from engine.gguf.types import GGMLType
from engine.paged.attention.torch_paged import TorchPaged
from engine.paged.device import find_back_ends
from tests.fakes import kernel_launches as launches
from tests.fakes.triton_driver import SHARED_LIMIT_KB, compile_only

DECISIVE = {
    "largest heads": functools.partial(launches.launch_attention, torch.bfloat16, 256),
    "int8 cache": functools.partial(launches.launch_attention, torch.float16, 96, True, 7),
    "Q4_K": functools.partial(launches.launch_projection, torch.bfloat16, GGMLType.Q4_K),
}
THE_REST = {
    "store": functools.partial(launches.launch_store, torch.bfloat16, 80, True),
    "ops": functools.partial(launches.launch_ops, torch.bfloat16),
    "sampling": launches.launch_sampling,
    "Q6_K": functools.partial(launches.launch_projection, torch.float16, GGMLType.Q6_K),
}


@pytest.mark.parametrize("launch", DECISIVE.values(), ids=DECISIVE)
@pytest.mark.parametrize("capability", SHARED_LIMIT_KB)
def test_decisive_kernels_compile_everywhere(capability, launch):
    check(capability, launch)


@pytest.mark.parametrize("launch", THE_REST.values(), ids=THE_REST)
def test_other_kernels_compile_for_the_smallest_board(launch):
    check(87, launch)


def test_too_much_shared_memory_is_noticed():
    from triton.runtime.errors import OutOfResources

    with compile_only(86, shared_limit_kb=16) as driver, pytest.raises(OutOfResources):
        launches.launch_attention(torch.bfloat16, 128)
    assert driver.built == []


@pytest.mark.parametrize(
    ("dtype", "reason"),
    [(torch.float32, "its kernels disagree with "), (torch.complex64, "KeyError: ")],
)
def test_kernels_that_compute_nothing_or_fail_cost_speed_not_the_engine(dtype, reason):
    with compile_only(86):  # launches compile, and write nothing
        found = find_back_ends(torch.device("cpu"), dtype, 64, interpreted=True)
    assert isinstance(found.attention, TorchPaged)
    assert (found.num_sms, found.has_graphs) == (0, False)
    assert found.description.startswith(f"attention by torch ({reason}")


def check(capability, launch):
    with compile_only(capability) as driver:
        launch()
    for kernel in driver.built:
        print(f"sm_{capability} {kernel.name:18} {kernel.shared / 1024:6.1f} KB")
        assert kernel.shared <= SHARED_LIMIT_KB[capability] * 1024
