"""Every kernel for every supported GPU in bf16 and fp16: needs no device, but some ten minutes."""

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from tests.fakes.kernel_launches import launch_all
from tests.fakes.triton_driver import SHARED_LIMIT_KB, compile_only


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("capability", SHARED_LIMIT_KB)
def test_every_kernel_compiles(capability, dtype):
    with compile_only(capability) as driver:
        launch_all(dtype)
    for kernel in driver.built:
        print(f"sm_{capability} {dtype} {kernel.name:18} {kernel.shared / 1024:6.1f} KB")
        assert kernel.shared <= SHARED_LIMIT_KB[capability] * 1024
