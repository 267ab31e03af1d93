"""OlympiadBench (arXiv:2402.14008): whether a solution ends in the right numbers, expressions, equations or intervals.

The rule is that of the authors' `math_judger.py`. They let sympy parse and simplify; here formulas are read by
`internvl.metrics.latex`, and two with letters in them are the same where they agree at several points, which takes a
bounded time and evaluates nothing as code.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from internvl.metrics.latex import Formula, NotAFormula, formula

_MEANS_NOTHING = (
    ("\\left", ""), ("\\right", ""), ("∶", ":"), ("，", ","), ("$", ""), ("\\approx", "="), ("\\simeq", "="),
    ("\\sim", "="), ("^\\prime", "'"), ("^{\\prime}", "'"), ("^\\circ", ""), ("%", ""),
)  # fmt: skip
_EDGES = "\n$,.:;^_=+`!@#$%^&*~，。"
_POINTS = (0.4142135, 0.7320508, 1.2360679, 1.6457513, 2.3166247, 3.6055512)
"""Where formulas are compared, some of them negative; each letter gets another value. Three must give one at least."""
WHOLE = 4
"""As many points more of whole numbers, where factorials have a value."""
CLOSE = 1e-7
MOST_BOXES = 100
"""Boxes may stand in boxes, and each is read to its end."""


def olympiad_answer(response: str, *, chinese: bool = False) -> str:
    """What stands after the last "So the final answer is", as the instruction asks for; without it the whole response.

    >>> olympiad_answer("We add. So the final answer is \\\\boxed{3}.")
    '\\\\boxed{3}.'
    """
    found: list[str] = re.findall("所以最终答案是(.*)" if chinese else "So the final answer is (.*)", response)
    return found[-1].strip() if found else response


def olympiad_match(response: str, truth: str, *, tolerances: Sequence[float] = (), chinese: bool = False) -> bool:
    """Whether a solution is right: its answers and the true ones, both separated by commas, can be paired.

    tolerances: how far each true number may be missed; one for all, or one each; without, 1e-8. Plus-minus is two
    answers. A number may also be given in percent, or as a share instead of that.

    >>> olympiad_match("So the final answer is \\\\boxed{\\\\frac{1}{2}, 3}.", "3, 0.5")
    True
    """
    try:
        said, wanted = _plain(olympiad_answer(response, chinese=chinese)), _plain(truth)
    except NotAFormula:
        return False
    if said == wanted:
        return True
    left, wants = _items(said), _items(wanted)
    if len(left) != len(wants):
        return False
    allowed = [*tolerances] or [1e-8]
    allowed += [allowed[-1]] * (len(wants) - len(allowed))
    for want, tolerance in zip(wants, allowed, strict=False):
        pair = next((item for item in left if _equal(want, item, tolerance)), None)
        if pair is None:
            return False
        left.remove(pair)
    return True


def _plain(text: str) -> str:
    """The formulas of a text: in boxes, else between dollars in its last line, else all of it; without decoration."""
    found = ",".join(_boxes(text)) or ",".join(re.findall(r"\$(.*?)\$", text.strip().split("\n")[-1])) or text
    found = found.split("\\in ")[1] if "\\in " in found else found
    for mark, instead in _MEANS_NOTHING:
        found = found.replace(mark, instead)
    return re.sub(r"\\(?:mathrm|mathbf)\{~?([^}]*)\}", r"\1", found.strip(_EDGES))


def _boxes(text: str) -> list[str]:
    found: list[str] = []
    starts = [match.end() for match in re.finditer(r"\\boxed{", text)]
    if len(starts) > MOST_BOXES:
        raise NotAFormula(f"{len(starts)} boxes, at most {MOST_BOXES} are read")
    for start in starts:
        depth, end = 1, start
        while depth and end < len(text):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        if depth:
            raise NotAFormula("a box that is not closed")
        found.append(text[start : end - 1])
    return found


def _items(text: str) -> list[str]:
    """What commas outside of brackets separate; `\\pm` as two."""
    parts, depth = [""], 0
    for letter in re.sub(r"[\u4e00-\u9fff]+", "", text):
        depth += 1 if letter in "([" else -1 if letter in ")]" else 0
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    if len(parts) > 1 and not parts[-1]:
        parts.pop()
    both = ([part.replace("\\pm", "+"), part.replace("\\pm", "-")] if "\\pm" in part else [part] for part in parts)
    return [one.strip() for pair in both for one in pair]


def _equal(truth: str, said: str, tolerance: float) -> bool:
    if truth == said and truth:
        return True
    if _is_interval(truth) and _is_interval(said):
        return _same_intervals(truth, said, tolerance)
    try:
        number, given = float(truth), float(said)
    except ValueError:
        pass
    else:
        if any(abs(one - given) <= tolerance * 1.01 for one in (number / 100, number, number * 100)):
            return True
    if "=" in truth and "=" in said:
        return _same_equation(truth, said)
    return _same_expression(truth, said, tolerance)


def _is_interval(text: str) -> bool:
    return text.startswith(("(", "[")) and text.endswith((")", "]"))


def _same_intervals(truth: str, said: str, tolerance: float) -> bool:
    pairs = list(zip(truth.split("\\cup"), said.split("\\cup"), strict=False))
    if truth.count("\\cup") != said.count("\\cup"):
        return False
    for one, other in pairs:
        one, other = one.strip(), other.strip()
        ends = one.strip("[]()").split(","), other.strip("[]()").split(",")
        if one[:1] != other[:1] or one[-1:] != other[-1:] or len(ends[0]) != len(ends[1]):
            return False
        if not all(_same_expression(a, b, tolerance) for a, b in zip(*ends, strict=True)):
            return False
    return True


def _same_expression(truth: str, said: str, tolerance: float) -> bool:
    """The right-hand sides as numbers within the tolerance, or as formulas of the same worth everywhere."""
    truth, said = (text.split("=")[1].strip() if "=" in text else text.strip() for text in (truth, said))
    if truth.lstrip("+") == said.lstrip("+") and truth:
        return True
    try:
        first, second = formula(truth), formula(said)
        if not first.names and not second.names:
            return abs(first.at({}) - second.at({})) <= tolerance * 1.01
        if not first.names or not second.names:
            return False
        pairs = _side_by_side(first, second)
        return len(pairs) > 2 and all(abs(a - b) <= CLOSE * (1 + abs(a)) for a, b in pairs)
    except (NotAFormula, OverflowError):  # finite numbers may be too far apart for a float
        return False


def _same_equation(truth: str, said: str) -> bool:
    """Whether one equation is the other, multiplied by a whole number or divided by one."""
    try:
        ratios = [a / b for a, b in _side_by_side(_difference(truth), _difference(said)) if b]
        if len(ratios) < 3 or not all(abs(ratio - ratios[0]) <= CLOSE * (1 + abs(ratios[0])) for ratio in ratios):
            return False
    except (NotAFormula, OverflowError):
        return False
    ratio = ratios[0]
    if abs(ratio.imag) > CLOSE or abs(ratio.real) < CLOSE:
        return False
    return any(round(x) and abs(x - round(x)) <= CLOSE * (1 + abs(x)) for x in (ratio.real, 1 / ratio.real))


def _difference(equation: str) -> Formula:
    sides = equation.split("=")
    if len(sides) != 2:
        raise NotAFormula("not one equals sign")
    left, right = formula(sides[0]), formula(sides[1])
    return Formula(left.names | right.names, lambda at: complex(left.value(at)) - complex(right.value(at)))


def _side_by_side(first: Formula, second: Formula) -> list[tuple[complex, complex]]:
    """The worth of both at the points where both have one."""
    names = sorted(first.names | second.names)
    found: list[tuple[complex, complex]] = []
    for shift in range(len(_POINTS) + WHOLE):
        values = {name: _value(place, shift) for place, name in enumerate(names)}
        try:
            found.append((first.at(values), second.at(values)))
        except NotAFormula:
            continue
    return found


def _value(place: int, shift: int) -> float:
    """What the letter of that place is at the point of that number."""
    if shift >= len(_POINTS):
        return shift + 1 - len(_POINTS) + 2 * place
    size = _POINTS[(place + shift) % len(_POINTS)] + place // len(_POINTS)
    return -size if (place + shift) % 3 == 2 else size
