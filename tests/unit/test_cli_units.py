"""Sizes, counts, times and durations in Ollama's words."""

from datetime import UTC, datetime, timedelta

import pytest

from appliance.cli.units import (
    count_words,
    duration_text,
    moment_words,
    size_words,
    span_words,
    until_words,
)

NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)
MINUTE, HOUR, DAY = 60, 3600, 86400


@pytest.mark.parametrize(
    ("count", "words"),
    {
        0: "0 B",
        999: "999 B",
        1000: "1 KB",
        1500: "1.5 KB",
        4_661_224_676: "4.7 GB",
        12_700_000_000: "12 GB",
        9_960_000: "10.0 MB",
        2_000_000_000_000: "2 TB",
    }.items(),
)
def test_size_words(count, words):
    assert size_words(count) == words


@pytest.mark.parametrize(
    ("count", "words"),
    {
        7_000_000_000: "7B",
        7_600_000_000: "7.6B",
        133_700_000: "133.70M",
        26_000_000: "26M",
        30_000: "30K",
        999: "999",
    }.items(),
)
def test_count_words(count, words):
    assert count_words(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (MINUTE, "About a minute"),
        (2 * MINUTE, "2 minutes"),
        (59 * MINUTE, "59 minutes"),
        (HOUR, "About an hour"),
        (47 * HOUR, "47 hours"),
        (48 * HOUR, "2 days"),
        (13 * DAY, "13 days"),
        (14 * DAY, "2 weeks"),
        (59 * DAY, "8 weeks"),
        (60 * DAY, "2 months"),
        (2 * 365 * DAY - HOUR, "24 months"),
        (2 * 365 * DAY, "2 years"),
    ],
)
def test_span_words(seconds, words):
    assert span_words(seconds) == words


@pytest.mark.parametrize(
    ("ahead", "words"),
    [
        (timedelta(days=-2), "2 days ago"),
        (timedelta(), "Less than a second ago"),
        (timedelta(minutes=4, seconds=30), "4 minutes from now"),
        (timedelta(days=300 * 365), "Forever"),
    ],
)
def test_moment_words(ahead, words):
    assert moment_words(NOW + ahead, NOW) == words


def test_a_model_past_its_time_is_stopping():
    assert until_words(NOW - timedelta(seconds=1), NOW) == "Stopping..."
    assert until_words(NOW + timedelta(minutes=5), NOW) == "5 minutes from now"


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    {
        0: "0s",
        850: "850ns",
        1_500: "1.5µs",
        4_835_000: "4.835ms",
        1_000_000_000: "1s",
        2_123_456_789: "2.123456789s",
        62_500_000_000: "1m2.5s",
        3_723_000_000_000: "1h2m3s",
    }.items(),
)
def test_duration_text(nanoseconds, text):
    assert duration_text(nanoseconds) == text
