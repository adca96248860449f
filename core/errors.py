"""Errors that say what came, what was expected and what to change."""

from __future__ import annotations


class ProvokeError(ValueError):
    """A user's mistake, or an object that cannot be used: the message is made to be read on the node.

    Args:
        came: what came in, a whole clause ("The mask is 64x64 but the image is 512x512").
        expected: what was expected.
        change: which node, widget or file to change, and how.
    """

    def __init__(self, came: str, expected: str, change: str) -> None:
        self.came, self.expected, self.change = came, expected, change
        super().__init__(f"{came.rstrip('.')}. Expected: {expected.rstrip('.')}. To fix it: {change.rstrip('.')}.")


class GradientError(ProvokeError):
    """A gradient that is missing, exactly zero or not finite, or a model that cannot be differentiated."""
