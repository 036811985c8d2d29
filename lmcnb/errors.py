"""The errors that a user may meet, each a sentence that says what to change."""

from __future__ import annotations


class UserError(Exception):
    """Something outside the code went wrong (data absent, disk full): exit status 1."""


class UsageError(UserError, ValueError):
    """What was asked for is impossible (unknown key, wrong type or value): exit status 2."""


class Paused(Exception):
    """The time limit was reached; the state is saved and the same command goes on from it."""
