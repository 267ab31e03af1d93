"""Whether an answer to a problem of mathematics is right: MathVista, MATH-Vision, DynaMath and PuzzleVQA.

Each takes what a model wrote, finds its final answer by the rule of that benchmark's own scorer, and compares. Formulas
are read by `internvl.metrics.latex`, never evaluated as code. OlympiadBench is in `internvl.metrics.olympiad`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any, Literal, cast

from internvl.metrics.choices import letter
from internvl.metrics.edits import levenshtein
from internvl.metrics.latex import NotAFormula, number

_ANNOUNCED = re.compile(r"(?:final answer:|answer:)\s*(.*)", re.IGNORECASE)


def cot_answer(text: str) -> str:
    """What stands after the first "Final answer:" or "Answer:", to the end of its line; without one, the whole text.

    The rule of the original scripts for answers to the instruction `COT` (arXiv:2411.10442).

    >>> cot_answer("Because it rolls.\\nFinal answer: a ball\\nDone")
    'a ball'
    """
    found = _ANNOUNCED.search(text)
    return found[1].strip() if found else text


def by_letter(options: Sequence[str]) -> dict[str, str]:
    """Options under the letters A, B, C, …

    >>> by_letter(["red", "blue"])
    {'A': 'red', 'B': 'blue'}
    """
    return {chr(ord("A") + place): option for place, option in enumerate(options)}


# ---- MathVista (arXiv:2310.02255) ------------------------------------------------------------------------------------


def mathvista_extract(
    response: str, *, question_type: str, answer_type: str, choices: Sequence[str] | None, quick: bool = True
) -> str | None:
    """The answer that a response contains; None where a judge must find it, which is only without `quick`.

    The authors' scorer takes a response that is one of the choices, or a number of the wanted kind, as it is, and lets
    a language model extract from all others. quick: `cot_answer` extracts instead, as the original script does after
    the instruction to think first.

    >>> mathvista_extract("It is 14.", question_type="free_form", answer_type="integer", choices=None, quick=False)
    >>> mathvista_extract("Final answer: 14", question_type="free_form", answer_type="integer", choices=None)
    '14'
    """
    if not response or (question_type == "multi_choice" and response in (choices or ())):
        return response
    try:
        if answer_type == "integer":
            return str(int(response))
        if answer_type == "float":
            return str(float(response))
    except ValueError:
        pass
    return cot_answer(response) if quick else None


def mathvista_normalise(
    extraction: str | float | None,
    *,
    choices: Sequence[str] | None,
    question_type: str,
    answer_type: str,
    precision: float | None,
) -> str | float | None:
    """An extracted answer in the form that the truth has; None where it cannot be a number of the wanted kind.

    The authors' rule: a letter, with or without brackets, is its choice, and any other text is the choice that fewest
    edits turn it into; an integer is cut, a float rounded to `precision` places.

    >>> mathvista_normalise("(B)", choices=["1", "2"], question_type="multi_choice", answer_type="text", precision=None)
    '2'
    """
    text = str(extraction)
    if question_type == "multi_choice" and choices:
        bracketed = re.search(r"\(([a-zA-Z])\)", text)
        said = bracketed[1].upper() if bracketed else text.strip()
        lettered = by_letter(choices)
        return lettered[said] if said in lettered else min(choices, key=lambda choice: levenshtein(said, choice))
    try:
        if answer_type == "integer":
            return str(int(float(text)))
        if answer_type == "float":
            return None if precision is None else str(round(float(text), int(precision)))
    except (ValueError, OverflowError):
        return None
    return text if answer_type == "list" else extraction


# ---- MATH-Vision (arXiv:2402.14804) ----------------------------------------------------------------------------------

_MATHVISION_FLAGS = ("the final answer is", "the answer is", "the correct answer is", "the answer should be")
_CLEANED = (
    (" ", ""), ("\\,", ""), ("∞", "\\infty"), ("+\\infty", "\\infty"), ("\\\\", "\\"), ("\n", ""), ("\\text", ""),
    ("\\mbox", ""), ("bmatrix", "pmatrix"), ("\\left", ""), ("\\right", ""), ("^{\\circ}", ""), ("^\\circ", ""),
    ("{m}^3", ""), ("m^3", ""), ("{units}", ""), ("units", ""), ("{km}", ""), ("km", ""),
)  # fmt: skip
"""In this order."""


def mathvision_answer(response: str) -> str:
    """The final answer of a response, lower-cased and cleaned, by the rule of the authors' `evaluate.py`.

    The last `\\boxed{}`; else a letter that ends or begins the response; else a number after the last "is"; else what
    follows "the answer is" and its like; and of all these what stands after the last `=`.

    >>> mathvision_answer("So it is \\\\boxed{x = \\\\frac{1}{2}}."), mathvision_answer("The answer is (B).")
    ('\\\\frac{1}{2}', 'b')
    """
    said = response.strip()
    for choice in "ABCDE":
        ends, begins = (f" {choice}.", f" ({choice})."), (f"{choice}\n", f"({choice})\n", f"({choice}) {choice}\n")
        if said.endswith(ends) or said.startswith(begins):
            said = choice
    last = said.split("is ")[-1].rstrip(".")
    if _is_number(last):
        said = last
    if "oxed{" not in said:
        for flag in _MATHVISION_FLAGS:
            for spelt in (flag, flag.replace("the", "The")):
                if spelt in said:
                    said = said.split(spelt)[-1].strip().split("\n")[0].split(". ")[0]
    elif said.count("oxed{") > 1:
        said = "\\boxed{" + said.split("oxed{")[-1]
    found = _mathvision_clean(said)
    for choice in "abcde":
        found = found.replace(f"({choice})", choice)
    for choice in "abcde":
        found = found.replace(f"{{{choice}}}", choice)
    return found.rstrip(".").lstrip(":").strip()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _mathvision_clean(text: str) -> str:
    text = text.lower().replace("{}", "")
    start, end = text.find("oxed{"), text.rfind("}")
    if 0 <= start < end:
        text = text[start + len("oxed{") : end]
    closing, opening = text.find("}"), text.find("{")
    if closing != -1 and (opening == -1 or closing < opening):  # the brace that closes the box
        text = text.split("}")[0]
    text = text.split("=")[-1].split("\\approx")[-1]
    for found, kept in _CLEANED:
        text = text.replace(found, kept)
    return _mathvision_fraction(_mathvision_latex(text))


def _mathvision_latex(text: str) -> str:
    """The cleaning that the MATH data set's scorer does before it compares."""
    text = text.replace("\\!", "").replace("\\\\", "\\").replace("tfrac", "frac").replace("dfrac", "frac")
    for dropped in ("\\left", "\\right", "^{\\circ}", "^\\circ", "\\$", "$"):
        text = text.replace(dropped, "")
    text = text.split("\\text{ ")[0].replace("\\%", "").replace(" .", " 0.").replace("{.", "{0.")
    if text.startswith("."):
        text = "0" + text
    if "sqrt" in text:
        text = re.sub(r"\\sqrt(?!\\sqrt|\{)(.)", r"\\sqrt{\1}", text, flags=re.DOTALL)
        parts = text.split("\\frac")
        if all(part.startswith("{") or len(part) > 1 for part in parts[1:]):
            text = "\\frac".join([parts[0], *(_braced(part) for part in parts[1:])])
    return text


