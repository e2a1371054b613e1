"""`dslbench list`: what there is to choose from, and what is stored."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import typer

from dslbench.errors import UsageError
from dslbench.output import deliver, result, warn


def list_(
    what: Annotated[
        Literal["datasets", "backbones", "methods", "references", "settings", "plans", "runs"],
        typer.Argument(help="What to list."),
    ],
    name: Annotated[
        str | None, typer.Argument(help="Backbone, method or reference whose settings are listed.")
    ] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="As JSON (data sets, settings and runs).")
    ] = False,
) -> None:
    """List data sets, backbones, methods, references, what `--set` takes, plans or stored runs."""
    if name is not None and what != "settings":
        raise UsageError(f"a name goes with settings only: {name}", f"dslbench list {what}")
    if what == "settings":
        _list_settings(name, json_)
    elif what == "datasets":
        from dslbench.cli import datasets

        datasets.list_datasets(json_)
    elif what == "runs":
        _list_runs(json_)
    elif what == "plans":
        from dslbench.runs import plan

        for name in plan.names():
            result(f"{name:12} {plan.read(name).plan.title}")
    else:
        from dslbench import registry

        kind = next(kind for kind in registry.KINDS if f"{kind}s" == what)
        for name in registry.names(kind):
            result(f"{name:12} {registry.summary(kind, name)}")


def _list_settings(name: str | None, as_json: bool) -> None:
    import dataclasses

    from dslbench import registry, settings

    owners = [name] if name else [n for kind in registry.KINDS for n in registry.working(kind)]
    if as_json:
        found = [dataclasses.asdict(s) for owner in owners for s in settings.of(owner)]
        deliver(json.dumps(found, indent=1) + "\n")
        return
    deliver("\n\n".join("\n".join(settings.lines(owner)) for owner in owners) + "\n")


def _list_runs(as_json: bool) -> None:

    from dslbench.evaluation.metrics import METRICS, SELECTION
    from dslbench.report.naming import labelled
    from dslbench.runs import failures, store

    records, failed = store.read_all(warn), failures.read_all(warn)
    if as_json:
        found: list[dict[str, Any]] = [
            {"id": r["id"], "spec": r["spec"], "failed": None} for r in records
        ]
        found += [{"id": f.id, "spec": f.spec.model_dump(), "failed": f.reason} for f in failed]
        deliver(json.dumps(found, indent=1) + "\n")
        return
    for r in labelled(records):
        reached = METRICS[SELECTION].show(r["quality"][SELECTION])
        result(f"{r['id']}  {_described(r['spec'])}  {SELECTION} {reached}")
    for f in failed:
        hint = f" ({f.hint})" if f.hint else ""
        described = _described(f.spec.model_dump())
        result(f"{f.id}  {described}  FAILED {f.time[:19]}: {f.reason}{hint}")


def _described(spec: dict[str, Any]) -> str:
    from dslbench import registry
    from dslbench.words import number

    epochs = number(spec["epochs"], "epoch")
    changed = {**(spec.get("changed_hyper") or {}), **(spec.get("changed_options") or {})}
    if registry.is_reference(spec["method"]):
        return " ".join([spec["dataset"], spec["method"], f"seed {spec['seed']}",
                         *(f"{key}={value}" for key, value in changed.items())])  # fmt: skip
    return " ".join(
        [
            f"{spec['dataset']} {spec['backbone']} {spec['method']} {spec['variant']}",
            f"{spec['sparsity']:g} seed {spec['seed']} {epochs}",
            *(["trial, on validation:"] if spec.get("judged_on") == "valid" else []),
            *(f"{key}={value}" for key, value in changed.items()),
        ]
    )
