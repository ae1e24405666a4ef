"""Which back ends are chosen from what the probes found; buckets, staging, memory figures."""

import numpy as np
import pytest
import torch

from engine.paged.attention.torch_paged import TorchPaged
from engine.paged.attention.triton_paged import TritonPaged
from engine.paged.device import PROBES, choose_back_ends, empty_layer, mem_available
from engine.paged.graphs import Graphs, Staging, bucket_of
from engine.paged.kernels.ops import TritonOps
from engine.paged.kernels.sample import sample_torch, sample_triton
from engine.paged.layers import TorchOps

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def test_every_family_that_passed_its_probe_serves():
    found = choose_back_ends(CUDA, 16, {})
    assert isinstance(found.attention, TritonPaged)
    assert isinstance(found.ops, TritonOps)
    assert found.choose is sample_triton
    assert (found.num_sms, found.has_graphs) == (16, True)
    assert found.description == "attention, ops, sampling, projections by triton"


def test_one_failure_costs_one_family_and_says_why():
    found = choose_back_ends(CUDA, 16, {"projections": "CompileError: no"})
    assert isinstance(found.attention, TritonPaged)
    assert (found.num_sms, found.has_graphs) == (0, True)
    wanted = "attention, ops, sampling by triton; projections by torch (CompileError: no)"
    assert found.description == wanted


def test_without_attention_kernels_nothing_is_captured():
    found = choose_back_ends(CUDA, 16, {"attention": "broken"})
    assert isinstance(found.attention, TorchPaged)
    assert not found.has_graphs


def test_where_no_kernel_works_everything_is_torch():
    found = choose_back_ends(CUDA, 16, dict.fromkeys(PROBES, "too old"))
    assert isinstance(found.attention, TorchPaged)
    assert isinstance(found.ops, TorchOps)
    assert found.choose is sample_torch
    assert (found.num_sms, found.has_graphs) == (0, False)
    assert found.description.count("by torch (too old)") == len(PROBES)


def test_the_cpu_captures_nothing():
    assert not choose_back_ends(CPU, 4, {}).has_graphs
    assert choose_back_ends(CPU, 0, None).description == "computed by torch"


def test_memory_that_can_be_had_is_more_than_what_is_free():
    text = "MemTotal:  8000 kB\nMemFree:   100 kB\nMemAvailable:    5000 kB\nHugePages_Total: 0\n"
    assert mem_available(text) == 5000 * 1024


def test_an_int8_layer_has_scales():
    layer = empty_layer((3, 4, 2, 16), torch.int8, CPU)
    assert layer.k_scale.shape == layer.v_scale.shape == (3, 4, 2)
    assert layer.k_scale.dtype == torch.float16
    assert empty_layer((3, 4, 2, 16), torch.float32, CPU).k_scale is None


@pytest.mark.parametrize(
    ("count", "bucket"), [(1, 1), (2, 2), (3, 4), (5, 8), (8, 8), (9, 16), (17, 24), (64, 64)]
)
def test_buckets(count, bucket):
    assert bucket_of(count) == bucket


def test_buckets_are_few_and_never_too_small():
    buckets = [bucket_of(count) for count in range(1, 257)]
    assert all(bucket >= count for count, bucket in enumerate(buckets, 1))
    assert buckets == sorted(buckets)
    assert len(set(buckets)) == 35


def test_what_is_sent_lies_where_it_lay_before():
    staging = Staging(6, CPU)
    first = staging.send([1, 2], np.array([3]))
    assert [part.tolist() for part in first] == [[1, 2], [3]]
    second = staging.send((7, 8), [9])
    assert [part.tolist() for part in second] == [[7, 8], [9]]
    assert [part.data_ptr() for part in second] == [part.data_ptr() for part in first]
    assert second[0].dtype == torch.int64


ROWS, CONTEXTS = torch.tensor([1, 2]), torch.tensor([3, 4])


class Recording:
    """A capture without a GPU: what is replayed is what was computed when it was captured."""

    def __init__(self, fails=False):
        self.fails, self.calls = fails, 0

    def __call__(self, compute):
        self.calls += 1
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        result = compute()
        return lambda: result


def test_without_a_gpu_a_graph_is_a_call():
    graphs = Graphs({"sum": torch.add}, None)
    for _ in range(3):
        assert graphs.run("sum", ROWS, CONTEXTS).tolist() == [4, 6]
    assert (graphs.captured, graphs.failures) == (0, "")


def test_a_size_is_captured_when_it_comes_again():
    capture = Recording()
    graphs = Graphs({"sum": torch.add, "product": torch.mul}, capture)
    for calls in (0, 1, 1):
        assert graphs.run("sum", ROWS, CONTEXTS).tolist() == [4, 6]
        assert capture.calls == calls
    for calls in (1, 2, 2):
        assert graphs.run("product", ROWS, CONTEXTS).tolist() == [3, 8]
        assert capture.calls == calls
    assert graphs.captured == 2


def test_what_cannot_be_captured_is_called_and_told_once():
    capture = Recording(fails=True)
    graphs = Graphs({"sum": torch.add}, capture)
    for _ in range(4):
        assert graphs.run("sum", ROWS, CONTEXTS).tolist() == [4, 6]
    assert capture.calls == 1
    assert graphs.captured == 0
    reason = "operation not permitted when stream is capturing"
    assert graphs.failures == f"no graphs for sum of 2 ({reason})"
