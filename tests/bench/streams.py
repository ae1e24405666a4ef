"""A streaming HTTP client that disturbs what it measures as little as it can.

On a small board client, server and decode threads share the cores, so the client only notes when
bytes arrive and parses them after the stream has ended. Knows NDJSON (Ollama's dialect) and SSE
(llama-server); knows nothing of models.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Event:
    at_s: float  # since the request was sent
    data: dict[str, Any]


def stream(address: tuple[str, int], path: str, request: Mapping[str, Any]) -> list[Event]:
    """POST `request` as JSON and read the events of the answer until it ends.

    Ends the benchmark with the server's text when it refuses or breaks off with an error.
    """
    connection = http.client.HTTPConnection(*address, timeout=TIMEOUT_S)
    with contextlib.closing(connection):
        body = json.dumps(request)
        started = time.perf_counter()
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            text = response.read().decode()[:500]
            raise SystemExit(f"POST {path} answered {response.status}: {text}")
        arrivals = []
        while piece := response.read1():
            arrivals.append((time.perf_counter() - started, piece))
    events = _events(arrivals)
    if not events or "error" in events[-1].data:
        raise SystemExit(f"POST {path} broke off: {events[-1:]}")
    return events


def _events(arrivals: list[tuple[float, bytes]]) -> list[Event]:
    """One event per line, timed by the arrival of the line's end."""
    events = []
    pending = b""
    for at_s, piece in arrivals:
        *lines, pending = (pending + piece).split(b"\n")
        texts = (line.removeprefix(b"data: ").strip() for line in lines)
        events += [Event(at_s, json.loads(text)) for text in texts if text and text != b"[DONE]"]
    return events
