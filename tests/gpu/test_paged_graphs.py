"""What only a device shows of the paged engine: captured graphs, and its memory."""

import pytest
import torch

from engine.paged.engine import PagedEngine
from tests.gpu.paged_runs import ON_TRITON, open_model, serve, small_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible"),
]


@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
def test_replayed_steps_give_the_tokens_of_launched_ones(tmp_path, kv_type):
    model = open_model(small_model(tmp_path), kv_type)
    assert model.back_ends.description == ON_TRITON
    assert model.back_ends.has_graphs
    prompts = [[5, 6, 7], [9], [1] * 40]
    for prompt in prompts:  # one sequence: its bucket holds no padding, so the bits are the same
        captured, eager = (serve(PagedEngine(model, graphs=g), [prompt], 40) for g in (True, False))
        assert captured == eager
    together = serve(PagedEngine(model), prompts * 6, 40)[0]
    assert [len(tokens) for tokens in together] == [40] * 18


def test_unloading_returns_the_memory(tmp_path):
    path = small_model(tmp_path)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    model = open_model(path)
    engine = PagedEngine(model)
    engine.self_test()
    assert torch.cuda.memory_allocated() - before >= model.budget.total_bytes
    engine.close()
    del engine, model
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() - before < 1 << 24  # what cuBLAS keeps for itself
