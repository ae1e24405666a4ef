"""The self-test of a real service: what passes, what fails when it is broken, what is told."""

import json
import urllib.request
from types import SimpleNamespace

import pytest

from appliance import self_test
from appliance.discovery.discovery import DiscoveryStatus, Word
from tests.integration.cli_process import Command

MIN_GAP = 4.0  # nats, see appliance/self_test.py


@pytest.fixture(scope="module")
def box(module_service):
    """A service with llama.cpp and the built-in model."""
    return module_service(engine="llama", memory_reserve_mib=0)


def run(service):
    """Outcome and text by check."""
    status, report = service.call("POST", "/hearth/v1/self-test", {})
    assert status == 200, report
    assert report["passed"] is not any(c["outcome"] == "failed" for c in report["checks"])
    return {c["name"]: (c["outcome"], c["text"]) for c in report["checks"]}


def codes(service):
    found = service.call("GET", "/hearth/v1/doctor")[1]["conditions"]
    return {each["code"] for each in found if each["code"].startswith("self_test")}


def test_a_good_box_passes_and_status_says_so(box):
    assert box.call("GET", "/hearth/v1/status")[1]["self_test"] is None
    found = run(box)
    assert {name: outcome for name, (outcome, _) in found.items()} == {
        "model": "passed",
        "memory": "passed",
        "store": "passed",
        "clock": "passed",
        "discovery": "skipped",  # it is off
    }
    told = box.call("GET", "/hearth/v1/status")[1]["self_test"]
    assert told["passed"] is True
    assert codes(box) == set()
    assert box.call("GET", "/api/ps")[1]["models"] == []  # it leaves nothing loaded
    done = Command(box.url).run("doctor", "--self-test")
    assert "model passed: it answers as always" in done.stderr
    assert "self-test    passed" in Command(box.url)("status").stdout


def test_no_step_of_the_answer_is_a_close_call(box):
    """Else another processor's rounding might turn it over, and the box raise a false alarm."""
    body = {
        "model": "hearth",
        "messages": [{"role": "user", "content": self_test.QUESTION}],
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 2,
    }
    (choice,) = box.call("POST", "/v1/chat/completions", body)[1]["choices"]
    assert choice["message"]["content"] == self_test.ANSWER
    steps = [step["top_logprobs"] for step in choice["logprobs"]["content"]]
    gaps = [best["logprob"] - second["logprob"] for best, second in steps]
    print(f"{len(gaps)} steps, the closest {min(gaps):.2f} nats")
    assert min(gaps) > MIN_GAP


def test_what_is_broken_is_a_condition_until_a_test_passes(start_service):
    box = start_service()
    (largest,) = sorted((box.state / "models/blobs").iterdir(), key=lambda p: -p.stat().st_size)[:1]
    whole = {path: path.read_bytes() for path in (box.state / "models/blobs").iterdir()}
    for path, data in whole.items():
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    outcome, text = run(box)["store"]
    assert outcome == "failed"
    assert "its bytes have changed" in text
    assert codes(box) == {"self_test_store"}
    assert box.call("GET", "/hearth/v1/status")[1]["self_test"]["passed"] is False
    box.stop()
    for path, data in whole.items():
        path.write_bytes(data)
    again = start_service(box.state)
    assert largest.exists()
    with urllib.request.urlopen(f"{again.url}/readyz", timeout=10):
        pass
    assert run(again)["store"][0] == "passed"
    assert codes(again) == set()
    assert json.loads((again.state / "self-test.json").read_bytes())["version"]


def test_a_model_that_says_something_else_fails(start_service, monkeypatch, tmp_path):
    """The same service, told to expect another answer: what a broken kernel looks like."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import msgspec\nfrom appliance.bundles.smoke import SmokePlan\n"
        "import appliance.self_test as t\n"
        "t.PLAN = msgspec.convert({'tests': [{**t._TEST, 'contains': ['a teapot']}]}, SmokePlan)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{site}")
    box = start_service(engine="llama", memory_reserve_mib=0)
    outcome, text = run(box)["model"]
    assert outcome == "failed"
    assert "I am the built-in model of Hearth" in text
    assert codes(box) == {"self_test_model"}


def test_memory_that_forgets_is_found(monkeypatch):
    class Forgetful(self_test.mmap.mmap):
        def __getitem__(self, where):
            data = super().__getitem__(where)
            return data[:-1] + bytes([data[-1] & 0xFE]) if where.start == 3 << 20 else data

    monkeypatch.setattr(self_test.mmap, "mmap", Forgetful)
    found = self_test.check_memory(8 << 20)
    assert found.outcome == "failed"
    assert "in MiB 3 of 8" in found.text


async def test_a_box_that_is_not_heard_fails(monkeypatch):
    """Neighbours answer, it does not; that it is heard is in tests/system/test_discovery.py."""

    async def look_around(_seconds, _is_enough):
        return [SimpleNamespace(key=("hearth-other.local", 11434))]

    monkeypatch.setattr(self_test, "look_around", look_around)
    test = object.__new__(self_test.SelfTest)
    status = DiscoveryStatus(Word.ON, addresses=("10.0.0.1",))
    box = SimpleNamespace(host_name="hearth-mine.local")
    test._discovery = SimpleNamespace(status=lambda: status, box=box)
    found = await test._announcement()
    assert (found.outcome, found.text) == (
        "failed",
        "nobody answers for hearth-mine.local within 5 s",
    )


def test_it_is_due_at_first_after_an_update_and_weekly(tmp_path, monkeypatch):
    now = 2_000_000_000.0
    monkeypatch.setattr(self_test.time, "time", lambda: now)
    ours, day = "1.0", 86_400.0

    def wait_s(last):
        test = object.__new__(self_test.SelfTest)
        test.last, test._version = last, ours
        return test._wait_s()

    assert wait_s(None) == 0
    assert wait_s(self_test.Report("0.9", now - 60, ())) == 0
    assert wait_s(self_test.Report(ours, now - 8 * day, ())) <= 0
    assert wait_s(self_test.Report(ours, now + day, ())) == 0  # noted by a clock that was wrong
    assert wait_s(self_test.Report(ours, now - 3 * day, ())) == 4 * day
