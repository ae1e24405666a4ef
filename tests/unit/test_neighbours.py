"""What is heard on the link, from friends and from attackers."""

import random

import pytest

from appliance.discovery.heard import MAX_TXT_BYTES, Heard, Kind, clean, parse_text
from appliance.discovery.neighbours import MAX_ADDRESSES, MAX_ENTRIES, Table
from appliance.discovery.records import HEARTH, HTTP, OLLAMA, OPENAI


def text(*items):
    return b"".join(bytes([len(item)]) + item for item in (i.encode() for i in items))


def said(instance="Cellar", type_=HEARTH, host="cellar.local.", address="10.0.0.2", txt=b""):
    name = f"{instance}.{type_}"
    return [
        Heard(Kind.ADDRESS, host, 120, address=address),  # order within a packet is free
        Heard(Kind.POINTER, type_, 120, target=name),
        Heard(Kind.SERVICE, name, 120, target=host, port=11434),
        Heard(Kind.TEXT, name, 120, text=txt),
    ]


def test_a_box_is_one_row_whatever_types_it_announces():
    table = Table()
    txt = text("txtvers=1", "id=0123", "v=1.2", "caps=chat,embed", "st=owned", "auth=open")
    for type_ in (OPENAI, OLLAMA, HEARTH, HTTP):
        table.hear("eth0", said(type_=type_, txt=txt if type_ == HEARTH else b""), 10.0)
    (row,) = table.neighbours(clock_s=1000.0)
    assert (row.name, row.kind, row.url) == ("Cellar", "hearth", "http://10.0.0.2:11434")
    assert (row.id, row.version, row.caps, row.state) == ("0123", "1.2", ("chat", "embed"), "owned")
    assert row.seen_at == 1010.0
    assert row.is_alive is None


def test_a_change_is_one_only_for_what_readers_see():
    table = Table()
    assert table.hear("eth0", said(), 0.0)
    assert not table.hear("eth0", said(), 1.0)
    assert table.hear("eth0", said(address="10.0.0.3"), 1.0)
    assert not table.hear("eth0", said(type_=HTTP, instance="Printer"), 1.0)


def test_goodbyes_expiry_and_lost_links_remove_it():
    table = Table()
    goodbye = [Heard(Kind.POINTER, HEARTH, 0, target=f"Cellar.{HEARTH}")]
    table.hear("eth0", said(), 0.0)
    table.hear("eth0", goodbye, 1.0)
    assert table.neighbours() == []
    table.hear("eth0", said(), 0.0)
    table.expire(119.0)
    assert len(table.neighbours()) == 1
    table.expire(121.0)
    assert table.neighbours() == []
    table.hear("eth0", said(), 0.0)
    table.hear("eth1", said(address="10.1.0.2"), 0.0)
    assert table.neighbours()[0].addresses == ("10.0.0.2", "10.1.0.2")
    table.forget("eth0")
    assert table.neighbours()[0].addresses == ("10.1.0.2",)


def test_a_check_is_kept_for_the_host_that_it_was_made_of():
    table = Table()
    table.hear("eth0", said(type_=OLLAMA), 0.0)
    (row,) = table.neighbours()
    table.check(row.key, True, "0.12.0")
    table.check(("nobody.local", 1), True, "9")
    (row,) = table.neighbours()
    assert (row.is_alive, row.version) == (True, "0.12.0")


def test_what_is_missing_is_asked_for():
    table = Table()
    table.hear("eth0", [Heard(Kind.POINTER, HEARTH, 120, target=f"A.{HEARTH}")], 0.0)
    assert list(table.incomplete("eth0")) == [(f"A.{HEARTH}", Kind.SERVICE)]
    table.hear("eth0", [Heard(Kind.SERVICE, f"A.{HEARTH}", 9, target="a.local.", port=1)], 0.0)
    assert list(table.incomplete("eth0")) == [("a.local.", Kind.ADDRESS)]
    assert list(table.incomplete("eth1")) == []


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b[2J\x07evil\r\nname", "[2J evil  name"),
        ("\u202egnp.exe", "gnp.exe"),
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),  # the page escapes
        ("x" * 500, "x" * 63),
    ],
)
def test_texts_are_one_short_printable_line(raw, shown):
    assert clean(raw, 63) == shown
    table = Table()
    table.hear("eth0", said(instance=raw, txt=text(f"v={raw[:200]}", f"caps={raw[:200]}")), 0.0)
    (row,) = table.neighbours()
    assert row.name == shown
    assert all(part.isprintable() for part in (row.version, *row.caps))
    assert len(row.version) <= 32


def test_text_records_of_any_bytes():
    assert parse_text(b"\x05") == {}
    assert parse_text(b"\xffabc=d") == {"abc": "d"}
    assert parse_text(text("A=1", "a=2", "novalue", "=3")) == {"a": "1", "novalue": ""}
    assert parse_text(b"\x03a=b" * MAX_TXT_BYTES) == {}
    noise = random.Random(7)
    for _ in range(2000):
        parsed = parse_text(noise.randbytes(noise.randrange(400)))
        assert all(value.isprintable() for value in parsed.values())


def test_a_flood_fills_no_more_than_its_place_and_drives_no_living_box_out():
    table = Table()
    table.hear("eth0", said(), 0.0)
    (row,) = table.neighbours()
    table.check(row.key, True, "")
    for n in range(5000):
        forged = said(f"Fake {n}", host=f"fake{n}.local.", address="10.0.0.66")
        table.hear("eth0", forged, 1.0 + n / 1000)
        table.hear("eth0", [Heard(Kind.ADDRESS, "cellar.local.", 9, address=f"10.1.{n % 9}.1")], 1)
    rows = table.neighbours()
    assert len(rows) <= MAX_ENTRIES
    (kept,) = [row for row in rows if row.name == "Cellar"]
    assert len(kept.addresses) <= MAX_ADDRESSES
    assert kept.addresses[0] == "10.0.0.2"
