"""What one request adds to the metrics: its class and code, its times, its tokens.

Called for every request and every event of a job, so it costs a few microseconds and no more.
"""

from functools import cache, lru_cache

from aiohttp import web

from appliance.chat.events import CallStarted, Done, Event, Started, Text, Thinking
from appliance.errors import DigestMismatchError, DownloadCorruptError
from appliance.http.context import METRICS
from appliance.http.errors import VLLM_PATHS
from appliance.library.names import ModelName
from appliance.metrics import MAX_MODELS, OTHER, Metrics
from appliance.trust.errors import TrustError

# By the path of the route as it was registered; a path without a route is "other".
_CLASSES = {
    **dict.fromkeys(("/api/chat", "/api/generate"), "generate"),
    **dict.fromkeys(("/v1/chat/completions", "/v1/completions", "/v1/messages"), "generate"),
    "/v1/responses": "generate",
    **dict.fromkeys(("/api/embed", "/api/embeddings", "/v1/embeddings"), "embed"),
    **dict.fromkeys(("/v1/rerank", "/v2/rerank", "/rerank", "/v1/score", "/score"), "score"),
    **dict.fromkeys(("/tokenize", "/detokenize", "/v1/messages/count_tokens"), "tokens"),
    **dict.fromkeys(("/api/tags", "/api/ps", "/api/show", "/v1/models"), "list"),
    "/v1/models/{model}": "list",
    **dict.fromkeys(("/api/pull", "/api/push", "/api/create"), "library"),
    **dict.fromkeys(("/api/copy", "/api/delete", "/api/blobs/{digest}"), "library"),
    **dict.fromkeys(("/healthz", "/readyz", "/metrics", "/api/version", "/api/status"), "probe"),
    "/": "page",
}
_DIALECTS = {  # by the beginning of the path; the first that fits
    "/api/": "ollama",
    "/v1/messages": "anthropic",
    "/v1/": "openai",
    "/hearth/": "hearth",
    "/v2/": "registry",
}


def note_request(request: web.Request, status: int, elapsed_s: float) -> None:
    """Count an answered request."""
    resource = request.match_info.route.resource
    route, dialect = _kind("" if resource is None else resource.canonical)
    metrics = request.app[METRICS]
    metrics.requests.add(1, route, dialect, str(status))
    metrics.request_s.observe(elapsed_s, route)


@cache
def _kind(path: str) -> tuple[str, str]:
    """Route class and dialect of a registered path; there are as many as routes."""
    dialect = next((d for prefix, d in _DIALECTS.items() if path.startswith(prefix)), "none")
    if path in VLLM_PATHS:
        dialect = "openai"
    return _CLASSES.get(path) or (dialect if dialect in {"hearth", "registry"} else OTHER), dialect


def note_failure(metrics: Metrics, error: BaseException) -> None:
    """Count bytes and signatures that were not what they should be."""
    if isinstance(error, TrustError):
        metrics.verification_failures.add(1, "signature")
    elif isinstance(error, DigestMismatchError | DownloadCorruptError):
        metrics.verification_failures.add(1, "download")


def note_embeddings(metrics: Metrics, typed: str, prompt_tokens: int) -> None:
    """Count a job that ended and generated nothing: embeddings, scores."""
    metrics.prompt_tokens.add(prompt_tokens, _label(metrics, typed))


class JobClock:
    """The times and tokens of one job. A model has a label once it is known to be installed: with
    the first event."""

    __slots__ = ("_came", "_last", "_metrics", "_model", "_typed")

    def __init__(self, metrics: Metrics, typed: str, came: float) -> None:
        """came  time.monotonic() when the job started"""
        self._metrics = metrics
        self._typed = typed
        self._came = came
        self._last = 0.0  # when text came before
        self._model = ""

    def note(self, event: Event, now: float) -> None:
        metrics = self._metrics
        if not self._model:
            self._model = _label(metrics, self._typed)
        match event:
            case Text(tokens=tokens) | Thinking(tokens=tokens):
                if not self._last:
                    metrics.first_token_s.observe(now - self._came, self._model)
                elif tokens:
                    between_s = (now - self._last) / tokens
                    metrics.between_tokens_s.observe(between_s, self._model, count=tokens)
                self._last = now
            case CallStarted() if not self._last:  # the answer begins with a call
                metrics.first_token_s.observe(now - self._came, self._model)
                self._last = now
            case Started(queue_ns=queue_ns):
                metrics.queue_s.observe(queue_ns / 1e9, self._model)
            case Done():
                self._done(event, now)

    def _done(self, done: Done, now: float) -> None:
        metrics, model = self._metrics, self._model
        if done.reason in {"load", "unload"}:
            return
        metrics.jobs.add(1, model, done.reason)
        metrics.job_s.observe(now - self._came, model)
        metrics.prompt_tokens.add(done.prompt_tokens, model)
        metrics.cached_tokens.add(done.cached_tokens, model)
        metrics.output_tokens.add(done.output_tokens, model)


def _label(metrics: Metrics, typed: str) -> str:
    return metrics.model(_one_name(typed))


@lru_cache(MAX_MODELS)
def _one_name(typed: str) -> str:
    """Clients type a name in several ways; it is one model."""
    return ModelName.parse(typed).short.lower()
