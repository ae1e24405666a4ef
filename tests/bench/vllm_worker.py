"""vLLM's side of the throughput benchmark: runs in vLLM's own environment, knows nothing of ours.

One JSON line per message. First argument: {"model", "streams", "context"}. Says {"version"}
when it is ready; then each line of jobs [[prompt ids, output tokens], …] on stdin is
answered by {"seconds", "tokens"}. Ends when stdin does. What vLLM prints goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # vLLM logs to stdout

import vllm  # noqa: E402 after its output has been redirected


def say(message: dict[str, Any]) -> None:
    ANSWERS.write(json.dumps(message) + "\n")
    ANSWERS.flush()


def serve(engine: vllm.LLM) -> None:
    for line in sys.stdin:
        jobs = json.loads(line)
        prompts = [{"prompt_token_ids": prompt} for prompt, _ in jobs]
        params = [
            vllm.SamplingParams(temperature=0, max_tokens=count, ignore_eos=True, detokenize=False)
            for _, count in jobs
        ]
        started = time.perf_counter()
        answers = engine.generate(prompts, params, use_tqdm=False)
        seconds = time.perf_counter() - started
        say({"seconds": seconds, "tokens": [list(a.outputs[0].token_ids) for a in answers]})


def main() -> None:
    told = json.loads(sys.argv[1])
    engine = vllm.LLM(
        model=told["model"],
        dtype="float32",
        skip_tokenizer_init=True,
        max_model_len=told["context"],
        max_num_seqs=told["streams"],
    )
    say({"version": vllm.__version__})
    serve(engine)


if __name__ == "__main__":
    main()
