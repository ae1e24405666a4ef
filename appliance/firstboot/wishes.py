"""What somebody wrote onto the boot partition, as values. Pure: no file is read or changed here.

Three forms are read. `hearth.toml` is ours: the settings of the service, and a table `[system]`.
`custom.toml` is what Raspberry Pi Imager wrote for Raspberry Pi OS 12 (its init_config, version 1);
`user-data` and `network-config` are what it writes for 13 (its customization_generator.cpp): a
small part of cloud-init's forms, and no more of these is done. Every problem is one sentence; what
is wrong is left out, the rest counts: a typing error must not keep a box from starting.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_BYTES = 65_536
MAX_NESTING = 32  # of YAML; Imager's files have 6
_HOST = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,30}")
_SSH_KEY = re.compile(
    r"(ssh-(ed25519|rsa)|ecdsa-sha2-nistp\d+|sk-[a-z0-9@.-]+) [A-Za-z0-9+/=]+( .*)?"
)
_ZONE = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,2}")
_SYSTEM = {"hostname", "user", "ssh_keys", "timezone", "wifi"}
_USER_DATA = {"hostname", "timezone", "users", "ssh_authorized_keys", "enable_ssh", "ssh_pwauth"}
# Imager always adds these; a box without a keyboard has no use for them.
_NEEDLESS = {"manage_etc_hosts", "packages", "apt", "keyboard"}


@dataclass(frozen=True, slots=True)
class Wifi:
    """One network. `password` is the passphrase, or 64 hex digits of the key."""

    ssid: str
    password: str = field(default="", repr=False)
    hidden: bool = False
    country: str = ""


@dataclass(slots=True)
class Wishes:
    """All that is asked for; empty values are not asked for."""

    hostname: str = ""
    user: str = ""
    ssh_keys: list[str] = field(default_factory=list)
    timezone: str = ""
    wifi: Wifi | None = None
    settings: dict[str, Any] = field(default_factory=dict)  # of the service, as in its own file
    problems: list[str] = field(default_factory=list)


def parse_own(data: bytes) -> Wishes:
    """`hearth.toml`."""
    wishes = Wishes()
    body = _toml("hearth.toml", data, wishes)
    system = _table(body.pop("system", {}), "hearth.toml: [system]", wishes)
    wishes.settings = body
    for name in sorted(system.keys() - _SYSTEM):
        allowed = ", ".join(sorted(_SYSTEM))
        wishes.problems.append(f"hearth.toml: [system] has no {name!r}; it may have {allowed}")
    wishes.hostname = _text(system, "hostname", _HOST, "hearth.toml", wishes).lower()
    wishes.user = _text(system, "user", _USER, "hearth.toml", wishes)
    wishes.timezone = _text(system, "timezone", _ZONE, "hearth.toml", wishes)
    wishes.ssh_keys = _keys(system.get("ssh_keys", []), "hearth.toml", wishes)
    wishes.wifi = _wifi(_table(system.get("wifi", {}), "hearth.toml: [system.wifi]", wishes),
                        "hearth.toml", wishes)  # fmt: skip
    return wishes


def parse_imager(data: bytes) -> Wishes:
    """`custom.toml` of Raspberry Pi Imager. Passwords for logging in are never taken."""
    wishes, name = Wishes(), "custom.toml"
    body = _toml(name, data, wishes)
    if body and body.get("config_version") != 1:
        wishes.problems.append(f"{name}: config_version is not 1, so nothing of it was used")
        return wishes
    system = _table(body.get("system", {}), f"{name}: [system]", wishes)
    ssh = _table(body.get("ssh", {}), f"{name}: [ssh]", wishes)
    wishes.hostname = _text(system, "hostname", _HOST, name, wishes).lower()
    user = _table(body.get("user", {}), f"{name}: [user]", wishes)
    wishes.user = _text(user, "name", _USER, name, wishes)
    if ssh.get("enabled"):
        wishes.ssh_keys = _keys(ssh.get("authorized_keys", []), name, wishes)
        if not wishes.ssh_keys:
            wishes.problems.append(f"{name}: SSH stays off, since no public key is given")
    wishes.wifi = _wifi(_table(body.get("wlan", {}), f"{name}: [wlan]", wishes), name, wishes)
    locale = _table(body.get("locale", {}), f"{name}: [locale]", wishes)
    wishes.timezone = _text(locale, "timezone", _ZONE, name, wishes)
    return wishes


def parse_user_data(data: bytes) -> Wishes:
    """`user-data` as Raspberry Pi Imager writes it. Passwords for logging in are never taken."""
    wishes, name = Wishes(), "user-data"
    body = _yaml(name, data, wishes)
    if undone := sorted(str(key) for key in body.keys() - _USER_DATA - _NEEDLESS):
        wishes.problems.append(f"{name}: {', '.join(undone)[:200]} is not done on this system")
    wishes.hostname = _text(body, "hostname", _HOST, name, wishes).lower()
    wishes.timezone = _text(body, "timezone", _ZONE, name, wishes)
    users = body.get("users", [])
    people = [each for each in users if isinstance(each, dict)] if isinstance(users, list) else []
    user = people[0] if people else {}
    if len(people) > 1:
        wishes.problems.append(f"{name}: of {len(people)} users the first alone is made")
    wishes.user = _text(user, "name", _USER, name, wishes)
    keys = user.get("ssh_authorized_keys", body.get("ssh_authorized_keys", []))
    wishes.ssh_keys = _keys(keys, name, wishes)
    if (body.get("enable_ssh") or body.get("ssh_pwauth")) and not wishes.ssh_keys:
        wishes.problems.append(f"{name}: SSH stays off, since no public key is given")
    return wishes


def parse_network_config(data: bytes) -> Wishes:
    """`network-config` as Raspberry Pi Imager writes it: one Wi-Fi network (netplan, version 2)."""
    wishes, name = Wishes(), "network-config"
    body = _yaml(name, data, wishes)
    network = _table(body.get("network", body), f"{name}: network", wishes)
    if undone := sorted(str(key) for key in network.keys() - {"version", "wifis"}):
        wishes.problems.append(f"{name}: {', '.join(undone)[:200]} is not used: cables get DHCP")
    cards = _table(network.get("wifis", {}), f"{name}: wifis", wishes)
    for each in list(cards.values())[:1]:
        card = _table(each, f"{name}: the Wi-Fi card", wishes)
        points = _table(card.get("access-points", {}), f"{name}: access-points", wishes)
        if len(points) > 1:
            wishes.problems.append(f"{name}: of {len(points)} networks the first alone is used")
        for ssid, point in list(points.items())[:1]:
            wanted = _table(point or {}, f"{name}: the network", wishes)
            country = card.get("regulatory-domain", "")
            wishes.wifi = _wifi(wanted | {"ssid": ssid, "country": country}, name, wishes)
    return wishes


def merge(first: Wishes, second: Wishes) -> Wishes:
    """Both; where both ask for the same, `second` counts."""
    return Wishes(
        hostname=second.hostname or first.hostname,
        user=second.user or first.user,
        ssh_keys=second.ssh_keys or first.ssh_keys,
        timezone=second.timezone or first.timezone,
        wifi=second.wifi or first.wifi,
        settings=first.settings | second.settings,
        problems=first.problems + second.problems,
    )


def keyfile(wifi: Wifi) -> str:
    """A NetworkManager connection (nm-settings-keyfile(5)) for this network."""
    lines = [
        "[connection]", "id=hearth-wifi", "type=wifi",
        "[wifi]", f"ssid={_escaped(wifi.ssid)}", f"hidden={str(wifi.hidden).lower()}",
        "[ipv4]", "method=auto", "[ipv6]", "method=auto",
    ]  # fmt: skip
    if wifi.password:
        lines += ["[wifi-security]", "key-mgmt=wpa-psk", f"psk={_escaped(wifi.password)}"]
    return "\n".join(lines) + "\n"


def settings_file(settings: Mapping[str, Any]) -> str:
    """`settings` as TOML; values are text, numbers and truth, as the settings of the service."""
    return "".join(f"{name} = {_value(value)}\n" for name, value in settings.items())


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _toml(name: str, data: bytes, wishes: Wishes) -> dict[str, Any]:
    if len(data) > MAX_BYTES:
        wishes.problems.append(f"{name} has {len(data)} bytes, {MAX_BYTES} are allowed")
        return {}
    try:
        return tomllib.loads(data.decode("utf-8-sig").replace("\r\n", "\n"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        wishes.problems.append(f"{name} cannot be read, and nothing of it was used: {error}")
        return {}


def _yaml(name: str, data: bytes, wishes: Wishes) -> dict[str, Any]:
    import yaml  # here, since the service has no use for it

    if len(data) > MAX_BYTES:
        wishes.problems.append(f"{name} has {len(data)} bytes, {MAX_BYTES} are allowed")
        return {}
    try:
        text = data.decode("utf-8-sig")
        if refusal := _refusal(yaml.scan(text)):
            wishes.problems.append(f"{name} {refusal}")
            return {}
        return _table(yaml.safe_load(text) or {}, name, wishes)
    except (UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError) as error:
        said = " ".join(str(error).split())[:200]
        wishes.problems.append(f"{name} cannot be read, and nothing of it was used: {said}")
        return {}


def _refusal(tokens: Iterable[Any]) -> str:
    """What well-formed YAML has that would cost the box too much; empty if nothing."""
    depth = 0
    for token in tokens:
        kind = type(token).__name__
        if kind == "AliasToken":  # a few lines of them can stand for gigabytes
            return "has aliases (*name), which are not read"
        if kind.startswith(("Block", "Flow")):
            depth += kind.endswith("StartToken") - kind.endswith("EndToken")
        if depth > MAX_NESTING:  # each open level makes what follows slower to scan
            return f"is nested deeper than {MAX_NESTING}"
    return ""


def _table(value: object, where: str, wishes: Wishes) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    wishes.problems.append(f"{where} is not a table")
    return {}


def _text(
    table: Mapping[str, Any], key: str, form: re.Pattern[str], where: str, wishes: Wishes
) -> str:
    value = table.get(key, "")
    text = value if isinstance(value, str) else repr(value)
    if not text or form.fullmatch(text.lower() if form is _HOST else text):
        return text
    wishes.problems.append(f"{where}: {text[:60]!r} cannot be a {key}")
    return ""


def _keys(value: object, where: str, wishes: Wishes) -> list[str]:
    lines = value if isinstance(value, list) else [value]
    good = [str(each).strip() for each in lines if _SSH_KEY.fullmatch(str(each).strip())]
    if len(good) < len(lines):
        bad = len(lines) - len(good)
        wishes.problems.append(f"{where}: {bad} of {len(lines)} lines are no SSH public keys")
    return good


def _wifi(table: Mapping[str, Any], where: str, wishes: Wishes) -> Wifi | None:
    if not table:
        return None
    ssid, password = str(table.get("ssid", "")), str(table.get("password", ""))
    country = str(table.get("country", ""))
    is_key = bool(re.fullmatch(r"[0-9a-fA-F]{64}", password))
    text = ssid + password + country
    if not 1 <= len(ssid.encode()) <= 32 or not text.isprintable():
        wishes.problems.append(f"{where}: a Wi-Fi name has 1 to 32 bytes that can be printed")
    elif password and not is_key and not 8 <= len(password) <= 63:
        wishes.problems.append(f"{where}: a Wi-Fi password has 8 to 63 characters")
    elif country and not re.fullmatch(r"[A-Z]{2}", country):
        wishes.problems.append(f"{where}: {country[:20]!r} is no country; write it like DE")
    else:
        return Wifi(ssid, password, bool(table.get("hidden", False)), country)
    return None


def _escaped(text: str) -> str:
    """For a key file of GLib: a backslash begins an escape, `;` ends an item, and a space at the
    start would be lost."""
    text = text.replace("\\", "\\\\").replace(";", "\\;")
    return "\\s" + text[1:] if text.startswith(" ") else text
