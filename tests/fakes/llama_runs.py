"""Driving a llama engine in tests: a request run to its end, and a plain reference loop."""

import json
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from llama_cpp import llama_cpp as lib

from engine.api import GenerateRequest, LoadSpec, SamplingParams
from engine.llama.engine import load

GREEDY = SamplingParams(temperature=0.0)


@dataclass
class Outcome:
    """All steps of one request, folded."""

    tokens: list = field(default_factory=list)
    data: bytes = b""
    logprobs: list = field(default_factory=list)
    finish: object = None
    usage: object = None
    error: object = None

    @property
    def json(self):
        return json.loads(self.data)


@contextmanager
def engine_for(path, *, poll=lambda: None, **spec):
    """An engine on one thread, closed at the end."""
    settings = {"engine": "llama", "model_path": str(path), "threads": 1, "context_length": 512}
    engine = load(LoadSpec(**(settings | spec)), poll)
    try:
        yield engine
    finally:
        engine.close()


def run(engine, prompt="the quick brown fox", **fields):
    """Add one request and step until it has ended."""
    engine.add(GenerateRequest(**({"id": 1, "prompt": prompt, "sampling": GREEDY} | fields)))
    return finish(engine)


def finish(engine):
    outcome = Outcome()
    while engine.has_work():
        for step in engine.step():
            outcome.tokens += step.token_ids
            outcome.data += step.data
            outcome.logprobs += step.logprobs
            outcome.finish = step.finish or outcome.finish
            outcome.usage = step.usage or outcome.usage
            outcome.error = step.error or outcome.error
    return outcome


@contextmanager
def plain_context(path, context_length=512):
    """llama.cpp without our engine: (context, model, vocabulary)."""
    params = lib.llama_model_default_params()
    model = lib.llama_model_load_from_file(str(path).encode(), params)
    settings = lib.llama_context_default_params()
    settings.n_ctx = settings.n_batch = context_length
    settings.n_threads = settings.n_threads_batch = 1
    context = lib.llama_init_from_model(model, settings)
    try:
        yield context, lib.llama_model_get_vocab(model)
    finally:
        lib.llama_free(context)
        lib.llama_model_free(model)


def plain_logits(context, vocab, tokens):
    """The logits after `tokens`, computed from nothing: (vocab_size,) float32."""
    lib.llama_memory_clear(lib.llama_get_memory(context), True)
    array = (lib.llama_token * len(tokens))(*tokens)
    assert lib.llama_decode(context, lib.llama_batch_get_one(array, len(tokens))) == 0
    pointer = lib.llama_get_logits_ith(context, -1)
    return np.ctypeslib.as_array(pointer, (lib.llama_vocab_n_tokens(vocab),)).copy()


def plain_greedy(path, prompt, count):
    """The `count` likeliest continuations of token ids, the whole sequence computed each time."""
    with plain_context(path) as (context, vocab):
        tokens = list(prompt)
        for _ in range(count):
            tokens.append(int(plain_logits(context, vocab, tokens).argmax()))
        return tokens[len(prompt) :]
