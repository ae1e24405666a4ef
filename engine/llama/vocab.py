"""Tokens and bytes: the model's vocabulary behind bounds checks.

Knows the vocabulary only, no context and no KV, so that it may be used at any time, also from
inside a running computation.
"""

import ctypes
from collections.abc import Sequence

from engine.errors import EngineRequestError
from engine.llama.native import lib

_MAX_TEXT_BYTES = 2**30  # llama_tokenize counts in int32
_FIRST_TRY = 2**20  # tokens; texts beyond it are tokenised twice instead of reserving for the worst


class Vocab:
    """The vocabulary of one loaded model. Valid as long as the model is."""

    def __init__(self, model: int) -> None:
        self.handle = lib.llama_model_get_vocab(model)
        self.size = int(lib.llama_vocab_n_tokens(self.handle))
        self.bos = int(lib.llama_vocab_bos(self.handle))
        self.eos = int(lib.llama_vocab_eos(self.handle))
        self.adds_bos = bool(lib.llama_vocab_get_add_bos(self.handle))
        self.end_id = self.eos if self.eos >= 0 else int(lib.llama_vocab_eot(self.handle))
        self._output: list[bytes | None] = [None] * self.size
        self._buffer = ctypes.create_string_buffer(256)

    @property
    def has_tokenizer(self) -> bool:
        return self.size > 0 and lib.llama_vocab_type(self.handle) != lib.LLAMA_VOCAB_TYPE_NONE

    @property
    def infill(self) -> list[int]:
        """The tokens that open prefix, suffix and middle of a text to be filled in; none if one of
        them is missing. llama.cpp takes them from the file's keys, else by their names."""
        calls = (lib.llama_vocab_fim_pre, lib.llama_vocab_fim_suf, lib.llama_vocab_fim_mid)
        found = [int(call(self.handle)) for call in calls]
        return found if all(0 <= token < self.size for token in found) else []

    @property
    def suppressed_ids(self) -> list[int]:
        """Tokens that the model's file forbids in the output."""
        count = ctypes.c_int32(0)
        ids = lib.llama_vocab_get_suppress_tokens(self.handle, ctypes.byref(count))
        return [token for token in ids[: count.value] if 0 <= token < self.size] if ids else []

    def is_end(self, token: int) -> bool:
        """Whether the model ends its turn with `token`."""
        return bool(lib.llama_vocab_is_eog(self.handle, token))

    def output_piece(self, token: int) -> bytes:
        """The bytes that `token` adds to the output; control tokens add none. Cached."""
        piece = self._output[token]
        if piece is None:
            piece = self._output[token] = self.piece(token, special=False)
        return piece

    def named(self, texts: Sequence[str]) -> frozenset[int]:
        """The tokens that `texts` stand for, of those that are one token."""
        found = (self.tokenize(text, add_special=False, parse_special=True) for text in texts)
        return frozenset(tokens[0] for tokens in found if len(tokens) == 1)

    def piece(self, token: int, *, special: bool) -> bytes:
        """The bytes of a token of this vocabulary; of a control token only if `special`."""
        length = lib.llama_token_to_piece(
            self.handle, token, self._buffer, len(self._buffer), 0, special
        )
        if length < 0:
            self._buffer = ctypes.create_string_buffer(-length)
            length = lib.llama_token_to_piece(self.handle, token, self._buffer, -length, 0, special)
        return self._buffer.raw[:length]

    def text(self, token: int) -> str:
        """A special token as text for chat templates; '' if the model has no such token."""
        if not 0 <= token < self.size:
            return ""
        return self.piece(token, special=True).decode("utf-8", "replace")

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of `text`; lone surrogates become question marks."""
        raw = text.encode("utf-8", "replace")
        if len(raw) > _MAX_TEXT_BYTES:
            raise EngineRequestError(
                f"text is {len(raw)} bytes, at most {_MAX_TEXT_BYTES} can be tokenised; shorten it"
            )
        capacity = min(len(raw), _FIRST_TRY) + 16
        for _ in range(2):
            tokens = (ctypes.c_int32 * capacity)()
            count = lib.llama_tokenize(
                self.handle, raw, len(raw), tokens, capacity, add_special, parse_special
            )
            if count >= 0:
                return tokens[:count]
            capacity = -count
        raise EngineRequestError("llama.cpp could not tokenise the text; shorten it")

    def detokenize(self, token_ids: Sequence[int]) -> bytes:
        """The bytes of `token_ids`, special tokens as their text."""
        self.check(token_ids)
        return b"".join(self.piece(token, special=True) for token in token_ids)

    def check(self, token_ids: Sequence[int]) -> None:
        """Raise EngineRequestError for an id that the vocabulary does not have."""
        for position, token in enumerate(token_ids):
            if not 0 <= token < self.size:
                raise EngineRequestError(
                    f"token id {token} at position {position} is not in the vocabulary;"
                    f" allowed are 0 to {self.size - 1}"
                )
