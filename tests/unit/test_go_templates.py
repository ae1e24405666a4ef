"""templates/go: the language, its printing and its errors, by the rules of Go's text/template."""

from datetime import UTC, datetime

import pytest

from appliance.templates.go.errors import GoExecError, GoLimitError, GoParseError
from appliance.templates.go.program import MAX_TEMPLATE_CHARS, Run, compile_template
from appliance.templates.go.values import JsonList, JsonMap, Struct, Words

MESSAGES = [
    Struct("api.Message", {"Role": "user", "Content": "hi"}),
    Struct("api.Message", {"Role": "assistant", "Content": "yo"}),
]
VALUES = {
    "Messages": MESSAGES,
    "Map": {"b": 1, "a": [1, "x"]},
    "Json": JsonMap({"b": 1.5, "a": "<é>"}),
    "Tools": JsonList([Struct("api.Tool", {"Type": "function"}, {"Type": "type"})]),
    "Word": Words(["string"]),
    "Words": Words(["string", "null"]),
    "Name": "héllo",
    "Zero": 0,
    "Nothing": None,
}
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def run(template, **values):
    rendering = Run(lambda: NOW)
    compile_template(template).execute(rendering, {**VALUES, **values})
    return rendering.text()


@pytest.mark.parametrize(
    ("template", "text"),
    [
        # text, trimming, comments
        ("a {{- 1 -}} b", "a1b"),
        ("a\n\t{{-   1   -}}\n b", "a1b"),
        ("a {{-3}} b", "a -3 b"),
        ("a {{/* never {{ shown */}} b", "a  b"),
        ("a {{- /* gone */ -}} b", "ab"),
        ("{{ `}}` }}{{ \"}}\" }}", "}}}}"),
        ("{{\n1\n}}", "1"),
        # literals
        ('{{ "a\\n\\x41\\u00e9\\"\\101" }}', 'a\nAé"A'),
        ("{{ `a\\n` }}{{ 'a' }}{{ '\\n' }}", "a\\n9710"),
        ("{{ 0x1F }} {{ 1_000 }} {{ 0b11 }} {{ 017 }} {{ -4 }}", "31 1000 3 15 -4"),
        ("{{ 1.50 }} {{ 1e3 }} {{ 1e6 }} {{ 1234567.0 }} {{ .5e-5 }}",
         "1.5 1000 1e+06 1.234567e+06 5e-06"),
        ("{{ true }} {{ false }}", "true false"),
        # if, with, range
        ("{{ if .Zero }}a{{ else if .Name }}b{{ else }}c{{ end }}", "b"),
        ("{{ if not .Nothing }}a{{ end }}{{ if .Missing }}b{{ else }}c{{ end }}", "ac"),
        ("{{ if .Messages }}some{{ end }}{{ if index .Messages 0 }}one{{ end }}", "someone"),
        ("{{ with .Name }}{{ . }}{{ end }}{{ with .Zero }}x{{ else }}none{{ end }}", "héllonone"),
        ("{{ with .Zero }}x{{ else with .Name }}{{ . }}{{ end }}", "héllo"),
        ("{{ range .Messages }}{{ .Role }},{{ end }}", "user,assistant,"),
        ("{{ range $i, $m := .Messages }}{{ $i }}{{ $m.Content }}{{ end }}", "0hi1yo"),
        ("{{ range $m := .Messages }}{{ $m.Content }}{{ end }}", "hiyo"),
        ("{{ range $k, $v := .Map }}{{ $k }}={{ $v }};{{ end }}", "a=[1 x];b=1;"),
        ("{{ range .Nothing }}x{{ else }}empty{{ end }}", "empty"),
        ("{{ range 3 }}{{ . }}{{ end }}{{ range $i := 2 }}{{ $i }}{{ end }}", "01201"),
        ("{{ range 9 }}{{ if eq . 1 }}{{ continue }}{{ end }}{{ if gt . 3 }}{{ break }}{{ end }}"
         "{{ . }}{{ end }}", "023"),
        ("{{ range 2 }}{{ range 3 }}{{ if . }}{{ break }}{{ end }}{{ . }}{{ end }}|{{ end }}",
         "0|0|"),
        # variables: assigned across scopes, declared anew inside them
        ('{{ $s := "a" }}{{ range .Messages }}{{ $s = .Content }}{{ end }}{{ $s }}', "yo"),
        ('{{ $s := "a" }}{{ if true }}{{ $s := "b" }}{{ $s }}{{ end }}{{ $s }}', "ba"),
        ("{{ range .Messages }}{{ $.Name }}{{ end }}", "héllohéllo"),
        ("{{ $m := index .Messages 1 }}{{ $m.Role }}", "assistant"),
        ("{{ $x := 1 }}{{ $x := print $x 2 }}{{ $x }}", "1 2"),
        ("{{ range $i, $_ := .Messages }}{{ if eq (len (slice $.Messages $i)) 1 }}last{{ end }}"
         "{{ end }}", "last"),
        # define, template, block
        ('{{ define "x" }}[{{ . }}{{ $ }}]{{ end }}{{ template "x" 1 }}{{ template "x" }}',
         "[11][<no value><no value>]"),
        ('{{ block "b" .Messages }}{{ len . }}{{ end }}', "2"),
        ('{{ define "a" }}{{ template "b" . }}{{ end }}{{ define "b" }}({{ .Name }}){{ end }}'
         '{{ template "a" . }}', "(héllo)"),
        # chains, pipelines
        ("{{ (index .Messages 0).Role }}", "user"),
        ('{{ .Name | printf "%s-%s" "a" | len }}', "8"),
        ('{{ print (print "a" | len) "b" }}', "1b"),
        # functions
        ('{{ and 1 "" 2 }}|{{ or "" 0 "x" }}|{{ and 1 2 }}|{{ or "" 0 }}', "|x|2|0"),
        ("{{ or .Name (index .Messages 9) }}{{ and .Zero (index .Messages 9) }}", "héllo0"),
        ('{{ eq 1 2 1 }}{{ eq "a" "b" }}{{ ne 1 2 }}{{ lt 1 2 }}{{ le 2 2 }}{{ gt 1 2 }}'
         '{{ ge "b" "a" }}', "truefalsetruetruetruefalsetrue"),
        ("{{ eq .Nothing nil }}{{ eq .Missing nil }}{{ eq .Name nil }}", "truetruefalse"),
        ("{{ len .Name }}{{ len .Map }}", "62"),
        ('{{ index .Map "a" 1 }}{{ index .Map "z" }}{{ index .Name 0 }}', "x<no value>104"),
        ("{{ slice .Name 3 }}{{ slice .Name 0 1 }}{{ len (slice .Messages 1) }}", "lloh1"),
        ('{{ print "a" 1 2 "b" true }}|{{ println "a" 1 }}', "a1 2btrue|a 1\n"),
        ('{{ printf "%s|%5d|%-3s|%q|%v|%05.1f|%x|%c|%U|%t|%%" "a" 42 "b" "c\\"" .Map 1.25 255'
         " 65 9731 true }}", 'a|   42|b  |"c\\""|map[a:[1 x] b:1]|001.2|ff|A|U+2603|true|%'),
        ('{{ printf "%d %s" "x" }}{{ printf "a" 1 }}',
         "%!d(string=x) %!s(MISSING)a%!(EXTRA int=1)"),
        ("{{ html \"<a href='x'>&\" }}", "&lt;a href=&#39;x&#39;&gt;&amp;"),
        ('{{ urlquery "a b&c/" }}{{ js "it\'s <b>" }}', "a+b%26c%2Fit\\'s \\u003Cb\\u003e"),
        ('{{ json .Map }}{{ json "<a>" }}{{ json .Nothing }}{{ json 1.0 }}',
         '{"a":[1,"x"],"b":1}"\\u003ca\\u003e"null1'),
        ("{{ currentDate }} {{ yesterdayDate }} {{ currentDate 1 2 }}",
         "2026-03-01 2026-02-28 2026-03-01"),
        ('{{ toTypeScriptType "x" }}', "any"),
        # printing
        ("{{ .Messages }}{{ index .Messages 0 }}", "[{user hi} {assistant yo}]{user hi}"),
        ("{{ .Map }}{{ .Json }}{{ .Tools }}",
         'map[a:[1 x] b:1]{"a":"\\u003cé\\u003e","b":1.5}[{"type":"function"}]'),
        ("{{ .Word }}{{ .Words }}{{ json .Word }}{{ json .Words }}",
         'string[string null]"string"["string","null"]'),
        ("{{ .Nothing }}{{ .Missing }}", "<no value><no value>"),
    ],
)  # fmt: skip
def test_language(template, text):
    assert run(template) == text


