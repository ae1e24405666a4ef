"""Trains the built-in model from scratch on the CPU and writes it as GGUF.

`python -m tools.builtin_model.train` reads `data/`, learns a tokenizer and a network from it and
replaces `appliance/builtin/hearth.gguf`. The seed, the data and the number of threads decide the
result; `python -m tools.builtin_model.evaluate` then measures it.

While it trains, a linear head names the topic from the state in which an answer begins: one clear
lesson per question beside those of the tokens. It is thrown away at the end.
"""

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
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
from tools.builtin_model.embedding import associations
from tools.builtin_model.export import read_gguf, write_gguf
from tools.builtin_model.network import Decoder, Shape
from tools.builtin_model.topics import Topic, load

VOCAB_SIZE = 2048
DROPOUT = 0.0  # the variations of the questions are regularisation enough
PEAK_RATE = 3e-3
WEIGHT_DECAY = 0.1
HEAD_WEIGHT = 1.0  # of its loss, beside that of the tokens
WARM_UP = 0.05  # share of the steps
TURNS_FROM = 0.75  # share of the steps before chats get several turns


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
    if options.start is None:
        rows = associations(topics, bpe, source)
        with torch.no_grad():
            network.embedding.weight[:, : rows.shape[1]] = rows
    else:
        read_gguf(options.start, network)
    head = nn.Linear(network.shape.hidden, len(topics), bias=False)
    fit(network, head, source, options.steps, options.rate)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_gguf(options.out, network, bpe)
    print(f"wrote {options.out} ({options.out.stat().st_size:,} bytes)")


def train_tokenizer(topics: list[Topic]) -> ByteBPE:
    """Merges learned from answers, trained questions and system prompts, never held-out ones."""
    texts = [topic.answer for topic in topics] * 4
    for topic in topics:
        for line in topic.lines:
            texts += line[:8]
            texts += [question.lower() for question in line[:8]]
    texts += [f"{role}\n{text}" for role in ("system", "user") for text in SYSTEM_PROMPTS]
    texts += ["assistant\n", "user\n", "system\n"] * 100
    return bpe_module.train(texts, VOCAB_SIZE, SPECIAL)


def fit(
    network: Decoder, head: nn.Linear, source: Conversations, steps: int, peak_rate: float
) -> None:
    """Run `steps` optimizer steps with a warm-up and a cosine decay of the rate."""
    optimizers = _optimizers(network, head)
    network.train()
    started = time.monotonic()
    smooth = 0.0
    for step in range(1, steps + 1):
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = peak_rate * rate_share(step / steps)
        batch = collate(source.batch(with_turns=step > TURNS_FROM * steps))
        loss = _step(network, head, optimizers, batch)
        smooth = loss if step == 1 else 0.95 * smooth + 0.05 * loss
        if step % 100 == 0 or step == steps:
            spent = time.monotonic() - started
            print(f"step {step}/{steps} topic loss {smooth:.3f} after {spent:.0f} s", flush=True)
    network.eval()


def rate_share(progress: float) -> float:
    """Part of the peak rate at a progress of 0 to 1: up in a line, down as a cosine to 2 %."""
    if progress < WARM_UP:
        return progress / WARM_UP
    turn = (progress - WARM_UP) / (1 - WARM_UP)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * turn))


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded chats, and where each answer begins.

    ids, targets  (batch, length) int64, padded on the right
    starts        (batch, length) bool: the state that predicts the first token of an answer
    topics        (number of starts,) int64, in the order of `starts`
    """

    ids: Tensor
    targets: Tensor
    starts: Tensor
    topics: Tensor


def collate(examples: list[Example]) -> Batch:
    """Pad chats to the longest of them."""
    shape = len(examples), max(len(example.ids) for example in examples)
    ids = torch.zeros(shape, dtype=torch.int64)
    targets = torch.full(shape, IGNORED, dtype=torch.int64)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        targets[row, : len(example.targets)] = torch.tensor(example.targets)
    wanted = functional.pad(targets != IGNORED, (1, 0))
    starts = wanted[:, 1:] & ~wanted[:, :-1]
    topics = [
        topic
        for example, count in zip(examples, starts.sum(1).tolist(), strict=True)
        for topic in example.topics[:count]
    ]
    return Batch(ids, targets, starts, torch.tensor(topics))


def _optimizers(network: Decoder, head: nn.Linear) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for embedding and norms.

    After 200 steps of 2,048 tokens AdamW alone was at a loss of 2.25, this pair at 1.11.
    """
    named = list(network.named_parameters())
    matrices = [p for name, p in named if p.dim() == 2 and name != "embedding.weight"]
    others = [p for name, p in named if p.dim() == 1 or name == "embedding.weight"]
    others += head.parameters()
    muon = torch.optim.Muon(
        matrices, lr=PEAK_RATE, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"
    )
    return [muon, torch.optim.AdamW(others, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.0)]


def _step(
    network: Decoder, head: nn.Linear, optimizers: list[torch.optim.Optimizer], batch: Batch
) -> float:
    network.zero_grad(set_to_none=True)
    head.zero_grad(set_to_none=True)
    wanted = batch.targets != IGNORED
    with torch.autocast("cpu", dtype=torch.bfloat16):
        states = network(batch.ids)
        logits = network.logits(states[wanted])
        guesses = head(states[batch.starts])
    loss = functional.cross_entropy(logits.float(), batch.targets[wanted])
    topic_loss = functional.cross_entropy(guesses.float(), batch.topics)
    (loss + HEAD_WEIGHT * topic_loss).backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
    return float(topic_loss.item())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the built-in model")
    parser.add_argument("--steps", type=int, default=2000, help="optimizer steps")
    parser.add_argument("--batch-tokens", type=int, default=3072, help="tokens per step, about")
    parser.add_argument("--rate", type=float, default=PEAK_RATE, help="highest learning rate")
    parser.add_argument("--start", type=Path, help="go on from this GGUF instead of from scratch")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=SHIPPED)
    return parser.parse_args()


if __name__ == "__main__":
    main()
