"""OlympiadBench: numbers, lists, intervals, expressions and equations that are the same, and those that are not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl.metrics.olympiad import olympiad_answer, olympiad_match


@pytest.mark.parametrize(
    ("response", "truth"),
    [
        ("So the final answer is \\boxed{3}.", "3"),
        ("No. So the final answer is 4\nSo the final answer is 3", "3"),
        (r"\boxed{3, \frac{1}{2}}", "0.5,3"),
        (r"\boxed{1} and \boxed{2}", "2,1"),
        ("Long text\nwhich ends in $x = 2\\sqrt{3}$.", r"2\sqrt{3}"),
        (r"\boxed{\pm 2}", "-2,2"),
        (r"\boxed{x \in [0, \infty)}", r"[0,+\infty)"),
        (r"\boxed{(-1,2)\cup(3,\frac{7}{2}]}", r"(-1,2) \cup (3,3.5]"),
        (r"\boxed{(x+1)^2}", "x^{2}+2x+1"),
        (r"\boxed{2x^2+2y^2=8}", "x^2+y^2=4"),
        (r"\boxed{y = x}", "2y-2x=0"),
        (r"\boxed{f(x) = \frac{x}{2}}", r"\frac{1}{2}x"),
        (r"\boxed{60^\circ}", "60"),
        (r"\boxed{\frac{n(n+1)}{2}}", r"\frac{n^2+n}{2}"),
        (r"\boxed{(n+1)!+1}", "1+n!(n+1)"),  # at the end `!` is a mark of excitement
        (r"\boxed{\binom{n}{2}}", r"\frac{n(n-1)}{2}"),
        (r"\boxed{\mathrm{12}}", "12"),
        ("50", "0.5"),  # percent for a share
        (r"\boxed{\text{Yes}}", r"\text{Yes}"),
    ],
)
def test_right(response, truth):
    assert olympiad_match(response, truth)


@pytest.mark.parametrize(
    ("response", "truth"),
    [
        (r"\boxed{3}", "4"),
        (r"\boxed{3}", "3,4"),
        (r"\boxed{3, 3}", "3,4"),
        (r"\boxed{3", "3"),
        (r"\boxed{(0,1)}", "[0,1)"),
        (r"\boxed{(0,1)}", r"(0,1) \cup (2,3)"),
        (r"\boxed{(x+1)^2}", "x^2+1"),
        (r"\boxed{x}", "y"),
        (r"\boxed{\sqrt{x^2}}", "x"),  # of -1 too
        (r"\boxed{(n+1)!+1}", "n!+1"),
        (r"\boxed{x}", "1"),
        (r"\boxed{x^2+y^2=4}", "x^2+y^2=5"),
        (r"\boxed{2x=3y}", "x=2y"),
        (r"\boxed{2x=2x}", "x=1"),
        ("", "3"),
        (r"\boxed{9^{9^{9^9}}}", "3"),
    ],
)
def test_wrong(response, truth):
    assert not olympiad_match(response, truth)


def test_tolerances_belong_to_the_truths():
    assert olympiad_match(r"\boxed{1.04}", "1", tolerances=[0.05])
    assert not olympiad_match(r"\boxed{1.06}", "1", tolerances=[0.05])
    assert not olympiad_match(r"\boxed{1.04}", "1")
    assert olympiad_match(r"\boxed{2.4, 1.04}", "1,2", tolerances=[0.05, 0.5])
    assert not olympiad_match(r"\boxed{2.04, 1.4}", "1,2", tolerances=[0.05, 0.5])
    assert olympiad_match(r"\boxed{1.05, 2.05}", "1,2", tolerances=[0.05])


def test_the_last_announcement_counts_in_both_languages():
    assert olympiad_answer("所以最终答案是\\boxed{3}。", chinese=True) == "\\boxed{3}。"
    assert olympiad_answer("所以最终答案是3") == "所以最终答案是3"
    assert olympiad_match("所以最终答案是\\boxed{能}。", "能", chinese=True)


@given(st.text(alphabet="0123456789+-*/^_{}()[],\\=xyπ$ ", max_size=60))
def test_any_text_is_compared(text):
    assert olympiad_match(text, "x+1") in (True, False)
    assert olympiad_match("x+1", text) in (True, False)


def test_numbers_too_far_apart_for_a_float_are_not_equal():
    assert not olympiad_match("10^{308}*1.7+10^{308}*1.7\\sqrt{-1}", "3")


def test_thousands_of_boxes_in_boxes_are_not_read():
    assert not olympiad_match("\\boxed{" * 3000 + "3" + "}" * 3000, "3")
    assert olympiad_match("\\boxed{" * 2 + "3" + "}" * 2, "3") is False  # both boxes count, as with the authors
    assert olympiad_match("\\boxed{3}", "3")
