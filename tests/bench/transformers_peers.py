"""Three ways in which Transformers itself answers many requests: the paged engine's peers.

Each is a context manager that yields a function from jobs to the tokens of each. All compute where
their model is, in its type, greedily, to the asked length.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from request_mix import Answer, Job

PAGE_TOKENS = 32  # of its paged cache; the default of 256 would leave most of each page empty


def load(folder: Path) -> Any:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa"
    )
    return model.eval()


def random_model(shape: Any, device: torch.device) -> tuple[Any, str]:
    """A llama of random weights in bfloat16, float32 on the CPU; and the attention it can use."""
    transformers.logging.set_verbosity_error()
    config = transformers.LlamaConfig(
        vocab_size=shape.vocab, hidden_size=shape.hidden, intermediate_size=shape.ff,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads, head_dim=shape.head_dim,
        max_position_embeddings=8192, tie_word_embeddings=shape.tied,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    has_flash = device.type == "cuda" and importlib.util.find_spec("flash_attn") is not None
    attention = "flash_attention_2" if has_flash else "sdpa"
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=attention
        )
    return model.eval(), attention


def _greedy(count: int) -> transformers.GenerationConfig:
    """Exactly `count` tokens: there is no end-of-generation token."""
    return transformers.GenerationConfig(max_new_tokens=count, do_sample=False, pad_token_id=0)


@contextlib.contextmanager
def sequential(model: Any) -> Iterator[Answer]:
    """One request after another: what a simple server does."""

    def answer(jobs: Sequence[Job]) -> list[list[int]]:
        return [_generate(model, [job])[0] for job in jobs]

    yield answer


@contextlib.contextmanager
def static(model: Any, streams: int) -> Iterator[Answer]:
    """Batches of `streams` in order of arrival, left-padded, until the longest one is done."""

    def answer(jobs: Sequence[Job]) -> list[list[int]]:
        batches = [jobs[start : start + streams] for start in range(0, len(jobs), streams)]
        return [tokens for batch in batches for tokens in _generate(model, batch)]

    yield answer


def _generate(model: Any, jobs: Sequence[Job]) -> list[list[int]]:
    width = max(len(job.prompt) for job in jobs)
    there = {"device": model.device}
    ids = torch.tensor([[0] * (width - len(job.prompt)) + job.prompt for job in jobs], **there)
    mask = torch.tensor(
        [[0] * (width - len(job.prompt)) + [1] * len(job.prompt) for job in jobs], **there
    )
    with torch.inference_mode():
        found = model.generate(
            ids, attention_mask=mask, generation_config=_greedy(max(job.output for job in jobs))
        )
    rows = found[:, width:].tolist()
    return [row[: job.output] for row, job in zip(rows, jobs, strict=True)]


@contextlib.contextmanager
def manager_of(model: Any, streams: int, context: int, batch_tokens: int = 512) -> Iterator[Any]:
    """Its own continuous batching, at most `streams` at once in contexts of `context` tokens.

    Changes the attention of `model`, which nobody else may use meanwhile.
    """
    config = transformers.ContinuousBatchingConfig(
        page_size=PAGE_TOKENS,
        num_blocks=streams * (context // PAGE_TOKENS + 2),
        max_batch_tokens=batch_tokens,
        max_requests_per_batch=streams,
    )
    with model.continuous_batching_context_manager(
        generation_config=_greedy(1), continuous_batching_config=config, block=True
    ) as manager:
        yield manager


@contextlib.contextmanager
def continuous(model: Any, streams: int, context: int, batch_tokens: int = 512) -> Iterator[Answer]:
    """See `manager_of`."""
    with manager_of(model, streams, context, batch_tokens) as manager:

        def answer(jobs: Sequence[Job]) -> list[list[int]]:
            ids = [manager.add_request(job.prompt, max_new_tokens=job.output) for job in jobs]
            found: dict[str, list[int]] = {}
            while len(found) < len(jobs):
                result = manager.get_result(timeout=1.0)
                if result is None and not manager.is_running():
                    raise SystemExit("continuous batching of Transformers stopped by itself")
                if result is not None and result.error:
                    raise SystemExit(f"continuous batching of Transformers: {result.error}")
                if result is not None and result.is_finished():
                    found[result.request_id] = list(result.generated_tokens)
            return [found[id] for id in ids]

        yield answer
