"""What a formula in LaTeX or plain text is worth, as numbers; nothing in it is ever evaluated as code.

    number(r"\\frac{1}{2}+\\sqrt{4}") -> 2.5
    formula("2x+1").at({"x": 3})      -> 7

A formula is at most 300 characters, nested at most 40 deep, and its numbers have a largest size, so that no text can
make the scorer run long or fill memory. What is not understood is refused with `NotAFormula`.
"""

from __future__ import annotations

import cmath
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

LONGEST, DEEPEST = 300, 40
DEGREE = math.pi / 180

_TOKEN = re.compile(
    r"\s+|\$|\\[,;:! ]|\\(?:quad|qquad|displaystyle|left|right|big|Big|limits)(?![a-zA-Z])"
    r"|(?P<number>[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?|\.[0-9]+)|(?P<percent>(?<=[0-9])\\?%)|(?P<command>\\[a-zA-Z]+|\\\||\\[{}])|(?P<mark>.)",
    re.DOTALL,
)
_SAME = {
    "\\cdot": "*", "\\times": "*", "\\ast": "*", "\\div": "/", "\\lbrack": "[", "\\rbrack": "]", "\\{": "(", "\\}": ")",
    "\\lvert": "|", "\\rvert": "|", "\\%": "%", "\\dfrac": "\\frac", "\\tfrac": "\\frac", "\\cfrac": "\\frac",
    "\\dbinom": "\\binom", ":": "/", "×": "*", "·": "*", "⋅": "*", "÷": "/", "−": "-", "π": "\\pi", "√": "\\sqrt",
}  # fmt: skip
_FUNCTIONS: Mapping[str, Callable[[complex], complex]] = {
    "sin": cmath.sin,
    "cos": cmath.cos,
    "tan": cmath.tan,
    "cot": lambda x: 1 / cmath.tan(x),
    "sec": lambda x: 1 / cmath.cos(x),
    "csc": lambda x: 1 / cmath.sin(x),
    "arcsin": cmath.asin,
    "arccos": cmath.acos,
    "arctan": cmath.atan,
    "sinh": cmath.sinh,
    "cosh": cmath.cosh,
    "tanh": cmath.tanh,
    "exp": cmath.exp,
    "ln": cmath.log,
    "log": cmath.log,
    "lg": cmath.log10,
}
_GREEK = frozenset([
    "alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta", "theta", "vartheta", "kappa", "lambda",
    "mu", "nu", "xi", "rho", "sigma", "tau", "phi", "varphi", "chi", "psi", "omega", "Gamma", "Delta", "Theta",
    "Lambda", "Xi", "Sigma", "Phi", "Psi", "Omega", "ell", "hbar",
])  # fmt: skip
_STOPS = frozenset(["", ")", "]", "}", "+", "-", "*", "/", "=", ",", "|", "^", "_", "!", "%", "<", ">", "&", "."])
"""What cannot begin a factor, so that what stands before it is not multiplied with it."""

_DIGITS = frozenset("0123456789")

Number = complex | Fraction
"""Whole numbers and their quotients are exact, up to `LARGEST` bits; everything else is floating point."""
Compat = Literal["latex2sympy"] | None
Value = Callable[[Mapping[str, complex]], Number]
LARGEST = 20_000


class NotAFormula(ValueError):
    """A text that is not a formula of the kind that is understood here, or whose value does not exist."""


@dataclass(frozen=True)
class Formula:
    """A formula; `names` are the letters whose values it needs."""

    names: frozenset[str]
    value: Value

    def at(self, values: Mapping[str, complex]) -> complex:
        """What it is worth where its letters have these values; `NotAFormula` where that is not a finite number."""
        try:
            result = complex(self.value(values))
        except (ArithmeticError, ValueError, RecursionError) as error:
            raise NotAFormula(str(error)) from error
        if not (math.isfinite(result.real) and math.isfinite(result.imag)):
            raise NotAFormula("not finite")
        return result


