"""What a user can mend is said in one line; a traceback is for our own bugs."""


class UserError(Exception):
    """Bad input, in one line: what, where, what was found, what was expected, what to do."""