def _braced(after: str) -> str:
    """What follows `\\frac`, with braces: `12` as `{1}{2}`."""
    if after.startswith("{"):
        return after
    above, below, rest = after[0], after[1], after[2:]
    return f"{{{above}}}{{{rest}" if below == "{" else f"{{{above}}}{{{below}}}{rest}"


def _mathvision_fraction(text: str) -> str:
    if text == "0.5":
        return "\\frac{1}{2}"
    plain = re.fullmatch(r"(0|-?[1-9]\d*)/(0|-?[1-9]\d*)", text)
    return f"\\frac{{{plain[1]}}}{{{plain[2]}}}" if plain else text


def mathvision_equal(said: str, truth: str) -> bool:
    """Whether two answers are the same: as text in any case, or as numbers, or tuples of numbers, at two decimals.

    >>> mathvision_equal("0.333", r"\\frac{1}{3}"), mathvision_equal("(1, 1/2)", "(1,0.5)"), mathvision_equal("", "")
    (True, True, False)
    """
    said, truth = said.lower(), truth.lower()
    if not said.replace(" ", "") or not truth.replace(" ", ""):
        return False
    if said.strip() == truth.strip():
        return True
    wanted = _tuple(truth)
    if wanted is not None and wanted == _tuple(said):
        return True
    try:
        return round(number(said, compat="latex2sympy"), 2) == round(number(truth, compat="latex2sympy"), 2)
    except NotAFormula:
        return False


def _tuple(text: str) -> tuple[str, tuple[float | str, ...]] | None:
    """A bracketed list with its kind of bracket, its numbers rounded to two places."""
    parts = text[1:-1].split(",")
    if text[:1] + text[-1:] not in ("()", "[]") or len(parts) < 2:
        return None
    try:
        return text[0], tuple(
            part if "infty" in part or part in ("a", "-a") else round(number(part, compat="latex2sympy"), 2)
            for part in parts
        )
    except NotAFormula:
        return None


def mathvision_match(answer: str, truth: str, options: Sequence[str] = ()) -> bool:
    """Whether a response to a problem of MATH-Vision is right, by the rule of the authors' `evaluate.py`.

    truth: the answer, or the letter of one of the options; then the text of that option counts too.

    >>> mathvision_match("The answer is 60.", "60"), mathvision_match("\\\\boxed{B}", "B", ["3", "4", "5", "6", "7"])
    (True, True)
    """
    said = mathvision_answer(answer)
    option = by_letter(options).get(truth, "")
    return mathvision_equal(truth, said) or mathvision_equal(option, said)


