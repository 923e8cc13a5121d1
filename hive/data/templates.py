"""The words of the questions that are made from the emoji sets' metadata."""

NAME = "What is this?"
GROUP = "Which group is it in?"
SUBGROUP = "Which subgroup is it in?"
TONE = "Which skin tone does it have?"


def yes_or_no(name: str) -> str:
    """Whether it is what the name says."""
    return f"Is this {name}?"
