"""The whole service as a process: streams, deaths of workers, a graceful end, what it says."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import aiohttp
import pytest

from tests.fakes.waiting import until, wait_for

FOREVER = "[[forever]] [[slow 5]]"


async def lines(session, url, body, started=None):
    """The NDJSON lines of one streamed answer; sets `started` when the first has come."""
    found = []
    async with session.post(f"{url}/api/generate", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.content:
            found.append(json.loads(line))
            if started is not None:
                started.set()
    return found


def ask(model, prompt, **fields):
    return {"model": model, "prompt": prompt, "raw": True, **fields}


async def test_killed_worker_ends_its_stream_and_leaves_the_others_alone(start_service, tiny_gguf):
    service = start_service()
    for name in ("a", "b", "c"):
        service.create(name, tiny_gguf)
    async with aiohttp.ClientSession() as session:
        # Load one after the other, so that each worker's process id is known.
        pids = {}
        for name in ("a", "b", "c"):
            await lines(session, service.url, ask(name, "load"))
            (pids[name],) = set(service.workers()) - set(pids.values())
        limited = {"options": {"num_predict": 200}}
        started = asyncio.Event()
        victim = asyncio.create_task(lines(session, service.url, ask("a", FOREVER), started))
        others = [
            asyncio.create_task(lines(session, service.url, ask(name, FOREVER, **limited)))
            for name in ("b", "c")
        ]
        await until(lambda: running(service) == {"a": 1, "b": 1, "c": 1})
        await started.wait()
        os.kill(pids["a"], signal.SIGKILL)
        cut = await victim
        assert [line for line in cut if "error" in line] == cut[-1:]
        assert "SIGKILL" in cut[-1]["error"]
        for whole in await asyncio.gather(*others):
            assert whole[-1]["done_reason"] == "length"
            assert whole[-1]["eval_count"] == 200
        again = await lines(session, service.url, ask("a", "alive again"))
        assert "".join(line["response"] for line in again) == "alive again"
    assert "SIGKILL" in service.log


def running(service):
    _, status = service.call("GET", "/hearth/v1/status")
    return {m["name"].partition(":")[0]: m["running"] for m in status["models"]}


async def test_client_that_leaves_frees_the_slot(start_service, tiny_gguf):
    service = start_service()
    service.create("a", tiny_gguf)
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{service.url}/api/generate", json=ask("a", FOREVER)) as answer:
            await answer.content.readline()
        await until(lambda: running(service) == {"a": 0})


async def test_terminated_service_lets_streams_finish_and_refuses_new_ones(
    start_service, tiny_gguf
):
    service = start_service(drain_timeout_s=20)
    service.create("a", tiny_gguf)
    async with aiohttp.ClientSession() as session:
        body = ask("a", FOREVER, options={"num_predict": 150})
        stream = asyncio.create_task(lines(session, service.url, body))
        await until(lambda: running(service) == {"a": 1})
        service.process.send_signal(signal.SIGTERM)
        await until(lambda: service.call("GET", "/readyz")[0] == 503)
        async with session.post(f"{service.url}/api/generate", json=ask("a", "late")) as refused:
            assert refused.status == 503
            assert int(refused.headers["Retry-After"]) >= 1
            assert "error" in await refused.json()
        assert (await stream)[-1]["eval_count"] == 150
    assert await asyncio.to_thread(service.process.wait, 30) == 0


async def test_streams_that_outlive_the_drain_end_with_a_word(start_service, tiny_gguf):
    service = start_service(drain_timeout_s=0)
    service.create("a", tiny_gguf)
    async with aiohttp.ClientSession() as session:
        started = asyncio.Event()
        stream = asyncio.create_task(lines(session, service.url, ask("a", FOREVER), started))
        await started.wait()
        service.process.send_signal(signal.SIGTERM)
        assert "stopping" in (await stream)[-1]["error"]
    assert await asyncio.to_thread(service.process.wait, 30) == 0


def test_killed_service_leaves_no_worker_behind(start_service, tiny_gguf):
    service = start_service()
    service.create("a", tiny_gguf)
    service.call("POST", "/api/generate", ask("a", "load", stream=False))
    (worker,) = service.workers()
    service.process.kill()
    service.process.wait()
    wait_for(lambda: not exists(worker))


def exists(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return not is_zombie(pid)
    return False


def is_zombie(pid):
    with contextlib.suppress(FileNotFoundError):
        stat = Path(f"/proc/{pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] == "Z"
    return True


def test_idle_model_goes_when_its_time_is_over(start_service, tiny_gguf):
    service = start_service(keep_alive="50ms")
    service.create("a", tiny_gguf)
    service.call("POST", "/api/generate", ask("a", "load", stream=False))
    wait_for(lambda: service.workers() == [])
    assert service.call("GET", "/api/ps") == (200, {"models": []})


def test_request_line_tells_what_happened_but_not_what_was_said(start_service, tiny_gguf):
    service = start_service()
    service.create("a", tiny_gguf)
    service.call("POST", "/api/generate", ask("a", "very secret words", stream=False))
    (line,) = [text for text in service.log.splitlines() if "path=/api/generate" in text]
    for part in ("method=POST", "status=200", "model=a", "prompt=3", "out=3", "finish=stop"):
        assert part in line
    assert "queue_pos=0" in line
    assert "secret" not in service.log


def test_json_log_is_one_object_per_line(start_service):
    service = start_service(log_format="json")
    service.call("GET", "/api/tags")
    entries = [json.loads(line) for line in service.log.splitlines()]
    assert any(entry.get("path") == "/api/tags" and entry["status"] == 200 for entry in entries)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"HEARTH_HOST": "203.0.113.7:1"}, "cannot listen on 203.0.113.7:1"),
        ({"HEARTH_STATE": "/proc/hearth"}, "cannot use the state folder"),
        ({"HEARTH_ENGINE": "warp"}, "HEARTH_ENGINE"),
        ({"HEARTH_CONFIG": "/nowhere/hearth.toml"}, "cannot read /nowhere/hearth.toml"),
    ],
)
def test_service_that_cannot_start_says_why_and_exits_1(tmp_path, settings, said):
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "HEARTH_HOST": "127.0.0.1:0"}
    done = subprocess.run(
        [sys.executable, "-m", "appliance", "serve"],
        env=environ | {"HEARTH_STATE": str(tmp_path / "state")} | settings,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_taken_port_is_named_with_the_cure(start_service, tmp_path):
    service = start_service()
    environ = service.environ | {"HEARTH_HOST": service.url.removeprefix("http://")}
    done = subprocess.run(
        [sys.executable, "-m", "appliance", "serve"],
        env=environ | {"HEARTH_STATE": str(tmp_path / "other")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "Ollama" in done.stderr


def test_importing_the_service_imports_no_engine_library():
    code = (
        "import sys, appliance.service\n"
        "heavy = {'torch', 'triton', 'llama_cpp', 'onnxruntime', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_damaged_model_is_named_and_the_rest_is_served(start_service, tiny_gguf):
    service = start_service()
    service.create("good", tiny_gguf)
    service.create("bad", tiny_gguf)
    service.stop()
    manifests = service.state / "models/manifests/registry.ollama.ai/library"
    (manifests / "bad" / "latest").write_text("{")
    again = start_service(state=service.state)
    names = {model["name"] for model in again.call("GET", "/api/tags")[1]["models"]}
    assert names == {"good:latest", "hearth:latest"}
    (problem,) = again.call("GET", "/hearth/v1/status")[1]["problems"]
    assert "bad/latest" in problem


def test_health_pages(start_service):
    service = start_service()
    assert service.call("GET", "/healthz")[0] == 200
    assert service.call("GET", "/readyz")[0] == 200
    with urllib.request.urlopen(service.url, timeout=10) as answer:
        assert answer.read() == b"Ollama is running"
