"""Errors that a user can mend; they are printed as one line, without a traceback."""

_START, _END = 1200, 400  # characters that are kept of a message that is longer than both


class UserError(Exception):
    """Bad input, in one line: what, where, what was found, what was expected, what to do."""

    def __str__(self) -> str:
        """Return the message in one printable line, whatever names and values it quotes."""
        text = super().__str__()
        if len(text) > _START + _END:
            text = f"{text[:_START]} [...] {text[-_END:]}"
        return "".join(
            character
            if character.isprintable()
            else character.encode("unicode_escape").decode("ascii")
            for character in text
        )
