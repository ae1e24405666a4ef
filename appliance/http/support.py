"""GET /hearth/v1/support: what a person who helps needs to see, as one .tar.gz (Hearth API).

Versions, settings, conditions, the board, the service, models by name and recent log lines. No
prompts, answers, templates, keys, tokens or passwords: nothing is read that holds them, and
redact.py goes over every file before it is packed.
"""

import asyncio
import io
import json
import platform
import time
from importlib import metadata
from typing import Any

from aiohttp import web

from appliance.config import SETTINGS as TABLE
from appliance.config import Settings
from appliance.hardware import read_gpus
from appliance.http.admin import status_answer
from appliance.http.context import (
    CALLER,
    DEVICE,
    GATE,
    INCIDENTS,
    LIBRARY,
    RECENT,
    SETTINGS,
    version,
)
from appliance.http.device import device_answer
from appliance.library.library import Library
from appliance.redact import redact
from appliance.trust.gate import Gate

LIBRARIES = ("aiohttp", "llama-cpp-python", "msgspec", "torch", "triton", "tuf", "zeroconf")


async def bundle(request: web.Request) -> web.StreamResponse:
    """GET /hearth/v1/support, for administrators."""
    app = request.app
    documents: dict[str, Any] = {"status.json": await status_answer(app, request[CALLER])}
    documents["incidents.json"] = [
        {"at_s": each.at_s, "kind": each.kind, "text": each.text}
        for each in app[INCIDENTS].latest()
    ]
    documents["device.json"] = device_answer(await asyncio.to_thread(app[DEVICE].read))
    documents["settings.json"] = _settings(app[SETTINGS])
    documents["about.json"] = await asyncio.to_thread(_about)
    documents["models.json"] = await asyncio.to_thread(_models, app[LIBRARY], app[GATE])
    files = {name: json.dumps(body, indent=1, default=str) for name, body in documents.items()}
    files["log.txt"] = "\n".join(app[RECENT].lines())
    return web.Response(
        body=await asyncio.to_thread(_pack, files),
        headers={
            "Content-Type": "application/gzip",
            "Content-Disposition": 'attachment; filename="hearth-support.tar.gz"',
            "Cache-Control": "no-store",
        },
    )


def _settings(settings: Settings) -> list[dict[str, str]]:
    """Those that may hold a secret only say whether they are set."""
    return [
        {
            "name": setting.name,
            "value": ("set" if settings.texts[setting.name] else "")
            if setting.is_secret
            else settings.texts[setting.name],
            "origin": settings.origins[setting.name],
        }
        for setting in TABLE
    ]


def _about() -> dict[str, Any]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return {
        "hearth": version(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "libraries": found,
        "gpus": [gpu.model for gpu in read_gpus()],
    }


def _models(library: Library, gate: Gate) -> list[dict[str, Any]]:
    models = library.list()
    return [
        {"name": model.name.short, "digest": model.digest, "size": model.size, "trust": label}
        for model, label in zip(models, gate.labels(models), strict=True)
    ]


def _pack(files: dict[str, str]) -> bytes:
    import tarfile  # and the compressions below it, which nothing else here needs

    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, text in files.items():
            data = redact(text).encode()
            entry = tarfile.TarInfo(f"hearth-support/{name}")
            entry.size, entry.mtime = len(data), int(time.time())
            archive.addfile(entry, io.BytesIO(data))
    return packed.getvalue()
