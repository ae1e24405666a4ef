"""What one job adds: times between tokens by how many came together, counts at its end."""

import pytest

from appliance.chat.events import Done, Rendered, Started, Text
from appliance.errors import DownloadCorruptError, LibraryError
from appliance.http.counting import JobClock, note_failure
from appliance.metrics import Metrics
from appliance.trust.errors import TrustCode, TrustError

MODEL = "llama3.2:3b"


def sums(histogram):
    """Count and sum of the model's series."""
    lines = dict(line.rsplit(" ", 1) for line in histogram.lines() if not line.startswith("#"))
    name = histogram.name
    return tuple(float(lines[f'{name}_{end}{{model="{MODEL}"}}']) for end in ("count", "sum"))


@pytest.fixture
def metrics():
    return Metrics()


def test_tokens_that_come_together_share_their_time(metrics):
    clock = JobClock(metrics, "LLaMA3.2:3B", came=100.0)
    clock.note(Started(queue_position=2, queue_ns=500_000_000, load_ns=0, slots=1), 101.0)
    clock.note(Text("one", tokens=1), 101.5)
    clock.note(Text(" two three four", tokens=3), 102.1)
    clock.note(Text(" five", tokens=1), 102.5)
    done = Done(reason="stop", total_ns=1, prompt_tokens=7, cached_tokens=4, output_tokens=5)
    clock.note(done, 102.6)
    assert sums(metrics.first_token_s) == (1, 1.5)
    count, total = sums(metrics.between_tokens_s)
    assert count == 4
    assert total == pytest.approx(1.0)
    assert sums(metrics.queue_s) == (1, 0.5)
    assert sums(metrics.job_s)[0] == 1
    counts = (metrics.prompt_tokens, metrics.cached_tokens, metrics.output_tokens)
    assert [family.value(MODEL) for family in counts] == [7, 4, 5]
    assert metrics.jobs.value(MODEL, "stop") == 1


@pytest.mark.parametrize("reason", ["load", "unload"])
def test_loading_is_no_job_that_generated(metrics, reason):
    JobClock(metrics, MODEL, 0.0).note(Done(reason=reason, total_ns=1), 1.0)
    assert metrics.jobs.value(MODEL, reason) == 0


def test_a_prompt_that_was_only_rendered_counts_nothing(metrics):
    JobClock(metrics, MODEL, 0.0).note(Rendered("x"), 1.0)
    assert metrics.prompt_tokens.value(MODEL) == 0


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TrustError.of(TrustCode.ROLLBACK, "older"), "signature"),
        (DownloadCorruptError("other bytes"), "download"),
        (LibraryError("disk"), ""),
    ],
)
def test_what_is_a_failed_verification(metrics, error, kind):
    note_failure(metrics, error)
    counted = {k: metrics.verification_failures.value(k) for k in ("signature", "download")}
    assert counted == {k: float(k == kind) for k in counted}
