"""The one exception for wrong use: its message is the whole line that the user sees."""


class UserError(Exception):
    """Something the user can mend; the command line prints the message and exits with 2."""


class CannotRun(Exception):
    """A cell that makes no sense; the message is the reason, and the cell is skipped."""
