"""access/ledger.py: tokens by client and day, under a clock that jumps."""

from appliance.access.ledger import KEPT_DAYS, MAX_GUESTS, SETTLED_S, Entry, Ledger

DAY = 740_000


def tokens(ledger, who="key:a", day=DAY):
    return ledger.used(who, day).tokens


def test_tokens_are_summed_and_gone_the_next_day():
    ledger = Ledger()
    ledger.add("key:a", DAY, 1.0, requests=1)
    ledger.add("key:a", DAY, 2.0, tokens=5)
    ledger.add("key:a", DAY, 3.0, tokens=6)
    assert ledger.used("key:a", DAY) == Entry(requests=1, tokens=11, seen_at=3.0)
    assert tokens(ledger, day=DAY + 1) == 0
    assert tokens(ledger, "key:b") == 0


def test_a_clock_that_goes_back_gives_no_fresh_budget():
    ledger = Ledger()
    ledger.add("key:a", DAY, 1.0, tokens=10)
    ledger.turn(DAY - 1, 0.0)
    assert tokens(ledger, day=DAY - 1) == 10
    ledger.add("key:a", DAY - 1, 2.0, tokens=1)
    assert tokens(ledger, day=DAY - 1) == 11
    ledger.turn(DAY, 60.0)  # the time server answered: today is today again
    assert tokens(ledger) == 10


def test_after_an_hour_an_earlier_day_is_believed():
    """A clock that was once in 2040 must not keep a budget spent until 2040."""
    ledger = Ledger()
    ledger.add("key:a", DAY + 5000, 1.0, tokens=10)
    ledger.turn(DAY, 0.0)
    ledger.turn(DAY, SETTLED_S - 1)
    assert tokens(ledger, day=DAY + 1) == 10
    ledger.turn(DAY, SETTLED_S)
    assert tokens(ledger) == 10
    assert tokens(ledger, day=DAY + 1) == 0
    assert ledger.gone == {("key:a", DAY + 5000)}
    assert [who for who, day, _ in ledger.entries(ledger.changed)] == ["key:a"]


def test_the_hour_begins_anew_when_the_clock_was_right_meanwhile():
    ledger = Ledger()
    ledger.add("key:a", DAY, 1.0, tokens=10)
    ledger.turn(DAY - 1, 0.0)
    ledger.turn(DAY, 100.0)
    ledger.turn(DAY - 1, SETTLED_S)
    assert tokens(ledger) == 10


def test_old_days_are_forgotten():
    ledger = Ledger()
    ledger.load([("10.0.0.1", DAY - KEPT_DAYS, Entry(1, 1, 1.0)), ("key:a", DAY, Entry(1, 7, 2.0))])
    ledger.turn(DAY, 0.0)
    assert ledger.guests() == []
    assert tokens(ledger) == 7
    assert ledger.gone == {("10.0.0.1", DAY - KEPT_DAYS)}


def test_guests_are_bounded_and_keys_stay():
    ledger = Ledger()
    ledger.add("key:a", DAY, 0.0, tokens=1)
    for number in range(MAX_GUESTS + 100):
        ledger.add(f"guest{number}", DAY, float(number), requests=1)
    assert len(ledger.guests()) == MAX_GUESTS
    assert ledger.guests()[0] == f"guest{MAX_GUESTS + 99}"
    assert tokens(ledger) == 1
    assert len(ledger.gone) == 100
