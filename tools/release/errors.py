"""The one error of this package."""


class ReleaseError(Exception):
    """The wheelhouse cannot be made; the message is one sentence with the cure."""
