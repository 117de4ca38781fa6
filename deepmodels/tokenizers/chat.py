"""Chats as texts, by the template that a model's folder has; it is a program, and runs in a sandbox."""

import datetime
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepmodels import gguf_header
from deepmodels.errors import ConfigError, WeightsError

_CONFIG = "tokenizer_config.json"
_TEMPLATE = "chat_template.jinja"
_MARKS = ("bos_token", "eos_token", "pad_token", "unk_token")
_LARGEST = 16 * 2**20  # bytes of either file


class Chat:
    """A chat template, as transformers has them, and the special tokens that it writes.

    Args:
      template: in the language of Jinja.
      marks: what it knows by a name, such as "bos_token".

    Raises:
      ConfigError: the template isn't one, or the package jinja2 is missing.
    """

    def __init__(self, template: str, marks: Mapping[str, str] | None = None):
        self.template, self.marks = template, dict(marks or {})
        self._compiled = _compile(template)

    def render(self, messages: Sequence[Mapping[str, Any]], *, prompt: bool = True, **variables: Any) -> str:
        """Returns a chat as one text, with the special tokens written out.

        Args:
          messages: {"role": "user", "content": "What is 2+2?"} and so on, plain data.
          prompt: whether the text ends with what an answer begins with.
          variables: further ones that the template knows, plain data.

        Raises:
          ConfigError: the template refuses the messages, or does what the sandbox doesn't allow.
        """
        import jinja2

        try:
            # through JSON, so that nothing but plain data is within the template's reach
            given = json.loads(json.dumps({"messages": list(messages), **variables}))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"messages: expected plain data, as JSON has it: {error}") from error
        try:
            return self._compiled.render(**self.marks | given, add_generation_prompt=prompt)
        except jinja2.exceptions.SecurityError as error:
            raise ConfigError(f"the chat template does what isn't allowed: {error}") from error
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
            raise ConfigError(f"the chat template refuses this: {error}") from error


def load_chat(folder: str | os.PathLike) -> Chat:
    """Returns the chat template of a model's folder: chat_template.jinja, or what tokenizer_config.json has; or of a
    `.gguf` file.

    Raises:
      ConfigError: there is none, it can't be read, or the package jinja2 is missing.
    """
    folder = Path(folder)
    if folder.suffix == ".gguf":
        return _gguf(folder)
    config = json.loads(_read(folder / _CONFIG)) if (folder / _CONFIG).is_file() else {}
    if not isinstance(config, dict):
        raise ConfigError(f"{folder / _CONFIG}: expected an object, got a {type(config).__name__}")
    template = config.get("chat_template")
    if isinstance(template, list):  # several by name
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    if (folder / _TEMPLATE).is_file():
        template = _read(folder / _TEMPLATE)
    if not isinstance(template, str):
        raise ConfigError(
            f"{folder}: no chat template: expected {_TEMPLATE}, or 'chat_template' in {_CONFIG}; "
            "a model without one is given a prompt, not a chat"
        )
    marks = {name: config[name] for name in _MARKS if config.get(name) is not None}
    return Chat(template, {name: mark["content"] if isinstance(mark, dict) else mark for name, mark in marks.items()})


def _gguf(path: Path) -> Chat:
    try:
        said = gguf_header.read(path).metadata
    except WeightsError as error:
        raise ConfigError(str(error)) from error
    template, tokens = said.get("tokenizer.chat_template"), said.get("tokenizer.ggml.tokens")
    if not isinstance(template, str) or not isinstance(tokens, list):
        raise ConfigError(
            f"{path}: no chat template in its metadata; a model without one is given a prompt, not a chat"
        )
    names = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
    ids = {mark: said.get(f"tokenizer.ggml.{name}_token_id") for mark, name in names.items()}
    return Chat(template, {m: tokens[i] for m, i in ids.items() if type(i) is int and 0 <= i < len(tokens)})


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"it is larger than {_LARGEST:,} bytes")
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            json.loads(text)
        return text
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} can't be read: {error}") from error


def _compile(template: str) -> Any:
    try:
        import jinja2.ext
        import jinja2.sandbox
    except ImportError as error:
        raise ConfigError("the package 'jinja2' is missing: pip install 'deepmodels-jax[text]'") from error

    class Generation(jinja2.ext.Extension):
        """{% generation %}: marks what the model says; what stands in it is written as it is."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=line)

    class Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
        def unsafe_undefined(self, obj: Any, attribute: str) -> Any:  # theirs is printed as nothing
            raise jinja2.exceptions.SecurityError(f"{attribute!r} of a {type(obj).__name__}")

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, indent=None, separators=None, sort_keys: bool = False) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    try:
        return environment.from_string(template)
    except (jinja2.TemplateError, RecursionError) as error:
        raise ConfigError(f"the chat template isn't one: {error}") from error
