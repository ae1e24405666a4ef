"""Files that are cut short and memory that runs out while weights load: errors, never a signal."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine.errors import ModelFormatError
from engine.gguf import read_header
from engine.paged.arch import arch_spec
from engine.paged.weights.load import load_weights
from tests.fakes.gguf_builder import Tensor, build_gguf, tiny_llama_gguf

REPOSITORY = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")


@pytest.mark.parametrize("cut", [1, 50_000])
def test_a_file_cut_short_after_its_header_was_read_is_an_error(tmp_path, cut):
    path = tiny_llama_gguf(tmp_path / "tiny.gguf")
    header = read_header(path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - cut)
    with pytest.raises(ModelFormatError, match="pull the model again"):
        load_weights(path, header, arch_spec(header), CPU, torch.float32)


def test_a_file_that_went_away_is_an_error(tmp_path):
    path = tiny_llama_gguf(tmp_path / "tiny.gguf")
    header = read_header(path)
    path.unlink()
    with pytest.raises(ModelFormatError, match="cannot be read: No such file"):
        load_weights(path, header, arch_spec(header), CPU, torch.float32)


LOAD_WITH_LITTLE_MEMORY = """
import resource, sys, torch
from pathlib import Path
from engine.errors import DeviceMemoryError
from engine.gguf import read_header
from engine.paged.arch import arch_spec
from engine.paged.weights.load import load_weights

path = Path(sys.argv[1])
header = read_header(path)
pages = int(Path("/proc/self/statm").read_text().split()[0])
most = pages * resource.getpagesize() + (1 << 30)
resource.setrlimit(resource.RLIMIT_AS, (most, most))
try:
    load_weights(path, header, arch_spec(header), torch.device("cpu"), torch.float32)
except DeviceMemoryError as error:
    print(error)
"""


def test_weights_for_which_the_host_has_no_memory_are_an_error(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", LOAD_WITH_LITTLE_MEMORY, str(huge_model(tmp_path / "huge.gguf"))],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    wanted = "the weights need 6.0 GiB as torch.float32 and do not fit on cpu"
    assert wanted in run.stdout, run.stderr


def huge_model(path, embd=64, ff=1 << 23):
    """Three matrices of 2 GiB that take no room on disk: the end of the file is a hole."""
    metadata = {
        "general.architecture": "llama",
        "llama.block_count": 1,
        "llama.context_length": 64,
        "llama.embedding_length": embd,
        "llama.feed_forward_length": ff,
        "llama.attention.head_count": 4,
    }
    shapes = {"token_embd": (embd, 32), "output_norm": (embd,)}
    shapes |= {f"blk.0.{name}": (embd,) for name in ("attn_norm", "ffn_norm")}
    shapes |= {f"blk.0.attn_{name}": (embd, embd) for name in ("q", "k", "v", "output")}
    small = [
        Tensor(name + ".weight", shape, data=bytes(4 * math.prod(shape)))
        for name, shape in shapes.items()
    ]
    start, size = sum(len(tensor.data) for tensor in small), 4 * embd * ff
    large = [
        Tensor(f"blk.0.ffn_{name}.weight", shape, offset=start + place * size)
        for place, (name, shape) in enumerate(
            {"gate": (embd, ff), "up": (embd, ff), "down": (ff, embd)}.items()
        )
    ]
    path.write_bytes(build_gguf(metadata, small + large))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + 3 * size)
    return path
