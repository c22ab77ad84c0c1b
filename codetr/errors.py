"""The one kind of error that is the user's to mend."""

from __future__ import annotations


class UserError(Exception):
    """Something the user gave cannot be used. The command line prints the message alone and exits with code 2.

    The message says what is wrong and where (file and line, annotation id, dotted key), the nearest valid value if there
    is one, and what to do.
    """
