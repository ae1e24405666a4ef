"""What the publisher's tool may answer instead of doing what it was asked.

ApplianceError              code, message, hint (appliance/errors.py)
  BrokenRepositoryError     files of a repository are missing, damaged or do not belong together
  RepositoryRefusedError    a state that clients could not follow; nothing was published
  KeyFileError              a key, its passphrase or its paper backup cannot be used
"""

from appliance.errors import ApplianceError


class BrokenRepositoryError(ApplianceError):
    """A file of the repository is missing, damaged or not what the file above it names."""

    code = "repository_broken"


class RepositoryRefusedError(ApplianceError):
    """The change would leave clients behind, or is not signed; nothing was published."""

    code = "repository_refused"


class KeyFileError(ApplianceError):
    """A key file, its passphrase or its paper backup cannot be used."""

    code = "bad_key"
