"""The one exception that stands for a person's mistake."""


class UserError(ValueError):
    """One sentence: what was given, what is allowed, and what to do.

    Command lines print it without a traceback and exit with code 2. Faults of our own are assertions instead.
    """
