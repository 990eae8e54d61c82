"""The OpenAPI description of the API, made from the documents' types and the parameters that requests are parsed by."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from capgpu import __version__
from capgpu.serve.problems import PROBLEM_TYPE, Problem, RequestError

__all__ = ["Operation", "Parameter", "describe", "parse_query"]

_JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


@dataclass(frozen=True)
class Parameter:
    """A parameter in the query of a request.

    Attributes
    ----------
    name, description : str
        For users of the API.
    default : int, float, str or None
        Value of a request without it.
    kind : type
        ``int``, ``float`` or ``str``.
    minimum, maximum : float or None
        Range of a number; both limits are allowed. `maximum` of a text is the length.
    choices : tuple of str
        The allowed values of a text; empty if all are.
    """

    name: str
    description: str
    default: float | str | None
    kind: type
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()

    def parse(self, text: str) -> float | str:
        """Return the value of a request.

        Parameters
        ----------
        text : str
            The value as it was sent.

        Returns
        -------
        int, float or str
            The value.

        Raises
        ------
        RequestError
            With status 400 for a value that is not allowed.
        """
        if self.kind is str:
            if (self.choices and text not in self.choices) or len(text) > (self.maximum or len(text)):
                raise self._error(text)
            return text
        try:
            value: float = self.kind(text)
        except ValueError:
            raise self._error(text) from None
        if not (self.minimum is None or value >= self.minimum) or not (self.maximum is None or value <= self.maximum):
            raise self._error(text)
        return value

    def _error(self, text: str) -> RequestError:
        if self.choices:
            expected = f"one of {', '.join(self.choices)}"
        elif self.kind is str:
            expected = f"at most {self.maximum:g} characters"
        else:
            name = "an integer" if self.kind is int else "a number"
            expected = f"{name} from {self.minimum:.12g} to {self.maximum:.12g}"
        shown = text if len(text) <= 40 else f"{text[:40]}..."
        return RequestError(400, f"{self.name}: expected {expected}, got {shown!r}.")

    def describe(self) -> dict[str, Any]:
        """Return the parameter as OpenAPI describes it."""
        schema: dict[str, Any] = {"type": _JSON_TYPES[self.kind]}
        if self.choices:
            schema["enum"] = list(self.choices)
        elif self.kind is str:
            schema["maxLength"] = self.maximum
        else:
            schema.update(minimum=self.minimum, maximum=self.maximum)
        if self.default is not None:
            schema["default"] = self.default
        return {"name": self.name, "in": "query", "description": self.description, "schema": schema}


def parse_query(parameters: Sequence[Parameter], query: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Parse the query of a request.

    Parameters
    ----------
    parameters : sequence of Parameter
        The parameters that the request may have.
    query : sequence of (name, value)
        As sent.

    Returns
    -------
    dict
        The value of each parameter, the default of those that are missing.

    Raises
    ------
    RequestError
        With status 400 for a parameter that is unknown, given twice, or has a value that is not allowed.
    """
    known = {parameter.name: parameter for parameter in parameters}
    values: dict[str, Any] = {}
    for name, text in query:
        if name not in known:
            raise RequestError(400, f"{name[:40]!r}: expected a parameter of {', '.join(known) or 'no name'}.")
        if name in values:
            raise RequestError(400, f"{name}: expected one value, got two.")
        values[name] = known[name].parse(text)
    return {name: values.get(name, parameter.default) for name, parameter in known.items()}


@dataclass(frozen=True, eq=False)
class Operation:
    """A request that the API answers.

    Attributes
    ----------
    method, path : str
        ``GET`` or ``POST``; the path with its parameters in braces.
    summary, description : str
        For users of the API.
    returns : type or str
        A typed dictionary, or the media type of a file.
    parameters : tuple of Parameter
        Of the query.
    errors : mapping of int to str
        Status and cause of errors.
    takes_picture : bool
        Whether the body is a picture file.
    """

    method: str
    path: str
    summary: str
    description: str
    returns: Any
    parameters: tuple[Parameter, ...] = ()
    errors: Mapping[int, str] = field(default_factory=dict)
    takes_picture: bool = False


def describe(operations: Sequence[Operation]) -> dict[str, Any]:
    """Return the description of an API.

    Parameters
    ----------
    operations : sequence of Operation
        Its requests.

    Returns
    -------
    dict
        An OpenAPI 3.1 document.
    """
    schemas: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "capgpu serve",
            "version": __version__,
            "description": "Captions of pictures by the model of a training run. Documents may get more members.",
        },
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _operation(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    if isinstance(operation.returns, str):
        content = {operation.returns: {"schema": {"type": "string", "contentMediaType": operation.returns}}}
    else:
        content = {"application/json": {"schema": schema_of(operation.returns, schemas)}}
    problem = {PROBLEM_TYPE: {"schema": schema_of(Problem, schemas)}}
    parameters = [parameter.describe() for parameter in operation.parameters]
    for part in operation.path.split("/"):
        if part.startswith("{"):
            name = part.strip("{}")
            kind = "integer" if name == "index" else "string"
            parameters.append({"name": name, "in": "path", "required": True, "schema": {"type": kind}})
    names = [part.strip("{}") for part in operation.path.split("/")]
    found: dict[str, Any] = {
        "operationId": operation.method.lower() + "_".join(names),
        "summary": operation.summary,
        "description": operation.description,
        "parameters": parameters,
        "responses": {
            "200": {"description": operation.summary, "content": content},
            **{
                str(status): {"description": cause, "content": problem}
                for status, cause in sorted(operation.errors.items())
            },
        },
    }
    if operation.takes_picture:
        found["requestBody"] = {
            "required": True,
            "description": "The picture file. Its name is neither sent nor needed.",
            "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
        }
    return found


def schema_of(kind: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of a type.

    Parameters
    ----------
    kind : type
        A type of `capgpu.serve.documents`, or of one of its members.
    schemas : dict
        Receives the schemas of typed dictionaries, which are referred to by name.

    Returns
    -------
    dict
        The schema.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if is_typeddict(kind):
        if kind.__name__ not in schemas:
            schemas[kind.__name__] = {}  # a type may contain itself
            members = get_type_hints(kind, include_extras=True)
            schemas[kind.__name__] = {
                "type": "object",
                "description": " ".join((kind.__doc__ or "").split()),
                "properties": {name: schema_of(member, schemas) for name, member in members.items()},
                "required": list(members),
            }
        return {"$ref": f"#/components/schemas/{kind.__name__}"}
    if origin is Annotated:
        return {**schema_of(arguments[0], schemas), "description": arguments[1]}
    if origin is Literal:
        return {"type": "string", "enum": list(arguments)}
    if origin is list:
        return {"type": "array", "items": schema_of(arguments[0], schemas)}
    if origin is dict:
        return {"type": "object", "additionalProperties": schema_of(arguments[1], schemas)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [schema_of(argument, schemas) for argument in arguments]}
    return {"type": _JSON_TYPES[kind]}
