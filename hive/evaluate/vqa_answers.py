"""The answer normalisation of the official VQA evaluation (Antol et al. 2015), written anew from its rules."""

import re

_COUNTED = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {word: str(number) for number, word in enumerate(_COUNTED)} | {"none": "0"}
ARTICLES = {"a", "an", "the"}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")  # the official pattern's look-behind is misspelt and never excludes anything

# Words whose apostrophe people leave out. Where there are two, each may be missing, but never both. "I'm" and its like
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
    """The answer as the official script compares it.

    1. White space at the ends goes, line breaks and tabs become spaces.
    2. Each punctuation mark goes where it stands beside a space anywhere in the answer, or where the answer has a
       comma between digits; else it becomes a space. Full stops go, but for those before a digit.
    3. Lower case, number words up to ten as digits, no articles, apostrophes put back.

    The official script does so only where the ten annotators disagree; here, as on its server, it is done always, so
    that "Dog." counts as "dog" there as well.
    """
    answer = answer.replace("\n", " ").replace("\t", " ").strip()
    words = [NUMBERS.get(word, word) for word in _without_punctuation(answer).lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def _without_punctuation(answer: str) -> str:
    text = answer
    for mark in _PUNCTUATION:
        goes = f"{mark} " in answer or f" {mark}" in answer or _COMMA_IN_NUMBER.search(answer) is not None
        text = text.replace(mark, "" if goes else " ")
    return _FULL_STOP.sub("", text)
