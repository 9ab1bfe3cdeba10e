"""The launchers behind scripts/launch.sh; standard library only, for any Python from 3.10 on."""

from common.utils.errors import UserError


class LaunchError(UserError):
    """A job that cannot be started or goes wrong, in one line."""

    def __init__(self, message: str, code: int = 1) -> None:
        """Set the message and the launcher's exit code (2: wrong arguments)."""
        super().__init__(message)
        self.code = code
