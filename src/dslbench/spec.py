"""What a run is: a frozen, fully resolved description whose hash is the run's identity."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dslbench import presets, registry
from dslbench.data.protocols import PROTOCOLS
from dslbench.errors import UnsuitableError, UsageError, did_you_mean, harmless
from dslbench.versions import SHARED
from dslbench.words import percent

Scale = Literal["quick", "laptop", "paper", "custom"]

# Share of the preset's epochs, and the least number that still says something.
_SCALES: dict[str, tuple[float, int]] = {
    "quick": (0.01, 10),
    "laptop": (0.1, 20),
    "paper": (1.0, 1),
}


class RunSpec(BaseModel):
    """Everything that decides a run's result, but for the data and the code."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    backbone: str
    method: str
    variant: str = "default"
    sparsity: float = Field(ge=0, lt=1)
    seed: int = Field(ge=0)
    epochs: int = Field(ge=1)
    scale: Scale
    full_epochs: int = Field(ge=1)  # of the preset
    protocol: str
    preset: str
    hyper: dict[str, Any]  # resolved hyper-parameters of the backbone
    options: dict[str, Any]  # resolved options of the method
    changed_hyper: dict[str, Any] = {}  # those that the user set, away from the preset
    changed_options: dict[str, Any] = {}  # those that the user set, away from the variant
    # What the stored model is judged on: a trial of `tune` on validation, and it is given no test part.
    judged_on: Literal["test", "valid"] = "test"

    # What only says where values came from.
    ORIGINS: ClassVar[tuple[str, ...]] = (
        "preset",
        "scale",
        "full_epochs",
        "changed_hyper",
        "changed_options",
    )

    @property
    def title(self) -> str:
        """Short form for progress lines and messages."""
        at = f" {percent(self.sparsity)}" if self.sparsity else ""
        special = [] if self.variant == "default" else [self.variant]
        special += [f"{k}={v}" for k, v in (self.changed_hyper | self.changed_options).items()]
        brackets = f" ({', '.join(special)})" if special else ""
        trial = ", a trial" if self.judged_on == "valid" else ""
        model = self.method if self.is_reference else f"{self.backbone} {self.method}"
        return f"{self.dataset} {model}{brackets}{at} seed {self.seed}{trial}"

    @property
    def hyper_in_full(self) -> dict[str, Any]:
        """Hyper-parameters with those that came later, which `hyper` has only away from their old value."""
        if self.is_reference:
            return self.hyper
        return registry.backbone(self.backbone).hyper_type.added | self.hyper

    @property
    def is_reference(self) -> bool:
        """Whether the run is of a reference, which has no backbone and no training loop."""
        return registry.is_reference(self.method)

    @property
    def method_options(self) -> Any:
        """The options as an object of the method's own class."""
        return registry.row(self.method).options_type.model_validate(self.options)

    @property
    def teacher(self) -> RunSpec | None:
        """The dense run of the same setting where the method takes its model, else None."""
        if self.is_reference:
            return None
        kind = registry.method(self.method)
        if not kind.needs_dense or (kind.uses_sparsity and self.sparsity == 0):
            return None
        return self.as_dense

    @property
    def as_dense(self) -> RunSpec:
        """The dense run of the same setting."""
        dense = {"method": "dense", "variant": "default", "sparsity": 0.0, "options": {}}
        return self.model_copy(update=dense | {"changed_options": {}})

    @classmethod
    def of_record(cls, spec: Mapping[str, Any]) -> RunSpec:
        """The spec in a run's record, which has more beside it."""
        return cls.model_validate({
            key: spec[key] for key in cls.model_fields if key != "judged_on" or key in spec
        })  # fmt: skip

    def decisive(self) -> dict[str, Any]:
        """All but what only says where a value came from, `ORIGINS`."""
        usual = {"judged_on"} if self.judged_on == "test" else set()
        kept = self.model_dump(exclude=set(self.ORIGINS) | usual)
        return kept | {"preset": presets.of_identity(self.preset)}

    def at_epochs(self, epochs: int) -> RunSpec:
        """The same run at other epochs; hyper-parameters that follow them change along."""

        def preset_at(number: int) -> RunSpec:
            return resolve(
                dataset=self.dataset, backbone=self.backbone, method="dense", sparsity=0, seed=0,
                epochs=number, protocol=self.protocol, settings=[f"preset={self.preset}"],
            )  # fmt: skip

        before, after = preset_at(self.epochs), preset_at(epochs)
        following = {
            key: after.hyper[key]
            for key in registry.backbone(self.backbone).hyper_type.follows_epochs
            if key not in self.changed_hyper and self.hyper[key] == before.hyper[key]
        }
        scale = "paper" if epochs == self.full_epochs else "custom"
        hyper = self.hyper | following
        return self.model_copy(update={"epochs": epochs, "scale": scale, "hyper": hyper})

    def versions(self) -> dict[str, int]:
        """Versions of the code that decides the result."""
        return current_versions(self.backbone, self.method)

    def identity(
        self, data_digests: Mapping[str, Any], versions: Mapping[str, int] | None = None
    ) -> str:
        """Hash over the resolved spec, the data's digests and the versions of the code (None: today's).

        What only says where a value came from is left out, and what data of the user's own are called
        and where they lie: their digests have the content.
        """
        own = {"dataset": "own"} if "content" in data_digests else {}
        content = {
            "spec": self.decisive() | own,
            "data": dict(data_digests),
            "versions": self.versions() if versions is None else dict(versions),
        }
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8")).hexdigest()[:12]


