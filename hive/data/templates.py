"""Texts of templated questions about emoji and captions, and LLaVA-1.5's instructions that may follow a question."""

NAME = "What is this?"
GROUP = "Which group is it in?"
SUBGROUP = "Which subgroup is it in?"
TONE = "Which skin tone does it have?"
DESCRIBE = "Describe the image briefly."
"""What a caption answers, where fine-tuning reads captions."""

SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
"""LLaVA-1.5's instruction for short answers."""
LETTER_ANSWER = "\nAnswer with the option's letter from the given choices directly."
"""LLaVA-1.5's instruction for multiple choice."""


def yes_or_no(name: str) -> str:
    """The question whether the picture shows what `name` says."""
    return f"Is this {name}?"
