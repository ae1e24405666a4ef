"""Asking a neighbour whether it answers, which is the only thing that we ever send to one.

It may be hostile or no model server at all: one GET of a fixed path to an address on our own link,
without redirects, cookies, proxies or decompression, with limits of time and size.
"""

import asyncio
import json
from collections.abc import Iterable

import aiohttp

from appliance.discovery.heard import clean
from appliance.discovery.neighbours import Neighbour

TIMEOUT_S = 2.0
MAX_ANSWER_BYTES = 64 * 1024
AT_ONCE = 16

Answer = tuple[Neighbour, bool, str]  # the version is empty if it says none


async def ask_all(neighbours: Iterable[Neighbour], limit_s: float = 2 * TIMEOUT_S) -> list[Answer]:
    """What each answers; those that were not asked within `limit_s` are left out."""
    gate = asyncio.Semaphore(AT_ONCE)
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
    ) as session:
        calls = [asyncio.ensure_future(_ask(session, gate, each)) for each in neighbours]
        if not calls:
            return []
        done, late = await asyncio.wait(calls, timeout=limit_s)
        for call in late:
            call.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        return [call.result() for call in done]


async def _ask(
    session: aiohttp.ClientSession, gate: asyncio.Semaphore, neighbour: Neighbour
) -> Answer:
    path = "/v1/models" if neighbour.kind == "openai" else "/api/version"
    async with gate:
        try:
            async with session.get(neighbour.url + path, allow_redirects=False) as answer:
                body = await answer.content.read(MAX_ANSWER_BYTES)
                return neighbour, answer.status < 500, _version(body)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return neighbour, False, ""


def _version(body: bytes) -> str:
    """The version in an answer of /api/version, ours before the level of Ollama's API."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(answer, dict):
        return ""
    found = answer.get("hearth") or answer.get("version")
    return clean(found, 32) if isinstance(found, str) else ""
