"""Kernels compile, without a GPU, for each one we support, within the shared memory it has.

This is a choice that takes a minute; `pytest tests/gpu/test_paged_targets.py` compiles every kernel
at every size for every target in bf16 and fp16, which takes some ten.
"""

import functools
import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from engine.gguf.types import GGMLType
from engine.paged.attention.torch_paged import TorchPaged
from engine.paged.device import find_back_ends
from engine.paged.kernels import jit
from tests.fakes import kernel_launches as launches
from tests.fakes.triton_driver import SHARED_LIMIT_KB, compile_only

EVERYWHERE = {
    "largest heads": functools.partial(launches.launch_attention, torch.bfloat16, 256),
    "int8 cache": functools.partial(launches.launch_attention, torch.float16, 96, True, 7),
    "store": functools.partial(launches.launch_store, torch.bfloat16, 80, True),
    "ops": functools.partial(launches.launch_ops, torch.bfloat16),
    "sampling": launches.launch_sampling,
    "Q4_K": functools.partial(launches.launch_projection, torch.bfloat16, GGMLType.Q4_K),
}
# The same kernel with other constants: each type on one target of each size of shared memory.
SOMEWHERE = [
    (GGMLType.Q8_0, (86, 90)),
    (GGMLType.Q4_0, (80, 120)),
    (GGMLType.Q6_K, (87, 89)),
]
compiled = {capability: set() for capability in SHARED_LIMIT_KB}


@pytest.mark.parametrize("launch", EVERYWHERE.values(), ids=EVERYWHERE)
@pytest.mark.parametrize("capability", SHARED_LIMIT_KB)
def test_kernels_compile_everywhere(capability, launch):
    check(capability, launch)


@pytest.mark.parametrize(
    ("capability", "kind"), [(target, kind) for kind, targets in SOMEWHERE for target in targets]
)
def test_projections_of_every_type_compile(capability, kind):
    check(capability, functools.partial(launches.launch_projection, torch.float16, kind))


@pytest.mark.parametrize("capability", SHARED_LIMIT_KB)
def test_no_kernel_is_left_out(capability):
    """Every kernel that any module launches was compiled by the tests above, for each target."""
    if not compiled[capability]:
        pytest.skip("the tests above were not chosen")
    launched = set()
    for file in Path(jit.__file__).parent.glob("*.py"):
        launched |= set(re.findall(r"^ +(_[a-z_]+)\[\(?", file.read_text(), re.MULTILINE))
    assert {"_decode", "_merge", "_prefill", "_store", "_rms_norm", "_matmul"} <= launched
    assert compiled[capability] == launched


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
        compiled[capability].add(kernel.name)
        print(f"sm_{capability} {kernel.name:18} {kernel.shared / 1024:6.1f} KB")
        assert kernel.shared <= SHARED_LIMIT_KB[capability] * 1024
