"""The whole paged engine on Triton's kernels, on the CPU in Triton's interpreter.

Run it with TRITON_INTERPRET=1, as the integration tests do. Nothing is captured there, but
everything else is what a GPU runs; `test_paged_graphs.py` is for a device.
"""

import os

import pytest
import torch

from engine.paged.engine import PagedEngine
from tests.gpu.paged_runs import ON_TRITON, open_model, serve, small_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") != "1", reason="on a device, bf16 decides near ties"
    ),
]


@pytest.mark.parametrize(("kv_type", "temperature"), [("f16", 0.0), ("q8_0", 0.8)])
def test_kernels_and_twins_choose_the_same_tokens(tmp_path, kv_type, temperature):
    path = small_model(tmp_path)
    torch.set_num_threads(1)
    kernels, twins = open_model(path, kv_type, interpreted=True), open_model(path, kv_type)
    assert kernels.back_ends.description == ON_TRITON
    assert kernels.decoder.nbytes < twins.decoder.nbytes
    assert twins.back_ends.description.startswith("computed by ")
    prompts = [[5, 6, 7], [9], [1]]  # three decode in a bucket of four
    found, wanted = (
        serve(PagedEngine(model, graphs=True), prompts, 3, temperature)
        for model in (kernels, twins)
    )
    assert found[0] == wanted[0]
    for mine, twin in zip(found[1], wanted[1], strict=True):
        assert mine == pytest.approx(twin, abs=1e-3)
