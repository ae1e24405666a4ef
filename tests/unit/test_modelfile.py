"""The Modelfile grammar: Ollama's own parser cases (numbers of reference 2.4), and the printer."""

import codecs

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.errors import ModelfileError
from appliance.library.modelfile import Command, Modelfile, parse


def commands(text):
    return [(command.name, command.args) for command in parse(text).commands]


def only(text, name):
    """The values of one instruction in `FROM x` + text."""
    return [args for found, args in commands(f"FROM x\n{text}") if found == name]


def test_01_all_kinds_of_instruction():
    text = (
        "FROM model1\nADAPTER adapter1\nLICENSE MIT\nPARAMETER param1 value1\n"
        'PARAMETER param2 value2\nTEMPLATE """{{ if .System }}<|start|>system\n'
        '{{ .System }}<|end|>\n{{ end }}\n\n<|start|>user"""     \n'
    )
    assert commands(text) == [
        ("model", "model1"),
        ("adapter", "adapter1"),
        ("license", "MIT"),
        ("param1", "value1"),
        ("param2", "value2"),
        (
            "template",
            "{{ if .System }}<|start|>system\n{{ .System }}<|end|>\n{{ end }}\n\n<|start|>user",
        ),
    ]


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ('LICENSE "MIT       "', "license", "MIT       "),  # 2
        ("ADAPTER      adapter3", "adapter", "adapter3"),  # 3
        ("PARAMETER param1        value1", "param1", "value1"),  # 3
        ('TEMPLATE """   text   """    ', "template", "   text   "),  # 4
        ("RENDERER renderer1", "renderer", "renderer1"),  # 15
        ("PARSER parser1", "parser", "parser1"),  # 15
        ("DRAFT draft1", "draft", "draft1"),  # 15
        ("REQUIRES 0.14.0", "requires", "0.14.0"),
        ("MESSAGE system Be kind.", "message", "system: Be kind."),  # 16
        ("MESSAGE system Be kind.\n", "message", "system: Be kind."),  # 16
        ('MESSAGE system """\nBe\nkind.\n"""', "message", "system: \nBe\nkind.\n"),  # 18
        ('SYSTEM """\nline\n"""', "system", "\nline\n"),  # 21
        ('SYSTEM """\nline"""', "system", "\nline"),  # 21
        ('SYSTEM """line"""', "system", "line"),  # 21
        ('SYSTEM """\nsay "hi"\n"""', "system", '\nsay "hi"\n'),  # 24
        ('SYSTEM """"""', "system", ""),  # 25
        ('SYSTEM ""', "system", ""),  # 26
        ('SYSTEM "\'"', "system", "'"),  # 27
        ('SYSTEM """\'\'"\'""\'"\'\'\'\'\'"""""', "system", "''\"'\"\"'\"'''''\"\""),  # 28
        ('TEMPLATE """{{ .Prompt }}\n"""', "template", "{{ .Prompt }}\n"),  # 29
        ("SYSTEM # no comment", "system", "# no comment"),
        ("SYSTEM \n", "system", ""),
        ('SYSTEM "closed" swallows\nthe next line"', "system", 'closed" swallows\nthe next line'),
        ("SYSTEM it's 'quoted'", "system", "it's 'quoted'"),
    ],
)
def test_values(text, name, value):
    assert only(text, name) == [value]


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ('FROM "     model 1"', "     model 1"),  # 2
        ('FROM "FOO  BAR  "', "FOO  BAR  "),  # 5
        ("FROM     FOOO BAR    ", "FOOO BAR"),  # 6
        ("FROM /what/is/the path ", "/what/is/the path"),  # 7
        ("FROM foo", "foo"),  # 8
        ("FROM llama3:7b-instruct-q4_K_M", "llama3:7b-instruct-q4_K_M"),  # 8
        ("from foo", "foo"),
        ("# a comment\n# FROM bar\nFROM foo", "foo"),  # 31
        ("\n\t  FROM foo\r\n", "foo"),
    ],
)
def test_from(text, model):
    assert commands(text) == [("model", model)]


@pytest.mark.parametrize("text", ["", "PARAMETER param1 value1", "# FROM x"])
def test_09_10_no_from(text):
    with pytest.raises(ModelfileError, match=r"^no FROM line$"):
        parse(text)


def test_11_parameter_before_from():
    assert commands("PARAMETER param1 value1\nFROM foo") == [("param1", "value1"), ("model", "foo")]


def test_12_values_end_with_the_line():
    text = "PARAMETER what the \nFROM lemons make lemonade "
    assert commands(text) == [("what", "the"), ("model", "lemons make lemonade")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM foo\nPARAMETER param1\n", "unexpected EOF: param1"),  # 13
        ("FROM foo\nPARAMETER param-1 x\n", "unexpected EOF: param"),
        ("FROM foo\nMESSAGE system\n", "unexpected EOF: system"),  # 20
        ("FROM foo\nMESSAGE system", "unexpected EOF"),  # 20
        ('FROM foo\nSYSTEM """open""', "unexpected EOF"),  # 22
        ('FROM foo\nSYSTEM "', "unexpected EOF"),  # 23
        ("FROM", "unexpected EOF"),
    ],
)
def test_incomplete_instructions(text, message):
    with pytest.raises(ModelfileError) as caught:
        parse(text)
    assert caught.value.message == message


