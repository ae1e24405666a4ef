"""What an interactive conversation consists of, and the API requests that follow from it. Pure."""

from dataclasses import dataclass, field
from typing import Any

from appliance.cli.answer import Look
from appliance.cli.client import Json

Think = bool | str  # true, false, or a level


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the options of `run` ask for; None leaves it to the model and the service."""

    format: str | Json | None = None
    think: Think | None = None
    keep_alive: str | float | None = None

    def fields(self) -> Json:
        """The request fields of those that were given."""
        wanted = {"format": self.format, "think": self.think, "keep_alive": self.keep_alive}
        return {name: value for name, value in wanted.items() if value is not None}


@dataclass(slots=True)
class Session:
    """One conversation and its settings. `preset` are the model's own messages, which the service
    puts before ours (Ollama API: MESSAGE of a Modelfile)."""

    model: str
    wishes: Wishes = field(default_factory=Wishes)
    look: Look = field(default_factory=Look)
    verbose: bool = False
    sees: bool = False  # whether the model takes images
    system: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    preset: list[Json] = field(default_factory=list)
    messages: list[Json] = field(default_factory=list)

    def chat_body(self) -> Json:
        """The request for the next answer."""
        own_system = [{"role": "system", "content": self.system}] if self.system else []
        body: Json = {"model": self.model, "messages": own_system + self.messages}
        if self.options:
            body["options"] = self.options
        return body | self.wishes.fields()

    def load_body(self) -> Json:
        """The request that only loads the model (Ollama API: an empty prompt)."""
        body: Json = {"model": self.model}
        if self.options:
            body["options"] = self.options
        if self.wishes.keep_alive is not None:
            body["keep_alive"] = self.wishes.keep_alive
        return body

    def show_body(self) -> Json:
        """The request for what is known about the model under this session's settings."""
        return {"model": self.model, "system": self.system, "options": self.options}

    def save_body(self, name: str) -> Json:
        """The request that makes a model `name` of the session: base, settings and messages."""
        body: Json = {"model": name, "from": self.model}
        if self.system:
            body["system"] = self.system
        if self.options:
            body["parameters"] = self.options
        if self.messages:  # without new ones the base's are inherited
            body["messages"] = self.preset + self.messages
        return body

    def restart_with(self, model: str, preset: list[Json], *, sees: bool) -> None:
        """Begin a new conversation with another model; settings stay."""
        self.model, self.preset, self.sees, self.messages = model, preset, sees, []
