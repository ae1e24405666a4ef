"""Trains the built-in model from scratch on the CPU and writes it as GGUF.

`python -m tools.builtin_model.train` reads `data/`, learns a tokenizer and a network from it and
replaces `appliance/builtin/hearth.gguf`. The seed, the data and the number of threads decide the
result; `python -m tools.builtin_model.evaluate` then measures it.
"""

import argparse
import math
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from tools.builtin_model import SHIPPED
from tools.builtin_model import bpe as bpe_module
from tools.builtin_model.bpe import ByteBPE
from tools.builtin_model.conversations import (
    IGNORED,
    SPECIAL,
    SYSTEM_PROMPTS,
    Conversations,
    Example,
)
from tools.builtin_model.export import write_gguf
from tools.builtin_model.network import Decoder, Shape
from tools.builtin_model.topics import Topic, load

VOCAB_SIZE = 2048
DROPOUT = 0.1
PEAK_RATE = 2e-3
WEIGHT_DECAY = 0.1
WARM_UP = 0.05  # share of the steps


def main() -> None:
    """Train with the options of the command line."""
    options = _options()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    topics = load()
    bpe = train_tokenizer(topics)
    network = Decoder(Shape(vocab_size=len(bpe.tokens)), DROPOUT)
    count = sum(parameter.numel() for parameter in network.parameters())
    print(f"{len(topics)} topics, {count:,} parameters, {len(bpe.tokens)} tokens")
    source = Conversations(
        topics, bpe, options.seed, options.batch_tokens, network.shape.context_length
    )
    fit(network, source, options.steps)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_gguf(options.out, network, bpe)
    print(f"wrote {options.out} ({options.out.stat().st_size:,} bytes)")


def train_tokenizer(topics: list[Topic]) -> ByteBPE:
    """Merges learned from answers, trained questions and system prompts, never held-out ones."""
    texts = [topic.answer for topic in topics] * 4
    for topic in topics:
        texts += topic.asked[:40]
        texts += [question.lower() for question in topic.asked[:40]]
    texts += [f"{role}\n{text}" for role in ("system", "user") for text in SYSTEM_PROMPTS]
    texts += ["assistant\n", "user\n", "system\n"] * 100
    return bpe_module.train(texts, VOCAB_SIZE, SPECIAL)


def fit(network: Decoder, source: Conversations, steps: int) -> None:
    """Run `steps` optimizer steps with a warm-up and a cosine decay of the rate."""
    optimizers = _optimizers(network)
    network.train()
    started = time.monotonic()
    smooth = 0.0
    for step in range(1, steps + 1):
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = PEAK_RATE * rate_share(step / steps)
        loss = _step(network, optimizers, *collate(source.batch()))
        smooth = loss if step == 1 else 0.98 * smooth + 0.02 * loss
        if step % 100 == 0 or step == steps:
            spent = time.monotonic() - started
            print(f"step {step}/{steps} loss {smooth:.4f} after {spent:.0f} s", flush=True)
    network.eval()


def rate_share(progress: float) -> float:
    """Part of the peak rate at a progress of 0 to 1: up in a line, down as a cosine to 2 %."""
    if progress < WARM_UP:
        return progress / WARM_UP
    turn = (progress - WARM_UP) / (1 - WARM_UP)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * turn))


def collate(examples: list[Example]) -> tuple[Tensor, Tensor]:
    """Ids and targets, both (batch, length) int64, padded on the right."""
    length = max(len(example.ids) for example in examples)
    ids = torch.zeros(len(examples), length, dtype=torch.int64)
    targets = torch.full((len(examples), length), IGNORED, dtype=torch.int64)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        targets[row, : len(example.targets)] = torch.tensor(example.targets)
    return ids, targets


def _optimizers(network: Decoder) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for embedding and norms.

    After 200 steps of 2,048 tokens AdamW alone was at a loss of 2.25, this pair at 1.11.
    """
    named = list(network.named_parameters())
    matrices = [p for name, p in named if p.dim() == 2 and name != "embedding.weight"]
    others = [p for name, p in named if p.dim() == 1 or name == "embedding.weight"]
    muon = torch.optim.Muon(
        matrices, lr=PEAK_RATE, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"
    )
    return [muon, torch.optim.AdamW(others, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.0)]


def _step(
    network: Decoder, optimizers: list[torch.optim.Optimizer], ids: Tensor, targets: Tensor
) -> float:
    network.zero_grad(set_to_none=True)
    wanted = targets != IGNORED
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(ids, wanted)
    loss = functional.cross_entropy(logits.float(), targets[wanted])
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
    return float(loss.item())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the built-in model")
    parser.add_argument("--steps", type=int, default=1500, help="optimizer steps")
    parser.add_argument("--batch-tokens", type=int, default=2048, help="tokens per step, about")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=SHIPPED)
    return parser.parse_args()


if __name__ == "__main__":
    main()
