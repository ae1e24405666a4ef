"""The model that ships with Hearth after an update of the package: renewed where nobody changed it,
so that a box that serves only signed models does not lose its voice.
"""

from appliance.library.builtin import MARKER
from tests.integration.test_trust_service import enrol


def digest(service):
    models = service.call("GET", "/api/tags")[1]["models"]
    return next((each["digest"] for each in models if each["name"] == "hearth:latest"), None)


def older(service, tiny_gguf, *, noted=None):
    """Let the box be as an older package left it; the digest of its model."""
    service.call("DELETE", "/api/delete", {"model": "hearth"})
    service.create("hearth", tiny_gguf)
    made = digest(service)
    service.stop()
    (service.state / MARKER).write_text(noted or f"0.0.1 sha256:{made}\n")
    return made


def test_it_is_renewed_and_served_where_only_signed_models_are(start_service, tiny_gguf):
    service = start_service()
    newest = digest(service)
    assert older(service, tiny_gguf) != newest
    enrol(service, is_site=True)
    service = start_service(service.state)
    assert digest(service) == newest
    status, body = service.call(
        "POST", "/api/generate", {"model": "hearth", "prompt": "hi", "stream": False}
    )
    assert status == 200, body
    assert newest in (service.state / MARKER).read_text()


def test_what_somebody_changed_or_removed_stays_so(start_service, tiny_gguf):
    service = start_service()
    changed = older(service, tiny_gguf, noted=f"0.0.1 sha256:{'0' * 64}\n")
    service = start_service(service.state)
    assert digest(service) == changed
    assert service.call("DELETE", "/api/delete", {"model": "hearth"})[0] == 200
    service.stop()
    (service.state / MARKER).write_text(f"0.0.1 sha256:{changed}\n")
    service = start_service(service.state)
    assert digest(service) is None
    service.stop()
    (service.state / MARKER).write_text("installed\n")  # as before this was noted
    assert digest(start_service(service.state)) is None
