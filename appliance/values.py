"""What the text of a setting may be, and the value that it stands for: one function per kind.

Each raises ValueError that says what is allowed. Go's durations (Ollama API) are read here too.
"""

import re
from collections.abc import Callable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network

ENGINES = ("auto", "llama", "paged", "echo")


def parse_address(text: str) -> str:
    """`address:port`, `address` or `:port`; brackets around IPv6. Returns address:port."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.%\w]+\]|[^:\s/]*)(?::(\d{1,5}))?", text.strip())
    if match is None or int(match[2] or 11434) > 65535:
        raise ValueError("an address like 127.0.0.1:11434, 0.0.0.0 or [::]:11434")
    return f"{match[1] or '0.0.0.0'}:{match[2] or 11434}"  # noqa: S104 - ":port" asks for all


def whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"-?\d{1,18}", text.strip()) or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(text)

    return parse


def parse_reserve(text: str) -> int | None:
    if text.strip() == "auto":
        return None
    if not re.fullmatch(r"\d{1,9}", text.strip()):
        raise ValueError("'auto' or a whole number from 0 to 999999999")
    return int(text)


def parse_seconds(text: str) -> float:
    if not re.fullmatch(r"\d{1,9}(\.\d+)?", text.strip()):
        raise ValueError("a number of seconds, 0 or more")
    return float(text)


def parse_positive(text: str) -> float:
    seconds = parse_seconds(text)
    if not 0.1 <= seconds <= 86_400:
        raise ValueError("a number of seconds from 0.1 to 86400")
    return seconds


def choice(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.strip() not in allowed:
            raise ValueError(" or ".join(repr(a) for a in allowed))
        return text.strip()

    return parse


_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: str) -> float:
    """Seconds of a Go duration ("5m", "1h30m", "-1s") or a bare number of seconds.

    Negative means for ever and gives `inf` (Ollama API, keep_alive). Raises ValueError.
    """
    text = text.strip()
    sign = -1 if text.startswith("-") else 1
    body = text[1:] if text[:1] in {"+", "-"} else text
    if re.fullmatch(r"\d+(\.\d+)?", body):
        total = float(body)
    else:
        parts = re.findall(r"(\d+(?:\.\d+)?)(ms|h|m|s)", body)
        if not parts or "".join(f"{n}{u}" for n, u in parts) != body:
            raise ValueError("a duration like '5m', '1h30m', '30s', a number of seconds, or -1")
        total = sum(float(number) * _UNITS_S[unit] for number, unit in parts)
    return float("inf") if sign < 0 and total else total


def parse_period(text: str) -> float:
    seconds = parse_duration(text)
    if not 60 <= seconds <= 30 * 86_400:
        raise ValueError("a duration from 1m to 720h")
    return seconds


def parse_window(text: str) -> str:
    time_of_day = r"([01]\d|2[0-3]):[0-5]\d"
    if not re.fullmatch(rf"({time_of_day}-{time_of_day})?", text.strip()):
        raise ValueError("a time of day like 02:00-05:00, or empty")
    return text.strip()


def parse_origins(text: str) -> tuple[str, ...]:
    origins = tuple(part.strip().rstrip("/") for part in text.split(",") if part.strip())
    for origin in origins:
        if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s/]+", origin):
            raise ValueError("origins like https://app.example, separated by commas")
    return origins


def parse_hosts(text: str) -> tuple[str, ...]:
    hosts = tuple(part.strip().lower() for part in text.split(",") if part.strip())
    for host in hosts:
        if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", host):
            raise ValueError("host names without port, separated by commas")
    return hosts


_SHORTEST_PREFIX = {4: 8, 6: 32}


def parse_networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    allowed = "addresses or prefixes like 192.168.1.2 or 10.1.0.0/16, separated by commas"
    try:
        networks = tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise ValueError(f"{allowed}; {error}") from error
    if wide := [net for net in networks if net.prefixlen < _SHORTEST_PREFIX[net.version]]:
        raise ValueError(f"{allowed}; {wide[0]} would believe whole parts of the internet")
    return networks


def parse_name(text: str) -> str:
    name = " ".join(text.split())
    if len(name.encode()) > 63 or not name.isprintable():
        raise ValueError("a name of at most 63 bytes on one line, or empty")
    return name


def parse_interfaces(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9_.:@*?-]{1,32}", name):
            raise ValueError("names of network interfaces like eth0 or wl*, separated by commas")
    return names


def parse_led(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_:-][A-Za-z0-9_.:-]{0,63}", text.strip()):
        raise ValueError("'auto', 'off' or the name of a folder in /sys/class/leds, like ACT")
    return text.strip()


def parse_model_engines(text: str) -> Mapping[str, str]:
    """`name=engine, …`; the names are looked at by who knows their grammar (models/choice.py)."""
    wishes = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, _, engine = (piece.strip() for piece in part.partition("="))
        if not name or engine not in ENGINES or name in wishes:
            allowed = ", ".join(ENGINES)
            raise ValueError(f"name=engine pairs, each model once; engines are {allowed}")
        wishes[name] = engine
    return wishes


def parse_registry(text: str) -> str:
    url = text.strip().rstrip("/").lower()
    if not re.fullmatch(r"https?://([a-z0-9_.-]+|\[[0-9a-f:]+\])(:\d{1,5})?", url):
        raise ValueError("a registry's address like https://registry.example:5000, without a path")
    return url


def parse_mirrors(text: str) -> tuple[tuple[str, str], ...]:
    """(host, address) in order; the host is empty for names without one."""
    mirrors = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        host, equals, address = part.rpartition("=")
        if equals and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*", host.strip()):
            raise ValueError("addresses like http://box.local:11434 or hf.co=https://hf.example")
        mirrors.append((host.strip().lower(), parse_registry(address)))
    return tuple(mirrors)


def parse_proxy(text: str) -> str:
    allowed = r"off|(https?://)?([^@/\s]*@)?([A-Za-z0-9_.-]+|\[[0-9a-fA-F:.]+\])(:\d{1,5})?/?"
    if text.strip() and not re.fullmatch(allowed, text.strip()):
        raise ValueError("an address like http://proxy.example:3128, off, or empty")
    return text.strip()
