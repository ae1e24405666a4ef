"""Images in prompts of the llama engine, held against llama.cpp's own way through them."""

import ctypes
import subprocess
import sys
import zlib

import pytest
from llama_cpp import llama_cpp as lib
from llama_cpp import mtmd_cpp as mtmd

from engine.api import FinishReason
from engine.errors import ContextLengthError, EngineRequestError, ModelFormatError
from tests.fakes.gguf_builder import tiny_llama_gguf
from tests.fakes.llama_runs import engine_for, finish, plain_context, run
from tests.fakes.seeing import bmp, png, png_of, tiny_projector_gguf, tiny_qwen2vl_gguf

CAT, DOG = png(seed=1), png(seed=2)
SIZE = (40, 30)
KINDS = ("mlp", "gemma3", "qwen2vl_merger")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vision")
    tiny_llama_gguf(folder / "model.gguf", vocab=600)
    tiny_qwen2vl_gguf(folder / "qwen.gguf", vocab=600)
    for kind in KINDS:
        tiny_projector_gguf(folder / f"{kind}.gguf", kind=kind, side=112)
    return folder


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def engine(folder, kind):
    with seeing(folder, kind) as engine:
        yield engine


def seeing(folder, kind="mlp", **spec):
    projector = str(folder / f"{kind}.gguf")
    return engine_for(model_of(folder, kind), projector_path=projector, **spec)


def model_of(folder, kind):
    return folder / ("qwen.gguf" if kind == "qwen2vl_merger" else "model.gguf")


def prompt_of(engine, *parts):
    """Tokens of texts and, for a whole number n, of image n."""
    (count,) = engine.look([SIZE])
    tokens = []
    for number, part in enumerate(parts):
        if isinstance(part, int):
            tokens += [-1 - part] * count
        else:
            tokens += engine.tokenize(part, add_special=number == 0, parse_special=True)
    return tokens


def ask(engine, *parts, images=(CAT,), **fields):
    fields = {"max_tokens": 12, "images": list(images), "logprobs": 0} | fields
    return run(engine, prompt_of(engine, *parts), **fields)


def by_llama_cpp(folder, kind, text, images, count):
    """Greedy tokens by mtmd's helpers alone; `text` has its marker for each image."""
    with plain_context(model_of(folder, kind)) as (context, vocab):
        params = mtmd.mtmd_context_params_default()
        params.use_gpu, params.n_threads = False, 1
        path = str(folder / f"{kind}.gguf").encode()
        eyes = mtmd.mtmd_init_from_file(path, lib.llama_get_model(context), params)
        chunks = mtmd.mtmd_input_chunks_init()
        given = mtmd.mtmd_input_text()
        given.text, given.text_len = text.encode(), len(text.encode())
        given.add_special = given.parse_special = True
        bitmaps = (mtmd.mtmd_bitmap_p_ctypes * len(images))()
        for number, data in enumerate(images):
            buffer = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
            found = mtmd.mtmd_helper_bitmap_init_from_buf(eyes, buffer, len(data), False)
            bitmaps[number] = found
        assert mtmd.mtmd_tokenize(eyes, chunks, ctypes.byref(given), bitmaps, len(images)) == 0
        place = lib.llama_pos(0)
        code = mtmd.mtmd_helper_eval_chunks(
            eyes, context, chunks, 0, 0, 512, True, ctypes.byref(place)
        )
        assert code == 0
        tokens = []
        one = (ctypes.c_int32 * 1)()
        for _ in range(count):
            logits = lib.llama_get_logits_ith(context, -1)
            size = lib.llama_vocab_n_tokens(vocab)
            tokens.append(max(range(size), key=lambda i: logits[i]))
            one[0] = tokens[-1]
            lib.llama_decode(context, lib.llama_batch_get_one(one, 1))
        mtmd.mtmd_input_chunks_free(chunks)
        for bitmap in bitmaps:
            mtmd.mtmd_bitmap_free(bitmap)
        mtmd.mtmd_free(eyes)
        return tokens


def test_greedy_tokens_are_those_of_llama_cpps_own_helpers(folder, kind, engine):
    mark = "<__media__>"
    for parts, text, images in (
        (("see ", 0, " what?"), f"see {mark} what?", (CAT,)),
        ((0, " and ", 1, " so?"), f"{mark} and {mark} so?", (DOG, CAT)),
    ):
        ours = ask(engine, *parts, images=images, ignore_eos=True)
        assert ours.error is None
        assert ours.tokens == by_llama_cpp(folder, kind, text, images, 12)


def test_another_picture_or_place_is_another_answer_and_the_same_one_the_same(engine):
    def told(*parts, images):
        outcome = ask(engine, *parts, images=images)
        return [(one.token_id, round(one.logprob, 4)) for one in outcome.logprobs]

    cat = told("a ", 0, " b?", images=(CAT,))
    assert told("a ", 0, " b?", images=(DOG,)) != cat
    assert told("a ", 0, " b?", images=(CAT,)) == cat
    assert told(0, "a ", " b?", images=(CAT,)) != cat
    both = told("a ", 0, " b ", 1, " c?", images=(CAT, DOG))
    assert told("a ", 0, " b ", 1, " c?", images=(DOG, CAT)) != both
    assert told("a ", 1, " b ", 0, " c?", images=(DOG, CAT)) == both