def current_versions(backbone: str, method: str) -> dict[str, int]:
    """Versions of the code that decides the result of a run, part by part.

    Raises `UsageError` for a backbone or method that is not here.
    """
    if registry.is_reference(method):
        shared = {part: SHARED[part] for part in ("tables", "evaluation", "seeds")}
        return {"reference": registry.reference(method).version, **shared}
    return {
        "backbone": registry.backbone(backbone).version,
        "method": registry.method(method).version,
        **SHARED,
    }


def resolve(
    *,
    dataset: str,
    backbone: str,
    method: str,
    sparsity: float,
    seed: int,
    epochs: int | None = None,
    scale: str | None = None,
    protocol: str = "default",
    settings: Sequence[str] = (),
) -> RunSpec:
    """Fill in a run from its preset and the user's settings.

    Args:
        scale: share of the preset's epochs; None: all of them.
        settings: "KEY=VALUE" strings. A bare key is a hyper-parameter of the backbone, `preset`,
            or `variant`; "METHOD.KEY" is an option of that method and is ignored by other methods.
            A reference has neither backbone nor epochs: what is said of these is not looked at.

    Raises:
        UsageError: for anything unknown or out of range, with the closest known name.
        UnsuitableError: for a method that makes no sense for the backbone or at the sparsity.
    """
    if not harmless(dataset):
        raise UsageError(
            f"data set '{dataset}': its name has a character that cannot be printed",
            "rename the file or folder; a record with that name could not be read",
        )
    if not 0 <= sparsity < 1:
        raise UsageError(f"sparsity {sparsity:g} is outside [0, 1)", "--sparsity 0.5")
    scale = scale or "paper"
    if scale not in _SCALES:
        raise UsageError(f"unknown scale '{scale}'", did_you_mean(scale, _SCALES))
    if protocol not in PROTOCOLS:
        raise UsageError(f"unknown protocol '{protocol}'", did_you_mean(protocol, PROTOCOLS))
    if epochs is not None and epochs < 1:
        raise UsageError(f"--epochs {epochs} is less than 1")
    own, per_method = _split_settings(settings)
    for name, given in per_method.items():
        kind = registry.row(name)
        known = [*kind.options_type.model_fields]
        _check_keys(given, known if registry.is_reference(name) else [*known, "variant"], name)
    if registry.is_reference(method):
        return _reference(
            method, per_method.get(method, {}), own if backbone == registry.NO_BACKBONE else {},
            dataset=dataset, protocol=protocol, seed=seed,
        )  # fmt: skip
    backbone_type, method_type = registry.backbone(backbone), registry.method(method)
    if method in backbone_type.refuses:
        raise UnsuitableError(
            f"{method} on {backbone} makes no sense: {backbone_type.refuses[method]}"
        )
    if protocol == "strong" and not backbone_type.folds_in:
        raise UnsuitableError(
            f"{backbone} cannot score users it was not trained on, as protocol strong asks",
            "--protocol default",
        )
    preset = str(own.pop("preset", "")) or None
    found = presets.find(backbone, dataset, method, preset, protocol=protocol)
    values = found.hyper
    _check_keys(own, [*backbone_type.hyper_type.model_fields, "preset", "variant"], backbone)
    if "epochs" in own:
        raise UsageError("epochs is set by an option of its own", f"--epochs {own['epochs']}")
    variant = str(per_method.get(method, {}).get("variant", own.pop("variant", found.variant)))
    if variant not in method_type.variants:
        if "variant" in per_method.get(method, {}) or len(method_type.variants) > 1:
            raise UsageError(
                f"unknown variant '{variant}' of {method}",
                did_you_mean(variant, method_type.variants),
            )
        variant = "default"
    chosen = {k: v for k, v in per_method.get(method, {}).items() if k != "variant"}
    usual = method_type.variants[variant] | (found.options if variant == found.variant else {})
    of_variant = _validated(method_type.options_type, usual, method)
    options = _validated(method_type.options_type, usual | chosen, method)
    hyper = _validated(backbone_type.hyper_type, values | own, backbone)
    resolved_hyper = backbone_type.hyper_type.model_validate(hyper)
    method_type.size(resolved_hyper, sparsity)  # raises if too small
    full_epochs = hyper.pop("epochs")
    added = backbone_type.hyper_type.added
    changed = _changed(hyper, own, added | values)
    hyper = {k: v for k, v in hyper.items() if k not in added or v != added[k]}
    if epochs is None:
        share, least = _SCALES[scale]
        epochs = min(full_epochs, max(least, round(full_epochs * share)))
    else:
        scale = "custom"
    if epochs == full_epochs:
        scale = "paper"
    for key in backbone_type.hyper_type.follows_epochs:
        if key not in own and hyper[key]:
            hyper[key] = max(1, round(hyper[key] * epochs / full_epochs))
    method_type.check(
        method_type.options_type.model_validate(options), resolved_hyper, epochs, sparsity
    )
    return RunSpec.model_validate(
        {
            "dataset": dataset,
            "backbone": backbone,
            "method": method,
            "variant": variant,
            "sparsity": sparsity if method_type.uses_sparsity else 0.0,
            "seed": seed,
            "epochs": epochs,
            "scale": scale,
            "full_epochs": full_epochs,
            "protocol": protocol,
            "preset": found.name,
            "hyper": hyper,
            "options": options,
            "changed_hyper": changed,
            "changed_options": _changed(options, chosen, of_variant),
        }
    )


