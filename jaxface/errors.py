"""The one exception for a user's mistake: launchers print its message as a single line and exit with status 2."""


class UserError(ValueError):
    """Bad input, with a message that says what is wrong and what to do about it."""
