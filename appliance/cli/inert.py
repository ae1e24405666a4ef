"""Text from elsewhere, so that a terminal only shows it.

A model, a registry or a publisher may say escape sequences, and a terminal may obey them (write the
clipboard, answer queries).
"""

_CONTROLS = dict.fromkeys({*range(32), *range(127, 160)} - {9, 10})


def inert(text: str) -> str:
    """`text` without control characters but tab and newline."""
    return text if text.isprintable() else text.translate(_CONTROLS)
