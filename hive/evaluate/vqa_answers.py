"""The answer normalisation of the official VQA evaluation (Antol et al. 2015), written from its rules."""

import re

_COUNTED = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {word: str(number) for number, word in enumerate(_COUNTED)} | {"none": "0"}
ARTICLES = {"a", "an", "the"}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")  # the official pattern's look-behind is misspelt and excludes nothing

# Words whose apostrophe people leave out. Of two apostrophes each may be missing, but not both. "I'm" and its like
# are in the official table as well, but can't occur in lower case.
_APOSTROPHES = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd've how'd
how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've he'd he's
"""
CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word
    for word in _APOSTROPHES.split()
    for place, mark in enumerate(word)
    if mark == "'"
} | {"somebody'd": "somebodyd"}


def normalise(answer: str) -> str:
    """Returns the answer as the official script compares it.

    1. White space at the ends is removed; line breaks and tabs become spaces.
    2. Each punctuation mark is removed if it is next to a space anywhere in the answer, or if the answer has a comma
       between digits; otherwise it becomes a space. Full stops are removed, except those before a digit.
    3. The text becomes lower case, number words up to ten become digits, articles are removed, and missing apostrophes
       are added.

    The official script does this only where the ten annotators disagree. Here, as on the evaluation server, it is
    always done, so that "Dog." always counts as "dog".
    """
    answer = answer.replace("\n", " ").replace("\t", " ").strip()
    words = [NUMBERS.get(word, word) for word in _without_punctuation(answer).lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def _without_punctuation(answer: str) -> str:
    text = answer
    for mark in _PUNCTUATION:
        removed = f"{mark} " in answer or f" {mark}" in answer or _COMMA_IN_NUMBER.search(answer) is not None
        text = text.replace(mark, "" if removed else " ")
    return _FULL_STOP.sub("", text)
