"""What METEOR and SPICE need, what they are handed, what is said when they fail; their programs are not run here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from capgpu.metrics.meteor_spice import check_java_metric, meteor, spice
from capgpu.optional_deps import MissingExtraError

CAPTIONS = [["a", "dog"], ["two", "cats"]]
REFERENCES = [[["a", "dog"], ["the", "dog"]], [["cats"]]]


class Program:
    """The process that pycocoevalcap's scorer of METEOR holds."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def kill(self) -> None:
        self.calls.append("kill")

    def communicate(self) -> None:
        self.calls.append("communicate")


class Scorer:
    """What pycocoevalcap's scorer of METEOR has."""

    def __init__(self) -> None:
        self.meteor_p, self.lock = Program(), threading.Lock()


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """Put a module with both scorers in the place of pycocoevalcap's, and a java on PATH."""
    module = ModuleType("scorers")
    module.__file__ = str(tmp_path / "scorers.py")
    for name in ("pycocoevalcap.meteor.meteor", "pycocoevalcap.spice.spice"):
        monkeypatch.setitem(sys.modules, name, module)
    for parent in ("pycocoevalcap", "pycocoevalcap.meteor", "pycocoevalcap.spice"):
        monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "stanford-corenlp-3.6.0.jar").touch()
    (tmp_path / "java").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return module


@pytest.mark.parametrize("name", ["METEOR", "SPICE"])
def test_a_missing_package_is_refused_with_the_extra_that_installs_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, f"pycocoevalcap.{name.lower()}.{name.lower()}", None)
    with pytest.raises(MissingExtraError, match=rf"{name} needs.*pip install 'pycocoevalcap"):
        check_java_metric(name)


@pytest.mark.parametrize("name", ["METEOR", "SPICE"])
def test_a_missing_java_is_refused_with_the_cause(name: str, package: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "java").unlink()
    with pytest.raises(OSError, match=f"{name}: expected a java program on PATH, got none"):
        check_java_metric(name)


def test_missing_language_models_are_refused_and_never_downloaded(package: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "lib" / "stanford-corenlp-3.6.0.jar").unlink()
    with pytest.raises(OSError, match=r"Stanford CoreNLP 3\.6\.0 is missing.*get_stanford_models"):
        spice(CAPTIONS, REFERENCES)


def test_scorers_get_references_and_captions_in_order(package: Any) -> None:
    handed = []

    class Spice:
        def compute_score(self, truths: Any, captions: Any) -> tuple[float, list[dict[str, dict[str, float]]]]:
            handed.append((truths, captions))
            return 0.25, [{"All": {"f": 0.5}, "Color": {"f": float("nan")}}, {"All": {"f": 0.0}}]

    scorers: list[Any] = []

    class Meteor(Scorer):
        def compute_score(self, truths: Any, captions: Any) -> tuple[float, list[float]]:
            scorers.append(self)
            handed.append((truths, captions))
            return 0.3, [0.4, 0.2]

    package.Spice, package.Meteor = Spice, Meteor
    scores = spice(CAPTIONS, REFERENCES), meteor(CAPTIONS, REFERENCES)
    assert [(score.corpus, score.captions.tolist()) for score in scores] == [(0.25, [0.5, 0.0]), (0.3, [0.4, 0.2])]
    assert handed == [({0: ["a dog", "the dog"], 1: ["cats"]}, {0: ["a dog"], 1: ["two cats"]})] * 2
    assert scorers[0].meteor_p.calls == ["kill", "communicate"]


def test_a_failing_program_is_reported_and_ended(package: Any) -> None:
    class Spice:
        def compute_score(self, truths: Any, captions: Any) -> None:
            raise subprocess.CalledProcessError(1, "java")

    scorers: list[Any] = []

    class Meteor(Scorer):
        def compute_score(self, truths: Any, captions: Any) -> float:
            scorers.append(self)
            self.lock.acquire()
            return float(b"")  # what pycocoevalcap does when the program has ended

    package.Spice, package.Meteor = Spice, Meteor
    with pytest.raises(OSError, match="SPICE's Java program failed"):
        spice(CAPTIONS, REFERENCES)
    with pytest.raises(OSError, match="METEOR's Java program failed"):
        meteor(CAPTIONS, REFERENCES)
    assert scorers[0].meteor_p.calls == ["kill", "communicate"]
    assert not scorers[0].lock.locked(), "pycocoevalcap would wait for it without end"


@pytest.mark.skipif(shutil.which("java") is None, reason="needs a Java runtime")
@pytest.mark.parametrize("variable", ["JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS"])
def test_meteor_prints_decimal_points_whatever_java_is_set_to(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pycocoevalcap")
    monkeypatch.setenv(variable, "-Duser.language=de -Duser.country=DE")
    assert 0.2 < meteor([["a", "dog", "runs"]], [[["a", "dog", "sits"]]]).corpus < 0.9
    assert os.environ[variable] == "-Duser.language=de -Duser.country=DE"


def test_line_breaks_and_separators_in_words_do_not_split_a_sentence(package: Any) -> None:
    class Meteor(Scorer):
        def compute_score(self, truths: Any, captions: Any) -> tuple[float, list[float]]:
            assert (truths, captions) == ({0: ["x   y"]}, {0: ["a b c"]})
            return 0.0, [0.0]

    package.Meteor = Meteor
    meteor([["a\nb\rc"]], [[["x", "|||", "y"]]])


@pytest.mark.parametrize("metric", [meteor, spice])
def test_bad_captions_are_refused_before_anything_is_run(metric: Any) -> None:
    with pytest.raises(ValueError, match=r"references\[1\]: expected at least one caption"):
        metric(CAPTIONS, [REFERENCES[0], []])
