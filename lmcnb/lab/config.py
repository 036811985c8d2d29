"""Profiles and overrides become typed settings; what is impossible is refused by its dotted name.

A paper's settings are a pydantic model, `Settings` in `lmcnb/papers/NAME.py`. A profile gives the
values, overrides with dotted keys (`images.epochs`) change them, and the result is validated in
strict mode: a string is not a number, and an unknown key is an error.
"""

from __future__ import annotations

import datetime
import json
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from lmcnb.errors import UsageError
from lmcnb.lab import checkout

Overrides = Mapping[str, Any] | str | None


def resolve(name: str, profile: str = "quick", overrides: Overrides = None) -> Any:
    """The settings of a run: the profile's, changed by the overrides, validated.

    Args:
        name: the notebook.
        profile: a table of `notebooks/profiles/NAME.toml`.
        overrides: dotted keys and values, or a JSON string of them.

    Raises:
        UsageError: an unknown profile or key, a wrong type, an impossible value.
    """
    table = checkout.profiles(name)
    if not isinstance(profile, str):
        raise UsageError(f"profile = {profile!r}: must be a string; allowed: {', '.join(table)}")
    if profile not in table:
        raise UsageError(checkout.unknown("profile", profile, table))
    source = f"[{profile}] of notebooks/profiles/{name}.toml"
    return settings_from(checkout.paper_module(name).Settings, table[profile], overrides, source)


def settings_from(
    schema: type[BaseModel], values: Mapping[str, Any], overrides: Overrides, source: str
) -> Any:
    """Validate `values` (a profile, described by `source`) changed by `overrides`."""
    merged: dict[str, Any] = {}
    for key, value in values.items():
        if key != "budget" or key in schema.model_fields:  # a note for the reader of the profile
            _assign(schema, merged, [key], value, key, source)
    changed = parse_overrides(overrides)
    for key, value in changed.items():
        _assign(schema, merged, key.split("."), value, key, None)
    try:
        return schema.model_validate_json(json.dumps(merged, default=str), strict=True)
    except ValidationError as error:
        raise UsageError(_explain(schema, error, changed, source)) from None


def parse_overrides(overrides: Overrides) -> dict[str, Any]:
    """Overrides as a dict of dotted keys; a string must hold a JSON object."""
    if overrides is None or overrides == "":
        return {}
    if isinstance(overrides, str):
        try:
            overrides = json.loads(overrides)
        except ValueError as error:
            raise UsageError(
                f"overrides = {overrides!r}: not JSON ({error}); "
                'allowed: a dict, or a JSON string such as {"images.epochs": 100}'
            ) from None
    if not isinstance(overrides, Mapping):
        raise UsageError(f"overrides = {overrides!r}: must be a dict of dotted keys and values")
    for key in overrides:
        if not isinstance(key, str):
            raise UsageError(f"overrides: the key {key!r} must be a string such as 'images.epochs'")
    return dict(overrides)


def parse_set(items: Iterable[str]) -> dict[str, Any]:
    """Overrides from `key=value` strings; the value is JSON or TOML, otherwise a string."""
    result: dict[str, Any] = {}
    for item in items:
        key, equals, text = item.partition("=")
        key = key.strip()
        if not equals or not key:
            raise UsageError(f"--set {item!r}: must be key=value, such as n_seeds=2")
        if key in result:
            raise UsageError(f"--set {key}: given twice")
        result[key] = value = _value(text.strip())
        if isinstance(value, str) and value[:1] in ("[", "{"):
            raise UsageError(
                f"--set {item}: neither JSON nor TOML; words in a list or table need quotes, such "
                """as 'methods=["ULA", "LDVI"]'"""
            )
    return result


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        value = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    if list(value) != ["value"] or isinstance(
        value["value"], datetime.date | datetime.time | datetime.datetime
    ):
        return text
    return value["value"]


def describe(schema: type[BaseModel], prefix: str = "") -> list[tuple[str, str, str]]:
    """Every setting as (dotted key, type and bounds, documentation), in the order of the schema."""
    rows: list[tuple[str, str, str]] = []
    for key, field in schema.model_fields.items():
        group = _group(field.annotation)
        if group is not None:
            rows += describe(group, f"{prefix}{key}.")
        else:
            rows.append((prefix + key, allowed(field), field.description or ""))
    return rows


def allowed(field: FieldInfo) -> str:
    """What a field accepts, in words: its type and its bounds."""
    words = [_type_name(field.annotation)]
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    for rule in field.metadata:
        for name, sign in signs.items():
            if getattr(rule, name, None) is not None:
                words.append(f"{sign} {getattr(rule, name)}")
        if getattr(rule, "min_length", None):
            words.append(f"at least {rule.min_length} long")
        if getattr(rule, "max_length", None):
            words.append(f"at most {rule.max_length} long")
        if getattr(rule, "multiple_of", None):
            words.append(f"a multiple of {rule.multiple_of}")
        if getattr(rule, "pattern", None):
            words.append(f"matching {rule.pattern}")
    return ", ".join(words)


