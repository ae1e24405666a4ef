"""The registry against Prometheus's own parser: types, escapes, cumulative buckets, bounds."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from appliance.metrics import (
    MAX_MODELS,
    MAX_SERIES,
    OTHER,
    Histogram,
    Metrics,
    counter,
    gauge,
)

HOSTILE = 'a"b\\c\nd{}=,é'


def parsed(*families, **names):
    lines = [line for family in families for line in family.lines(**names)]
    return {f.name: f for f in text_string_to_metric_families("\n".join([*lines, ""]))}


def test_a_counter_and_a_gauge_are_read_back():
    requests, size = counter("x_total", "All.", ("code",)), gauge("x_bytes", "Size.")
    requests.add(2, "200")
    requests.add(0.5, "200")
    size.set(-3)
    found = parsed(requests, size)
    assert found["x"].type == "counter"
    assert found["x"].documentation == "All."
    assert [(s.labels, s.value) for s in found["x"].samples] == [({"code": "200"}, 2.5)]
    assert (found["x_bytes"].type, found["x_bytes"].samples[0].value) == ("gauge", -3)


def test_a_counter_without_labels_is_there_before_it_counts():
    assert parsed(counter("x_total", "All."))["x"].samples[0].value == 0


def test_hostile_labels_and_help_come_back_as_they_were():
    family = gauge("x", "a\\b\nc", ("name",))
    family.set(1, HOSTILE)
    found = parsed(family)["x"]
    assert found.documentation == "a\\b\nc"
    assert found.samples[0].labels == {"name": HOSTILE}


@pytest.mark.parametrize(("value", "bucket"), [(0.5, "1"), (1.0, "1"), (1.1, "2"), (9.0, "+Inf")])
def test_a_value_counts_in_its_bucket_and_all_above(value, bucket):
    histogram = Histogram("x_seconds", "Time.", (1, 2))
    histogram.observe(value, count=3)
    samples = parsed(histogram)["x_seconds"].samples
    buckets = {s.labels["le"]: s.value for s in samples if s.name == "x_seconds_bucket"}
    order = ["1", "2", "+Inf"]
    reached = order.index(bucket)
    assert buckets == {le: 3.0 * (i >= reached) for i, le in enumerate(order)}
    assert {s.name: s.value for s in samples if "le" not in s.labels} == {
        "x_seconds_sum": value * 3,
        "x_seconds_count": 3,
    }


def test_an_alias_has_the_same_values_under_other_names():
    histogram = Histogram("x_seconds", "Time.", (1,), ("model",))
    histogram.observe(0.2, "m")
    (found,) = parsed(histogram, name="vllm:x_seconds", labels=("model_name",)).values()
    assert found.name == "vllm:x_seconds"
    assert {s.labels["model_name"] for s in found.samples} == {"m"}


def test_no_client_can_make_endless_series():
    family, histogram = counter("x_total", "All.", ("a", "b")), Histogram("y", "", (1,), ("a",))
    for number in range(MAX_SERIES * 3):
        family.add(1, str(number), "b")
        histogram.observe(1, str(number))
    samples = parsed(family)["x"].samples
    assert len(samples) == MAX_SERIES + 1
    assert sum(s.value for s in samples) == MAX_SERIES * 3
    counts = [s for s in parsed(histogram)["y"].samples if s.name == "y_count"]
    assert len(counts) == MAX_SERIES + 1
    assert sum(s.value for s in counts) == MAX_SERIES * 3


def test_models_past_the_limit_are_others():
    metrics = Metrics()
    assert [metrics.model(f"m{i}") for i in range(MAX_MODELS + 2)][-3:] == ["m63", OTHER, OTHER]
    assert metrics.model("m0") == "m0"


def test_every_counted_family_has_help_and_a_name_of_ours():
    for family in Metrics().all():
        assert family.name.startswith("hearth_")
        assert family.help.endswith(".") or ":" in family.help
        if getattr(family, "kind", "") == "counter":
            assert family.name.endswith("_total")
