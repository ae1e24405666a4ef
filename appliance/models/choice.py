"""Which engine runs a model, and why. Pure: header, settings and the machine come in as values.

`auto` takes the paged engine where a GPU, its libraries and a model that it runs are there, else
llama.cpp. An explicit wish is never overruled: what stands in its way becomes `obstacle`.
"""

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from appliance.config import Settings
from appliance.errors import ConfigError, ModelNameError
from appliance.hardware import ROOT, Gpu, read_gpus
from appliance.library.names import ModelName
from engine.abilities import PAGED_LIBRARIES, paged_obstacle
from engine.gguf import Header

EngineName = Literal["llama", "paged", "echo"]


_BLIND = "it does not see the images that the model could"


@dataclass(frozen=True, slots=True)
class Machine:
    """What this machine offers to engines."""

    gpus: tuple[Gpu, ...] = ()
    missing: tuple[str, ...] = ()  # libraries of the paged engine that are not installed


@dataclass(frozen=True, slots=True)
class Choice:
    """An engine, and the facts that led to it as sentences, in order."""

    engine: EngineName
    reasons: tuple[str, ...]
    gpu: Gpu | None = None  # where it will compute; None: on the CPU
    obstacle: str = ""  # why the wish for this engine cannot be fulfilled


def read_machine(root: Path = ROOT, environ: Mapping[str, str] = os.environ) -> Machine:
    """Look for GPUs and libraries; imports none of them.

    CUDA_VISIBLE_DEVICES, which workers inherit, hides all GPUs when it is empty or -1.
    """
    missing = (name for name in PAGED_LIBRARIES if importlib.util.find_spec(name) is None)
    is_hidden = environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in {"", "-1"}
    return Machine(() if is_hidden else read_gpus(root), tuple(missing))


def wishes_of(settings: Settings) -> Mapping[ModelName, str]:
    """The engines that `model_engines` asks for; raises ConfigError for what is not a name."""
    try:
        return {ModelName.parse(name): engine for name, engine in settings.model_engines.items()}
    except ModelNameError as error:
        origin = settings.origins["model_engines"]
        raise ConfigError(
            f"model_engines ({origin}) names no model: {error}", hint=error.hint
        ) from error


def choose_engine(
    name: ModelName,
    header: Header,
    settings: Settings,
    machine: Machine,
    *,
    has_adapters: bool,
    sees: bool = False,
) -> Choice:
    """The engine for a GGUF bundle on this machine. Raises ConfigError as `wishes_of` does."""
    setting, wish = "engine", settings.engine
    if (own := wishes_of(settings).get(name)) is not None:
        setting, wish = "model_engines", own
    asked = f"{setting} says {wish} for {name.short} ({settings.origins[setting]})"
    if wish == "echo":
        blind = (_BLIND,) if sees else ()
        return Choice("echo", (asked, "echo opens no model: it says the prompt back", *blind))
    if wish == "llama":
        eyes = ("its projector lets it see images",) if sees else ()
        return Choice("llama", (asked, "llama.cpp runs every supported GGUF on the CPU", *eyes))
    obstacle = "it has adapters, which the paged engine does not apply" if has_adapters else ""
    if sees:
        obstacle = obstacle or "it sees images through a projector, which only llama.cpp runs"
    obstacle = obstacle or paged_obstacle(header)
    return (
        _by_wish(asked, obstacle, machine) if wish == "paged" else _auto(asked, obstacle, machine)
    )


def _by_wish(asked: str, obstacle: str, machine: Machine) -> Choice:
    gpu = machine.gpus[0] if machine.gpus else None
    place = "it computes on the GPU" if gpu else "it computes on the CPU"
    facts = (_gpu_fact(machine), _library_fact(machine), _model_fact(obstacle))
    return Choice("paged", (asked, *facts, place), gpu, obstacle)


def _auto(asked: str, obstacle: str, machine: Machine) -> Choice:
    facts = (_gpu_fact(machine), _library_fact(machine), _model_fact(obstacle))
    if machine.gpus and not machine.missing and not obstacle:
        verdict = "so the paged engine serves many streams at once on the GPU"
        return Choice("paged", (asked, *facts, verdict), machine.gpus[0])
    return Choice("llama", (asked, *facts, "so llama.cpp serves it on the CPU"))


def _gpu_fact(machine: Machine) -> str:
    if not machine.gpus:
        return "no NVIDIA GPU with a loaded driver can be seen"
    return f"GPU present: {', '.join(gpu.model for gpu in machine.gpus)}"


def _library_fact(machine: Machine) -> str:
    if machine.missing:
        return f"{' and '.join(machine.missing)} not installed: pip install 'hearth[gpu]'"
    return f"{' and '.join(PAGED_LIBRARIES)} are installed"


def _model_fact(obstacle: str) -> str:
    return f"the paged engine cannot run it: {obstacle}" if obstacle else "the paged engine runs it"