class _Reader:
    """Recursive descent: sum -> product -> sign -> power -> atom."""

    def __init__(self, text: str, compat: Compat) -> None:
        if len(text) > LONGEST:
            raise NotAFormula(f"{len(text)} characters, at most {LONGEST} are read")
        found = (match[0] if match.lastgroup else "" for match in _TOKEN.finditer(text))
        self.tokens = [_SAME.get(token, token) for token in found if token]
        self.compat = compat
        self.place = 0
        self.depth = 0
        self.bars = 0
        self.names: set[str] = set()

    @property
    def next(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self, *wanted: str) -> str:
        token = self.next
        if not token or (wanted and token not in wanted):
            raise NotAFormula(f"found {token!r}, expected {' or '.join(wanted) or 'something'}")
        self.place += 1
        return token

    def has(self, wanted: str) -> bool:
        """Takes the next token if it is this one."""
        found = self.next == wanted
        self.place += found
        return found

    def sum(self) -> Value:
        self.depth += 1
        if self.depth > DEEPEST:
            raise NotAFormula(f"nested more than {DEEPEST} deep")
        terms = [self.product()]
        while self.next in ("+", "-"):
            sign = self.take()
            term = self.product()
            terms.append(term if sign == "+" else _negative(term))
        self.depth -= 1
        return terms[0] if len(terms) == 1 else lambda at: _total([term(at) for term in terms])

    def product(self) -> Value:
        factors = [self.signed()]
        while self.next in ("*", "/") or self.begins_factor():
            over = self.next == "/"
            if self.next in ("*", "/"):
                self.take()
                factor = self.signed()
            else:
                factor = self.power()
            factors.append(_inverse(factor) if over else factor)
        return factors[0] if len(factors) == 1 else lambda at: _product([f(at) for f in factors])

    def begins_factor(self) -> bool:
        return self.next not in _STOPS or (self.next == "|" and not self.bars)

    def signed(self) -> Value:
        signs = 0
        while self.next in ("+", "-"):
            signs += self.take() == "-"
        value = self.power()
        return _negative(value) if signs % 2 else value

    def power(self) -> Value:
        value = self.atom()
        while self.next in ("^", "!", "%"):
            mark = self.take()
            if mark == "!":
                value = _applied(_factorial, value)
            elif mark == "%":
                value = _applied(lambda x: x / 100, value)
            else:
                value = self.raised(value)
        return value

    def raised(self, base: Value) -> Value:
        degree = self.tokens[self.place : self.place + 3]
        if degree[:1] == ["\\circ"] or degree == ["{", "\\circ", "}"]:
            self.place += 1 if degree[0] == "\\circ" else 3
            return _applied(lambda x: x * DEGREE, base)
        sign = self.take("-") if self.next == "-" else ""
        exponent = self.argument(power=True)
        return lambda at: _power(base(at), -exponent(at) if sign else exponent(at))

    def argument(self, *, power: bool = False) -> Value:
        """A group in braces, or the one character that LaTeX takes: `\\frac12` is a half."""
        if self.next == "{" or (self.compat == "latex2sympy" and not power):
            return self.enclosed("{", "}")
        if self.next[:1] in _DIGITS and len(self.next) > 1:
            first, rest = self.next[0], self.next[1:]
            self.tokens[self.place : self.place + 1] = [first, rest]
        return self.atom()

    def enclosed(self, opening: str, *closing: str) -> Value:
        self.take(opening)
        bars, self.bars = self.bars, int(opening == "|")
        value = self.sum()
        self.take(*closing)
        self.bars = bars
        return value

    def atom(self) -> Value:
        token = self.next
        if token[:1] in _DIGITS or (token[:1] == "." and len(token) > 1):
            digits = self.take().replace(",", "")
            constant = float(digits) if "." in digits else Fraction(int(digits))
            return lambda at: constant
        if token in ("(", "[", "{"):
            return self.enclosed(token, {"(": ")", "[": "]", "{": "}"}[token])
        if token == "|":
            return _applied(lambda x: abs(x), self.enclosed("|", "|"))
        if token.startswith("\\"):
            return self.command(self.take()[1:])
        if len(token) == 1 and token.isascii() and token.isalpha():
            return self.name(self.take())
        return _refuse(token)

    def command(self, name: str) -> Value:
        if name == "frac":
            above, below = self.argument(), self.argument()
            return lambda at: _product([above(at), _reciprocal(below(at))])
        if name == "binom":
            n, k = self.argument(), self.argument()
            return lambda at: Fraction(math.comb(_whole(n(at)), _whole(k(at))))
        if name == "sqrt":
            index: Value | None = self.enclosed("[", "]") if self.next == "[" else None
            inside = self.argument()
            return lambda at: _root(complex(inside(at)), complex(index(at)) if index else 2)
        if name == "pi":
            return lambda at: math.pi
        if name in _FUNCTIONS:
            return self.function(name)
        if name in ("mathrm", "mathbf", "text", "mathit", "rm"):
            return self.argument()
        return self.name(name) if name in _GREEK else _refuse(name)

    def function(self, name: str) -> Value:
        base: Value | None = None
        power: Value | None = None
        while self.next in ("_", "^"):
            if self.take() == "_":
                base = self.argument()
            else:
                power = self.argument()
        inside = self.enclosed("(", ")") if self.next == "(" else self.signed()
        function = _FUNCTIONS[name]

        def value(at: Mapping[str, complex]) -> Number:
            result = function(complex(inside(at)))
            if base:
                result /= cmath.log(complex(base(at)))
            return _power(result, power(at)) if power else result

        return value

    def name(self, letter: str) -> Value:
        if self.has("_"):
            start = self.place
            if self.next == "{":
                self.enclosed("{", "}")
            else:
                self.take()
            letter += "_" + "".join(self.tokens[start : self.place])
        self.names.add(letter)
        return lambda at: at[letter]


