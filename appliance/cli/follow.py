"""Long operations of the service, line by line, as progress on stderr."""

from appliance.cli.client import Client, ClientError, Json
from appliance.cli.progress import Progress


def follow(client: Client, path: str, body: Json, progress: Progress) -> None:
    """Run the operation to its end; raises ClientError unless that is `success`."""
    status = ""
    for message in client.stream(path, body):
        status = message.get("status", status)
        if "total" in message:
            progress.count(status, message.get("completed", 0), message["total"])
        else:
            progress.step(status)
    if status != "success":
        raise ClientError(f"the service ended after {status!r}; nothing was changed")
