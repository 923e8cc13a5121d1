"""Half a surrogate pair: JSON and command lines can hold one, but it is no character, and no tokenizer takes it."""


def has_surrogate(text: str) -> bool:
    """Whether the text can't be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
