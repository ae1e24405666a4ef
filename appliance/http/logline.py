"""One canonical line per request. Prompts and completions never get here."""

import logging
from collections.abc import Mapping
from typing import Any

from appliance.chat.events import CallStarted, Done, Event, Started, Text, Thinking
from appliance.logs import Fields
from engine.errors import EngineCrashedError

log = logging.getLogger("hearth.request")


def note_event(fields: dict[str, Any], event: Event, elapsed_s: float) -> None:
    """Put into `fields` what the log says about an event `elapsed_s` after the request came."""
    match event:
        case Started(queue_position=position, queue_ns=queue_ns):
            fields |= {"queue_pos": position, "queue_ms": queue_ns // 1_000_000}
        case Text() | Thinking() | CallStarted():
            if "ttft_ms" not in fields:
                fields["ttft_ms"] = round(elapsed_s * 1000)
        case Done():
            for name, count in (
                ("prompt", event.prompt_tokens),
                ("cached", event.cached_tokens),
                ("out", event.output_tokens),
            ):
                fields[name] = fields.get(name, 0) + count  # a request may run several jobs
            fields["finish"] = event.reason
            if event.decode_ns > 0:
                fields["decode_tok_s"] = round(event.output_tokens * 1e9 / event.decode_ns, 1)


def write_line(
    method: str, path: str, status: int, fields: Mapping[str, Any], elapsed_s: float
) -> None:
    """Log one finished request; probes of health only at level DEBUG."""
    facts = {"method": method, "path": path, "status": status}
    level = logging.DEBUG if path in _PROBES and status < 400 else logging.INFO
    log.log(level, "request %s", Fields({**facts, **fields, "ms": round(elapsed_s * 1000)}))


def write_failure(path: str, error: BaseException) -> None:
    """Log where an error of our own came from; the request's line follows."""
    said = error.last_words if isinstance(error, EngineCrashedError) else ""
    facts = Fields({"path": path, "error": str(error), "said": said or None})
    log.error("failed %s", facts, exc_info=error)


_PROBES = frozenset({"/healthz", "/readyz"})
