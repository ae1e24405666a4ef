"""Which model may come from where, in each mode, and which repository owns a name."""

import re

import pytest

from appliance.errors import ConfigError
from appliance.library.names import ModelName
from appliance.trust.errors import (
    CURES,
    ConfirmationNeededError,
    PolicyRefusedError,
    TrustCode,
    TrustError,
)
from appliance.trust.patterns import NamePattern, check_owners, owner_of
from appliance.trust.policy import (
    DAY_S,
    Freshness,
    Mode,
    Offer,
    TrustPolicy,
    Verdict,
    Way,
    effective_mode,
    freshness_of,
    require_fresh,
)

HOST = "registry.ollama.ai"


def offer(name="llama3", **fields):
    return Offer(**{"name": ModelName.parse(name), "host": HOST, **fields})


def owned(**patterns):
    return {
        repo: tuple(NamePattern.parse(text) for text in texts) for repo, texts in patterns.items()
    }


def test_there_are_twelve_codes_and_each_has_a_one_sentence_cure():
    assert len(TrustCode) == 12
    assert set(CURES) == set(TrustCode)
    for cure in CURES.values():
        assert ". " not in cure
        assert not cure.endswith(".")


def test_an_error_carries_its_code_and_cure():
    error = TrustError.of(TrustCode.ROLLBACK, "seen 3, offered 2")
    assert (error.code, error.hint) == ("rollback", CURES[TrustCode.ROLLBACK])


@pytest.mark.parametrize(
    ("mode", "fields", "verdict", "rule"),
    [
        ("open", {}, "allow", "unsigned_allowed"),
        ("open", {"host": "REGISTRY.ollama.ai"}, "allow", "unsigned_allowed"),
        ("open", {"host": "evil.example"}, "refuse", "host"),
        ("open", {"is_private": False}, "refuse", "tls"),
        ("open", {"way": Way.REMOVABLE}, "refuse", "way"),
        ("open", {"way": Way.FLEET}, "refuse", "way"),
        ("open", {"way": Way.PEER}, "refuse", "way"),
        ("open", {"locked_digest": "a", "digest": "a"}, "allow", "unsigned_allowed"),
        ("open", {"locked_digest": "a"}, "allow", "unsigned_allowed"),
        ("open", {"locked_digest": "a", "digest": "b"}, "confirm", "changed"),
        ("warn", {}, "confirm", "unsigned"),
        ("warn", {"locked_digest": "a", "digest": "a"}, "allow", "unsigned_allowed"),
        ("warn", {"locked_digest": "a", "digest": "b"}, "confirm", "changed"),
        ("warn", {"host": "evil.example"}, "refuse", "host"),
        ("signed", {}, "refuse", "unsigned"),
        ("signed", {"locked_digest": "a", "digest": "a"}, "refuse", "unsigned"),
    ],
)
def test_pull_of_an_unsigned_model(mode, fields, verdict, rule):
    decision = TrustPolicy(Mode(mode)).decide(offer(**fields))
    assert (decision.verdict, decision.rule) == (Verdict(verdict), rule)


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("way", list(Way))
def test_an_owned_name_must_be_signed_in_every_mode(mode, way):
    policy = TrustPolicy(mode, owned=owned(acme=["acme/*"]))
    decision = policy.decide(offer("acme/assistant", way=way, host="any.example"))
    assert decision.verdict is Verdict.ALLOW
    assert decision.repository == "acme"


def test_require_raises_unless_allowed_or_confirmed():
    policy = TrustPolicy(Mode.WARN)
    policy.decide(offer()).require(confirmed=True)
    with pytest.raises(ConfirmationNeededError) as caught:
        policy.decide(offer()).require(confirmed=False)
    assert (caught.value.code, caught.value.rule) == ("confirmation_needed", "unsigned")
    refused = policy.decide(offer(host="evil.example"))
    with pytest.raises(PolicyRefusedError) as caught:
        refused.require(confirmed=True)
    assert caught.value.code == "policy"


def test_a_refusal_in_signed_mode_gives_the_exact_adopt_command():
    decision = TrustPolicy(Mode.SIGNED).decide(offer("llama3.2:3b"))
    assert "tools/bundle adopt llama3.2:3b --as site/llama3.2" in decision.hint


