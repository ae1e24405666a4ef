"""What this box may take, from whom, and how fresh it must be. Rules only: no files, no network.

    open    unsigned models from listed hosts over TLS; their digest is locked at the first pull
    warn    the same, and a person confirms each
    signed  only what a repository of this box has signed

In every mode a name that belongs to an enrolled repository comes from there, signed, or not at all:
otherwise an attacker would simply leave the signature away.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from appliance.library.names import ModelName
from appliance.trust.errors import (
    ConfirmationNeededError,
    PolicyRefusedError,
    TrustCode,
    TrustError,
)
from appliance.trust.hosts import DEFAULT_HOSTS, is_loopback
from appliance.trust.patterns import NamePattern, owner_of

DAY_S = 86_400
DEFAULT_FRESHNESS_S = 14 * DAY_S


class Mode(StrEnum):
    OPEN = "open"
    WARN = "warn"
    SIGNED = "signed"


class Way(StrEnum):
    """How bytes reach the box."""

    REGISTRY = "registry"
    REMOVABLE = "removable"
    FLEET = "fleet"
    PEER = "peer"


class Verdict(StrEnum):
    ALLOW = "allow"
    CONFIRM = "confirm"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to a wish. `rule` is stable; `repository` must have signed, if it is set."""

    verdict: Verdict
    rule: str
    reason: str
    hint: str = ""
    repository: str | None = None

    def require(self, *, confirmed: bool) -> None:
        """Raise PolicyRefusedError unless allowed, or to be confirmed and confirmed; its subclass
        ConfirmationNeededError where a person's word is all that lacks."""
        if self.verdict is Verdict.ALLOW or (self.verdict is Verdict.CONFIRM and confirmed):
            return
        if self.verdict is Verdict.CONFIRM:
            raise ConfirmationNeededError(self.reason, rule=self.rule, hint=self.hint)
        raise PolicyRefusedError(self.reason, rule=self.rule, hint=self.hint)


@dataclass(frozen=True, slots=True)
class Offer:
    """One model that somebody wants to bring in.

    `host` is who answers, which is not always the host in the name; `is_private` says that nobody
    on the way can change the bytes (TLS, or loopback). `digest` is the manifest's, once known.
    """

    name: ModelName
    host: str
    way: Way = Way.REGISTRY
    is_private: bool = True
    digest: str | None = None
    locked_digest: str | None = None


