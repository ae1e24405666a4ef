"""models/planner.py: the arithmetic of memory, and who makes room for whom."""

import pytest

from appliance.errors import MemoryFitError, OverloadedError
from appliance.hardware import Memory
from appliance.models.planner import (
    MIB,
    OVERHEAD_BYTES,
    PICTURE_BYTES,
    EyeShape,
    Need,
    Occupant,
    Shape,
    make_room,
    need_of,
    shrink_kv,
    with_eye,
)


def need(mib):
    return Need(weight_bytes=mib * MIB - OVERHEAD_BYTES, kv_bytes=0, compute_bytes=0)


def room(need_mib, available_mib, occupants=(), reserve=100, max_loaded=3):
    memory = Memory(total=8192 * MIB, available=available_mib * MIB)
    return make_room("new", need(need_mib), memory, reserve * MIB, occupants, max_loaded)


def occupant(name, mib, idle=True, since=0.0):
    return Occupant(name, mib * MIB, idle, since)


def test_need_grows_with_the_context_and_the_batch():
    shape = Shape(
        file_bytes=400 * MIB,
        kv_bytes_per_token=12 * 1024,
        embedding_length=896,
        feed_forward_length=4864,
        vocab_size=151_936,
    )
    small, large = need_of(shape, 2048, 512), need_of(shape, 8192, 512)
    assert large.kv_bytes - small.kv_bytes == 6144 * 12 * 1024
    assert small.weight_bytes == 400 * MIB
    assert need_of(shape, 2048, 256).compute_bytes < small.compute_bytes
    # What llama.cpp reported for this shape (Qwen2.5-0.5B) at these contexts: 38 and 44 MiB.
    assert small.compute_bytes / MIB == pytest.approx(38, abs=8)
    assert large.compute_bytes / MIB == pytest.approx(44, abs=8)


def test_a_projector_counts():
    eye = EyeShape(  # of LLaVA 1.5: ViT-L/14 at 336 pixels
        file_bytes=600 * MIB, patches=576, embedding_length=1024, feed_forward_length=4096
    )
    plain = need(1000)
    seeing = with_eye(plain, eye)
    assert seeing.weight_bytes - plain.weight_bytes == 600 * MIB
    more = (seeing.compute_bytes - plain.compute_bytes) / MIB
    assert PICTURE_BYTES / MIB < more < PICTURE_BYTES / MIB + 64


def test_what_fits_needs_nobody_to_leave():
    assert room(500, 1000, [occupant("a", 300)]) == []


def test_longest_idle_leaves_first_and_only_as_many_as_needed():
    idle = [occupant("new-ish", 400, since=9.0), occupant("old", 400, since=1.0)]
    assert room(500, 300, idle) == ["old"]
    assert room(900, 300, idle) == ["old", "new-ish"]


def test_model_count_is_a_limit_too():
    assert room(10, 5000, [occupant("a", 10), occupant("b", 10)], max_loaded=2) == ["a"]


def test_what_never_fits_is_refused_with_the_arithmetic():
    with pytest.raises(MemoryFitError) as refused:
        room(5000, 1000, [occupant("a", 300)])
    assert "5000 MiB" in str(refused.value)
    assert "1200 MiB can be used" in str(refused.value)
    assert "num_ctx" in refused.value.hint


def test_busy_models_are_not_pushed_out():
    with pytest.raises(OverloadedError, match="busy"):
        room(500, 300, [occupant("busy", 900, idle=False)])
    with pytest.raises(OverloadedError, match="busy"):
        room(10, 5000, [occupant("busy", 10, idle=False)], max_loaded=1)


@pytest.mark.parametrize(
    ("available", "kv"),
    [(5000, 1000), (1000, 600), (900, 500), (400, 100)],  # whole, what is left, and never too small
)
def test_a_shared_cache_takes_what_is_left_but_at_least_one_context(available, kv):
    wanted = Need(
        weight_bytes=200 * MIB,
        kv_bytes=1000 * MIB,
        compute_bytes=100 * MIB,
        process_bytes=100 * MIB,
        least_kv_bytes=100 * MIB,
    )
    memory = Memory(total=8192 * MIB, available=available * MIB)
    others = [occupant("idle", 100), occupant("busy", 999, idle=False)]
    assert shrink_kv(wanted, memory, 100 * MIB, others).kv_bytes == kv * MIB


def test_a_cache_of_one_stream_is_never_shrunk():
    memory = Memory(total=MIB, available=MIB)
    assert shrink_kv(need(500), memory, 0, []) == need(500)
