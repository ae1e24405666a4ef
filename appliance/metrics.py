"""What the service counts about itself, and how that looks as Prometheus text (version 0.0.4).

A counter, a gauge and a histogram with fixed buckets are all that is needed, so there is no library
behind this. Labels are bounded: past `MAX_SERIES` a new combination is counted as "other", so that
no client can fill the memory with names of its own. Used on the event loop's thread alone.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAX_SERIES = 256  # combinations of labels of one metric
MAX_MODELS = 64  # names of models that have series of their own
OTHER = "other"

Labels = tuple[str, ...]
Bounds = tuple[float, ...]


def _bounds(text: str) -> Bounds:
    return tuple(map(float, text.split()))


# vLLM's own bounds, so that quantiles of its dashboards mean the same (vllm/v1/metrics/loggers.py)
FIRST_TOKEN_S = _bounds(
    "0.001 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.25 0.5 0.75 1 2.5 5 7.5 10 20 40 80 160 640 2560"
)
BETWEEN_TOKENS_S = _bounds(
    "0.001 0.0025 0.005 0.01 0.025 0.05 0.075 0.1 0.15 0.2 0.3 0.4 0.5 0.75 1 2.5 5 7.5 10 20 40 80"
)
WHOLE_S = _bounds("0.3 0.5 0.8 1 1.5 2 2.5 5 10 15 20 30 40 50 60 120 240 480 960 1920 7680")
ANSWER_S = _bounds("0.001 0.0025 0.005 0.01 0.025 0.05 0.1 0.25 0.5 1 2.5 5 10 30 60 300")


class Family:
    """A counter or a gauge: one value per combination of labels."""

    def __init__(self, kind: str, name: str, help_text: str, labels: Labels = ()) -> None:
        """kind  "counter" or "gauge"; a counter's name ends in _total"""
        self.kind, self.name, self.help, self.labels = kind, name, help_text, labels
        self._values: dict[Labels, float] = {} if labels else {(): 0.0}

    def add(self, amount: float = 1.0, *labels: str) -> None:
        values = self._values
        if labels not in values and len(values) >= MAX_SERIES:
            labels = (OTHER,) * len(labels)
        values[labels] = values.get(labels, 0.0) + amount

    def set(self, value: float, *labels: str) -> None:
        if labels in self._values or len(self._values) < MAX_SERIES:
            self._values[labels] = value

    def value(self, *labels: str) -> float:
        return self._values.get(labels, 0.0)

    def lines(self, name: str = "", labels: Labels = ()) -> Iterator[str]:
        """Its text; `name` and `labels` give it other names, as an alias."""
        name, labels = name or self.name, labels or self.labels
        yield from _head(name, self.help, self.kind)
        for values, value in self._values.items():
            yield f"{name}{_braces(labels, values)} {_number(value)}"


class Histogram:
    """Counts of observed values up to each bound, their sum and number."""

    def __init__(
        self, name: str, help_text: str, bounds: Sequence[float], labels: Labels = ()
    ) -> None:
        self.name, self.help, self.bounds, self.labels = name, help_text, tuple(bounds), labels
        self._cells: dict[Labels, list[float]] = {}  # one count per bound, over all bounds, the sum

    def observe(self, value: float, *labels: str, count: int = 1) -> None:
        """Note `count` equal values."""
        cells = self._cells.get(labels)
        if cells is None:
            if len(self._cells) >= MAX_SERIES:
                labels = (OTHER,) * len(labels)
            cells = self._cells.setdefault(labels, [0.0] * (len(self.bounds) + 2))
        cells[bisect_left(self.bounds, value)] += count
        cells[-1] += value * count

    def lines(self, name: str = "", labels: Labels = ()) -> Iterator[str]:
        """See `Family.lines`."""
        name, labels = name or self.name, labels or self.labels
        yield from _head(name, self.help, "histogram")
        for values, cells in self._cells.items():
            total = 0.0
            for bound, cell in zip((*self.bounds, float("inf")), cells, strict=False):
                total += cell
                braces = _braces((*labels, "le"), (*values, _number(bound)))
                yield f"{name}_bucket{braces} {_number(total)}"
            yield f"{name}_sum{_braces(labels, values)} {_number(cells[-1])}"
            yield f"{name}_count{_braces(labels, values)} {_number(total)}"