def _refuse(token: str) -> Value:
    raise NotAFormula(f"{token!r} is not understood")


def _negative(value: Value) -> Value:
    return lambda at: -value(at)


def _inverse(value: Value) -> Value:
    return lambda at: _reciprocal(value(at))


def _applied(function: Callable[[complex], complex], value: Value) -> Value:
    return lambda at: function(complex(value(at)))


def _total(terms: list[Number]) -> Number:
    exact = [term for term in terms if isinstance(term, Fraction)]
    return sum(exact, Fraction(0)) if len(exact) == len(terms) else sum(complex(term) for term in terms)


def _product(factors: list[Number]) -> Number:
    exact = [factor for factor in factors if isinstance(factor, Fraction)]
    if len(exact) == len(factors):
        return math.prod(exact, start=Fraction(1))
    return math.prod((complex(factor) for factor in factors), start=1 + 0j)


def _reciprocal(value: Number) -> Number:
    return 1 / value if isinstance(value, Fraction) else 1 / complex(value)


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if bits * abs(exponent) > LARGEST:
            raise NotAFormula("too large")
        return Fraction(base**exponent.numerator)
    if base == 0 and complex(exponent).real > 0:
        return 0
    return complex(base) ** complex(exponent)


def _root(inside: complex, index: complex) -> complex:
    if index == 2:
        return cmath.sqrt(inside)
    if inside.imag == 0 and inside.real < 0 and index == 3:  # the real cube root, as at school
        return -((-inside.real) ** (1 / 3))
    return 0 if inside == 0 else inside ** (1 / index)


def _whole(value: Number) -> int:
    value = complex(value)
    if value.imag or value.real != int(value.real) or not 0 <= value.real <= 170:
        raise NotAFormula("not a whole number from 0 to 170")
    return int(value.real)


def _factorial(value: complex) -> complex:
    return math.factorial(_whole(value))


@lru_cache(maxsize=4096)
def formula(text: str, *, compat: Compat = None) -> Formula:
    """The formula that a text is; letters are names, e and i too, and what stands side by side is multiplied.

    compat="latex2sympy": as the parser of that name reads, which MATH-Vision's scorer uses. It stops at what cannot
    belong to the formula, unless that makes it a list or a comparison; it knows no character outside ASCII, no thin
    negative space, and no argument but an exponent without braces.

    >>> sorted(formula(r"2x_1+\\alpha").names)
    ['alpha', 'x_1']
    """
    if compat == "latex2sympy" and (not text.isascii() or "\\!" in text):
        raise NotAFormula("a character that latex2sympy does not know")
    reader = _Reader(text, compat)
    value = reader.sum()
    if reader.next and (compat is None or reader.next in (",", "<", ">", "=")):
        raise NotAFormula(f"{reader.next!r} is left over")
    return Formula(frozenset(reader.names), value)


def number(text: str, *, compat: Compat = None) -> float:
    """The real number that a text is worth, an angle in radians; `NotAFormula` where it is none.

    >>> number("3.5"), number(r"\\frac12"), number("1,000"), number(r"180^\\circ") == number(r"\\pi")
    (3.5, 0.5, 1000.0, True)
    """
    found = formula(text, compat=compat)
    if found.names:
        raise NotAFormula(f"{sorted(found.names)} have no value")
    value = found.at({})
    if abs(value.imag) > 1e-12 * max(1.0, abs(value.real)):
        raise NotAFormula("not real")
    return value.real
