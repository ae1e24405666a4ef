"""A model that is small and yet passes through every kernel, and running the engine on it."""

from engine.api import GenerateRequest, LoadSpec, SamplingParams
from engine.paged.model import PagedModel
from tests.fakes.gguf_builder import Q8_0, tiny_llama_gguf

ON_TRITON = "attention, ops, sampling, projections by triton"


def small_model(folder):
    """Heads of 64 as in real models; few rows, since the interpreter needs 10 ms per program."""
    shape = {"layers": 1, "embd": 128, "heads": 2, "kv_heads": 1, "ff": 64}
    return tiny_llama_gguf(folder / "small.gguf", ftype=Q8_0, **shape)


def open_model(path, kv_type="f16", **choice):
    spec = LoadSpec(
        engine="paged", model_path=str(path), context_length=128, threads=1, kv_type=kv_type
    )
    return PagedModel.open(spec, **choice)


def serve(engine, prompts, max_tokens, temperature=0.0):
    """(tokens, log-probabilities) of each prompt, all given at once."""
    sampling = SamplingParams(temperature=temperature, seed=5)
    for id, prompt in enumerate(prompts):
        request = GenerateRequest(
            id=id, prompt=prompt, max_tokens=max_tokens, sampling=sampling, logprobs=0,
            ignore_eos=True,
        )  # fmt: skip
        engine.add(request)
    tokens = [[] for _ in prompts]
    logprobs = [[] for _ in prompts]
    while engine.has_work():
        for step in engine.step():
            tokens[step.id] += step.token_ids
            logprobs[step.id] += [entry.logprob for entry in step.logprobs]
    return tokens, logprobs
