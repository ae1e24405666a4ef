"""What chat templates use beyond plain Jinja: loop controls, and a mark around the answer."""

from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser


class GenerationMark(Extension):
    """`{% generation %}…{% endgeneration %}`: tells trainers what the model said; prints as is."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The body alone, in its own scope as in Transformers."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return [nodes.Scope(body, lineno=line)]


EXTENSIONS: list[str | type[Extension]] = ["jinja2.ext.loopcontrols", GenerationMark]
