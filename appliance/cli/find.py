"""Finding a box by its name on the local network: `hearth --box kitchen …`."""

from appliance.cli.address import Address
from appliance.cli.client import ClientError
from appliance.cli.inert import inert

LOOK_S = 2.0


def find_box(name: str) -> Address:
    """The address of the box whose instance name, host name or id is `name`.

    Raises ClientError, which lists what was found, unless there is exactly one.
    """
    import asyncio  # no verb that needs no event loop pays for it

    from appliance.discovery.browse import look_around
    from appliance.discovery.neighbours import Neighbour

    wanted = name.casefold()

    def matches(row: Neighbour) -> bool:
        host = row.host.casefold()
        own = {row.name.casefold(), host, host.removesuffix(".local"), row.id}
        return wanted in own

    try:
        rows = asyncio.run(look_around(LOOK_S, lambda rows: any(map(matches, rows))))
    except OSError as error:
        raise ClientError(
            f"cannot look around on the network: {error.strerror or error}"
        ) from error
    found = [row for row in rows if matches(row) and row.addresses]
    if len(found) == 1:
        return Address("http", found[0].addresses[0], found[0].port)
    seen = ", ".join(f"{row.name!r} ({row.addresses[0]})" for row in found or rows) or "nothing"
    trouble = "several boxes have" if found else "no box on this network has"
    raise ClientError(
        inert(f"{trouble} the name {name!r}; found: {seen}"),
        hint="`hearth discover` lists what is there; --host takes an address",
    )
