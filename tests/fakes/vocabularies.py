"""Small real vocabularies for test models: byte-level BPE and WordPiece, as GGUF metadata."""

from collections import Counter
from itertools import pairwise
from typing import Any

_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")
_CORPUS = (
    "the quick brown fox jumps over the lazy dog and then the other dog thinks about the answer "
    "to the question that the user asked the assistant in the system message of this model"
)


def bpe_vocabulary(size: int) -> dict[str, Any]:
    """The tokenizer keys of a byte-level BPE vocabulary of exactly `size` tokens."""
    alphabet = _byte_alphabet()
    merges = _learn_merges(size - 256 - len(_SPECIAL))
    tokens = [*alphabet, *("".join(pair) for pair in merges)]
    filler = [f"<|unused_{n}|>" for n in range(size - len(tokens) - len(_SPECIAL))]
    tokens += [*filler, *_SPECIAL]
    first_special = len(tokens) - len(_SPECIAL) - len(filler)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * first_special + [3] * (size - first_special),
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges],
        "tokenizer.ggml.bos_token_id": tokens.index("<|endoftext|>"),
        "tokenizer.ggml.eos_token_id": tokens.index("<|im_end|>"),
        "tokenizer.ggml.padding_token_id": tokens.index("<|pad|>"),
        "tokenizer.ggml.add_bos_token": False,
    }


def wordpiece_vocabulary() -> dict[str, Any]:
    """The tokenizer keys of a small WordPiece vocabulary: letters, digits, some whole words."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"
    phantom = "\u2581"  # llama.cpp marks the start of a word where BERT marks the continuation
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens += [phantom + c for c in letters] + list(letters)
    tokens += [phantom + word for word in sorted(set(_CORPUS.split())) if len(word) > 1]
    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * 5 + [1] * (len(tokens) - 5),
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.cls_token_id": 2,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 3,
        "tokenizer.ggml.seperator_token_id": 3,  # spelt so in the format
        "tokenizer.ggml.mask_token_id": 4,
        "tokenizer.ggml.token_type_count": 2,
    }


def _byte_alphabet() -> list[str]:
    """GPT-2's printable stand-in for each byte value."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    return [chr(b) if b in printable else chr(next(spare)) for b in range(256)]


def _learn_merges(count: int) -> list[tuple[str, str]]:
    """Up to `count` BPE merges, most frequent pair first, ties by text."""
    alphabet = _byte_alphabet()
    words = [[alphabet[b] for b in (" " + word).encode()] for word in _CORPUS.split()]
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs = Counter(pair for word in words for pair in pairwise(word))
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        words = [_merged(word, best) for word in words]
    return merges


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for part in word:
        if out and (out[-1], part) == pair:
            out[-1] += part
        else:
            out.append(part)
    return out