MINE = ModelName.parse("mine")
WAYS = {
    "pull": lambda policy: policy.decide(offer("mine")),
    "pull again": lambda policy: policy.decide(offer("mine", locked_digest="a", digest="a")),
    "pull a change": lambda policy: policy.decide(offer("mine", locked_digest="a", digest="b")),
    "strange host": lambda policy: policy.decide(offer("mine", host="evil.example")),
    "no TLS": lambda policy: policy.decide(offer("mine", is_private=False)),
    "this machine": lambda policy: policy.decide(offer("mine", host="127.0.0.1")),
    "stick": lambda policy: policy.decide(offer("mine", way=Way.REMOVABLE)),
    "neighbour": lambda policy: policy.decide(offer("mine", way=Way.PEER)),
    "fleet": lambda policy: policy.decide(offer("mine", way=Way.FLEET)),
    "create": lambda policy: policy.may_create(MINE),
    "create owned": lambda policy: policy.may_create(ModelName.parse("acme/mine")),
    "upload": lambda policy: policy.may_upload("it"),
    "serve": lambda policy: policy.may_serve(MINE, None),
    "serve signed": lambda policy: policy.may_serve(MINE, "acme"),
    "share": lambda policy: policy.may_share(MINE, None),
    "share signed": lambda policy: policy.may_share(MINE, "acme"),
}
MATRIX = """
                 open     warn     signed
pull             allow    confirm  refuse
pull again       allow    allow    refuse
pull a change    confirm  confirm  refuse
strange host     refuse   refuse   refuse
no TLS           refuse   refuse   refuse
this machine     allow    confirm  refuse
stick            refuse   refuse   refuse
neighbour        refuse   refuse   refuse
fleet            refuse   refuse   refuse
create           allow    allow    refuse
create owned     refuse   refuse   refuse
upload           allow    allow    refuse
serve            allow    allow    refuse
serve signed     allow    allow    allow
share            allow    refuse   refuse
share signed     allow    allow    allow
"""


@pytest.mark.parametrize("row", MATRIX.strip().splitlines()[1:])
def test_every_way_in_every_mode(row):
    way, *expected = re.split(r"\s{2,}", row)
    for mode, verdict in zip(Mode, expected, strict=True):
        decision = WAYS[way](TrustPolicy(mode, owned=owned(acme=["acme/*"])))
        assert decision.verdict is Verdict(verdict), mode
        assert verdict == "allow" or decision.hint


def test_the_matrix_has_every_way():
    assert [re.split(r"\s{2,}", row)[0] for row in MATRIX.strip().splitlines()[1:]] == list(WAYS)


@pytest.mark.parametrize("fields", [{}, {"locked_digest": "a", "digest": "b"}])
def test_a_question_says_what_to_type(fields):
    hint = TrustPolicy(Mode.WARN).decide(offer("hf.co/a/b:q4", **fields)).hint
    assert "`hearth pull --confirm hf.co/a/b:q4`" in hint
    assert '"confirm": true' in hint


def test_a_site_root_makes_signed_the_default_and_a_setting_wins():
    assert effective_mode(None, has_site_root=False) is Mode.OPEN
    assert effective_mode(None, has_site_root=True) is Mode.SIGNED
    assert effective_mode(Mode.WARN, has_site_root=True) is Mode.WARN


@pytest.mark.parametrize(
    ("name", "repo"),
    [
        ("acme/assistant", "vendor"),
        ("ACME/Assistant:1", "vendor"),
        ("acme/lab-7b", "lab"),
        ("hf.co/acme/assistant", None),
        ("hf.co/acme/gguf-x", "hub"),
        ("acmeplus/x", None),
        ("llama3", None),
    ],
)
def test_the_longest_pattern_owns_a_name(name, repo):
    repos = owned(vendor=["acme/*"], lab=["acme/lab-*"], hub=["hf.co/acme/gguf-*"])
    check_owners(repos)
    assert owner_of(ModelName.parse(name), repos) == repo


@pytest.mark.parametrize(
    ("a", "b"),
    [("acme/*", "acme/*"), ("acme/*", "ACME/*"), ("acme/lab-*", "acm*/lab-1"), ("a*/x", "ab/*")],
)
def test_names_with_two_owners_are_refused(a, b):
    with pytest.raises(ConfigError, match="overlap"):
        check_owners(owned(one=[a], two=[b]))


@pytest.mark.parametrize(
    ("a", "b"),
    [("acme/*", "other/*"), ("acme/*", "acme/x"), ("acme/x*", "acme/x"), ("acme/*", "h.co/acme/*")],
)
def test_disjoint_and_nested_patterns_are_accepted(a, b):
    check_owners(owned(one=[a], two=[b]))
    check_owners(owned(one=[b], two=[a]))


@pytest.mark.parametrize("text", ["", "acme", "a//b", "a/b/c/d", "a/*b", "a/b c", "a/b\0"])
def test_bad_patterns(text):
    with pytest.raises(ConfigError, match="name pattern"):
        NamePattern.parse(text)


@pytest.mark.parametrize(
    ("age_days", "allowed_days", "expected"),
    [
        (0, 14, "fresh"),
        (7, 14, "fresh"),
        (8, 14, "aging"),
        (14, 14, "aging"),
        (15, 14, "stale"),
        (5000, 0, "fresh"),
        (-3, 14, "fresh"),
    ],
)
def test_freshness(age_days, allowed_days, expected):
    now = 20_000 * DAY_S
    issued = now - age_days * DAY_S
    assert freshness_of(issued, now, allowed_days * DAY_S) is Freshness(expected)


def test_stale_metadata_stops_new_installs_and_unknown_does_not():
    now = 20_000 * DAY_S
    with pytest.raises(TrustError, match="20 days old, 14 are allowed") as caught:
        require_fresh("acme", now - 20 * DAY_S, now, 14 * DAY_S)
    assert caught.value.code == "expired"
    assert require_fresh("acme", None, now, 14 * DAY_S) is Freshness.UNKNOWN