def _assign(
    schema: type[BaseModel],
    target: dict[str, Any],
    parts: list[str],
    value: Any,
    key: str,
    source: str | None,
) -> None:
    """Put `value` at the dotted path `parts` of `target`, following the schema."""
    where = f"{source}: " if source else ""
    head, rest = parts[0], parts[1:]
    prefix = key[: len(key) - len(".".join(parts))]
    field = schema.model_fields.get(head)
    if field is None:
        known = [row[0] for row in describe(schema, prefix)]
        if not source and prefix == "":
            known = [row[0] for row in describe(schema)]
        raise UsageError(where + checkout.unknown("setting", key, known))
    group = _group(field.annotation)
    if group is not None:
        if not rest and value is None and type(None) in get_args(field.annotation):
            target[head] = None
            return
        inner = target.get(head)
        inner = target[head] = dict(inner) if isinstance(inner, dict) else {}
        if rest:
            _assign(group, inner, rest, value, key, source)
        elif isinstance(value, Mapping):
            for name, item in value.items():
                _assign(group, inner, str(name).split("."), item, f"{key}.{name}", source)
        else:
            names = ", ".join(row[0] for row in describe(group, f"{key}."))
            raise UsageError(f"{where}{key} = {value!r} is a group; allowed: {names}")
    elif not rest:
        target[head] = value
    elif _is_dict(field.annotation):
        current = target.get(head)
        if current is None:
            current = field.get_default(call_default_factory=True)
        entries = dict(current) if isinstance(current, Mapping) else {}
        entry = _entry_group(field.annotation)
        if entry is not None and len(rest) > 1:  # a setting of one group in a table of them
            if rest[0] not in entries:
                own = f"{prefix}{head}.{rest[0]}"
                known = [f"{prefix}{head}.{name}" for name in entries]
                raise UsageError(where + checkout.unknown("setting", own, known))
            entries[rest[0]] = dict(entries[rest[0]])
            _assign(entry, entries[rest[0]], rest[1:], value, key, source)
        else:
            entries[".".join(rest)] = value
        target[head] = entries
    else:
        raise UsageError(
            f"{where}setting {key!r} is unknown: {prefix}{head} is a single value "
            f"({allowed(field)}), not a group"
        )


_WORDS = {  # pydantic's "object" and "array" are JSON's words
    "dict_type": "a table is needed, such as {default = 1}",
    "list_type": "a list is needed, such as [1]",
    "model_type": "a group of settings is needed",
}


def _explain(
    schema: type[BaseModel], error: ValidationError, changed: Mapping[str, Any], source: str
) -> str:
    """One line per problem: the key, the value, what is wrong, what is allowed."""
    lines = []
    for problem in error.errors(include_url=False):
        path = [str(part) for part in problem["loc"] if part != "[key]"]
        key = ".".join(path)
        field = _field(schema, path)
        mine = not key or any(_related(key, name) for name in changed)
        where = "" if mine else f"{source}: "
        context = problem.get("ctx") or {}
        message = _WORDS.get(problem["type"], str(context.get("error") or problem["msg"]))
        message = message[0].lower() + message[1:]
        if problem["type"] == "missing":
            lines.append(f"{source}: {key} is missing")
            continue
        value = "" if isinstance(problem["input"], dict) else f" = {problem['input']!r}"
        line = f"{where}{key or 'settings'}{value}: {message}"
        if field is not None:
            line += f" (allowed: {allowed(field)})"
            line += _near(field.annotation, problem["input"])
        lines.append(line)
    return "\n".join(lines)


def _near(annotation: Any, value: Any) -> str:
    near = checkout.nearest(value, [str(choice) for choice in _choices(annotation)])
    return f"; did you mean {near!r}?" if near else ""


def _choices(annotation: Any) -> list[Any]:
    """The values of the Literals in an annotation, however deep."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [choice for part in get_args(annotation) for choice in _choices(part)]


def _related(a: str, b: str) -> bool:
    return a == b or a.startswith(b + ".") or b.startswith(a + ".")


def _field(schema: type[BaseModel], path: list[str]) -> FieldInfo | None:
    field: FieldInfo | None = None
    for part in path:
        if field is not None:
            group = _group(field.annotation)
            if group is None:
                return field
            schema = group
        field = schema.model_fields.get(part)
        if field is None:
            return None
    return None if field is not None and _group(field.annotation) is not None else field


def _members(annotation: Any) -> list[Any]:
    if get_origin(annotation) in (Union, types.UnionType):
        return [arg for arg in get_args(annotation) if arg is not type(None)]
    if get_origin(annotation) is typing.Annotated:
        return _members(get_args(annotation)[0])
    return [annotation]


def _group(annotation: Any) -> type[BaseModel] | None:
    for member in _members(annotation):
        if isinstance(member, type) and issubclass(member, BaseModel):
            return member
    return None


def _is_dict(annotation: Any) -> bool:
    return any(get_origin(m) in (dict, Mapping) or m is dict for m in _members(annotation))


def _entry_group(annotation: Any) -> type[BaseModel] | None:
    """The group that a table's entries are, if they are."""
    if get_origin(annotation) is dict:
        return _group(get_args(annotation)[1])
    return None


def _type_name(annotation: Any) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    plain = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}
    if annotation in plain:
        return plain[annotation]
    if annotation is type(None):
        return "null"
    if origin is Literal:
        return "one of " + ", ".join(str(a) for a in args)
    if origin in (Union, types.UnionType):
        return " or ".join(_type_name(a) for a in args)
    if origin is typing.Annotated:
        return allowed(FieldInfo.from_annotation(annotation))
    if origin in (list, tuple, set, frozenset):
        inner = [_type_name(a) for a in args if a is not Ellipsis]
        return "a list of (" + ", ".join(inner) + ")" if inner else "a list"
    if origin is dict and args:
        return f"a table of ({_type_name(args[1])})"
    return getattr(annotation, "__name__", str(annotation))