@pytest.mark.parametrize(
    ("template", "line", "message"),
    [
        ("\n{{ .A ", 2, "unclosed action"),
        ("{{ .A \n\n", 3, "unclosed action started at :1"),
        ("{{ if .A }}x", 1, "unexpected EOF"),
        ('{{ define "x" }}', 1, "unexpected EOF"),
        ("\n\n{{ nope }}", 3, 'function "nope" not defined'),
        ('{{ template "x" }}', 1, 'template "x" not defined'),
        ("{{ end }}", 1, "unexpected {{end}}"),
        ("{{ else }}", 1, "unexpected {{else}}"),
        ("{{ if .A }}{{ else }}{{ else }}{{ end }}", 1, "expected end; found {{else}}"),
        ("{{ if }}{{ end }}", 1, "missing value for if"),
        ("{{}}", 1, "missing value for command"),
        ("{{ .A | }}", 1, "missing value for command"),
        ("{{ .A | 1 }}", 1, "non executable command in pipeline stage 2"),
        ("{{ $x }}", 1, 'undefined variable "$x"'),
        ("{{ $x = 1 }}", 1, 'undefined variable "$x"'),
        ("{{ if true }}{{ $x := 1 }}{{ end }}{{ $x }}", 1, 'undefined variable "$x"'),
        ("{{ $a, $b := .M }}", 1, "too many declarations in command"),
        ('{{ "a }}', 1, "unterminated quoted string"),
        ("{{ `a }}", 1, "unterminated raw quoted string"),
        ('{{ "\\q" }}', 1, "invalid escape \\q in a string"),
        ("{{/* x", 1, "unclosed comment"),
        ("{{/* x */ y}}", 1, "comment ends before closing delimiter"),
        ("{{ (.A }}", 1, "unclosed left paren"),
        ("{{ .A) }}", 1, "unexpected right paren"),
        ("{{ break }}", 1, "{{break}} outside {{range}}"),
        ('{{ range 2 }}{{ end }}{{ continue }}', 1, "{{continue}} outside {{range}}"),
        ("{{ 3x }}", 1, 'bad number syntax: "3x"'),
        ("{{ 99999999999999999999 }}", 1, "integer overflow"),
        ("{{ .A..B }}", 1, 'unexpected "." in operand'),
        ("{{ nil.A }}", 1, 'unexpected . after term "nil"'),
        ('{{ define "x" }}1{{ end }}{{ define "x" }}2{{ end }}', 1,
         'multiple definition of template "x"'),
        ("{{ " + "(" * 200 + ")" * 200 + " }}", 1, "blocks or parentheses nest deeper than 100"),
        ("{{ if 1 }}" * 200 + "{{ end }}" * 200, 1, "blocks or parentheses nest deeper than 100"),
        ("x" * (MAX_TEMPLATE_CHARS + 1), 1,
         f"the template has {MAX_TEMPLATE_CHARS + 1} characters; {MAX_TEMPLATE_CHARS} are allowed"),
    ],
)  # fmt: skip
def test_what_is_no_template_is_told_with_its_line(template, line, message):
    with pytest.raises(GoParseError) as caught:
        compile_template(template)
    assert str(caught.value) == f"template: :{line}: {message}"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("\n é{{ (index .Messages 0).Nope }}",
         'template: :2:7: executing "" at <(index .Messages 0)....>:'
         " can't evaluate field Nope in type api.Message"),
        ("{{ .Name.Length }}",
         'template: :1:3: executing "" at <.Name.Length>:'
         " can't evaluate field Length in type string"),
        ("{{ .Missing.Field }}",
         'template: :1:3: executing "" at <.Missing.Field>:'
         " nil pointer evaluating interface {}.Field"),
        ("{{ index .Messages 5 }}",
         'template: :1:3: executing "" at <index .Messages 5>:'
         " error calling index: index out of range: 5"),
        ('{{ define "t" }}{{ eq 1 "a" }}{{ end }}{{ template "t" }}',
         'template: :1:19: executing "t" at <eq 1 "a">:'
         " error calling eq: incompatible types for comparison"),
        ("{{ eq .Map .Map }}",
         'template: :1:3: executing "" at <eq .Map .Map>:'
         " error calling eq: non-comparable type map[string]interface {}"),
        ("{{ len 3 }}",
         'template: :1:3: executing "" at <len 3>: error calling len: len of type int'),
        ("{{ len }}", 'template: :1:3: executing "" at <len>:'
         " wrong number of args for len: want 1 got 0"),
        ("{{ range .Name }}{{ end }}",
         "template: :1:9: executing \"\" at <.Name>: range can't iterate over héllo"),
        ("{{ range true }}{{ end }}",
         "template: :1:9: executing \"\" at <true>: range can't iterate over true"),
        ("{{ .Name 1 }}",
         'template: :1:3: executing "" at <.Name>:'
         " Name has arguments but cannot be invoked as function"),
        ("{{ slice .Name 2 1 }}",
         'template: :1:3: executing "" at <slice .Name 2 1>:'
         " error calling slice: invalid slice index: 2 > 1"),
    ],
)  # fmt: skip
def test_what_fails_is_told_as_go_tells_it(template, message):
    with pytest.raises(GoExecError) as caught:
        run(template)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ range 999999 }}{{ range 999999 }}{{ end }}{{ end }}", "steps"),
        ('{{ define "x" }}{{ template "x" . }}{{ end }}{{ template "x" . }}', "template depth"),
        ('{{ define "x" }}{{ template "y" }}{{ template "y" }}{{ end }}'
         '{{ define "y" }}{{ template "x" }}{{ end }}{{ template "x" }}', "template depth"),
        ('{{ range 999999 }}{{ printf "%9999d" 1 }}{{ end }}', "characters"),
        ("{{ range 999999 }}" + "x" * 1000 + "{{ end }}", "characters"),
        ("{{ range 999999 }}{{ $.Big }}{{ end }}", "characters"),
        ("{{ range 999999 }}{{ eq $.Big $.Same }}{{ end }}", "characters"),
        ("{{ range 999999 }}{{ len $.Big }}{{ end }}", "characters"),
        ("{{ range 999999 }}{{ json $.Big }}{{ end }}", "characters"),
        ("{{ range 999999 }}{{ slice $.Long 1 }}{{ end }}", "characters"),
        ("{{ range 999999 }}{{ range $.Long }}{{ break }}{{ end }}{{ end }}", "characters"),
        ("{{ range 99999 }}{{ if and " + "1 " * 50_000 + "}}{{ end }}{{ end }}", "steps"),
    ],
)  # fmt: skip
def test_bombs_are_stopped(template, message):
    big = "é" * 1_000_000
    with pytest.raises(GoLimitError, match=message):
        run(template, Big=big, Same="é" + big[1:], Long=list(range(100_000)))


@pytest.mark.parametrize(
    "template",
    [
        '{{ printf "%999999999d" 1 }}',
        '{{ printf "%*d" 99999 1 }}',
        '{{ printf "%.99999f" 1.5 }}',
        '{{ printf "' + "%9999d" * 2000 + '"' + " 1" * 2000 + " }}",
        '{{ $x := "ab" }}{{ range 64 }}{{ $x = printf "%s%s" $x $x }}{{ end }}',
    ],
)
def test_printf_is_bounded(template):
    with pytest.raises(GoExecError, match="error calling printf"):
        run(template)


def test_print_cannot_double_a_text_without_end():
    with pytest.raises(GoLimitError):
        run('{{ $x := "ab" }}{{ range 64 }}{{ $x = print $x $x }}{{ end }}')


def test_compiled_templates_are_kept():
    assert compile_template("{{ .Once }}") is compile_template("{{ .Once }}")
