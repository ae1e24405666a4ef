"""Settings: defaults < file < environment < flags, each value with its origin.

The table `SETTINGS` is the only list: it feeds parsing, `hearth config`, the sample file and the
documentation test. Nothing here is read at import; `load_settings` is called once at start.
"""

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

from appliance.errors import ConfigError
from appliance.values import (
    ENGINES,
    choice,
    parse_address,
    parse_duration,
    parse_hosts,
    parse_interfaces,
    parse_led,
    parse_mirrors,
    parse_model_engines,
    parse_name,
    parse_networks,
    parse_origins,
    parse_period,
    parse_positive,
    parse_proxy,
    parse_registry,
    parse_reserve,
    parse_seconds,
    parse_window,
    whole,
)

SYSTEM_FILE = Path("/etc/hearth/hearth.toml")
SYSTEM_STATE = Path("/var/lib/hearth")

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of the table. `default` is text, parsed like any other source."""

    name: str
    default: str
    parse: Callable[[str], Any]
    help: str
    is_secret: bool = False  # its address may hold a password, which is never shown

    @property
    def env(self) -> str:
        """Its environment variable."""
        return f"HEARTH_{self.name.upper()}"

    def shown(self, text: str) -> str:
        """`text` as people and logs may see it."""
        return re.sub(r"(//)?[^/]*@", r"\1***@", text) if self.is_secret else text


def default_state() -> str:
    """The state folder of a service user if it is there and ours, else the user's own. To root it
    is ours also on a disk that became read-only: `sudo hearth doctor` has to look there."""
    if SYSTEM_STATE.is_dir() and (os.access(SYSTEM_STATE, os.W_OK) or os.geteuid() == 0):
        return str(SYSTEM_STATE)
    home = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local/share")
    return str(Path(home) / "hearth")


SETTINGS: tuple[Setting, ...] = (
    Setting("host", "127.0.0.1:11434", parse_address, "address and port to listen on"),
    Setting("state", "", lambda t: Path(t or default_state()).expanduser(), "folder of all state"),
    Setting("models", "", lambda t: Path(t).expanduser() if t else None,
            "folder of models in Ollama's layout; empty: 'models' in the state folder"),
    Setting("engine", "auto", choice(*ENGINES), "engine for every model"),
    Setting("model_engines", "", parse_model_engines, "engine for single models: name=engine,…"),
    Setting("go_template", "auto", choice("auto", "on", "off"),
            "a Modelfile's TEMPLATE before the GGUF's own: on always, off never; auto: unless the"
            " GGUF's can do more (tools, thinking)"),
    Setting("access_lan", "open", choice("open", "keys", "off"),
            "who on the network may use models: open lets guests chat and list, keys wants a key of"
            " everybody, off answers nobody but the box itself"),
    Setting("name", "", parse_name,
            "what people call this box; empty: Hearth and a part of its id"),
    Setting("discovery", "on", choice("on", "off"),
            "announce on the local network and look for others, if the service listens there"),
    Setting("discovery_interfaces", "", parse_interfaces,
            "network interfaces to announce on, like eth0,wl*; empty: all that are no container,"
            " tunnel or modem"),
    Setting("allowed_hosts", "", parse_hosts, "more names that the Host header may carry"),
    Setting("allowed_origins", "", parse_origins, "web origins that may call the API"),
    Setting("trusted_proxies", "", parse_networks,
            "addresses or prefixes of proxies whose X-Forwarded-For or Forwarded is believed; what"
            " any other proxy passes on needs a key"),
    Setting("guest_rate_per_minute", "60", whole(0, 10**6),
            "requests per minute of a guest without a key; 0: no limit, also below"),
    Setting("guest_concurrency", "4", whole(0, 10**6), "requests of a guest at once"),
    Setting("guest_context", "8192", whole(0, 2**24), "largest num_ctx that a guest may ask for"),
    Setting("guest_tokens_per_day", "1000000", whole(0, 10**12),
            "tokens that may be computed for a guest in a day, prompts and answers"),
    Setting("user_rate_per_minute", "60", whole(0, 10**6),
            "requests per minute of each user whom a client with a key names"),
    Setting("keep_alive", "5m", parse_duration, "how long an idle model stays loaded"),
    Setting("context_length", "4096", whole(4, 2**24), "context where no request or model says"),
    Setting("threads", "0", whole(0, 1024), "threads per model; 0: chosen for the board"),
    Setting("max_loaded_models", "3", whole(1, 64), "models in memory at once"),
    Setting("max_queue", "64", whole(1, 100_000), "requests that may wait for one model"),
    Setting("memory_reserve_mib", "512", whole(0, 2**20), "memory that models leave free"),
    Setting("disk_reserve_mib", "auto", parse_reserve,
            "disk space that models leave free; auto: a twentieth of the disk, 2 GiB at least, of a"
            " small disk a quarter"),
    Setting("load_timeout_s", "300", parse_seconds, "longest time to load a model"),
    Setting("drain_timeout_s", "30", parse_seconds,
            "how long running streams may finish at a stop"),
    Setting("write_timeout_s", "60", parse_seconds,
            "how long a client may stop reading its stream"),
    Setting("max_connections", "1000", whole(16, 100_000),
            "connections at once, over TLS a quarter as many more"),
    Setting("max_connections_per_address", "250", whole(1, 100_000),
            "of them from one address other than this machine"),
    Setting("head_timeout_s", "20", parse_positive, "longest time for a request's head to arrive"),
    Setting("idle_timeout_s", "120", parse_positive,
            "how long a connection may wait between requests"),
    Setting("tls", "off", choice("on", "off"), "serve HTTPS too, with a certificate of this box"),
    Setting("tls_port", "11435", whole(0, 65535), "port of HTTPS, on the address of host"),
    Setting("max_body_mib", "64", whole(1, 4096), "largest request body, uploads of blobs apart"),
    Setting("max_blob_gib", "128", whole(1, 4096), "largest blob that may be uploaded"),
    Setting("max_depth", "64", whole(8, 500), "deepest nesting of a JSON body"),
    Setting("max_messages", "4096", whole(1, 10**6), "most messages in one chat request"),
    Setting("registry", "https://registry.ollama.ai", parse_registry,
            "registry of names without host"),
    Setting("registry_mirrors", "", parse_mirrors,
            "registries to ask first, separated by commas; HOST=ADDRESS for the names of one host"),
    Setting("share_models", "off", choice("on", "off"), "let the network pull models from here"),
    Setting("transfer_parts", "4", whole(1, 16), "requests at once for one large blob"),
    Setting("transfer_tries", "6", whole(1, 100), "tries of a request that a registry breaks off"),
    Setting("transfer_stall_s", "30", parse_seconds, "how long a registry may send nothing"),
    Setting("transfer_timeout_s", "86400", parse_seconds, "longest time for one pull or push"),
    Setting("transfer_down_kbps", "0", whole(0, 10**9),
            "most kilobits per second that all pulls take together; 0: no limit"),
    Setting("transfer_up_kbps", "0", whole(0, 10**9),
            "most kilobits per second that all pushes take together; 0: no limit"),
    Setting("transfer_pause", "off", choice("off", "generating"),
            "let pulls rest while a model generates, for at most a minute at a time"),
    Setting("transfer_proxy", "", parse_proxy,
            "proxy for registries, http://[user:password@]host:port, or off; empty: HTTPS_PROXY,"
            " HTTP_PROXY, ALL_PROXY", is_secret=True),
    Setting("scrub_days", "30", whole(0, 3650),
            "every stored blob is read again within so many days, when idle; 0: never by itself"),
    Setting("scrub_mib_s", "10", whole(1, 10_000), "how fast it is read, in MiB per second"),
    Setting("trust_mode", "auto", choice("auto", "open", "warn", "signed"),
            "unsigned models: open takes them from listed hosts, warn asks for each, signed takes"
            " none; auto: signed once a site's own root is enrolled, else open"),
    Setting("trust_hosts", "", parse_hosts,
            "more registries that unsigned models may come from, beside ollama.com, hf.co, registry"
            " and registry_mirrors"),
    Setting("update_from", "", str.strip,
            "folder or web address of the newest signed release of Hearth itself, looked at by"
            " hearth-update.timer; empty: only releases that are brought"),
    Setting("channel_poll", "6h", parse_period, "how often followed channels are asked, about"),
    Setting("channel_window", "", parse_window,
            "time of day in which channels may change models, like 02:00-05:00, on this box's"
            " clock; empty: as each channel says"),
    Setting("revoked", "warn", choice("warn", "replace", "stop"),
            "what to do with an installed release that its publisher took back"),
    Setting("led", "auto", parse_led,
            "LED that shows what the box does, a name from /sys/class/leds; auto: the board's own;"
            " off: none"),
    Setting("log_format", "text", choice("text", "json"), "log lines as key=value text or JSON"),
    Setting("log_level", "info", choice("debug", "info", "warning"), "least severe line logged"),
)  # fmt: skip

# Variables of the command, which no setting of the service has.
_OTHERS = {"HEARTH_CONFIG", "HEARTH_KEY", "HEARTH_CA", "HEARTH_FINGERPRINT"}
_BY_NAME = {setting.name: setting for setting in SETTINGS}


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting, parsed; `origins` says where each value came from."""

    host: str
    state: Path
    models: Path | None
    engine: str
    go_template: str
    model_engines: Mapping[str, str]  # model name as written -> engine
    name: str
    discovery: str
    access_lan: str
    discovery_interfaces: tuple[str, ...]  # patterns of interface names
    allowed_hosts: tuple[str, ...]
    allowed_origins: tuple[str, ...]
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...]
    guest_rate_per_minute: int
    guest_concurrency: int
    guest_context: int  # tokens
    guest_tokens_per_day: int
    user_rate_per_minute: int
    keep_alive: float  # seconds; inf: for ever
    context_length: int  # tokens
    threads: int
    max_loaded_models: int
    max_queue: int
    memory_reserve_mib: int
    disk_reserve_mib: int | None  # None: what suits the disk
    load_timeout_s: float
    drain_timeout_s: float
    write_timeout_s: float
    max_connections: int
    max_connections_per_address: int
    head_timeout_s: float
    idle_timeout_s: float
    tls: str
    tls_port: int
    max_body_mib: int
    max_blob_gib: int
    max_depth: int
    max_messages: int
    registry: str
    registry_mirrors: tuple[tuple[str, str], ...]  # (host or empty, address)
    share_models: str
    transfer_parts: int
    transfer_tries: int
    transfer_stall_s: float
    transfer_timeout_s: float
    transfer_down_kbps: int
    transfer_up_kbps: int
    transfer_pause: str
    transfer_proxy: str = field(repr=False)
    scrub_days: int
    scrub_mib_s: int
    trust_mode: str
    trust_hosts: tuple[str, ...]
    update_from: str
    channel_poll: float  # seconds
    channel_window: str
    revoked: str
    led: str
    log_format: str
    log_level: str
    origins: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    file: Path | None = None  # that was read
    broken_file: str = ""  # what is wrong with the file that is not in force (last_good.py)

    @property
    def models_dir(self) -> Path:
        """Where `blobs/` and `manifests/` are."""
        return self.models or self.state / "models"

    @property
    def address(self) -> tuple[str, int]:
        """Host (without brackets) and port to bind."""
        host, _, port = self.host.rpartition(":")
        return host.strip("[]"), int(port)


