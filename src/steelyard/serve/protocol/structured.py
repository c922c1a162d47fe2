"""Fields that say what the text must look like: OpenAI's ``response_format``, vLLM's ``structured_outputs``, and its
older ``guided_…``. All of them become one :class:`~steelyard.core.constraint.Constraint`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal

from pydantic import Field, JsonValue

from steelyard.core.constraint import Constraint
from steelyard.serve.errors import invalid
from steelyard.serve.protocol.wire import WireModel

Schema = str | dict[str, JsonValue]


class JsonSchemaFormat(WireModel):
    """``response_format.json_schema``."""

    name: str | None = Field(default=None, max_length=256)
    description: str | None = Field(default=None, description="Accepted and ignored.")
    json_schema: dict[str, JsonValue] | None = Field(default=None, alias="schema")
    strict: bool | None = Field(default=None, description="Every schema is enforced, whatever this says.")


class ResponseFormat(WireModel):
    """``response_format``."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None

    def constraint(self) -> Constraint | None:
        """Return what the text must look like, if it matters.

        Raises:
            ApiError: if there is a schema without its type, or the type without a schema.
            ParamsError: if the schema is over a limit.
        """
        if (self.type == "json_schema") != (self.json_schema is not None):
            message = "response_format.json_schema: it goes with the type json_schema. Give both or neither."
            raise invalid(message, param="response_format.json_schema")
        if self.type == "text":
            return None
        if self.json_schema is None or self.json_schema.json_schema is None:
            return Constraint.json_object("response_format")
        return Constraint.json_schema(self.json_schema.json_schema, "response_format.json_schema.schema")


class StructuredOutputs(WireModel):
    """``structured_outputs``: exactly one of its fields."""

    json_schema: Schema | None = Field(default=None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = Field(default=None, description="In llguidance's dialect of Lark, or llama.cpp's GBNF.")
    json_object: bool | None = None


class StructuredFields(WireModel):
    """What a request may say of its text's form; at most one of these."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None

    def constraint(self) -> Constraint | None:
        """Return what the text must look like, if the request says so.

        Raises:
            ApiError: if it says so twice.
            ParamsError: if what it says is over a limit; it names the field.
        """
        made = [self.response_format.constraint() if self.response_format is not None else None]
        outputs = self.structured_outputs
        if outputs is not None:
            nested = {
                "json": outputs.json_schema, "regex": outputs.regex, "choice": outputs.choice,
                "grammar": outputs.grammar, "json_object": outputs.json_object or None,
            }  # fmt: skip
            made += [_constraint(kind, value, f"structured_outputs.{kind}") for kind, value in nested.items()]
        guided = {
            "json": self.guided_json, "regex": self.guided_regex, "choice": self.guided_choice,
            "grammar": self.guided_grammar,
        }  # fmt: skip
        made += [_constraint(kind, value, f"guided_{kind}") for kind, value in guided.items()]
        found = [one for one in made if one is not None]
        if len(found) > 1:
            message = f"{found[1].asked_by}: it contradicts {found[0].asked_by}. Give one of them."
            raise invalid(message, param=found[1].asked_by)
        return found[0] if found else None


_GBNF_RULE = re.compile(r"^[ \t]*[\w-]+[ \t]*::=", re.MULTILINE)


def _grammar(text: str, field: str) -> Constraint:
    """Return the constraint to a grammar; a rule of GBNF is no rule of Lark."""
    return Constraint.gbnf(text, field) if _GBNF_RULE.search(text) else Constraint.grammar(text, field)


_MAKERS: Mapping[str, Callable[..., Constraint]] = {
    "json": Constraint.json_schema,
    "regex": Constraint.regex,
    "choice": Constraint.choice,
    "grammar": _grammar,
}


def _constraint(kind: str, value: object, field: str) -> Constraint | None:
    if value is None:
        return None
    return Constraint.json_object(field) if kind == "json_object" else _MAKERS[kind](value, field)
