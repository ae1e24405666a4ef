"""engine/process: a real worker process, driven through the client, and its ways to die."""

import asyncio
import os
import signal
import sys
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from engine.api import FinishReason, GenerateRequest, LoadSpec
from engine.errors import ContextLengthError, EngineCrashedError, ModelFormatError
from engine.process.client import EngineClient
from tests.fakes.waiting import until


@asynccontextmanager
async def echo(context_length=4096):
    client = await EngineClient.start(
        LoadSpec(engine="echo", context_length=context_length), timeout_s=30
    )
    try:
        yield client
    finally:
        await client.close()


def ask(prompt, **fields):
    return GenerateRequest(id=0, prompt=prompt, **fields)


async def collect(client, request):
    return [step async for steps in client.generate(request) for step in steps]


async def test_a_worker_asks_for_huge_pages_and_keeps_the_settings_of_its_user(monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")
    async with echo() as client:
        environment = await asyncio.to_thread(Path(f"/proc/{client.pid}/environ").read_bytes)
    assert b"GLIBC_TUNABLES=glibc.malloc.arena_max=2" in environment
    assert b"glibc.malloc.hugetlb=1\0" in environment  # some releases of glibc cut it at the colon


async def test_answer_comes_in_steps_and_ends_with_usage():
    async with echo() as client:
        steps = await collect(client, ask("one two three"))
    assert b"".join(step.data for step in steps) == b"one two three"
    assert steps[-1].finish is FinishReason.STOP
    assert steps[-1].usage.prompt_tokens == 3
    assert steps[-1].usage.output_tokens == 3


async def test_whoever_is_cancelled_while_closing_leaves_no_worker():
    async with echo() as client:
        os.kill(client.pid, signal.SIGSTOP)  # it does not hear that it should stop
        closing = asyncio.create_task(client.close())
        await asyncio.sleep(0)
        closing.cancel()
        async with asyncio.timeout(4):  # less than the grace of a second `close`
            await client.wait_ended()
        assert closing.cancelled()


async def test_tokens_and_vectors():
    async with echo() as client:
        tokens = (await client.tokenize(["a b"]))[0]
        assert await client.detokenize(tokens) == b"a b"
        vectors, count = await client.embed(["a b", "c"])
        assert len(vectors) == 2
        assert count == 3
        assert (await client.stats())["running"] == 0


async def test_engine_refuses_one_request_and_serves_the_next():
    async with echo(context_length=4) as client:
        with pytest.raises(ContextLengthError, match="10 tokens"):
            await collect(client, ask(" ".join("w" * 10), truncate=False))
        assert (await collect(client, ask("fine")))[-1].finish is FinishReason.STOP


async def test_quick_steps_come_together_the_first_and_the_last_at_once():
    async with echo() as client:
        request = ask(" ".join("abcdefghij"), held_steps=3)
        arrivals = [steps async for steps in client.generate(request)]
    assert len(arrivals[0]) == 1
    assert 1 < max(map(len, arrivals)) <= 4
    assert b"".join(s.data for steps in arrivals for s in steps) == b"a b c d e f g h i j"
    assert arrivals[-1][-1].finish is FinishReason.STOP


async def test_each_step_comes_by_itself_where_none_may_wait():
    async with echo() as client:
        arrivals = [steps async for steps in client.generate(ask("a b c d e f"))]
    assert {len(steps) for steps in arrivals} == {1}


async def test_leaving_the_stream_frees_the_engine_within_two_steps():
    async with echo() as client:
        async with aclosing(client.generate(ask("[[forever]]"))) as steps:
            async for _ in steps:
                break
        # Frames are handled in order: two steps later the aborted sequence must be gone.
        await collect(client, ask("x", max_tokens=1))
        assert (await client.stats())["running"] == 0


async def test_is_over_aborts_and_still_tells_the_usage():
    async with echo() as client:
        seen = []

        def is_over():
            return len(seen) >= 3

        async for steps in client.generate(ask("[[forever]]"), is_over=is_over):
            seen.extend(steps)
    assert seen[-1].finish is FinishReason.ABORT
    assert seen[-1].usage.output_tokens >= 3


async def test_abort_reaches_the_engine_in_the_middle_of_the_prompt():
    async with echo() as client:
        task = asyncio.create_task(collect(client, ask("[[prefill 99999999]]")))
        # Counting tokens is served from inside the prompt: an answer means that it has begun.
        await client.tokenize(["are you there"])
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await client.stats())["running"] == 0


async def test_killed_worker_ends_every_request_with_one_error():
    async with echo() as client:
        streams = [
            asyncio.create_task(collect(client, ask("[[forever]] [[slow 1]]"))) for _ in range(3)
        ]
        await collect(client, ask("warm"))
        os.kill(client.pid, signal.SIGKILL)
        for result in await asyncio.gather(*streams, return_exceptions=True):
            assert isinstance(result, EngineCrashedError)
            assert "SIGKILL" in str(result)
        assert not client.is_alive
        with pytest.raises(EngineCrashedError):
            await collect(client, ask("late"))


async def test_crash_of_the_engine_itself_is_one_error():
    async with echo() as client:
        with pytest.raises(EngineCrashedError):
            await collect(client, ask("[[crash]]"))


async def test_bad_model_file_is_the_loaders_error_not_a_crash(tmp_path):
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelFormatError):
        await EngineClient.start(LoadSpec(engine="llama", model_path=str(path)), timeout_s=60)


async def test_idle_worker_uses_no_processor_time():
    async with echo() as client:
        await collect(client, ask("warm"))
        stat = Path(f"/proc/{client.pid}/stat")
        before = cpu_ticks(stat)
        await asyncio.sleep(1.0)
        assert cpu_ticks(stat) == before


async def test_worker_ends_when_its_parent_does(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import asyncio, os\n"
        "from engine.api import LoadSpec\n"
        "from engine.process.client import EngineClient\n"
        "async def main():\n"
        "    client = await EngineClient.start(LoadSpec(engine='echo'), timeout_s=30)\n"
        "    print(client.pid, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        str(script),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
    )
    pid = int(await parent.stdout.readline())
    await parent.wait()
    await until(lambda: not is_running(pid))


def cpu_ticks(stat):
    fields = stat.read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