def find_file(environ: Mapping[str, str]) -> Path | None:
    """The settings file that applies: HEARTH_CONFIG, the system's, or the user's."""
    if named := environ.get("HEARTH_CONFIG"):
        return Path(named)
    home = Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    candidates = (SYSTEM_FILE, home / "hearth" / "hearth.toml")
    return next((path for path in candidates if path.is_file()), None)


def load_settings(
    flags: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Settings:
    """Merge all sources. `file=None` looks for one with `find_file`.

    Raises ConfigError naming the setting, what was seen and what is allowed. A variable HEARTH_* of
    no setting is not fatal (a newer unit file may set it) but is listed in `warnings`.
    """
    environ = os.environ if environ is None else environ
    file = file or find_file(environ)
    texts = {s.name: (s.default, "default") for s in SETTINGS}
    if file is not None:
        texts |= {name: (text, f"file {file}") for name, text in _read_file(file).items()}
    texts |= {
        s.name: (environ[s.env].strip(), f"environment {s.env}")
        for s in SETTINGS
        if environ.get(s.env, "").strip()
    }
    for name, text in (flags or {}).items():
        if name not in _BY_NAME:
            raise ConfigError(f"unknown setting {name!r}", hint="see `hearth config`")
        texts[name] = (text, f"flag --{name.replace('_', '-')}")
    values = {name: _parse(_BY_NAME[name], *texts[name]) for name in texts}
    known = {s.env for s in SETTINGS} | _OTHERS
    strangers = sorted(k for k in environ if k.startswith("HEARTH_") and k not in known)
    return Settings(
        **values,
        origins={name: origin for name, (_, origin) in texts.items()},
        texts={name: _BY_NAME[name].shown(text) for name, (text, _) in texts.items()},
        warnings=tuple(f"environment variable {name} is not a setting" for name in strangers),
        file=file,
    )


def _read_file(path: Path) -> dict[str, str]:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    if unknown := sorted(set(data) - set(_BY_NAME)):
        raise ConfigError(
            f"{path}: unknown setting {unknown[0]!r}", hint="`hearth config` lists all settings"
        )
    return {name: _text_of(path, name, value) for name, value in data.items()}


def _text_of(path: Path, name: str, value: object) -> str:
    if name == "model_engines" and isinstance(value, dict):
        return ",".join(f"{model}={engine}" for model, engine in value.items())
    if isinstance(value, bool) or not isinstance(value, str | int | float | list):
        raise ConfigError(f"{path}: {name} must be text, a number or a list of texts")
    if isinstance(value, list):
        return ",".join(str(item) for item in value)
    return str(value)


def _parse(setting: Setting, text: str, origin: str) -> Any:
    try:
        return setting.parse(text)
    except ValueError as error:
        raise ConfigError(
            f"{setting.name} = {setting.shown(text)!r} ({origin}) is not allowed;"
            f" it must be {error}"
        ) from error
