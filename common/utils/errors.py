"""Errors that a user can mend; they are printed as one line, without a traceback."""


class UserError(Exception):
    """Bad input, in one line: what, where, what was found, what was expected, what to do."""
