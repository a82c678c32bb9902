"""The one exception that reaches a user."""


class ConsisIDError(ValueError):
    """Something the user can put right: the message says what is wrong, with which file or image, and what to do."""