Kind = Literal["choice", "integer", "float", "text"]


def extracted_match(extracted: str, truth: str, kind: Kind, options: Sequence[str] = ()) -> bool:
    """Whether an answer that a judge extracted is right, as VLMEvalKit (arXiv:2407.11691) compares them.

    choice: the option that it names is the letter `truth`. integer, float: equal as such. text: equal as text in any
    case, or as formulas to a millionth.

    >>> extracted_match("(B) 4", "B", "choice", ["3", "4"]), extracted_match("1/2", "0.5", "text")
    (True, True)
    """
    if kind == "choice":
        return letter(extracted, by_letter(options)) == truth
    try:
        if kind == "integer":
            return int(extracted) == int(truth)
        if kind == "float":
            return float(extracted) == float(truth)
    except ValueError:
        return False
    said, wanted = extracted.lower().strip(), truth.lower().strip()
    if said == wanted:
        return True
    try:
        return abs(number(said) - number(wanted)) < 1e-6
    except NotAFormula:
        return False


# ---- DynaMath (arXiv:2411.00836) -------------------------------------------------------------------------------------


def dynamath_answer(answer: str, answer_type: str) -> str | float | None:
    """The short answer of a response: a float, a letter or a text; None where it is not in the form that was asked for.

    The response should be a JSON object whose key "short answer" holds it; without one the whole response is taken. A
    float is the first word, π allowed at its end; a letter is the only one of A to E that occurs.

    >>> dynamath_answer('{"solution": "...", "short answer": "1.571"}', "float"), dynamath_answer("0.5π", "float")
    (1.571, 1.5707963267948966)
    """
    text = _json_part(answer)
    try:
        record: Any = json.loads(text, strict=False)
        short = cast("dict[str, Any]", record).get("short answer") if isinstance(record, dict) else None
    except (ValueError, RecursionError):
        short = None
    found = _short(str(short), answer_type) if short is not None else None
    return _short(text, answer_type) if found is None else found


def _json_part(text: str) -> str:
    start, end = text.find("{"), text.rfind("}")
    return (text[start : end + 1] if 0 <= start < end else text).replace("\\", "")


def _short(text: str, answer_type: str) -> str | float | None:
    if answer_type == "float":
        word = text.split(" ")[0]
        try:
            return float(word.split("π")[0]) * (math.pi if "π" in word else 1)
        except ValueError:
            return None
    if answer_type == "multiple choice":
        held = [choice for choice in "ABCDE" if choice in text.upper()]
        return text.upper() if len(text) == 1 else held[0] if len(held) == 1 else None
    return text


def dynamath_match(answer: str, truth: str, answer_type: str) -> bool:
    """Whether a response to a question of DynaMath is right.

    answer_type: "float" (within 0.001), "multiple choice" (the letter), or text, which must be a part of the truth.
    The rule is VLMEvalKit's without its language model, which reads what is not in the form that was asked for; here
    such an answer is wrong, unless the true letter stands in its first three characters. An empty text, which is a part
    of everything, is wrong.

    >>> dynamath_match('{"short answer": "2.094"}', "2.0944", "float"), dynamath_match("", "Sep", "text")
    (True, False)
    """
    found = dynamath_answer(answer, answer_type)
    if isinstance(found, float):
        try:
            return abs(found - float(truth)) <= 0.001
        except ValueError:
            return False
    if found is None:
        return answer_type == "multiple choice" and truth in _json_part(answer)[:3].upper()
    if answer_type == "multiple choice":
        return found == truth
    said = str(found).lower()
    return bool(said.strip()) and said in truth.lower()


# ---- PuzzleVQA (arXiv:2403.13315) ------------------------------------------------------------------------------------


def puzzlevqa_match(answer: str, truth: str, options: Sequence[str], *, strict: bool = False) -> bool:
    """Whether a response chooses the option that is the truth.

    Its letter is the one after the last "Answer:"; without that, the option that `choices.letter` finds. strict:
    without that it is wrong, which is VLMEvalKit's rule.

    >>> puzzlevqa_match("The circles grow. Answer: C", "4", ["6", "3", "4", "2"]), puzzlevqa_match("4", "4", ["6", "4"])
    (True, True)
    """
    announced: list[str] = re.findall(r"\banswer\s*:\s*([A-Z])\b", answer, re.IGNORECASE)
    lettered = by_letter([str(option).strip() for option in options])
    chosen = announced[-1].upper() if announced else None if strict else letter(answer, lettered)
    return chosen is not None and lettered.get(chosen) == str(truth).strip()
