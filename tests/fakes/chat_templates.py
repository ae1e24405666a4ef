"""A chat template of a model that thinks and calls tools, and prompts that choose its output."""

# As Qwen 3 has it: thinking in <think>, unless it is turned off, and calls in <tool_call>.
QWEN = """{%- if tools %}TOOLS {{ tools | tojson }} {% endif -%}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls or [] %}<tool_call>{{ call | tojson }}</tool_call>{% endfor -%}
<|im_end|>
{% endfor %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% endif %}{# calls are <tool_call>{"name": …}</tool_call> #}"""


def saying(text: str) -> str:
    """A prompt upon which the echo engine says `text`, one byte per step."""
    return f"[[bytes {text.encode().hex()}]]"


def calling(name: str, arguments: str) -> str:
    """How a model with this template writes a call."""
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'
