"""The rules of who may do what, and the sentence for who may not. Pure: no IO, no clock, no state.

Without a key: on the box everything; on the LAN `chat` where access_lan is `open`; else nothing. A
key gives its scopes and no more, on the box too: it says what its holder wants to be. Where
access_lan is `off`, nobody but the box itself gets anything.
"""

from appliance.access.caller import (
    EVERYTHING,
    NOTHING,
    Caller,
    KeyFacts,
    OriginKind,
    Ring,
    Scope,
    expand,
)
from appliance.errors import ApplianceError, ForbiddenError, UnauthorizedError


def scopes_of(ring: Ring, origin: OriginKind, key: KeyFacts | None, lan: str) -> frozenset[Scope]:
    """What a caller may do. `lan` is the setting access_lan.

    A key says what its holder wants to be, also on the box itself. Pages of desktop apps and
    browser extensions infer, whatever key they hold.
    """
    if lan == "off" and ring is not Ring.HERE:
        scopes = NOTHING
    elif key is not None:
        scopes = expand(key.scopes)
    elif ring is Ring.HERE:
        scopes = EVERYTHING
    elif ring is Ring.LAN and lan == "open":
        scopes = frozenset({Scope.CHAT})
    else:
        scopes = NOTHING
    return scopes & {Scope.CHAT} if origin is OriginKind.APP else scopes


def refusal(caller: Caller, scope: Scope, lan: str, *, is_claimed: bool) -> ApplianceError:
    """The answer to a caller that lacks `scope`: what is needed, and how to get it."""
    if caller.origin is OriginKind.APP and scope is not Scope.CHAT:
        return ForbiddenError(
            f"apps of the origin {caller.origin_text[:100]!r} may use models but not change them",
            hint="use `hearth` on the box, or add the origin to allowed_origins",
        )
    if lan == "off" and not caller.is_local:
        return ForbiddenError(
            "this box answers nobody on the network (access_lan is off)",
            hint="use it on the box itself, or let its owner set access_lan to open or keys",
        )
    if caller.key is not None:
        return ForbiddenError(
            f"the key {caller.key.name!r} has not the scope {scope}, which this needs",
            hint=f"ask the box's owner for one (`hearth keys create NAME --scope {scope}`)",
        )
    if scope is not Scope.CHAT and not is_claimed:
        return UnauthorizedError(
            "only the owner's key may do this from the network, and this box has no owner yet",
            hint="run `hearth pair` on the box and claim it, or do this on the box itself",
        )
    place = caller.address if caller.ring is Ring.LAN else "outside or through a proxy"
    return UnauthorizedError(
        f"this needs a key with the scope {scope}, and the request comes without one from {place}",
        hint="send it as `Authorization: Bearer hearth_…`, the command in HEARTH_KEY; the owner of"
        f" the box makes one with `hearth keys create NAME --scope {scope}`",
    )


def who(caller: Caller) -> str:
    """A caller as the audit log names it."""
    place = "this box" if caller.is_local else caller.address
    return f"{caller.key.name} ({caller.key.id}) at {place}" if caller.key else place
