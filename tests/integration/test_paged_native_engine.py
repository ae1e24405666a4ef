"""The whole paged engine on the compiled loops gives what it gives on plain torch."""

import pytest
import torch

from engine.paged import device
from engine.paged.engine import PagedEngine
from engine.paged.native.library import NativeError, library
from tests.fakes.gguf_builder import F16, Q8_0, tiny_llama_gguf
from tests.gpu.paged_runs import open_model, serve

PROMPTS = [[5, 6, 7], [9], list(range(3, 80)), [1]]  # one of several blocks


@pytest.mark.parametrize("ftype", [F16, Q8_0], ids=["F16", "Q8_0"])
@pytest.mark.parametrize(("kv_type", "temperature"), [("f16", 0.0), ("f16", 0.8), ("q8_0", 0.0)])
def test_loops_and_torch_choose_the_same_tokens(tmp_path, monkeypatch, ftype, kv_type, temperature):
    try:
        library()
    except NativeError as error:
        pytest.skip(str(error))
    shape = {"layers": 2, "embd": 128, "heads": 2, "kv_heads": 1, "ff": 64}
    path = tiny_llama_gguf(tmp_path / "small.gguf", ftype=ftype, **shape)
    torch.set_num_threads(1)
    compiled = open_model(path, kv_type)
    monkeypatch.setattr(device, "library", _no_library)
    plain = open_model(path, kv_type)
    assert compiled.back_ends.description == "computed by compiled loops"
    assert plain.back_ends.description == "computed by torch (no compiler)"
    if ftype == F16:  # kept as stored
        assert compiled.decoder.nbytes < 0.6 * plain.decoder.nbytes
    found, wanted = (
        serve(PagedEngine(model), PROMPTS, 30, temperature) for model in (compiled, plain)
    )
    assert found[0] == wanted[0]
    for mine, its in zip(found[1], wanted[1], strict=True):
        assert mine == pytest.approx(its, abs=1e-4)


def _no_library():
    raise NativeError("no compiler")
