"""The compiled loops against their torch twins, and what happens where they cannot be had."""

import random

import pytest
import torch

from engine.paged import device
from engine.paged.attention.base import AttentionParams
from engine.paged.attention.torch_paged import TorchPaged
from engine.paged.layers import TorchOps
from engine.paged.native import library as native
from engine.paged.native.loops import NATIVE_TYPES, NativeLinear, NativeOps, NativePaged
from tests.fakes.paged_runs import step_batch

CPU, F32 = torch.device("cpu"), torch.float32
SIZE = 32


@pytest.fixture(scope="module")
def loops():
    try:
        return native.library()
    except native.NativeError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("kind", NATIVE_TYPES, ids=str)
@pytest.mark.parametrize("rows", [1, 3, 8, 16, 17, 45])
@pytest.mark.parametrize("shape", [(96, 64), (100, 300), (7, 33)], ids=str)
def test_a_projection_is_a_matrix_product(loops, shape, rows, kind):
    torch.manual_seed(rows)
    weight, bias = torch.randn(shape).to(kind), torch.randn(shape[0])
    x = torch.randn(rows, shape[1])
    for its in (None, bias):
        wanted = torch.nn.functional.linear(x.double(), weight.double())
        wanted += 0 if its is None else its.double()
        found = NativeLinear(loops, weight, its)(x)
        torch.testing.assert_close(found.double(), wanted, atol=1e-4, rtol=1e-5)


def test_a_row_of_a_projection_does_not_depend_on_the_rows_beside_it(loops):
    torch.manual_seed(0)
    linear, x = NativeLinear(loops, torch.randn(100, 300).half(), None), torch.randn(50, 300)
    together = linear(x)
    for rows in (1, 2, 8, 16, 17):
        assert torch.equal(linear(x[:rows]), together[:rows])


@pytest.mark.parametrize("size", [16, 33, 64, 576])
def test_norms_are_torchs_also_of_heads_cut_out_of_a_wider_matrix(loops, size):
    torch.manual_seed(0)
    mine, twin = NativeOps(loops), TorchOps()
    x, weight = torch.randn(40, 3 * size), torch.randn(size)
    for cut in (x[:, :size], x.view(40, 3, size)[:, 1:], x.view(40, 3, size)):
        wanted = twin.rms_norm(cut, weight, 1e-5)
        torch.testing.assert_close(mine.rms_norm(cut, weight, 1e-5), wanted)
    residual = torch.randn(40, size)
    found = mine.add_rms_norm(x[:, :size].contiguous(), residual, weight, 1e-5)
    wanted = twin.add_rms_norm(x[:, :size].contiguous(), residual, weight, 1e-5)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("half", [16, 32])