def test_the_cache_keeps_whole_pictures_and_never_takes_one_for_another(engine):
    first = ask(engine, "a ", 0, " b?")
    again = ask(engine, "a ", 0, " b? c")
    other = ask(engine, "a ", 0, " b? c", images=(DOG,))
    picture = engine.look([SIZE])[0]
    before = len(engine.tokenize("a ", add_special=True, parse_special=True))
    assert first.usage.cached_tokens == 0
    assert again.usage.cached_tokens >= before + picture
    assert other.usage.cached_tokens == before
    assert first.usage.prompt_tokens > picture


def test_a_context_shift_drops_whole_pictures(folder):
    """Half of the tokens end inside the second picture, so all of it goes."""
    with seeing(folder, context_length=160) as engine:
        parts, images = ("a ", 0, " b ", 1, " c?"), (CAT, DOG)
        prompt = len(prompt_of(engine, *parts))
        fields = {"images": images, "max_tokens": 30, "ignore_eos": True, "num_keep": 8}
        outcome = ask(engine, *parts, **fields)
        assert (len(outcome.tokens), outcome.finish) == (30, FinishReason.LENGTH)
        assert engine.stats()["kv_tokens"] < prompt + 30 - 2 * engine.look([SIZE])[0]
        # what the cache holds now is of no use to the same prompt, and is not used
        again = ask(engine, *parts, **fields)
        assert again.usage.cached_tokens <= 8
        assert again.tokens == outcome.tokens


def test_a_prompt_that_is_too_long_is_not_cut_through_pictures(folder):
    with seeing(folder, context_length=64) as engine, pytest.raises(ContextLengthError):
        ask(engine, "a ", 0, " b?")


def test_an_abort_stops_the_encoder(folder):
    """A small language model reads a picture in one or two polls: the fourth is the encoder's."""
    calls = []

    def poll():
        calls.append(None)
        if len(calls) == 4:
            engine.abort(1)

    tiny_projector_gguf(folder / "slow.gguf", side=280, layers=12, width=128)
    with seeing(folder, "slow", poll=poll) as engine:
        tokens = prompt_of(engine, "a ", 0, " b?")
        outcome = run(engine, tokens, images=[CAT], max_tokens=1)
        assert outcome.finish is FinishReason.ABORT
        assert len(calls) == 4
        assert engine.stats()["kv_tokens"] == 2
        assert run(engine, tokens, images=[CAT], max_tokens=1).tokens


def test_the_engine_goes_on_after_a_picture_that_cannot_be_decoded(engine):
    damaged = CAT[:41] + bytes(20) + CAT[61:]
    outcome = ask(engine, "a ", 0, " b?", images=(damaged,))
    assert outcome.error[0] == "invalid_request"
    assert "damaged" in outcome.error[1]
    assert ask(engine, "a ", 0, " b?").tokens


def test_rows_that_unfold_to_more_than_the_header_says(engine):
    bomb = png_of(*SIZE, zlib.compress(bytes(50_000_000)))
    outcome = ask(engine, "a ", 0, " b?", images=(bomb,))
    assert "but more are packed in it" in outcome.error[1]


def test_kinds_of_files(engine):
    assert ask(engine, "a ", 0, " b?", images=(bmp(),)).tokens
    with pytest.raises(EngineRequestError, match="image 0 of the request: it is not an image"):
        ask(engine, "a ", 0, " b?", images=(b"hello",))


def test_prompts_that_make_no_sense(engine):
    with pytest.raises(EngineRequestError, match="ends with an image"):
        ask(engine, "a ", 0)
    with pytest.raises(EngineRequestError, match="tokens for image 1"):
        ask(engine, "a ", 1, " b")
    with pytest.raises(EngineRequestError, match="tokens for image 0"):
        run(engine, [5, -1, 6], images=[CAT])


def test_a_model_without_a_projector_says_so(folder):
    with engine_for(folder / "model.gguf") as engine:
        assert not engine.info.sees
        with pytest.raises(EngineRequestError, match="does not see images"):
            engine.look([SIZE])
        with pytest.raises(EngineRequestError, match="does not see images"):
            run(engine, [5, -1, 6], images=[CAT])


def test_a_projector_of_another_model_is_refused(folder, tmp_path):
    wide = tiny_projector_gguf(tmp_path / "wide.gguf", embd=96)
    with (
        pytest.raises(ModelFormatError, match="mismatch between text model"),
        engine_for(folder / "model.gguf", projector_path=str(wide)),
    ):
        pass


def test_what_it_takes_is_told(folder, engine):
    assert engine.info.sees
    assert engine.info.weight_bytes > (folder / "model.gguf").stat().st_size * 0.9


def test_libmtmd_is_loaded_for_seeing_models_alone(folder):
    code = (
        "import sys; from engine.llama.engine import load; from engine.api import LoadSpec;"
        f"load(LoadSpec(engine='llama', model_path={str(folder / 'model.gguf')!r}), lambda: None);"
        "sys.exit('llama_cpp.mtmd_cpp' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_nothing_is_printed(folder, capfd):
    with seeing(folder) as engine:
        ask(engine, "a ", 0, " b?")
    assert capfd.readouterr() == ("", "")


def test_many_pictures_one_after_another(engine):
    images = [png(seed=n) for n in range(4)]
    outcome = ask(engine, "a ", 0, 1, 2, 3, " b?", images=images)
    assert outcome.tokens
    engine.abort(1)
    assert finish(engine).tokens == []
