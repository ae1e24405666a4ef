"""A model that says what the test wants: the echo engine under a template with tools, thinking
and infill. All that such an answer goes through, from template to parser to wire, is the real one.
"""

NAME = "actor"

# Qwen's and Hermes' form, in Go's syntax.
TEMPLATE = """\
{{- if .Suffix }}<|fim_prefix|>{{ .Prompt }}<|fim_suffix|>{{ .Suffix }}<|fim_middle|>
{{- else }}
{{- if .Tools }}<|im_start|>system
# Tools
{{ range .Tools }}{{ . }}
{{ end }}<|im_end|>
{{ end }}
{{- range .Messages }}<|im_start|>{{ .Role }}
{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ .Content }}
{{- range .ToolCalls }}<tool_call>
{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
</tool_call>{{ end }}<|im_end|>
{{ end }}<|im_start|>assistant
{{ end }}"""


def create_actor(service, gguf):
    """Make the model on a running service; see `says`."""
    service.create(NAME, gguf, template=TEMPLATE)


def says(text):
    """What a message must contain to be answered by exactly `text`, byte after byte. The last of
    a conversation counts."""
    return f"[[bytes {text.encode().hex()}]]"


def calls(*named, thinking="", text=""):
    """What a model of this family writes to call tools: `(name, JSON text of the arguments)`."""
    thought = f"<think>\n{thinking}\n</think>\n\n" if thinking else ""
    written = [
        f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'
        for name, arguments in named
    ]
    return thought + text + "\n".join(written)
