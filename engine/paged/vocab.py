"""The model's own tokenizer: llama.cpp opens the GGUF for its vocabulary alone.

The same text gives the same tokens on a Raspberry Pi and on a GPU, because the same code cuts it.
"""

import os
from pathlib import Path

from engine.errors import ModelFormatError
from engine.llama import native
from engine.llama.native import lib
from engine.llama.vocab import Vocab


def open_vocab(path: Path) -> Vocab:
    """The vocabulary of a GGUF file, kept until the process ends. Raises ModelFormatError."""
    log = native.start()
    params = lib.llama_model_default_params()
    params.vocab_only = True
    model = lib.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise ModelFormatError(f"the vocabulary cannot be read: {log.reason()}")
    vocab = Vocab(model)
    if not vocab.has_tokenizer:
        raise ModelFormatError("the model has no tokenizer; it cannot be served as text")
    return vocab
