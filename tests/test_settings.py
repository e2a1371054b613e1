"""`dslbench list settings` says what `--set` takes, and every default it shows can be typed."""

from __future__ import annotations

import pytest

from dslbench import registry, settings
from dslbench.errors import UsageError
from dslbench.spec import resolve

OWNERS = [*registry.names("backbone"), *registry.names("method")]


@pytest.mark.parametrize("owner", OWNERS)
def test_every_listed_default_is_what_a_run_resolves_to(owner: str) -> None:
    is_method = owner in registry.names("method")
    found = settings.of(owner)
    typed = [f"{s.key}={settings.shown(s.default)}" for s in found if s.default is not None]
    spec = resolve(
        dataset="yelp2018", sparsity=0.5, seed=0, scale="paper",
        backbone="lightgcn" if is_method else owner, method=owner if is_method else "dense",
        settings=typed,
    )  # fmt: skip
    resolved = spec.options if is_method else spec.hyper_in_full
    for s in found:
        key = s.key.rpartition(".")[2]
        if key not in ("preset", "variant"):
            assert s.default == resolved[key], s
        assert s.description and s.allowed, s
    shown = {s.key.rpartition(".")[2] for s in found} - {"preset", "variant"}
    assert shown == set(resolved)


def test_what_is_allowed_in_words() -> None:
    found = {s.key: s for name in OWNERS for s in settings.of(name)}
    assert found["dsl.rho0"].allowed == "number >= 0 <= 1"
    assert found["dsl.decay"].allowed == "cosine | linear | none"
    assert found["dsl.delta_t"].allowed == "integer >= 1"
    assert found["hidden"].allowed == "list of integer > 0"
    assert found["rkd.normalise"].allowed == "true | false"
    assert list(settings.lines("dense")) == ["dense (method): no settings"]
    assert "  dsl.rho0             0.5 " in "\n".join(settings.lines("dsl"))


def test_unknown_names_and_keys_lead_to_the_list() -> None:
    with pytest.raises(UsageError, match="no backbone, method or reference 'dsll'") as caught:
        settings.of("dsll")
    assert caught.value.hint == "did you mean 'dsl'?"
    for setting, owner in (
        ("dsl.decya=linear", "dsl"),
        ("lrr=1", "lightgcn"),
        ("lr=no", "lightgcn"),
    ):
        with pytest.raises(UsageError) as caught:
            resolve(
                dataset="toy", backbone="lightgcn", method="dsl", sparsity=0.5, seed=0,
                settings=[setting],
            )  # fmt: skip
        assert f"dslbench list settings {owner}" in (caught.value.hint or "")
