"""What stands behind scripts/launch.sh; the standard library alone, so that any Python runs it."""


class Fault(Exception):
    """What the user can mend, in one line; `code` is the exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code
