"""Sizes, counts, times and durations in the words that Ollama's command uses.

Pure: the present moment is always an argument.
"""

from datetime import datetime, timedelta

_BYTE_UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "KB"))
_FOREVER = timedelta(days=20 * 365)
_MINUTE = 60
_HOUR = 3600


def size_words(count: int) -> str:
    """Bytes in decimal units: "4.7 GB", "12 GB", "512 B"; one decimal below ten, none above."""
    for unit_bytes, unit in _BYTE_UNITS:
        if count >= unit_bytes:
            value = count / unit_bytes
            if value >= 10 or value == int(value):
                return f"{int(value)} {unit}"
            return f"{value:.1f} {unit}"
    return f"{count} B"


def count_words(count: int) -> str:
    """A parameter count: "7B", "7.6B", "133.70M", "30K"."""
    if count >= 10**9:
        return f"{count / 10**9:.{0 if count % 10**9 == 0 else 1}f}B"
    if count >= 10**6:
        return f"{count / 10**6:.{0 if count % 10**6 == 0 else 2}f}M"
    if count >= 10**3:
        return f"{count / 10**3:.0f}K"
    return str(count)


def span_words(seconds: float) -> str:
    """A length of time, roughly: "About a minute", "3 hours", "12 days"."""
    if seconds < 60:
        return _below_a_minute(int(seconds))
    minutes = int(seconds // _MINUTE)
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    hours = int(seconds / _HOUR + 0.5)
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    days = hours // 24
    if days < 14:
        return f"{days} days"
    if days < 60:
        return f"{days // 7} weeks"
    if days < 2 * 365:
        return f"{days // 30} months"
    return f"{days // 365} years"


def moment_words(moment: datetime, now: datetime) -> str:
    """A moment seen from now: "2 days ago", "4 minutes from now", "Forever" past 20 years."""
    ahead = moment - now
    if ahead > _FOREVER:
        return "Forever"
    if ahead > timedelta():
        return f"{span_words(ahead.total_seconds())} from now"
    return f"{span_words(-ahead.total_seconds())} ago"


def until_words(expires: datetime, now: datetime) -> str:
    """When a loaded model leaves memory; a moment in the past means that it is leaving."""
    return "Stopping..." if expires < now else moment_words(expires, now)


def duration_text(nanoseconds: int) -> str:
    """An exact duration in Go's notation, as the API's users know it: "1m2.5s", "4.835ms"."""
    if nanoseconds < 1_000:
        return "0s" if nanoseconds == 0 else f"{nanoseconds}ns"
    for unit_ns, unit in ((1_000, "µs"), (1_000_000, "ms")):
        if nanoseconds < unit_ns * 1_000:
            return f"{_decimal(nanoseconds, unit_ns)}{unit}"
    minutes, rest_ns = divmod(nanoseconds, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimal(rest_ns, 10**9)}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def _below_a_minute(seconds: int) -> str:
    if seconds < 1:
        return "Less than a second"
    return "1 second" if seconds == 1 else f"{seconds} seconds"


def _decimal(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    digits = f"{rest:0{len(str(unit)) - 1}d}".rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)