def test_rotation_is_torchs_and_leaves_what_does_not_turn(loops, half):
    torch.manual_seed(0)
    x = torch.randn(50, 7, 64)[:, :5]
    cos, sin = torch.randn(50, 1, half), torch.randn(50, 1, half)
    wanted = TorchOps().rotate(x, cos, sin)
    torch.testing.assert_close(NativeOps(loops).rotate(x, cos, sin), wanted)


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
@pytest.mark.parametrize("size", [33, 640])
def test_gated_activations_are_torchs_to_their_ends(loops, size, activation):
    torch.manual_seed(0)
    gate_up = torch.randn(40, 2 * size) * 4
    gate_up[0, :8] = torch.tensor([0, -0.0, 90, -90, 1e4, -1e4, 1e-30, -20])
    wanted = TorchOps().gated(gate_up, activation)
    found = NativeOps(loops).gated(gate_up, activation)
    torch.testing.assert_close(found, wanted, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("head_dim", [32, 64, 96, 256])
def test_random_steps_of_attention_with_all_their_edges(loops, head_dim):
    rng = random.Random(5)
    torch.manual_seed(5)
    for _ in range(20):
        contexts = [rng.randint(1, 150) for _ in range(rng.randint(1, 9))]
        queries = [rng.choice((1, 1, rng.randint(1, context))) for context in contexts]
        params = AttentionParams(0.125, rng.choice((0, 1, 40)), rng.choice((0.0, 3.0)))
        kv_heads, group = rng.choice(((1, 1), (2, 3), (1, 9), (2, 8)))
        free = torch.randperm(60).add(1).tolist()
        tables = [[free.pop() for _ in range(-(-context // SIZE))] for context in contexts]
        caches = [
            device.empty_layer((61, SIZE, kv_heads, head_dim), F32, CPU, by_head=True)
            for _ in range(2)
        ]
        for part in (caches[1].k, caches[1].v):
            part.fill_(torch.nan)  # what is in a slot that nobody has written must not matter
        k, v = (torch.randn(sum(contexts), kv_heads, head_dim) for _ in "kv")
        everything = step_batch(contexts, contexts, tables, SIZE).slot_mapping
        batch = step_batch(queries, contexts, tables, SIZE)
        q = torch.randn(sum(queries), kv_heads * group, head_dim)
        found = []
        for backend, cache in zip((TorchPaged(), NativePaged(loops)), caches, strict=True):
            backend.store(k, v, cache, everything)
            found.append(backend.attend(q, cache, batch, params))
        torch.testing.assert_close(found[1], found[0], atol=3e-6, rtol=1e-5)


def test_padding_yields_zeros(loops):
    cache = device.empty_layer((3, SIZE, 1, 32), F32, CPU, by_head=True)
    backend, batch = NativePaged(loops), step_batch([1, 1], [1, 1], [[1], [0]], SIZE)
    backend.store(torch.ones(1, 1, 32), torch.ones(1, 1, 32), cache, batch.slot_mapping[:1])
    batch.context_lens[1] = 0
    found = backend.attend(torch.ones(2, 2, 32), cache, batch, AttentionParams(1.0))
    assert found[0].eq(1).all()
    assert not found[1].any()


def test_caches_of_another_kind_are_left_to_torch(loops):
    torch.manual_seed(0)
    batch = step_batch([3], [3], [[1]], 8)
    k, v = torch.randn(3, 1, 16), torch.randn(3, 1, 16)
    for dtype, by_head in ((torch.int8, True), (F32, False), (F32, True)):
        found = []
        for backend in (NativePaged(loops), TorchPaged()):
            cache = device.empty_layer((2, 8, 1, 16), dtype, CPU, by_head=by_head)
            backend.store(k, v, cache, batch.slot_mapping)
            found.append(backend.attend(k, cache, batch, AttentionParams(0.25)))
        assert torch.equal(*found)


def test_loops_that_agree_serve_on_the_cpu_in_float32_only(loops):
    found = device.find_back_ends(CPU, F32, 64)
    assert isinstance(found.attention, NativePaged)
    assert isinstance(found.ops, NativeOps)
    assert found.native is loops
    assert found.description == "computed by compiled loops"
    assert device.find_back_ends(CPU, torch.bfloat16, 64).native is None


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """A user who has compiled nothing yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.library.cache_clear()
    yield tmp_path / "hearth"
    native.library.cache_clear()


def test_they_are_compiled_once(loops, fresh):
    native.library()
    (made,) = fresh.iterdir()
    before = made.stat().st_mtime_ns
    native.library.cache_clear()
    native.library()
    assert [path.stat().st_mtime_ns for path in fresh.iterdir()] == [before]


@pytest.mark.parametrize(
    ("compiler", "said"), [("", "no g\\+\\+"), ("echo no such flag >&2; exit 1", "no such flag")]
)
def test_without_a_working_compiler_torch_computes_and_it_is_said(
    fresh, tmp_path, monkeypatch, compiler, said
):
    monkeypatch.setenv("PATH", str(tmp_path))
    if compiler:
        (tmp_path / "g++").write_text(f"#!/bin/sh\n{compiler}\n")
        (tmp_path / "g++").chmod(0o755)
    with pytest.raises(native.NativeError, match=said):
        native.library()
    found = device.find_back_ends(CPU, F32, 64)
    assert type(found.attention) is TorchPaged
    assert found.native is None
    assert found.description.startswith("computed by torch (")


def test_a_file_that_is_no_library_is_an_error(tmp_path):
    (tmp_path / "loops.so").write_text("torn")
    with pytest.raises(native.NativeError, match="do not load"):
        native.Library(tmp_path / "loops.so")


def test_a_folder_that_others_may_write_is_not_trusted(loops, fresh):
    fresh.mkdir()
    fresh.chmod(0o777)
    native.library()
    assert not list(fresh.iterdir())


def test_loops_that_disagree_do_not_serve(loops, monkeypatch):
    monkeypatch.setattr(NativeOps, "rotate", lambda self, x, cos, sin: x * 2)
    found = device.find_back_ends(CPU, F32, 64)
    assert found.native is None
    assert "disagree" in found.description
