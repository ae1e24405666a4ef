"""What goes wrong in a Go template, in the words of Go's text/template."""


class GoTemplateError(Exception):
    """A template that cannot be parsed or run; `line` counts from 1."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message

    def __str__(self) -> str:
        return f"template: :{self.line}: {self.message}"


class GoParseError(GoTemplateError):
    """The text is not a template."""


class GoExecError(GoTemplateError):
    """The template failed while it ran; `column` counts bytes of the line from 0, as Go does."""

    def __init__(self, line: int, column: int, name: str, context: str, message: str) -> None:
        super().__init__(line, message)
        self.column = column
        self.name = name
        self.context = context if len(context) <= 20 else f"{context[:20]}..."

    def __str__(self) -> str:
        return (
            f"template: :{self.line}:{self.column}: executing {_quoted(self.name)}"
            f" at <{self.context}>: {self.message}"
        )


class GoLimitError(GoTemplateError):
    """The template did more than it may."""

    def __init__(self, message: str) -> None:
        super().__init__(0, message)

    def __str__(self) -> str:
        return f"template: {self.message}"


class CallError(Exception):
    """A function refuses its arguments; the evaluator knows where and says so."""


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
