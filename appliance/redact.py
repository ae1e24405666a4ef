"""Taking secrets out of text that leaves the box, by what secrets look like.

What is gathered for support holds none by design; this is the second lock, for what a library's
error message or an address in a setting may carry.
"""

import re

HIDDEN = "***"
_RULES = (
    (
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*-----|\Z)", re.S),
        HIDDEN,
    ),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=:-]{4,}"), rf"\1 {HIDDEN}"),
    (re.compile(r"\bhearth_[A-Za-z0-9]+_[\w-]+"), f"hearth_{HIDDEN}"),
    (re.compile(r"\b(sk|hf|ghp|gho|github_pat|glpat|xox[abp])([-_])[\w-]{12,}"), rf"\1\2{HIDDEN}"),
    (re.compile(r"(\w://)[^/\s\"'@]*@"), rf"\1{HIDDEN}@"),
    (
        re.compile(
            r"(?i)\b(password|passwd|secret|token|api[_-]?key|claim|signature)"
            r"(\\?[\"']?\s*[=:]\s*\\?[\"']?)[^\s\"'&,\\]+"
        ),
        rf"\1\2{HIDDEN}",
    ),
)


def redact(text: str) -> str:
    """`text` with `***` in place of everything that looks like a secret."""
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text
