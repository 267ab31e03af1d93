"""Formulas: their worth beside sympy's, what is refused, and that nothing grows."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl.metrics.latex import NotAFormula, formula, number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,234.5", 1234.5),
        (".5", 0.5),
        ("2+3*4", 14),
        ("-2^2", -4),
        ("2^{-1}", 0.5),
        ("--3", 3),
        (r"\frac12", 0.5),
        (r"\dfrac{3}{4}", 0.75),
        (r"\frac1{20}", 0.05),
        (r"\sqrt2", math.sqrt(2)),
        (r"\sqrt[3]{-8}", -2),
        (r"2\pi", 2 * math.pi),
        ("2π", 2 * math.pi),
        (r"\left(1+2\right)\cdot3", 9),
        ("(2)(3)", 6),
        ("6:4", 1.5),
        ("5!", 120),
        (r"\binom{5}{2}", 10),
        (r"50\%", 0.5),
        ("|3-5|", 2),
        (r"90^\circ", math.pi / 2),
        (r"\sin{30^{\circ}}", 0.5),
        (r"\sin^2{x}".replace("x", "1"), math.sin(1) ** 2),
        (r"\log_{2}{8}", 3),
        (r"\ln{2}", math.log(2)),
        ("1/3+1/3+1/3", 1),
        (r"\frac{3^{1008}-1}{3^{1009}}", 1 / 3),
        ("3×4−2", 10),
        ("$7$", 7),
    ],
)
def test_worth(text, value):
    assert number(text) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(
    "text",
    ["", "x", "2x", "1/0", "0^{-1}", r"\sqrt{-1}", "1,2,3", "(1", "1)", "2+", r"\foo", "a b", "9^{9^{9}}", "200!", "²",
     "1.5!", "1=1", "(" * 41 + "1" + ")" * 41, "1" * 301, "10^{400}", "{}", "|1", r"\frac{1}"],
)  # fmt: skip
def test_refused(text):
    with pytest.raises(NotAFormula):
        number(text)


def test_letters():
    found = formula(r"a_1 x^2 + \alpha x + e")
    assert found.names == {"a_1", "x", "alpha", "e"}
    assert found.at({"a_1": 1, "x": 2, "alpha": 3, "e": 4}) == 14
    assert formula("a_{n+1}").names == {"a_{n+1}", "n"}


@given(st.integers(-50, 50), st.integers(-50, 50), st.integers(1, 9))
def test_as_python_computes(a, b, c):
    assert number(f"({a})+({b})*{c}-{a}/{c}") == pytest.approx(a + b * c - a / c)
    assert number(f"\\frac{{{a}}}{{{c}}}\\times({b})") == pytest.approx(a / c * b)


@given(st.text(alphabet="0123456789+-*/^_{}()[]|!%.,\\ abefinopqrstx", max_size=60))
def test_any_text_is_read_or_refused(text):
    for compat in (None, "latex2sympy"):
        with contextlib.suppress(NotAFormula):
            assert math.isfinite(number(text, compat=compat))
