"""Every tensor type that the paged engine reads, bit for bit against the `gguf` package."""

import gguf
import numpy as np
import pytest
import torch

from engine.errors import ModelFormatError
from engine.gguf.types import BLOCKS, GGMLType
from engine.paged.weights.dequant import check_supported, dequantize, dequantize_into

# where a block keeps its float16 scales, which must be finite to be compared
HALVES = {
    "Q8_0": (0,), "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "IQ4_NL": (0,),
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
    "IQ4_XS": (0,),
}  # fmt: skip


def random_blocks(name, count, seed=0):
    """`count` blocks of random bytes with finite scales, subnormal ones and zero among them."""
    rng = np.random.default_rng(seed)
    size = BLOCKS[GGMLType[name]][1]
    if name in ("F32", "F16", "BF16"):
        values = rng.standard_normal(count).astype(np.float32)
        kind = gguf.GGMLQuantizationType[name]
        return gguf.quantize(values.reshape(1, -1), kind).reshape(-1).view(np.uint8)
    raw = rng.integers(0, 256, (count, size), dtype=np.uint8)
    for offset in HALVES[name]:
        scales = (rng.standard_normal(count) * 10.0 ** rng.integers(-7, 3, count)).astype("<f2")
        scales[:2] = 0.0
        raw[:, offset : offset + 2] = scales.view(np.uint8).reshape(count, 2)
    return raw.reshape(-1)


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", *HALVES])
def test_numbers_are_those_of_the_reference(name):
    raw = random_blocks(name, 257)
    expected = gguf.dequantize(raw.reshape(1, -1), gguf.GGMLQuantizationType[name]).reshape(-1)
    found = dequantize(torch.from_numpy(raw), GGMLType[name]).numpy()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.view(np.int32), expected.view(np.int32))


def test_large_tensors_are_decoded_in_pieces():
    raw = torch.from_numpy(random_blocks("Q4_K", (1 << 14) + 5))  # a little over 4 Mi elements
    out = torch.empty((1 << 14) + 5, 256, dtype=torch.bfloat16)
    dequantize_into(out, raw, GGMLType.Q4_K)
    assert torch.equal(out.view(-1), dequantize(raw, GGMLType.Q4_K).bfloat16())


def test_an_unknown_type_is_refused_with_what_is_allowed():
    with pytest.raises(ModelFormatError, match=r"'a' has the type IQ1_S; this engine reads .*Q4_K"):
        check_supported(GGMLType.IQ1_S, "a")
