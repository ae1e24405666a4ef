"""Which models score, and what their numbers mean to who asks. Pure."""

import math
from collections.abc import Sequence

from appliance.errors import UnsupportedError
from engine.api import Scoring
from engine.gguf import Header

RANK_POOLING = 4  # of the key `pooling_type` (llama.h, LLAMA_POOLING_TYPE_RANK)


def require_scoring(header: Header, typed: str) -> None:
    """Raise UnsupportedError for a model that cannot score, by the name that was `typed`."""
    if not header.is_embedding:
        raise UnsupportedError(
            f'"{typed}" does not support rerank: it generates text',
            hint="take a reranker (a GGUF with a classifier), or an embedding model",
        )
    if header.pooling_type == RANK_POOLING and not header.is_reranker:
        raise UnsupportedError(
            f'"{typed}" does not support rerank: its file says that it is a reranker and holds no'
            " classifier",
            hint="convert it anew, with its classification head",
        )


def activated(scores: Sequence[float], scoring: Scoring) -> list[float]:
    """A classifier's raw outputs as shares of 1; other scores as they are."""
    return [_logistic(score) for score in scores] if scoring == "logit" else list(scores)


def _logistic(value: float) -> float:
    """1 / (1 + exp(-value)), also for values whose exponential is out of range."""
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    grown = math.exp(value)
    return grown / (1 + grown)
