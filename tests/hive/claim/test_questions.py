"""Templated questions: what is asked, and that the picture decides what is answered."""

from collections import Counter

import numpy as np
import pytest
import torch

from hive.claim.answers import Answerer, TokenSource, answer, blind_source
from hive.claim.evaluate import SPLITS, open_set
from hive.claim.questions import NOT_ASKED, Questions, make_questions, wrong_names
from hive.config import LanguageConfig
from hive.data.open_source import EMBEDDED
from hive.data.text import Tokenizer, load_tokenizer
from hive.probe.protocol import Protocol


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer()


def columns(captions: str, groups: str, tones: str = "") -> dict[str, np.ndarray]:
    """A drawing a letter; "-" is no skin tone. A subgroup is a group and whether the caption is a vowel."""
    names = {
        "caption": list(captions),
        "group": list(groups),
        "subgroup": [group + "+" * (name in "aeiou") for name, group in zip(captions, groups, strict=True)],
        "tone": [tone.strip("-") for tone in tones or "-" * len(captions)],
    }
    return {name: np.array(values, dtype=str) for name, values in names.items()}


def asked_texts(questions: Questions, tokenizer: Tokenizer) -> dict[tuple[int, ...], str]:
    """By token ids, for questions of one-letter names."""
    constant = ["What is this?", "Which group is it in?", "Which subgroup is it in?", "Which skin tone does it have?"]
    texts = [*constant, *(f"Is this {letter}?" for letter in "abcdefghijklmnopqrstuvwxyz")]
    return {tuple(tokenizer.encode(text, 64)): text for text in texts}


def read(questions: Questions, tokenizer: Tokenizer, split: str, row: int, number: int = 0) -> dict[str, str]:
    """What is asked of a drawing, and the answers."""
    texts = asked_texts(questions, tokenizer)
    found = {}
    for place, kind in enumerate(questions.kinds):
        right = questions.right[split][row, place]
        if right != NOT_ASKED:
            ids = questions.tokens[questions.asked[split][number, row, place]]
            found[texts[tuple(ids[ids >= 0].tolist())]] = questions.answers[kind][right]
    return found


def test_wrong_names_by_hand() -> None:
    captions, groups = list("aabbc" + "defg" + "h" + "iij"), list("11111" + "2222" + "3" + "444")
    for salt in range(5):
        wrong = wrong_names(captions, groups, salt)
        assert all(captions[i] != name for i, name in enumerate(wrong))
        assert Counter(wrong[:5]) == Counter(captions[:5])  # each as often wrong as right
        assert Counter(wrong[5:9]) == Counter(captions[5:9])
        assert wrong[9:] == [""] * 4  # alone; and "i" is too many to change places
    assert len({tuple(wrong_names(captions, groups, salt)) for salt in range(5)}) > 1


def test_questions_by_hand(tokenizer: Tokenizer) -> None:
    found = {
        "train": columns("abcdef", "111222", "l-d---"),
        "seen_style": columns("abfz", "1122", "dl-m"),
    }
    last = np.array([False] * 5 + [True])  # "f" is for validation
    questions = make_questions(found, last, tokenizer)
    assert questions.kinds == ("name", "group", "subgroup", "tone", "yes/no", "yes/no")
    assert questions.answers == {
        "name": list("abcde"),
        "group": ["1", "2"],
        "subgroup": ["1", "1+", "2", "2+"],
        "tone": ["d", "l"],
        "yes/no": ["no", "yes"],
    }
    assert read(questions, tokenizer, "seen_style", 0) == {
        "What is this?": "a",
        "Which group is it in?": "1",
        "Which subgroup is it in?": "1+",
        "Which skin tone does it have?": "d",
        "Is this a?": "yes",
        "Is this b?": "no",
    }
    # training has neither the names "f" and "z" nor the tone "m"
    assert set(read(questions, tokenizer, "seen_style", 3)) == {
        "Which group is it in?", "Which subgroup is it in?", "Is this z?", "Is this f?",
    }  # fmt: skip
    assert questions.asked_of("seen_style") == {"name": 2, "group": 4, "subgroup": 4, "tone": 2, "yes/no": 8}
    # "d" and "e" of group 2 change names; "f", alone among the validation concepts, has nobody to
    assert read(questions, tokenizer, "train", 3)["Is this e?"] == "no"
    assert set(read(questions, tokenizer, "train", 5)) == {"Which group is it in?", "Which subgroup is it in?"}
    # training's, or the first of several: a, 1, 1, l, yes
    shares = {"name": 0.5, "group": 0.5, "subgroup": 0.25, "tone": 0.5, "yes/no": 0.5}
    assert questions.most_common("seen_style") == shares

    again = make_questions(found, last, tokenizer)
    assert again.fingerprint == questions.fingerprint
    found["seen_style"]["group"][0] = "2"
    assert make_questions(found, last, tokenizer).fingerprint != questions.fingerprint


