"""What a box must have for a variant, by the box's own arithmetic where the publisher says nothing.

Pure but for the model's header. The settings are the defaults, whatever this machine's are: the
same model has the same needs wherever it is built.
"""

import os
from typing import Any

from appliance.bundles.release import Requires, Variant
from appliance.config import load_settings
from appliance.library.manifest import Digest
from appliance.library.stored import StoredModel
from appliance.models.planner import MIB
from appliance.models.spec import load_spec, memory_need
from tools.bundles.bundlefile import VariantTable


def describe(name: str, table: VariantTable, model: StoredModel, manifest: bytes) -> Variant:
    """The variant with all its facts; `manifest` is what a box will fetch."""
    header = model.header()
    options: dict[str, Any] = dict(model.parameters)
    if table.context:
        options["num_ctx"] = table.context
    return Variant(
        name=name,
        digest=Digest.of(manifest),
        size=len(manifest),
        requires=_requires(table, model, options, len(manifest)),
        engine=table.engine,
        context=int(options.get("num_ctx") or 0),
        quant=table.quant or header.quantization_level,
        rank=table.rank,
    )


def _requires(
    table: VariantTable, model: StoredModel, options: dict[str, Any], manifest_bytes: int
) -> Requires:
    """On a GPU all but the process lies in its memory; a publisher's figure goes before ours."""
    header, wants = model.header(), table.requires
    settings = load_settings(environ={"HEARTH_CONFIG": os.devnull})
    need = memory_need(load_spec(model, header, options, settings, "llama"), header)
    is_on_gpu = wants.accel != "cpu"
    ram = need.process_bytes if is_on_gpu else need.total_bytes
    vram = need.total_bytes - need.process_bytes if is_on_gpu else 0
    parts = {part.digest: part.size for part in (model.manifest.config, *model.manifest.layers)}
    return Requires(
        arch=wants.arch,
        accelerator=wants.accel,
        ram_mib=_mib(ram) if wants.ram_mib is None else wants.ram_mib,
        vram_mib=_mib(vram) if wants.vram_mib is None else wants.vram_mib,
        disk_mib=_mib(sum(parts.values()) + manifest_bytes),
    )


def _mib(count: int) -> int:
    return -(-count // MIB)
