"""Grammars are read before llama.cpp sees them: good ones pass, hostile ones get a reason."""

import pytest

from engine.errors import EngineRequestError
from engine.llama import gbnf


@pytest.mark.parametrize(
    "source",
    [
        gbnf.JSON,
        'root ::= "yes" | "no"',
        'root ::= (\n  "a"\n  | [b-d]+ # comment\n)\n\n# end\n',
        'root ::= item ("," item){0,5}\nitem ::= [a-zA-Z0-9_\\]\\x41\\u00e4-]* "." .',
        'root ::= "\\"\\\\\\n\\x22" other-1\r\nother-1 ::= | "x"? | "y"{3} | "z"{2,}',
        'root ::= <[12]> !<[3]> "a"',
        'root ::= "(" root ")" | "x"',
        'root ::= ("a"?)? "b"',
    ],
)
def test_good_grammars_pass(source):
    gbnf.check(source)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("", "no rule named root"),
        ('other ::= "a"', "no rule named root"),
        ("root ::= missing", "missing, which is not defined"),
        ('root ::= "a', 'closing "'),
        ('root ::= "\\q"', "known escape"),
        ("root ::= [a", "character class"),
        ('root ::= ("a"', r"line 1: expected \)"),
        ('root ::= "a")', "new line"),
        ('root = "a"', "expected ::="),
        ('root ::= "a"\n\n!', "line 3: expected a rule name"),
        ('root ::= "a"{,3}', "repetition"),
        ('root ::= "a"{3,2}', "repetition"),
        ('root ::= "a" # \0', "NUL"),
        ('root ::= "\ud800"', "not valid text"),
        ('root ::= "a"{1000000000}', "1000000000 times, at most 2000"),
        ('root ::= "a"{0,1000000000}', "1000000000 times, at most 2000"),
        ('root ::= (("a"{2000}){2000}){2000}', "elements"),
        (f'root ::= "{"a" * 200}"{{2000}}', "elements"),
        (f"root ::= {'(' * 60}" + '"a"' + ")" * 60, "nested"),
        (f"root ::= {'(' * 100_000}", "nested"),
        ('root ::= root "a" | "b"', "left recursion"),
        ('root ::= x\nx ::= y\ny ::= x "a"', "left recursion"),
        ('root ::= empty root "b" | "c"\nempty ::= e e\ne ::= "a"?', "left recursion"),
        ('root ::= ("a"?)*', "may be empty"),
        ('root ::= ""+', "may be empty"),
        ('root ::= (x x)*\nx ::= | "a"', "may be empty"),
        ("root ::= " + '"a" ' * 40_000, "bytes, at most"),
        ("root ::= " + " | ".join('"a"' for _ in range(2500)), "choices open"),
        ("root ::= " + '"a"? ' * 2500, "choices open"),
    ],
)
def test_bad_grammars_get_a_reason(source, reason):
    with pytest.raises(EngineRequestError, match=reason):
        gbnf.check(source)


def test_a_small_source_that_opens_a_million_choices_is_refused():
    """Each rule doubles the places that the first character may match: 2 ** 25 of them."""
    rules = ["root ::= r0", *(f"r{n} ::= r{n + 1} r{n + 1}" for n in range(25)), 'r25 ::= "a"?']
    with pytest.raises(EngineRequestError, match="choices open"):
        gbnf.check("\n".join(rules))


def test_a_choice_is_counted_behind_the_start_too():
    with pytest.raises(EngineRequestError, match="choices open"):
        gbnf.check('root ::= "x" (' + '"a"? ' * 2500 + ")")


def test_a_long_chain_of_rules_needs_no_deep_stack():
    rules = ["root ::= r0", *(f"r{n} ::= r{n + 1}" for n in range(4000)), 'r4000 ::= "a"']
    gbnf.check("\n".join(rules))