def test_questions_about_the_embedded_set() -> None:
    data = open_set(EMBEDDED, LanguageConfig())
    questions = data.questions
    assert "tone" not in questions.kinds  # the embedded set has none
    right_name, wrong_name = (place for place, kind in enumerate(questions.kinds) if kind == "yes/no")
    yes = questions.answers["yes/no"].index("yes")
    for split in ("train", *SPLITS):
        for side in (questions.trained, ~questions.trained) if split == "train" else (slice(None),):
            right = questions.right[split][side]
            asked = right[:, right_name] == yes
            assert asked.sum() > 0.9 * len(asked)
            assert ((right[:, wrong_name] == 1 - yes) == asked).all()
            for texts in questions.asked[split][:, side]:  # nor does the question give anything away
                assert Counter(texts[asked, right_name].tolist()) == Counter(texts[asked, wrong_name].tolist())
    # a wrong name is one of the group's
    texts, groups = questions.asked["unseen_style"][0], data.labels["group"]["unseen_style"]
    of_group = {(text, group) for text, group in zip(texts[:, right_name].tolist(), groups.tolist(), strict=True)}
    asked = questions.right["unseen_style"][:, wrong_name] != NOT_ASKED
    assert set(zip(texts[asked, wrong_name].tolist(), groups[asked].tolist(), strict=True)) <= of_group
    assert questions.asked_of("unseen_concept")["name"] == 0
    assert 0.8 < questions.asked_of("unseen_style")["name"] / len(texts) < 1


def test_picture_decides(tokenizer: Tokenizer) -> None:
    """One of four tokens says the name, the others nothing; without it, only the most common answer is left."""
    letters = "abcdefgh"
    groups = {letter: "1" if letter in "abcde" else "2" for letter in letters}
    captions = {"train": letters * 12, "seen_style": letters * 4}
    found = {split: columns(text, "".join(groups[c] for c in text)) for split, text in captions.items()}
    questions = make_questions(found, np.zeros(96, bool), tokenizer)
    generator = torch.Generator().manual_seed(0)
    code = 3 * torch.randn(len(letters), 16, generator=generator)
    tokens = {}
    for split, text in captions.items():
        tokens[split] = torch.randn(len(text), 4, 16, generator=generator)
        place = torch.randint(4, (len(text),), generator=generator)
        tokens[split][torch.arange(len(text)), place] += code[[letters.index(c) for c in text]]
    rows = {split: np.arange(len(text)) for split, text in captions.items()}
    protocol = Protocol((1e-2,), (0.0,), epochs=20.0, batch_size=16, seeds=1)
    device = torch.device("cpu")

    pictures = {split: lambda rows, split=split: tokens[split][rows] for split in tokens}
    seeing = answer(questions, TokenSource(pictures, rows, 16, 2, device), protocol, 0)["accuracy"]
    unseeing = answer(questions, blind_source(rows, 16, 2, device), protocol, 0)["accuracy"]
    for kind in ("name", "group", "subgroup", "yes/no"):
        assert seeing[kind]["seen_style"] > 0.9
        assert unseeing[kind]["seen_style"] <= questions.most_common("seen_style")[kind]
    assert unseeing["yes/no"]["seen_style"] == 0.5

    # a picture that can't be read is answered wrongly
    half = TokenSource(pictures, rows | {"seen_style": rows["seen_style"][:16]}, 16, 2, device)
    assert answer(questions, half, protocol, 0)["accuracy"]["group"]["seen_style"] <= 0.5


def test_blind_is_a_picture_of_nothing(tokenizer: Tokenizer) -> None:
    questions = make_questions({"train": columns("abcd", "1122")}, np.zeros(4, bool), tokenizer)
    answerer = Answerer(questions, 8, 2)
    asked = torch.from_numpy(questions.asked["train"][0])
    shown = blind_source({"train": np.arange(4)}, 8, 2, torch.device("cpu")).tokens["train"](np.arange(4))
    for one, many in zip(answerer(shown, asked), answerer(torch.zeros(4, 9, 8), asked), strict=True):
        torch.testing.assert_close(one, many)
