"""A key's seed as words: every seed comes back, and a slip of the pen is found in its word."""

import random
import string

import pytest

from tools.bundles.errors import KeyFileError
from tools.bundles.paper import WORDS, page, read_page, seed_of, words_of

SEED = bytes(range(32))


def test_the_words_never_change():
    """Somebody may type in ten years what was printed today."""
    assert " ".join(words_of(SEED)) == (
        "babab dabif basar hadev bemal lafag bihab pafoj bobas tagim bosez baheb "
        "damep gajan dehej kajol dibed nakik disep salep domek zejif zebim ponez"
    )


def test_every_seed_comes_back():
    rng = random.Random(1)
    for seed in [bytes(32), b"\xff" * 32, *(rng.randbytes(32) for _ in range(200))]:
        words = words_of(seed)
        assert len(words) == WORDS
        assert seed_of(words) == seed
        assert read_page(page(seed)) == words


def test_a_page_is_read_with_its_text_in_capitals_or_as_bare_words():
    text = f"Fingerprint: 12345 67890\nDo this: 3 times.\n{page(SEED)}\nKeep it. Safe."
    assert seed_of(read_page(text)) == SEED
    assert seed_of(read_page(text.upper())) == SEED
    assert seed_of(read_page("\n".join(words_of(SEED)))) == SEED


def slips(word):
    """Every wrong letter, every missing one, and the swaps of letters that leave a word's form."""
    for index, letter in enumerate(word):
        for other in string.ascii_lowercase:
            if other != letter:
                yield word[:index] + other + word[index + 1 :]
        yield word[:index] + word[index + 1 :]
    for a, b in ((0, 2), (1, 3), (0, 1), (1, 2), (2, 3), (3, 4)):
        letters = list(word)
        letters[a], letters[b] = letters[b], letters[a]
        if "".join(letters) != word:
            yield "".join(letters)


@pytest.mark.parametrize("position", [0, 11, 23])
def test_a_slip_is_found_in_the_word_where_it_is(position):
    words = words_of(SEED)
    for slip in slips(words[position]):
        typed = [*words[:position], slip, *words[position + 1 :]]
        with pytest.raises(KeyFileError, match=f"word {position + 1}, '{slip}', is mistyped"):
            seed_of(typed)


def test_words_that_do_not_belong_together_are_refused():
    words = words_of(SEED)
    for typed in (
        [words[1], words[0], *words[2:]],
        [words[0], words[0], *words[2:]],
        [*words[:12], *words_of(bytes(32))[12:]],
    ):
        with pytest.raises(KeyFileError, match="do not belong together"):
            seed_of(typed)
    for typed in ([], words[:-1], [*words, words[0]]):
        with pytest.raises(KeyFileError, match=f"there are {len(typed)} words"):
            seed_of(typed)


def test_a_page_that_lost_a_line_is_refused():
    lines = page(SEED).splitlines()
    with pytest.raises(KeyFileError, match="there are 20 words"):
        seed_of(read_page("\n".join(lines[:2] + lines[3:])))
