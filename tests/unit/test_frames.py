"""engine/process/frames.py: what is encoded comes back, in any cut; nonsense is refused."""

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.api import Constraint, FinishReason, GenerateRequest, SamplingParams, SequenceStep
from engine.process import frames

REQUEST = GenerateRequest(
    id=7,
    prompt=[1, 2, 3],
    sampling=SamplingParams(temperature=0.0, seed=1, logit_bias={5: -100.0}),
    constraint=Constraint(kind="schema", source="{}"),
    logprobs=3,
)


def test_request_survives_the_wire():
    buffer = frames.FrameBuffer()
    buffer.feed(frames.encode(frames.Add(REQUEST)))
    assert frames.decode_to_worker(buffer.take()) == frames.Add(REQUEST)
    assert buffer.take() is None


@given(st.lists(st.integers(0, 200), max_size=8))
def test_frames_come_out_whole_in_any_cut(places):
    steps = [frames.Steps([SequenceStep(id=i, token_ids=[i], data=bytes([i]))]) for i in range(3)]
    steps.append(frames.Steps([SequenceStep(id=9, finish=FinishReason.STOP)]))
    data = b"".join(map(frames.encode, steps))
    bounds = [0, *sorted(p % len(data) for p in places), len(data)]
    buffer = frames.FrameBuffer()
    seen = []
    for start, end in pairwise(bounds):
        buffer.feed(data[start:end])
        while (payload := buffer.take()) is not None:
            seen.append(frames.decode_from_worker(payload))
    assert seen == steps


def test_absurd_length_is_refused_before_memory_is_taken():
    buffer = frames.FrameBuffer()
    buffer.feed(struct.pack("<I", 2**32 - 1))
    with pytest.raises(frames.FrameError, match="announces"):
        buffer.take()


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x80", b"\x81\xa4type\xa7Nothing"])
def test_nonsense_is_a_frame_error(payload):
    with pytest.raises(frames.FrameError):
        frames.decode_from_worker(payload)
    with pytest.raises(frames.FrameError):
        frames.decode_to_worker(payload)
