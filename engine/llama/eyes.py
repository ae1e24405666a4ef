"""Seeing: a projector beside a model, through llama.cpp's multimodal library (libmtmd).

A picture becomes a few pieces in a row: tokens that frame it, and embeddings that the encoder makes
of its pixels. Knows nothing of requests, and of contexts only their handle. Importing this loads
libmtmd, so it is imported by a worker with a projector alone.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import (
    BackendUnavailableError,
    EngineError,
    EngineRequestError,
    ModelFormatError,
)
from engine.llama.interruption import Interruption
from engine.llama.model import LoadedModel
from engine.llama.native import lib
from engine.pictures import PictureSize, check_unfolding, read_size

try:
    from llama_cpp import mtmd_cpp
except (ImportError, OSError, RuntimeError, FileNotFoundError) as error:
    raise BackendUnavailableError(
        f"images need llama.cpp's multimodal library ({error}); pip install 'hearth[llama]'"
    ) from error

mtmd: Any = mtmd_cpp
"""The C API under its own names (mtmd.h, mtmd-helper.h)."""

_NODES_BETWEEN_POLLS = 32  # of the encoder's graph: about one layer of a vision transformer
_SEQUENCE = 0
_ABORTED = 2  # llama_decode's code, as in session.py


@dataclass(frozen=True, slots=True)
class Extent:
    """What a picture takes: cells of the KV cache, and positions (fewer with M-RoPE)."""

    tokens: int
    positions: int


class Eyes:
    """The image encoder of one model. Must be closed before its model."""

    def __init__(self, model: LoadedModel, interruption: Interruption) -> None:
        """Opens `model.spec.projector_path`; raises ModelFormatError."""
        self._log = model.log
        self._interruption = interruption
        self._must_stop = False
        self._nodes = 0
        # ctypes does not keep callbacks alive: they live as long as the encoder
        self._watch = lib.ggml_backend_sched_eval_callback(self._on_node)
        path = model.spec.projector_path
        self.file_bytes = Path(path).stat().st_size
        mtmd.mtmd_log_set(self._log.callback, None)
        mtmd.mtmd_helper_log_set(self._log.callback, None)
        self._log.clear()
        params = mtmd.mtmd_context_params_default()
        params.use_gpu = bool(model.spec.gpu_layers) and lib.llama_supports_gpu_offload()
        params.n_threads = model.prefill_threads
        params.print_timings = False
        params.cb_eval = self._watch
        self._handle = mtmd.mtmd_init_from_file(os.fsencode(path), model.handle, params)
        if not self._handle:
            raise ModelFormatError(
                f"llama.cpp cannot load the projector: {self._log.reason()};"
                " it must be made for this model"
            )
        if not mtmd.mtmd_support_vision(self._handle):
            self.close()
            raise ModelFormatError("the projector has no image encoder")
        self.compute_bytes = self._log.mebibytes(r"compute buffer size = +([\d.]+) MiB")
        self._marker = mtmd.mtmd_get_marker(self._handle)
        self.uses_mrope = bool(mtmd.mtmd_decode_use_mrope(self._handle))

    def extent(self, size: PictureSize) -> Extent:
        """What a picture of this size takes; nothing is decoded."""
        bitmap = mtmd.mtmd_bitmap_init(size.width, size.height, None)
        with self._pieces(bitmap) as pieces:
            return _extent(pieces)

    def show(self, data: bytes, context: int, position: int, batch_size: int) -> Extent | None:
        """Compute the KV of a picture from `position` on; None if interrupted. `batch_size` is the
        physical one.

        Whether it succeeds or not, the KV cache may hold some of it afterwards. Raises
        EngineRequestError for a file that cannot be decoded.
        """
        self._log.clear()
        with self._pieces(self._decoded(data)) as pieces:
            for piece in _each(pieces):
                code = self._show_piece(piece, context, position, batch_size)
                self._interruption.reraise()
                if code == _ABORTED:
                    return None
                if code != 0:
                    raise EngineError(
                        f"llama.cpp could not compute an image (code {code}): {self._log.reason()}"
                    )
                position += int(mtmd.mtmd_input_chunk_get_n_pos(piece))
            return _extent(pieces)

    def close(self) -> None:
        """Free it; safe to call again."""
        if self._handle:
            mtmd.mtmd_free(self._handle)
            self._handle = None

    def _decoded(self, data: bytes) -> Any:
        """A bitmap of the pixels, to be freed."""
        check_unfolding(data, read_size(data))
        buffer = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
        bitmap = mtmd.mtmd_helper_bitmap_init_from_buf(self._handle, buffer, len(data), False)
        if not bitmap:
            raise EngineRequestError("the image is damaged: it cannot be decoded")
        return bitmap

    @contextmanager
    def _pieces(self, bitmap: Any) -> Iterator[Any]:
        """The pieces of a picture, whose bitmap is freed."""
        pieces = mtmd.mtmd_input_chunks_init()
        try:
            text = mtmd.mtmd_input_text()
            text.text, text.text_len = self._marker, len(self._marker)
            text.add_special, text.parse_special = False, True
            bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
            try:
                code = mtmd.mtmd_tokenize(self._handle, pieces, ctypes.byref(text), bitmaps, 1)
            finally:
                mtmd.mtmd_bitmap_free(bitmap)
            if code != 0:
                raise EngineRequestError(
                    f"the model's projector cannot take the image: {self._log.reason()}"
                )
            yield pieces
        finally:
            mtmd.mtmd_input_chunks_free(pieces)

    def _show_piece(self, piece: Any, context: int, position: int, batch_size: int) -> int:
        """llama.cpp's code of what was computed; _ABORTED if it was interrupted."""
        after = lib.llama_pos(0)
        if mtmd.mtmd_input_chunk_get_type(piece) == mtmd.MTMD_INPUT_CHUNK_TYPE_TEXT:
            return int(
                mtmd.mtmd_helper_eval_chunk_single(
                    *(self._handle, context, piece, position, _SEQUENCE, batch_size, False),
                    ctypes.byref(after),
                )
            )
        self._check_batch(piece, batch_size)
        self._must_stop, self._nodes = False, 0
        self._interruption.begin()
        code = int(mtmd.mtmd_encode_chunk(self._handle, piece))
        if self._must_stop:
            return _ABORTED
        if code != 0:
            return code
        vectors = mtmd.mtmd_get_output_embd(self._handle)
        self._interruption.arm(context)
        code = mtmd.mtmd_helper_decode_image_chunk(
            *(self._handle, context, piece, vectors, position, _SEQUENCE, batch_size),
            ctypes.byref(after),
            mtmd.mtmd_helper_post_decode_callback(),
            None,
        )
        self._interruption.disarm(context)
        return int(code)

    def _check_batch(self, piece: Any, batch_size: int) -> None:
        """llama.cpp ends the process when a picture that is seen at once needs two batches."""
        tokens = int(mtmd.mtmd_input_chunk_get_n_tokens(piece))
        if tokens > batch_size and mtmd.mtmd_decode_use_non_causal(self._handle, piece):
            raise EngineRequestError(
                f"the image takes {tokens} tokens, which this model must see at once; a batch has"
                f" {batch_size}; a num_batch of {tokens} helps if that is not over 512"
            )

    def _on_node(self, _node: Any, is_asked: bool, _user_data: Any) -> bool:
        """Before a node: whether to pause after it. After one: whether to go on."""
        if is_asked:
            self._nodes += 1
            return self._nodes % _NODES_BETWEEN_POLLS == 0
        self._must_stop = self._must_stop or self._interruption.check()
        return not self._must_stop


def _each(pieces: Any) -> Iterator[Any]:
    for number in range(mtmd.mtmd_input_chunks_size(pieces)):
        yield mtmd.mtmd_input_chunks_get(pieces, number)


def _extent(pieces: Any) -> Extent:
    return Extent(
        int(mtmd.mtmd_helper_get_n_tokens(pieces)), int(mtmd.mtmd_helper_get_n_pos(pieces))
    )