def counter(name: str, help_text: str, labels: Labels = ()) -> Family:
    return Family("counter", name, help_text, labels)


def gauge(name: str, help_text: str, labels: Labels = ()) -> Family:
    return Family("gauge", name, help_text, labels)


class Metrics:
    """Everything that is counted as it happens; what is looked at is in http/metrics.py."""

    def __init__(self) -> None:
        self._models: set[str] = set()
        model = ("model",)
        self.requests = counter(
            "hearth_http_requests_total",
            "Answered HTTP requests; code 499 where the client left.",
            ("route", "dialect", "code"),
        )
        self.request_s = Histogram(
            "hearth_http_request_duration_seconds",
            "From the head of a request to the end of its answer.",
            ANSWER_S,
            ("route",),
        )
        self.first_token_s = Histogram(
            "hearth_time_to_first_token_seconds",
            "From a job's start, its wait in the queue and loading included, to its first text.",
            FIRST_TOKEN_S,
            model,
        )
        self.between_tokens_s = Histogram(
            "hearth_inter_token_latency_seconds",
            "Between tokens of the output; of tokens that came together, their mean.",
            BETWEEN_TOKENS_S,
            model,
        )
        self.queue_s = Histogram(
            "hearth_queue_seconds", "Wait for a slot of the model.", WHOLE_S, model
        )
        self.job_s = Histogram(
            "hearth_job_duration_seconds", "From a job's start to its end.", WHOLE_S, model
        )
        self.jobs = counter(
            "hearth_jobs_total", "Jobs that ended, by the reason of their end.", ("model", "reason")
        )
        self.prompt_tokens = counter(
            "hearth_prompt_tokens_total", "Tokens of prompts, cached ones included.", model
        )
        self.cached_tokens = counter(
            "hearth_cached_prompt_tokens_total", "Prompt tokens that were not computed anew.", model
        )
        self.output_tokens = counter("hearth_output_tokens_total", "Generated tokens.", model)
        self.worker_ends = counter(
            "hearth_worker_ends_total",
            "Workers that ended: unloaded (on purpose), oom (by the kernel), crashed.",
            ("reason",),
        )
        self.pull_bytes = counter(
            "hearth_pull_bytes_total", "Bytes of models that came over the network."
        )
        self.verification_failures = counter(
            "hearth_verification_failures_total",
            "Bytes or signatures that were not what they should be: download, signature, stored.",
            ("kind",),
        )
        self.actions = counter(
            "hearth_actions_total", "What the box did by itself to stay well.", ("action",)
        )

    def all(self) -> "Iterable[Family | Histogram]":
        return (each for each in vars(self).values() if isinstance(each, Family | Histogram))

    def model(self, name: str) -> str:
        """The label for a model that is installed: its name, or "other" when there are too many."""
        if name not in self._models:
            if len(self._models) >= MAX_MODELS:
                return OTHER
            self._models.add(name)
        return name


def _head(name: str, help_text: str, kind: str) -> Iterator[str]:
    escaped = help_text.replace("\\", r"\\").replace("\n", r"\n")
    yield f"# HELP {name} {escaped}"
    yield f"# TYPE {name} {kind}"


def _braces(labels: Labels, values: Labels) -> str:
    if not labels:
        return ""
    pairs = (f'{label}="{_escaped(value)}"' for label, value in zip(labels, values, strict=True))
    return "{" + ",".join(pairs) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return str(int(value)) if value == int(value) else repr(float(value))
