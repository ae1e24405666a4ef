"""/metrics of a real service, read by Prometheus's own parser: counts that match what was asked."""

import asyncio
import json
import os
import signal

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.fakes.fault_proxy import fault_proxy
from tests.fakes.gguf_builder import tiny_llama_bytes
from tests.fakes.waiting import wait_for
from tests.integration.pulls import offer, pull
from tests.integration.raw_http import send

MODEL = {"model": "echo:latest"}


class Scrape:
    """One reading of /metrics."""

    def __init__(self, service):
        reply = send(service, "GET", "/metrics")
        assert reply.status == 200, reply.content
        assert reply.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        self.families = {f.name: f for f in text_string_to_metric_families(reply.content.decode())}
        self.samples = [sample for family in self.families.values() for sample in family.samples]

    def value(self, name, **labels):
        """Of the one sample with at least these labels; 0 if there is none."""
        found = [
            sample.value
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert len(found) < 2, (name, labels, found)
        return found[0] if found else 0.0


@pytest.fixture
def box(start_service, tiny_gguf):
    running = start_service()
    running.create("echo", tiny_gguf)
    return running


def generate(box, prompt="one two three", **fields):
    body = {"model": "echo", "prompt": prompt, "raw": True, "stream": False, **fields}
    return box.call("POST", "/api/generate", body)


def test_what_was_asked_is_what_was_counted(box):
    for _ in range(3):
        assert generate(box)[0] == 200
    chat = {"model": "ECHO", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    assert box.call("POST", "/v1/chat/completions", chat)[0] == 200
    assert box.call("POST", "/api/generate", {"model": "absent", "prompt": "x"})[0] == 404
    assert box.call("GET", "/no/such/page")[0] == 404
    found = Scrape(box)
    requests = "hearth_http_requests_total"
    assert found.value(requests, route="generate", dialect="ollama", code="200") == 3
    assert found.value(requests, route="generate", dialect="openai", code="200") == 1
    assert found.value(requests, route="generate", dialect="ollama", code="404") == 1
    assert found.value(requests, route="other", dialect="none", code="404") == 1
    assert found.value("hearth_http_request_duration_seconds_count", route="generate") == 5
    model = {"model": "echo:latest"}
    for name in ("time_to_first_token", "queue", "job_duration"):
        assert found.value(f"hearth_{name}_seconds_count", **model) == 4
    out = found.value("hearth_output_tokens_total", **model)
    assert out >= 9
    assert found.value("hearth_prompt_tokens_total", **model) >= out
    # every token but each answer's first has one before it
    between = found.value("hearth_inter_token_latency_seconds_count", **model)
    assert out - 4 * 4 <= between <= out - 4
    assert found.value("hearth_jobs_total", reason="stop", **model) == 4
    assert not [s for s in found.samples if s.labels.get("model", "").startswith("absent")]


def test_vllm_names_say_the_same(box):
    generate(box, options={"num_predict": 2})
    found = Scrape(box)
    name = {"model_name": "echo:latest"}
    assert found.value("vllm:generation_tokens_total", **name) == 2
    assert found.value("vllm:prompt_tokens_total", **name) == 3
    assert found.value("vllm:request_success_total", finished_reason="length", **name) == 1
    for which in ("time_to_first_token", "e2e_request_latency", "request_queue_time"):
        assert found.value(f"vllm:{which}_seconds_count", **name) == 1
    assert [s.value for s in found.samples if s.name == "vllm:num_requests_running"] == [0]
    # no cache of blocks here, so nothing is made up about one
    assert found.families["vllm:kv_cache_usage_perc"].samples == []


def test_a_running_request_is_seen_running_and_a_client_that_leaves_is_counted(box):
    import http.client
    from urllib.parse import urlsplit

    address = urlsplit(box.url)
    connection = http.client.HTTPConnection(address.hostname, address.port)
    body = {"model": "echo", "prompt": "[[forever]] [[slow 5]] a", "raw": True}
    connection.request("POST", "/api/generate", json.dumps(body))
    connection.getresponse().readline()
    found = Scrape(box)
    assert found.value("hearth_requests_running", model="echo:latest") == 1
    assert found.value("vllm:num_requests_running", model_name="echo:latest") == 1
    assert found.value("hearth_http_requests_active") == 2
    connection.sock.shutdown(2)
    connection.close()
    wait_for(lambda: Scrape(box).value("hearth_http_requests_total", code="499") == 1)
    wait_for(lambda: Scrape(box).value("hearth_requests_running", model="echo:latest") == 0)


def test_workers_that_end_are_told_apart(box):
    generate(box)
    box.call("POST", "/api/generate", {"model": "echo", "keep_alive": 0})
    wait_for(lambda: Scrape(box).value("hearth_worker_ends_total", reason="unloaded") == 1)
    assert generate(box, "[[crash]] a b c d e f g h")[0] == 500
    wait_for(lambda: Scrape(box).value("hearth_worker_ends_total", reason="crashed") == 1)
    assert Scrape(box).value("hearth_models_loaded") == 0
    generate(box)
    os.kill(box.workers()[0], signal.SIGKILL)  # by a person: the kernel's count says so
    wait_for(lambda: Scrape(box).value("hearth_worker_ends_total", reason="crashed") == 2)
    codes = {c["code"]: c for c in box.call("GET", "/hearth/v1/status")[1]["conditions"]}
    assert "crashed 2 times" in codes["worker_crashed"]["text"]


async def test_bytes_that_came_and_bytes_that_were_wrong(box):
    weights = tiny_llama_bytes(ballast_mib=5)
    async with fault_proxy() as proxy:
        offer(proxy, weights)
        assert (await pull(box, f"{proxy.address}/library/m"))[-1] == {"status": "success"}
        found = await asyncio.to_thread(Scrape, box)
        assert len(weights) <= found.value("hearth_pull_bytes_total") <= len(weights) + 4096
        assert found.value("hearth_verification_failures_total", kind="download") == 0
        other = tiny_llama_bytes(ballast_mib=5)[:-1] + b"\x01"
        offer(proxy, other)
        digest = next(d for d, data in proxy.blobs.items() if data == other)
        proxy.blobs[digest] = other[:-1] + b"\x02"
        assert "error" in (await pull(box, f"{proxy.address}/library/n"))[-1]
        found = await asyncio.to_thread(Scrape, box)
        assert found.value("hearth_verification_failures_total", kind="download") >= 1


def test_damage_on_the_disk_is_counted(box):
    folder = box.state / "models/blobs"
    path = max(folder.iterdir(), key=lambda each: each.stat().st_size)
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    box.call("POST", "/hearth/v1/scrub", {"repair": False})
    assert Scrape(box).value("hearth_verification_failures_total", kind="stored") == 1


def test_names_that_clients_make_up_do_not_become_series(box):
    def make_up(numbers):
        for number in numbers:
            send(box, "GET", f"/made/up/{number}")
            generate(box, model=f"made-up-{number}")
            send(box, "BREW", "/api/chat")
        assert send(box, "GET", "/api/tags", host='evil"} hearth_fake').status == 403
        return {(s.name, *s.labels.values()) for s in Scrape(box).samples}

    make_up(range(2))  # and the first reading of /metrics, which later ones count
    assert make_up(range(2, 40)) == make_up(range(40, 42))


def test_the_board_is_there(box):
    found = Scrape(box)
    assert found.value("hearth_memory_bytes") > found.value("hearth_memory_available_bytes") > 0
    disks = [s for s in found.samples if s.name == "hearth_disk_free_bytes"]
    assert disks
    assert all(s.value > 0 for s in disks)
    assert found.value("hearth_throttled", reason="undervoltage") == 0
    assert found.value("hearth_build_info", version="0.1.0") == 1


def test_it_is_not_for_everybody(box):
    reply = send(box, "GET", "/metrics", headers=[("X-Forwarded-For", "192.168.1.9")])
    assert reply.status == 401
    assert b"hearth_" not in reply.content


def test_a_guest_sees_that_something_is_wrong_and_not_where(box):
    headers = [("X-Forwarded-For", "192.168.1.9")]
    box.state.chmod(0o777)
    status, body = box.call("POST", "/hearth/v1/keys", {"name": "guest", "scopes": ["chat"]})
    assert status == 201
    headers.append(("Authorization", f"Bearer {body['secret']}"))
    found = send(box, "GET", "/hearth/v1/status", headers=headers).json["conditions"]
    (public,) = [each for each in found if each["code"] == "state_not_private"]
    assert set(public) == {"code", "severity", "title"}
    own = {c["code"]: c for c in box.call("GET", "/hearth/v1/status")[1]["conditions"]}
    assert str(box.state) in own["state_not_private"]["text"]
    assert send(box, "GET", "/hearth/v1/device", headers=headers).status == 200
    assert send(box, "GET", "/metrics", headers=headers).status == 403


def test_the_device_route_has_the_agreed_shape(box):
    status, body = box.call("GET", "/hearth/v1/device")
    assert status == 200
    assert set(body) >= {"temperatures", "throttled", "throttled_since_boot", "power_watts"}
    assert set(body["clock"]) == {"synced", "state"}
    assert set(body["memory"]) == {"total", "available"}
    for disk in body["disks"]:
        assert set(disk) >= {"mount", "free_bytes", "total_bytes", "life_used"}
