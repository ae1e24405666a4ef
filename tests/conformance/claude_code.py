"""The requests of a coding agent's session, in the form that public captures of Claude Code show.

A quota probe, a count, the first turn with system blocks, cache marks, many tools, thinking and
beta headers, then a turn with calls, results and reminders.
"""

from typing import Any

AGENT_HEADERS = {
    "anthropic-version": "2023-06-01",
    "anthropic-beta": (
        "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27,"
        "prompt-caching-scope-2026-01-05"
    ),
    "anthropic-dangerous-direct-browser-access": "true",
    "x-app": "cli",
    "User-Agent": "claude-cli/2.1.100 (external, cli)",
}
_CACHE = {"type": "ephemeral", "ttl": "1h"}
_USER = "user_" + "0123456789abcdef" * 4 + "_account__session_3b0e7a3e-6ad8-4a4e-8b0a-111111111111"
_NAMES = ("Agent", "Bash", "Edit", "Glob", "Grep", "Read", "Skill", "WebFetch", "Write")


def agent_requests(model: str) -> list[tuple[str, dict[str, Any]]]:
    """(path, body) of each request, in their order."""
    probe = {
        "model": model,
        "max_tokens": 1,
        "messages": [{"role": "user", "content": "quota"}],
        "metadata": {"user_id": _USER},
    }
    opening = [
        _user(_text("<system-reminder>\nToday\n</system-reminder>"), _text("fix it", _CACHE))
    ]
    call = {"type": "tool_use", "id": "toolu_01A", "name": "Bash", "input": {"command": "ls"}}
    thought = {"type": "thinking", "thinking": "look first", "signature": "c2ln"}
    result = {
        "type": "tool_result",
        "tool_use_id": "toolu_01A",
        "content": "no such folder",
        "is_error": True,
        "cache_control": _CACHE,
    }
    later = [
        *opening,
        {"role": "assistant", "content": [thought, _text("I look."), call]},
        _user(result, _text("<system-reminder>\nGo on\n</system-reminder>")),
    ]
    counted = {"model": model, "messages": opening, "tools": _tools()}
    return [
        ("/v1/messages?beta=true", probe),
        ("/v1/messages/count_tokens?beta=true", counted),
        ("/v1/messages?beta=true", _turn(model, opening)),
        ("/v1/messages?beta=true", _turn(model, later)),
    ]


def _turn(model: str, messages: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "model": model,
        "max_tokens": 32000,
        "system": [
            _text("x-anthropic-billing-header: cc_version=2.1.100.7b4; cc_entrypoint=cli; cch=1a;"),
            _text("You are a coding agent.", _CACHE),
            _text("Rules of this project.", _CACHE),
        ],
        "messages": messages,
        "tools": _tools(),
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "high"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "metadata": {"user_id": _USER},
    }


def _tools() -> list[dict[str, Any]]:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {"command": {"type": "string", "description": "What to do"}},
        "required": ["command"],
        "additionalProperties": False,
    }
    return [
        {"name": f"{name}{n or ''}", "description": f"Use {name}. " * 50, "input_schema": schema}
        for n in range(4)
        for name in _NAMES
    ]


def _user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def _text(words: str, cache: dict[str, Any] | None = None) -> dict[str, Any]:
    block = {"type": "text", "text": words}
    return block | ({"cache_control": cache} if cache else {})
