"""One sequence in a llama.cpp context: the tokens that have KV, and the calls that change them.

Everything that must agree with the KV memory is here: prefix reuse, context shift, and repair after
a computation that was stopped in the middle. Knows no sampling and no request.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from engine.errors import EngineError
from engine.llama.interruption import Interruption
from engine.llama.model import Context
from engine.llama.native import NativeLog, lib

if TYPE_CHECKING:
    from engine.llama.eyes import Eyes  # loads libmtmd, which most models do not need

_ABORTED = 2  # llama_decode's code for "the abort callback said so"
_SEQUENCE = 0
PHYSICAL_BATCH = 512  # llama.cpp's own choice
_END = -1  # "to the end" in llama_memory_* ranges


@dataclass(slots=True)
class _Picture:
    """An image among the tokens: kept or dropped as a whole."""

    start: int  # index of its first token
    end: int
    lag: int  # tokens that have no position of their own (M-RoPE)


class Session:
    """The single sequence of a generating context.

    Invariant between calls: the KV memory holds exactly `tokens`, in this order. Images stand there
    as negative keys, once per token that they take. Token i sits at position i, less what images
    before it lag.
    """

    def __init__(
        self,
        context: Context,
        *,
        vocab_size: int,
        context_length: int,
        batch_size: int,
        max_outputs: int = 1,
        interruption: Interruption,
        log: NativeLog,
        eyes: "Eyes | None" = None,
    ) -> None:
        self._owned = context
        self._context = context.handle
        self._memory = lib.llama_get_memory(self._context)
        self._vocab_size = vocab_size
        self.context_length = context_length
        self.batch_size = batch_size
        self.max_outputs = max_outputs  # tokens of one batch whose logits can be read
        self._interruption = interruption
        self._log = log
        self.tokens: list[int] = []
        self._pure = 0  # leading tokens whose KV has only ever seen exactly the tokens before them
        self._salt = ""  # of the prompt whose KV this is
        self._eyes = eyes
        self._pictures: list[_Picture] = []
        self.can_shift = bool(self._memory and lib.llama_memory_can_shift(self._memory))
        # The sequence stays NULL: llama.cpp then takes sequence 0 (llama.h). Positions are given:
        # it would find wrong ones behind an image with M-RoPE, whose tokens share one.
        self._chunk = (ctypes.c_int32 * batch_size)()
        places = self._chunk_places = (ctypes.c_int32 * batch_size)()
        self._chunk_batch = lib.llama_batch(n_tokens=0, token=self._chunk, pos=places)
        self._every = (ctypes.c_int8 * max_outputs)(*[1] * max_outputs)
        self._every_batch = lib.llama_batch(
            n_tokens=0, token=self._chunk, pos=places, logits=self._every
        )
        self._one = (ctypes.c_int32 * 1)()
        self._one_place = (ctypes.c_int32 * 1)()
        self._one_batch = lib.llama_batch(n_tokens=1, token=self._one, pos=self._one_place)
        self._logits: npt.NDArray[np.float32] | None = None
        self._logits_address = 0

    @property
    def context(self) -> int:
        """The handle, for the samplers."""
        return self._context

    @property
    def kv_bytes(self) -> int:
        return self._owned.kv_bytes

    @property
    def compute_bytes(self) -> int:
        return self._owned.compute_bytes

    @property
    def is_full(self) -> bool:
        return len(self.tokens) >= self.context_length

    def reuse(self, prompt: Sequence[int], salt: str) -> int:
        """Keep the KV of the longest common prefix with `prompt`, drop the rest; its length.

        Of a prompt with another salt nothing is kept: how many tokens were cached, and how soon an
        answer begins, would tell one client what another asked.

        At least the last token of the prompt is left to compute, since its logits are needed.
        """
        if salt != self._salt:
            self.clear()
            self._salt = salt
        limit = min(self._pure, len(prompt) - 1)
        pairs = zip(self.tokens[:limit], prompt, strict=False)
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        self.truncate(self._outside(common))
        return len(self.tokens)

    def truncate(self, length: int) -> None:
        """Drop every token from `length` on; all of them where memory cannot be cut (recurrent)."""
        if length < len(self.tokens):
            place = self._position(length)
            if not lib.llama_memory_seq_rm(self._memory, _SEQUENCE, place, _END):
                self.clear()
                return
        self.tokens = self.tokens[:length]
        self._pictures = [picture for picture in self._pictures if picture.end <= length]
        self._pure = min(self._pure, length)

    def clear(self) -> None:
        lib.llama_memory_clear(self._memory, False)
        self.tokens = []
        self._pictures = []
        self._pure = 0

    def extend(self, chunk: Sequence[int], *, every: bool = False) -> bool:
        """Compute the KV of up to `batch_size` more tokens; False if interrupted.

        `every`: of up to `max_outputs` tokens, whose logits all can be read afterwards.
        After an interruption the sequence is as before the call, or empty.
        """
        count = len(chunk)
        batch = self._every_batch if every else self._chunk_batch
        place = self._position(len(self.tokens))
        self._chunk[:count] = list(chunk)
        self._chunk_places[:count] = list(range(place, place + count))
        batch.n_tokens = count
        self._interruption.arm(self._context)
        code = lib.llama_decode(self._context, batch)
        self._interruption.disarm(self._context)
        if code == 0:
            self._advance(chunk)
            self._interruption.reraise()
            return True
        self._repair()
        self._interruption.reraise()
        if code == _ABORTED:
            return False
        raise self._decode_error(code)

    def show(self, key: int, data: bytes) -> bool:
        """Compute the KV of an image; False if interrupted. `key` is what it is in `tokens`.

        After an interruption or an error the sequence is as before the call, or empty.
        """
        if self._eyes is None:
            raise EngineError("an image came to a model without a projector")
        start = len(self.tokens)
        batch = min(self.batch_size, PHYSICAL_BATCH)
        try:
            seen = self._eyes.show(data, self._context, self._position(start), batch)
        except BaseException:
            self._repair()
            raise
        if seen is None:
            self._repair()
            return False
        self._advance([key] * seen.tokens)
        lag = seen.tokens - seen.positions
        self._pictures.append(_Picture(start, len(self.tokens), lag))
        return True

    def append(self, token: int) -> None:
        """Compute the KV of one more token: the hot path of decoding."""
        self._one[0] = token
        self._one_place[0] = self._position(len(self.tokens))
        code = lib.llama_decode(self._context, self._one_batch)
        if code != 0:
            self._repair()
            raise self._decode_error(code)
        if self._pure == len(self.tokens):
            self._pure += 1
        self.tokens.append(token)

    def shift(self, keep: int) -> bool:
        """Make room: drop half of the tokens after the first `keep`; False if it cannot be done."""
        keep = self._outside(keep)
        discard = (len(self.tokens) - keep) // 2
        if not self.can_shift or discard < 1:
            return False
        end = self._behind(keep + discard)
        discard = end - keep
        if not lib.llama_memory_seq_rm(self._memory, _SEQUENCE, keep, end):
            return False
        lib.llama_memory_seq_add(self._memory, _SEQUENCE, end, _END, -discard)
        del self.tokens[keep:end]
        self._pictures = [
            picture
            if picture.end <= keep
            else replace(picture, start=picture.start - discard, end=picture.end - discard)
            for picture in self._pictures
            if picture.end <= keep or picture.start >= end
        ]
        self._pure = min(self._pure, keep)
        return True

    def logits(self) -> npt.NDArray[np.float32]:
        """The raw logits after the last token, (vocab_size,) float32; valid until the next call
        that computes. A view of llama.cpp's own buffer: never write to it."""
        pointer = lib.llama_get_logits_ith(self._context, -1)
        address = ctypes.cast(pointer, ctypes.c_void_p).value
        if address is None:
            raise EngineError("llama.cpp has no logits for the last token")
        if self._logits is None or address != self._logits_address:
            self._logits = np.ctypeslib.as_array(pointer, shape=(self._vocab_size,))
            self._logits_address = address
        return self._logits

    def logits_of(self, index: int) -> npt.NDArray[np.float32]:
        """The raw logits after token `index` of the chunk that `extend` computed last, with
        `every`; as `logits` otherwise."""
        pointer = lib.llama_get_logits_ith(self._context, index)
        if not pointer:
            raise EngineError(f"llama.cpp has no logits for token {index} of the batch")
        found: npt.NDArray[np.float32] = np.ctypeslib.as_array(pointer, shape=(self._vocab_size,))
        return found

    def warm_up(self, token: int) -> None:
        """Compute one token and forget it: the first request finds the weights in memory."""
        self.append(token)
        lib.llama_synchronize(self._context)
        self.clear()

    def close(self) -> None:
        self._owned.close()
        self._context = 0

    def _advance(self, chunk: Sequence[int]) -> None:
        if self._pure == len(self.tokens):
            self._pure += len(chunk)
        self.tokens.extend(chunk)

    def _repair(self) -> None:
        """Drop what a failed computation left behind the last known-good position."""
        place = self._position(len(self.tokens))
        if not lib.llama_memory_seq_rm(self._memory, _SEQUENCE, place, _END):
            self.clear()

    def _position(self, index: int) -> int:
        """Where the token of this index sits, which is in no image; len(tokens): the next one."""
        if not self._pictures:
            return index
        return index - sum(picture.lag for picture in self._pictures if picture.end <= index)

    def _outside(self, index: int) -> int:
        """`index`, or the start of the image that it cuts."""
        cut = (p.start for p in self._pictures if p.start < index < p.end)
        return next(cut, index)

    def _behind(self, index: int) -> int:
        """`index`, or the end of the image that it cuts."""
        cut = (p.end for p in self._pictures if p.start < index < p.end)
        return next(cut, index)

    def _decode_error(self, code: int) -> EngineError:
        return EngineError(f"llama.cpp could not compute (code {code}): {self._log.reason()}")