@pytest.mark.parametrize("text", ["FROM foo\n\nBADCOMMAND param1 value1\n", "FROM foo\n\n3 x"])
def test_14_unknown_instruction(text):
    with pytest.raises(ModelfileError, match=r"^\(line 3\): command must be one of \"from\", "):
        parse(text)


def test_keyword_followed_by_a_newline_is_no_instruction():
    with pytest.raises(ModelfileError, match=r"^\(line 3\): command must be one of"):
        parse("FROM foo\nSYSTEM\n")


def test_17_messages_in_order():
    text = "MESSAGE system a\nMESSAGE user b\nMESSAGE assistant c"
    assert only(text, "message") == ["system: a", "user: b", "assistant: c"]


@pytest.mark.parametrize("role", ["badguy", "User", "SYSTEM"])
def test_19_unknown_role(role):
    with pytest.raises(
        ModelfileError, match=r"^\(line 3\): message role must be one of \"system\","
    ):
        parse(f"FROM foo\n\nMESSAGE {role} I'm a bad guy!\n")


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        *(
            (f"{key} {value}", key, value)
            for key, value in {
                "numa": "true", "num_ctx": "1", "num_batch": "1", "num_gqa": "1", "num_gpu": "1",
                "main_gpu": "1", "use_mmap": "true", "num_thread": "1", "num_keep": "1",
                "seed": "1", "num_predict": "1", "top_k": "1", "top_p": "1.0", "min_p": "0.05",
                "typical_p": "1.0", "repeat_last_n": "1", "temperature": "1.0",
                "repeat_penalty": "1.0", "presence_penalty": "1.0", "frequency_penalty": "1.0",
                "penalize_newline": "true",
            }.items()
        ),
        ("stop ### User:", "stop", "### User:"),
        ("stop ### User: ", "stop", "### User:"),
        ('stop "### User: "', "stop", "### User: "),
        ('stop """### User:\n"""', "stop", "### User:\n"),
        ("stop <|eot_id|>", "stop", "<|eot_id|>"),
        ("stop </s>", "stop", "</s>"),
    ],
)  # fmt: skip
def test_30_parameters(text, name, value):
    assert only(f"PARAMETER {text}", name) == [value]


ROUND_TRIPS = [
    "FROM foo\nADAPTER adapter1\nLICENSE MIT\nPARAMETER param1 value1\nMESSAGE system You!",
    'FROM foo\nLICENSE """\nThis has "quotes"\nin many lines.\n"""\nSYSTEM ""\n',
    'FROM foo\nTEMPLATE """ {{ .System }} """\nSYSTEM "  padded "\nSYSTEM ""\n',
    'FROM foo\nMESSAGE user """Hey "you"\nthere"""\nMESSAGE assistant Yes?\nREQUIRES 1.2.3\n',
]


@pytest.mark.parametrize("text", ROUND_TRIPS)
def test_32_printing_round_trips(text):
    modelfile = parse(text)
    assert parse(str(modelfile)) == modelfile


def test_printing_quotes_only_what_needs_it():
    modelfile = Modelfile(
        (
            Command("model", " a b"),
            Command("system", "plain 'text'"),
            Command("template", "two\nlines"),
            Command("license", 'with "quotes"\nand lines'),
            Command("top_k", "3"),
            Command("message", "user: hi "),
        )
    )
    assert str(modelfile) == (
        "FROM  a b\nSYSTEM plain 'text'\nTEMPLATE \"two\nlines\"\n"
        'LICENSE """with "quotes"\nand lines"""\nPARAMETER top_k 3\nMESSAGE user "hi "\n'
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be"])
def test_33_34_byte_order_marks(encoding):
    text = "FROM bob\nPARAMETER param1 1\n\tSYSTEM 你好👋 ç\n"
    mark = {"utf-8": codecs.BOM_UTF8, "utf-16-le": codecs.BOM_UTF16_LE}.get(
        encoding, codecs.BOM_UTF16_BE
    )
    found = parse(mark + text.encode(encoding)).commands
    assert found[-1] == Command("system", "你好👋 ç")
    assert parse(text.encode()).commands == found


def test_what_go_cannot_print_is_dropped_from_values():
    family = "👨\N{ZERO WIDTH JOINER}👩"
    text = f"SYSTEM a\N{NO-BREAK SPACE}b\N{IDEOGRAPHIC SPACE}c\0 {family}\td"
    assert only(text, "system") == ["abc 👨👩\td"]


def test_a_long_value_takes_time_in_proportion_to_its_length():
    lines = "a quoted line of text\n" * 20_000
    assert only(f'LICENSE """{lines}"""', "license") == [lines]


@settings(deadline=None, max_examples=50)
@given(st.text())
def test_any_text_parses_or_is_refused(text):
    try:
        modelfile = parse(text)
    except ModelfileError:
        return
    assert modelfile.commands


@settings(deadline=None, max_examples=50)
@given(
    st.text(
        alphabet=st.characters(exclude_categories=("C", "Z"), include_characters=" \n"), max_size=60
    )
)
def test_any_plain_value_survives_printing(value):
    # a text that itself begins or ends like a quotation has no unambiguous form in this language
    if '"' in value or value != value.strip():
        return
    modelfile = Modelfile((Command("model", "x"), Command("system", value)))
    assert parse(str(modelfile)).commands[-1].args == value
