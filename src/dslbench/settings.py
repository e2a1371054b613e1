"""What `--set` takes: settings of backbones and methods, read from their classes and presets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from dslbench import registry
from dslbench.errors import UsageError, did_you_mean
from dslbench.ranges import ranges_of

_LIMITS = {
    "minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<",
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """One key of `--set`.

    Attributes:
        owner: backbone, method or reference.
        key: as it is typed; a method's has the method's name before it.
        default: a backbone's is that of its default preset, None: none is set.
        allowed: type, choices or limits.
        description: one sentence without a stop.
        searched: where `tune` searches; None: it does not.
    """

    owner: str
    key: str
    default: Any
    allowed: str
    description: str
    searched: str | None = None


def of(name: str) -> list[Setting]:
    """All settings of a backbone, method or reference; raises `UsageError` for a name that is none."""
    if name in registry.names("method") or registry.is_reference(name):
        return list(_of_method(name))
    if name in registry.names("backbone"):
        return list(_of_backbone(name))
    known = [n for kind in registry.KINDS for n in registry.names(kind)]
    raise UsageError(f"no backbone, method or reference '{name}'", did_you_mean(name, known))


def lines(name: str) -> Iterator[str]:
    """The settings of a backbone, method or reference as text, a heading first."""
    found = of(name)
    kind = "reference" if registry.is_reference(name) else "method"
    if not found:
        yield f"{name} ({kind}): no settings"
        return
    if name not in registry.names("backbone"):
        yield f"{name} ({kind}): --set {name}.KEY=VALUE"
    else:
        yield f"{name} (backbone): --set KEY=VALUE; defaults of preset {found[0].default}"
    keys = max(len(s.key) for s in found)
    defaults = max(len(shown(s.default)) for s in found)
    for s in found:
        tuned = f"; tuned: {s.searched}" if s.searched else ""
        yield f"  {s.key:{keys}}  {shown(s.default):{defaults}}  {s.description} [{s.allowed}{tuned}]"


def shown(default: Any) -> str:
    """A default as it would be typed."""
    if default is None:
        return "none"
    return default if isinstance(default, str) else json.dumps(default)


def _of_method(name: str) -> Iterator[Setting]:
    method = registry.row(name)
    if not registry.is_reference(name) and len(variants := registry.method(name).variants) > 1:
        yield Setting(
            name, f"{name}.variant", "default", " | ".join(variants), "named set of options"
        )
    defaults = method.options_type().model_dump(mode="json")
    for key, allowed, description, searched in _fields(method.options_type):
        yield Setting(name, f"{name}.{key}", defaults[key], allowed, description, searched)


def _of_backbone(name: str) -> Iterator[Setting]:
    hyper = registry.backbone(name).hyper_type
    presets = registry.backbone(name).presets()
    first = str(presets["default"])
    known = [key for key, value in presets.items() if isinstance(value, dict)]
    yield Setting(
        name, "preset", first, " | ".join(known),
        "hyper-parameters of a published recipe; some data sets have values of their own",
    )  # fmt: skip
    values = {k: v for k, v in presets[first].items() if k in hyper.model_fields}
    defaults = hyper.model_validate(values).model_dump(mode="json")
    for key, allowed, description, searched in _fields(hyper):
        if key != "epochs":  # an option of its own
            yield Setting(name, key, defaults[key], allowed, description, searched)


def _fields(model: type[BaseModel]) -> Iterator[tuple[str, str, str, str | None]]:
    """Name, what is allowed, description, and where it is searched, of each field."""
    ranges = ranges_of(model)
    for key, schema in model.model_json_schema().get("properties", {}).items():
        searched = str(ranges[key]) if key in ranges else None
        yield key, _allowed(schema), schema.get("description", ""), searched


def _allowed(schema: Mapping[str, Any]) -> str:
    """A field's JSON schema in a few words."""
    if "anyOf" in schema:  # a type, or null for none
        return next(_allowed(part) for part in schema["anyOf"] if part.get("type") != "null")
    if "const" in schema or "enum" in schema:
        return " | ".join(map(str, schema.get("enum") or [schema["const"]]))
    if schema["type"] == "array":
        return f"list of {_allowed(schema['items'])}"
    kind = {"boolean": "true | false", "string": "text"}.get(schema["type"], schema["type"])
    return " ".join(
        [kind, *(f"{sign} {schema[k]:g}" for k, sign in _LIMITS.items() if k in schema)]
    )
