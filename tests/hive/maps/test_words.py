"""Which text tokens spell which word."""

import pytest

from hive.data.text import load_tokenizer
from hive.errors import UserError
from hive.maps.words import choose, words_of

CAPTION = 'a  person\nin a steamy room, "Xylophonically" naïve'


def test_each_word_is_spelled_by_its_own_tokens() -> None:
    tokenizer = load_tokenizer()
    ids = tokenizer.encode(CAPTION, 77)
    words = words_of(tokenizer, CAPTION, 77)
    assert [word.text for word in words] == CAPTION.split()
    for word in words:
        assert tokenizer.backend.decode([ids[token] for token in word.tokens]).strip() == word.text
    # BOS, white space and the closing newline belong to no word, every other token to one
    owned = [token for word in words for token in word.tokens]
    assert owned == sorted(set(owned))
    rest = [ids[token] for token in range(1, len(ids)) if token not in owned]
    assert tokenizer.backend.decode(rest).isspace()


@pytest.mark.parametrize("limit", [3, 5, 9])
def test_a_cut_caption_has_only_the_words_that_the_model_reads(limit: int) -> None:
    tokenizer = load_tokenizer()
    inputs = len(tokenizer.encode(CAPTION, limit)) - 1
    assert max(token for word in words_of(tokenizer, CAPTION, limit) for token in word.tokens) == inputs - 1


def test_choosing() -> None:
    words = words_of(load_tokenizer(), "The cat and the dog, a tremendous Elephant (grey) somewhere else", 77)
    longest = choose(words)
    assert [word.text for word in longest] == ["The", "tremendous", "Elephant", "(grey)", "somewhere", "else"]
    assert [word.text for word in choose(words, ["elephant", "dog", "the"])] == ["Elephant", "dog,", "The"]
    with pytest.raises(UserError, match=r'--words names "horse".*choose from The, cat, and, dog,'):
        choose(words, ["horse"])
    with pytest.raises(UserError, match="has no word"):
        choose([])
