"""Log-probabilities of the raw distribution, before any sampling filter."""

import numpy as np
import numpy.typing as npt

from engine.api import TokenLogprob
from engine.llama.vocab import Vocab


def token_logprob(
    logits: npt.NDArray[np.float32], token: int, top: int, vocab: Vocab
) -> TokenLogprob:
    """The natural log-probability of `token` and of the `top` best, equal ones by id.

    logits  (vocab_size,) float32
    """
    peak = float(logits.max())
    log_sum = peak + float(np.log(np.exp(logits - peak, dtype=np.float64).sum()))
    return TokenLogprob(
        token_id=token,
        piece=vocab.piece(token, special=True),
        logprob=float(logits[token]) - log_sum,
        top=[
            (best, vocab.piece(best, special=True), float(logits[best]) - log_sum)
            for best in _best(logits, top)
        ],
    )


def _best(logits: npt.NDArray[np.float32], count: int) -> list[int]:
    if count <= 0:
        return []
    count = min(count, len(logits))
    found = np.argpartition(-logits, count - 1)[:count]
    return [int(token) for token in found[np.lexsort((found, -logits[found]))]]
