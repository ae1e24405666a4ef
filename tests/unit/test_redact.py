"""What looks like a secret does not leave the box; what does not stays readable."""

import pytest

from appliance.redact import redact

SECRET = "s3cretPlantedValue42"


@pytest.mark.parametrize(
    "text",
    [
        f"proxy http://user:{SECRET}@proxy.lan:3128 refused",
        f"proxy http://{SECRET}@proxy.lan:3128",
        f"Authorization: Bearer {SECRET}",
        f"Authorization: Basic {SECRET}",
        f"key hearth_0a1b2c_{SECRET}",
        f'{{"password": "{SECRET}"}}',
        f'{{\\"token\\": \\"{SECRET}\\"}}',
        f"GET /?token={SECRET}&x=1",
        f"api_key={SECRET}",
        f"http://192.168.1.5:11434/#claim={SECRET}",
        f"sk-{SECRET}",
        f"hf_{SECRET}",
        f"-----BEGIN OPENSSH PRIVATE KEY-----\n{SECRET}\n-----END OPENSSH PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n{SECRET}",
    ],
)
def test_a_secret_goes(text):
    assert SECRET not in redact(text)
    assert "***" in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "request method=POST path=/api/chat status=200 prompt=12 out=7 decode_tok_s=9.1",
        "ready address=http://127.0.0.1:11434 version=0.1.0",
        "max_tokens=100 tokens: 7",
        "models hearth:latest, llama3.2:3b",
        "registry https://registry.ollama.ai",
    ],
)
def test_what_is_none_stays(text):
    assert redact(text) == text
