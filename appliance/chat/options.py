"""From option names to what an engine is asked: which value wins, and what it means.

Who wins: the request's options, then the model's PARAMETERs, then the dialect's defaults, then
Ollama's. Names and types are those of `library/parameters.py`. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from appliance.errors import BadRequestError
from appliance.library.parameters import parse_options
from engine.api import SamplingParams

MAX_STOPS = 1024
MAX_STOP_CHARS = 16 * 1024

_SAMPLING = frozenset(SamplingParams.__struct_fields__) - {"seed", "logit_bias"}


@dataclass(frozen=True, slots=True)
class Options:
    """Typed options of one job, all sources merged."""

    values: Mapping[str, Any]

    @property
    def stop(self) -> list[str]:
        """Stop strings; raises BadRequestError when there are absurdly many."""
        stops = list(self.values.get("stop", []))
        if len(stops) > MAX_STOPS or sum(map(len, stops)) > MAX_STOP_CHARS:
            raise BadRequestError(
                f"{len(stops)} stop strings of {sum(map(len, stops))} characters; allowed are"
                f" {MAX_STOPS} and {MAX_STOP_CHARS}"
            )
        return stops

    @property
    def max_tokens(self) -> int:
        """num_predict; 0 and less mean "until the model stops" (Ollama's completion path)."""
        wanted = int(self.values.get("num_predict", -1))
        return wanted if wanted > 0 else -1

    @property
    def num_keep(self) -> int:
        return max(-1, int(self.values.get("num_keep", 4)))

    def sampling(self, logit_bias: Mapping[int, float]) -> SamplingParams:
        """How tokens are chosen; a negative seed means a random one."""
        chosen = {name: value for name, value in self.values.items() if name in _SAMPLING}
        seed = int(self.values.get("seed", -1))
        return SamplingParams(
            **chosen,
            seed=None if seed < 0 else seed & 0xFFFFFFFF,
            logit_bias=dict(logit_bias),
        )


def merge(
    request: Mapping[str, Any], model: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Options:
    """One set of options, unknown names dropped; raises BadRequestError for a wrong type."""
    values: dict[str, Any] = {}
    for source in (defaults, model, request):
        typed, _unknown = parse_options(source)
        values |= typed
    return Options(values)
