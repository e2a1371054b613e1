"""Percentages: nothing below 100 % is shown as 100 %."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dslbench.report.comparable import label
from dslbench.spec import resolve
from dslbench.words import number, percent, percent_reached


@pytest.mark.parametrize(
    ("share", "chosen", "reached"),
    [
        (0.0, "0%", "0.0%"), (0.07, "7%", "7.0%"), (0.5, "50%", "50.0%"), (0.555, "55.5%", "55.5%"),
        (0.99, "99%", "99.0%"), (0.999, "99.9%", "99.90%"), (0.9995, "99.95%", "99.95%"),
        (0.99949, "99.949%", "99.95%"), (0.00001, "0.001%", "0.0%"), (1.0, "100%", "100.0%"),
        (-0.25, "-25%", "-25.0%"),
    ],
)  # fmt: skip
def test_percentages(share: float, chosen: str, reached: str) -> None:
    assert (percent(share), percent_reached(share)) == (chosen, reached)


@given(st.floats(0, 1 - 1e-9))
def test_what_is_not_whole_is_never_shown_as_whole(share: float) -> None:
    for text in (percent(share), percent_reached(share)):
        assert float(text.rstrip("%")) < 100
    assert float(percent(share).rstrip("%")) == pytest.approx(100 * share, abs=1e-8)


def test_titles_and_labels_name_the_sparsity_exactly() -> None:
    spec = resolve(dataset="toy", backbone="lightgcn", method="dsl", sparsity=0.999, seed=0)
    assert " dsl 99.9% " in spec.title
    assert label([{"spec": spec.model_dump()}]) == "DSL 99.9%"


def test_nouns_agree_with_their_number() -> None:
    assert [number(n, "run") for n in (0, 1, 2, 1000)] == [
        "0 runs",
        "1 run",
        "2 runs",
        "1,000 runs",
    ]