@dataclass(frozen=True, slots=True)
class TrustPolicy:
    """The rules of one box. `owned` is the name patterns of each enrolled repository."""

    mode: Mode = Mode.OPEN
    hosts: frozenset[str] = DEFAULT_HOSTS
    owned: Mapping[str, tuple[NamePattern, ...]] = field(default_factory=dict)

    def decide(self, offer: Offer) -> Decision:
        """What may be done with an offered model, before and (with a digest) after resolving it."""
        if repository := owner_of(offer.name, self.owned):
            reason = f"{offer.name} belongs to the repository {repository}"
            return Decision(Verdict.ALLOW, "owned", reason, repository=repository)
        return self._refusal(offer) or self._question(offer) or _ALLOWED_UNSIGNED

    def may_create(self, name: ModelName) -> Decision:
        """Whether create, copy or an upload may make a model: what is made here nobody signed."""
        if repository := owner_of(name, self.owned):
            return _refuse(
                "owned",
                f"{name.short} belongs to the repository {repository}: it comes signed or not at"
                " all",
                "take another name; `hearth trust list` shows who owns which",
            )
        return self.may_upload(name.short)

    def may_upload(self, what: str) -> Decision:
        """Whether bytes of a caller may become part of a model."""
        if self.mode is Mode.SIGNED:
            return _refuse(
                "unsigned_create",
                f"this box takes signed models only, and {what} would be unsigned",
                "build it as a bundle with `tools/bundle build`, and sign it",
            )
        return _ALLOWED_UNSIGNED

    def may_serve(self, name: ModelName, signer: str | None) -> Decision:
        """Whether an installed model may be loaded; `signer` is who vouches for it, if anybody."""
        if self.mode is Mode.SIGNED and signer is None:
            return _refuse(
                "unsigned_serve",
                f"{name.short} lies on the disk but is not as anybody signed it, and this box"
                " serves signed models only",
                _adopt(name),
            )
        return _ALLOWED_UNSIGNED

    def may_share(self, name: ModelName, signer: str | None) -> Decision:
        """Whether the network may fetch a model from us, where models are shared at all.

        In `open` the owner's own word for that, a setting, covers unsigned models too.
        """
        if self.mode is not Mode.OPEN and signer is None:
            return _refuse(
                "unsigned_share",
                f"{name.short} is unsigned, and this box hands on signed models only",
                "pull it from its registry, or sign it",
            )
        return _ALLOWED_UNSIGNED

    def _refusal(self, offer: Offer) -> Decision | None:
        name = offer.name
        if self.mode is Mode.SIGNED:
            reason = f"this box takes signed models only, and no repository owns {name.short}"
            return _refuse("unsigned", reason, _adopt(name))
        if offer.way is not Way.REGISTRY:
            return _refuse(
                "way",
                f"{name} is unsigned; by {offer.way} only signed models come in",
                "pull it from its registry, or sign it",
            )
        if offer.host.lower() not in self.hosts and not is_loopback(offer.host):
            known = ", ".join(sorted(self.hosts)) or "none"
            return _refuse(
                "host",
                f"{offer.host} is not a host that this box takes models from ({known})",
                f'its administrator may add it: trust_hosts = "{offer.host}" in hearth.toml',
            )
        if not offer.is_private:
            return _refuse(
                "tls",
                f"{name} is unsigned and {offer.host} does not use TLS: anybody on the way could "
                "change it",
                "use https, or let the administrator name the address in the setting"
                f" registry_mirrors: {name.host}=http://{name.host}",
            )
        return None

    def _question(self, offer: Offer) -> Decision | None:
        if offer.locked_digest and offer.digest and offer.digest != offer.locked_digest:
            return Decision(
                Verdict.CONFIRM,
                "changed",
                f"{offer.name} is now {offer.digest}, and was {offer.locked_digest} when it was "
                "first pulled; nobody signed the change",
                f"if you expected a new version: {_confirm(offer.name)}",
            )
        if self.mode is Mode.WARN and not offer.locked_digest:
            return Decision(
                Verdict.CONFIRM,
                "unsigned",
                f"{offer.name} is unsigned, and this box wants each such model confirmed",
                _confirm(offer.name),
            )
        return None


_ALLOWED_UNSIGNED = Decision(Verdict.ALLOW, "unsigned_allowed", "unsigned, from a listed host")


def _refuse(rule: str, reason: str, hint: str) -> Decision:
    return Decision(Verdict.REFUSE, rule, reason, hint)


def _adopt(name: ModelName) -> str:
    return (
        f"counter-sign it at your publisher: tools/bundle adopt {name} --as site/{name.model}"
        " --version 1.0.0 --models FOLDER --output FOLDER"
    )


def _confirm(name: ModelName) -> str:
    """What to type. The name is the shortest that means the same."""
    return f'`hearth pull --confirm {name}`, or "confirm": true in /api/pull'


def effective_mode(configured: Mode | None, has_site_root: bool) -> Mode:
    """The mode of a box: what was configured, else `signed` from the first site root on."""
    if configured is not None:
        return configured
    return Mode.SIGNED if has_site_root else Mode.OPEN


class Freshness(StrEnum):
    FRESH = "fresh"
    AGING = "aging"  # half of the allowed age: time to warn
    STALE = "stale"  # no new installs; what is installed is served on
    UNKNOWN = "unknown"  # the repository does not say when it was issued


def freshness_of(issued_s: int | None, now_s: int, allowed_s: int) -> Freshness:
    """How old verified metadata is; `allowed_s` 0 turns the rule off (sites without a network)."""
    if allowed_s == 0:
        return Freshness.FRESH
    if issued_s is None:
        return Freshness.UNKNOWN
    age_s = now_s - issued_s
    if age_s > allowed_s:
        return Freshness.STALE
    return Freshness.AGING if age_s > allowed_s // 2 else Freshness.FRESH


def require_fresh(repository: str, issued_s: int | None, now_s: int, allowed_s: int) -> Freshness:
    """The freshness, or TrustError (expired) when it is too old for a new install."""
    freshness = freshness_of(issued_s, now_s, allowed_s)
    if freshness is Freshness.STALE and issued_s is not None:
        raise TrustError.of(
            TrustCode.EXPIRED,
            f"the newest word from {repository} is {(now_s - issued_s) // DAY_S} days old, "
            f"{allowed_s // DAY_S} are allowed for a new install",
            hint="sync again, import a newer stick, or set freshness = 0 on a site without network",
        )
    return freshness
