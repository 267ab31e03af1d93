"""The Java programs: what they are asked, what becomes of their answers, and, where Java is, what they really say."""

import json
import shutil
import stat
import sys

import pytest

from internvl.errors import DataError, MissingExtra
from internvl.metrics import caption_tools
from internvl.metrics.caption_tools import JARS, meteor, meteor_counts, missing, ptb_tokenise, spice
from internvl.metrics.captions import tokenise

SAID = [("a", "red", "bus"), ("two", "dogs"), ("the", "dogs", "ran", "outside"), ()]
KNOWN = [
    (("a", "red", "bus"), ("the", "bus")),
    (("three", "dogs", "play"),),
    (("a", "dog", "is", "running", "outdoors"), ("dogs", "run", "outside")),
    (("a", "cat"),),
]
COUNTS = [
    (3, 3, 1, 1, 2, 2, 1, 1, *[0] * 12, 1, 3, 3),
    (2, 3, 1, 0, 1, 1, 0, 0, *[0] * 12, 1, 1, 1),
]
"""As METEOR 1.5 gives them: the first caption is its reference, the second shares a word with its own."""


@pytest.fixture
def java(monkeypatch, tmp_path):
    """A stand-in for Java: a program of that name which writes down its arguments and does as the test says."""

    def install(body):
        program = tmp_path / "java"
        log = tmp_path / "arguments.json"
        program.write_text(
            f"#!{sys.executable}\nimport json, sys\n"
            f"open({str(log)!r}, 'w').write(json.dumps(sys.argv[1:]))\n{body}\n"
        )  # fmt: skip
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(tmp_path))
        return log

    return install


def test_without_java_it_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for tool in JARS:
        assert missing(tool) == "Java is not installed (apt-get install default-jre-headless)"
    with pytest.raises(MissingExtra, match="apt-get install"):
        ptb_tokenise(["a bus"])


def test_without_the_package_it_is_said(monkeypatch, java):
    java("")
    monkeypatch.setattr(caption_tools.importlib.util, "find_spec", lambda name: None)
    assert missing("meteor") == "pycocoevalcap is not installed (pip install 'internvl[eval]')"
    with pytest.raises(MissingExtra, match="pycocoevalcap"):
        meteor_counts([("a",)], [(("a",),)])


def test_without_the_models_of_spice_it_is_said(java):
    java("")
    assert missing("tokenizer") is None
    assert "stanford-corenlp-3.6.0-models.jar" in (missing("spice") or "")


def test_what_the_tokeniser_is_asked(java):
    log = java("for line in sys.stdin: print(line.strip().lower().replace('.', ' .'))")
    asked = ["A bus.", "; rm -rf $HOME `id`", "two\nlines\u2028and\ttabs", ""]
    assert ptb_tokenise(asked) == [
        ("a", "bus"),
        ("rm", "-rf", "$home", "`id`"),
        ("two", "lines", "and", "tabs"),
        (),
    ]
    arguments = json.loads(log.read_text())
    assert arguments[0] == "-cp"
    assert arguments[1].endswith("stanford-corenlp-3.4.1.jar")
    assert not any("rm" in argument for argument in arguments)
    assert ptb_tokenise([]) == []


def test_a_tokeniser_that_fails_or_loses_lines(java):
    java("sys.exit('no such class')")
    with pytest.raises(DataError, match=r"stanford-corenlp-3.4.1.jar ended with status 1: no such class"):
        ptb_tokenise(["a"])
    java("print('one')")
    with pytest.raises(DataError, match="1 lines for 2 captions"):
        ptb_tokenise(["a", "b"])


def test_what_meteor_is_asked(java, tmp_path):
    java(
        "for line in sys.stdin:\n"
        f"    open({str(tmp_path / 'asked')!r}, 'a').write(line)\n"
        "    print(' '.join(['1.0'] * 23), flush=True)"
    )
    assert meteor_counts([("a", "|||"), ()], [(("a",), ("b", "c")), (("d",),)]) == [(1.0,) * 23] * 2
    assert (tmp_path / "asked").read_text() == "SCORE ||| a ||| b c ||| a \nSCORE ||| d ||| \n"


def test_a_meteor_that_ends(java):
    java("sys.stdin.readline(); print('Error: no paraphrases', flush=True)")
    with pytest.raises(DataError, match="METEOR answered 'Error: no paraphrases'; expected 23 numbers"):
        meteor_counts([("a",)], [(("a",),)])


def test_meteor_by_hand():
    """Of the second caption: its only content word, `two` being a function word; one word of three; one chunk."""
    assert meteor(COUNTS[:1]) == 1.0
    precision, recall = 0.75 * 1 / (0.75 * 1 + 0.25 * 1), 1 / 3
    mean = 1 / (0.15 / precision + 0.85 / recall)
    assert meteor(COUNTS[1:]) == pytest.approx(mean * (1 - 0.6))
    assert meteor([(2, 3, *[0] * 21)]) == 0.0


def test_spice_is_the_mean_over_pictures(java):
    log = java(
        "rows = json.load(open(next(a for a in sys.argv if a.endswith('in.json'))))\n"
        "scores = [{'image_id': r['image_id'], 'scores': {'All': {'f': len(r['test'].split()) / 4}}} for r in rows]\n"
        "json.dump(scores, open(sys.argv[sys.argv.index('-out') + 1], 'w'))"
    )
    assert spice(SAID[:2], KNOWN[:2]) == pytest.approx((3 / 4 + 2 / 4) / 2)
    assert "-Xmx8G" in json.loads(log.read_text())


if shutil.which("java"):  # on a machine without Java there is nothing to ask

    @pytest.mark.slow
    def test_the_tokeniser_itself():
        captions = [
            "A man's dog isn't here (ok), is it?",
            "",
            'Two  well-fed cats\nsay "hi" -- café.',
            "3,000 at 5:30!",
        ]
        real = ptb_tokenise(captions)
        assert real == [
            ("a", "man", "'s", "dog", "is", "n't", "here", "-lrb-", "ok", "-rrb-", "is", "it"),
            (),
            ("two", "well-fed", "cats", "say", "hi", "café"),
            ("3,000", "at", "5:30"),
        ]
        plain = [tuple(token for token in row if token not in ("-lrb-", "-rrb-")) for row in real]
        assert [tokenise(caption) for caption in captions] == plain

    @pytest.mark.slow
    def test_meteor_itself():
        """Of each caption and of all, one of them being its reference to the letter."""
        from pycocoevalcap.meteor.meteor import Meteor

        counts = meteor_counts(SAID, KNOWN)
        assert counts[:2] == COUNTS
        theirs = Meteor()
        references = {i: [" ".join(row) for row in rows] for i, rows in enumerate(KNOWN)}
        whole, each = theirs.compute_score(references, {i: [" ".join(row)] for i, row in enumerate(SAID)})
        for pipe in (theirs.meteor_p.stdin, theirs.meteor_p.stdout, theirs.meteor_p.stderr):
            pipe.close()
        assert meteor(counts) == pytest.approx(whole, abs=1e-12)  # worst seen: 0
        assert [meteor([row]) for row in counts] == pytest.approx(each, abs=1e-12)