def _reference(
    name: str, chosen: Mapping[str, Any], bare: Mapping[str, Any], *, dataset: str, protocol: str,
    seed: int,
) -> RunSpec:  # fmt: skip
    """The run of a reference, with options that the user chose; `bare` are settings of no owner."""
    for key in bare:
        raise UsageError(
            f"setting '{key}' is of no backbone, and {name} has none",
            f"an option of it is --set {name}.KEY=VALUE (dslbench list settings {name})",
        )
    kind = registry.reference(name)
    usual = kind.options_type().model_dump(mode="json")
    options = _validated(kind.options_type, chosen, name)
    kind.check(kind.options_type.model_validate(options))
    return RunSpec(
        dataset=dataset, backbone=registry.NO_BACKBONE, method=name, sparsity=0.0,
        seed=seed if kind.uses_seed else 0, epochs=1, full_epochs=1, scale="paper",
        protocol=protocol, preset=registry.NO_BACKBONE, hyper={}, options=options,
        changed_options=_changed(options, chosen, usual),
    )  # fmt: skip


def check_length(epochs: int | None, scale: str | None) -> None:
    """Raise `UsageError` where both that set the number of epochs are named."""
    if epochs is not None and scale is not None:
        raise UsageError(
            f"--epochs {epochs} and --scale {scale} exclude each other: both set the epochs",
            "leave one of them out",
        )


def check_used(settings: Sequence[str], methods: Iterable[str]) -> None:
    """Raise `UsageError` for an option of a method that is not among those to be run."""
    known = dict.fromkeys(methods)
    for setting in settings:
        owner, dot, _ = setting.partition("=")[0].strip().partition(".")
        if dot and owner not in known:
            raise UsageError(
                f"--set {setting} has no effect: {owner} is not run, only {', '.join(known)}",
                f"add --method {owner}, or leave the setting out",
            )


def _changed(
    resolved: Mapping[str, Any], chosen: Mapping[str, Any], usual: Mapping[str, Any]
) -> dict[str, Any]:
    """Of the chosen settings, those whose value is not the usual one."""
    return {key: resolved[key] for key in chosen if resolved[key] != usual.get(key)}


def _split_settings(
    settings: Sequence[str],
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    own: dict[str, Any] = {}
    per_method: dict[str, dict[str, Any]] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        key = key.strip()
        if not equals or not key:
            raise UsageError(f"--set '{setting}' is not KEY=VALUE", "for example --set lr=0.01")
        owner, dot, option = key.partition(".")
        if dot:
            per_method.setdefault(owner, {})[option] = _value(text.strip())
        else:
            own[key] = _value(text.strip())
    return own, per_method


def _value(text: str) -> Any:
    """A setting's value: a TOML value where it is one, else the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _check_keys(values: Mapping[str, Any], known: Sequence[str], owner: str) -> None:
    for key in values:
        if key not in known:
            raise UsageError(
                f"unknown setting '{key}' of {owner}",
                f"{did_you_mean(key, known)} (dslbench list settings {owner})",
            )


def _validated(model: type[BaseModel], values: Mapping[str, Any], owner: str) -> dict[str, Any]:
    try:
        return model.model_validate(dict(values)).model_dump(mode="json")
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or owner
        if first["type"] == "missing":
            raise UsageError(
                f"the preset has no {where} of {owner}", f"--set {where}=..."
            ) from None
        raise UsageError(
            f"setting '{where}' of {owner}: {first['msg'].lower()} (got {first['input']!r})",
            f"dslbench list settings {owner}",
        ) from None
