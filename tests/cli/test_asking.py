"""Questions from the command line: in a terminal, and through a table."""

import io
import json
import os
import select
import signal
import subprocess
import sys
import time

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scsiameseclu_jax as scs
from scsiameseclu_jax.cli import asking
from scsiameseclu_jax.cli import parser as cli
from tests.cli.test_cli import FIT, command, fails, run, trained
from tests.questions import QUESTION, unclear

ONE = pd.DataFrame([QUESTION])
K = ["--n-clusters", "4"]
FAST = [*K, "--config", "fast.toml"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Cells that are hard to cluster, and what `cluster` and `questions` wrote of them."""
    made = tmp_path_factory.mktemp("asking") / "here"
    made.mkdir()
    unclear().write_h5ad(made / "in.h5ad")
    (made / "fast.toml").write_text("[training]\ncontrast_steps = 0\n")
    for words in (
        ["cluster", "in.h5ad", "out.h5ad", *FAST, "--quiet"],
        ["questions", "out.h5ad", "questions.csv", "-n", 4],
    ):
        done = run(made, *words)
        assert done.returncode == 0, done.stderr
    assert done.stdout == "wrote questions.csv (questions: 4)\n"
    return made


def test_round_trip_through_a_table(folder):
    table = pd.read_csv(folder / "questions.csv")
    assert list(table)[:3] == ["answer", "genes_a", "genes_b"]
    assert list(table)[-2:] == ["cells_a", "cells_b"]
    assert table["answer"].isna().all()
    before = ad.read_h5ad(folder / "out.h5ad")
    wanted = scs.tl.questions(before, 4)
    assert [json.loads(cells) for cells in table["cells_a"]] == list(wanted["cells_a"])
    # As a spreadsheet of another country saves it; the second answer in a table of its own.
    table["answer"] = wanted["answer"] = ["no", "", "yes", "unsure"]
    table.to_csv(folder / "filled.csv", index=False, sep=";", encoding="utf-8-sig")
    wanted.loc[1, "answer"] = "no"
    table[1:2].assign(answer="no").to_csv(folder / "more.csv", index=False)
    words = ["--answers", "filled.csv", "--answers", "more.csv", "--labels", "cell_type"]
    done = run(folder, "cluster", "in.h5ad", "again.h5ad", *FAST, *words, "--save", "model")
    assert done.returncode == 0, done.stderr
    rows = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    found = ad.read_h5ad(folder / "again.h5ad")
    counted = found.uns["siameseclu"]["manifest"]["answers"]
    assert counted["given"] == 3
    assert rows["answers"] == f"3 given, {counted['kept']} kept, 1 unsure"
    assert rows["scored"].startswith("after training and answers, against the 5 types")
    scs.tl.answer(before, wanted)
    np.testing.assert_array_equal(found.obs["siameseclu"], before.obs["siameseclu"])
    assert len(scs.SiameseClu.load(folder / "model").answers) == 4


def read(file):
    """Return what there is to read, nothing at its end."""
    try:
        return os.read(file, 4096)
    except OSError:  # as Linux says that the other end is closed
        return b""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
@pytest.mark.slow  # it waits for the terminal; the same words are tested below without one
def test_asked_in_a_terminal(folder):
    """A wrong key, two answers, and Ctrl-C: the answers are kept and the result is written."""
    import pty

    ours, theirs = pty.openpty()
    words, options = command(
        folder, "cluster", "in.h5ad", "asked.h5ad", *FAST, "--ask", 5, "--quiet"
    )
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    process = subprocess.Popen(words, **streams, **options, start_new_session=True)
    os.close(theirs)
    keys, text, until = [b"x\n", b"n\n", b"U\n"], b"", time.monotonic() + 200
    try:
        while time.monotonic() < until:
            at_prompt = text.endswith(b"[q]uit: ")
            if at_prompt and keys:
                os.write(ours, keys.pop(0))
                text += b"\n"
            # A signal just before it begins to read is heeded after it has read: so wait, and
            # interrupt again if it is still at the prompt.
            elif not select.select([ours], [], [], 1)[0]:
                if at_prompt:
                    process.send_signal(signal.SIGINT)
            elif part := read(ours):
                text += part
            else:
                break
        assert process.wait(60) == 0, text.decode()
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    lines = text.decode().splitlines()
    assert max(map(len, lines)) < 80
    assert [line for line in lines if line.startswith("Question")] == [
        f"Question {i} of 5" for i in (1, 2, 3)
    ]
    assert sum("same type?" in line for line in lines) == 4
    made = ad.read_h5ad(folder / "asked.h5ad").uns["siameseclu"]
    assert list(made["answers"]["answer"]) == ["no", "unsure"]
    assert any(line.startswith("answers   1 given, ") for line in lines)


class Model:
    """Stands for a fitted one: two questions, and a list of what was answered."""

    candidates = ()

    def __init__(self, left=2):
        self.left, self.heard = left, []
        self.labels = np.array([0, 0, 0, 1, 1])

    def questions(self, adata, n):
        assert n == 1
        return ONE[: min(n, self.left)]

    def answer(self, adata, table):
        self.left -= 1
        self.heard += list(table["answer"])


@pytest.mark.parametrize(
    ("typed", "heard", "said"),
    [
        (["y", "NO "], ["yes", "no"], "No question is left"),
        (["", "yess", "unsure", "q"], ["unsure"], "Question 2 of 5"),
        (["?", "q"], [], "'?' is no answer: type y (yes), n (no), u (unsure), or q (stop asking)."),
        (["n", EOFError], ["no"], "is kept"),
        (["n", KeyboardInterrupt], ["no"], "is kept"),
        (["q"], [], "Question 1 of 5"),
    ],
)
def test_keys(monkeypatch, capsys, typed, heard, said):
    def key():
        word = typed.pop(0)
        if isinstance(word, str):
            return word
        raise word

    monkeypatch.setattr("builtins.input", key)
    model, n = Model(), len(typed)
    asking.ask(model, None, 5)
    assert model.heard == heard
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in printed.err
    assert printed.err.startswith("The number of clusters stays: where one is divided, two others")
    assert printed.err.count("The number of clusters stays") == 1
    assert "renumbered" not in printed.err
    assert printed.err.count("same type?") == n
    assert not typed


@pytest.mark.parametrize(("labels", "said"), [([1, 1, 0, 0, 0], True), ([0, 0, 1, 1, 1], False)])
def test_new_numbers_of_clusters_are_said(monkeypatch, capsys, labels, said):
    class Other(Model):
        def answer(self, adata, table):
            super().answer(adata, table)
            self.labels = np.array(labels)

    monkeypatch.setattr("builtins.input", lambda: "y")
    asking.ask(Other(1), None, 1)
    assert ("Clusters were renumbered by size." in capsys.readouterr().err) == said


def test_an_answer_is_kept_if_its_heeding_is_interrupted(monkeypatch):
    class Slow(Model):
        def answer(self, adata, table):
            if self.left == 2:
                self.left = 1
                raise KeyboardInterrupt
            super().answer(adata, table)

    monkeypatch.setattr("builtins.input", lambda: "y")
    model = Slow()
    asking.ask(model, None, 5)
    assert model.heard == ["yes"]


def test_a_fit_without_candidates_is_not_lost(capsys):
    model = Model()
    model.candidates = None
    asking.ask(model, None, 5)
    assert model.heard == []
    assert "kept no candidates" in capsys.readouterr().err


def test_a_question_fits_80_columns():
    lines = list(asking.question_lines(ONE.iloc[0]))
    assert max(map(len, lines)) < 80
    assert lines == [
        "  A  35 cells, now in cluster 5",
        "     higher: IRF8 (100%, 14%), CPVL (100%, 93%), HLA-DPA1 (100%, 100%),",
        "     RGS10 (97%, 69%)",
        "  B  29 cells, now in clusters 2 (60%), 7 (40%)",
        "     higher: no gene",
        "  (in brackets: share of its cells that express the gene, and of the other's)",
        "  If yes, 43 cells change cluster; if no, 1.",
    ]


@pytest.fixture
def inside(folder, tmp_path, monkeypatch):
    """An empty folder to work in, with counts, clusters and questions in it; no fit starts."""
    for name in ("in.h5ad", "out.h5ad", "questions.csv"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(FIT, None)
    return tmp_path


@pytest.mark.parametrize("stdin", [io.StringIO("y"), None])
def test_without_a_terminal_nothing_is_asked(inside, capsys, monkeypatch, stdin):
    monkeypatch.setattr("sys.stdin", stdin)
    line = fails(capsys, ["cluster", "in.h5ad", "a.h5ad", *K, "--ask", "3"], 2)
    assert "`scsiameseclu questions OUT questions.csv`" in line
    assert "--answers questions.csv" in line
    line = fails(capsys, ["cluster", "in.h5ad", "a.h5ad", *K, "--ask", "-1"], 2)
    assert "at least 0, found -1" in line
    assert not (inside / "a.h5ad").exists()


@pytest.mark.parametrize("command", [["cluster", "in.h5ad", "a.h5ad"], ["fit", "in.h5ad"]])
@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("none.csv", "found nothing at 'none.csv'"),
        (".", "found a directory at '.'"),
        ("bytes.csv", "table of answers"),
        ("empty.csv", "table of answers"),
        ("pairs.csv", "no ['cells_a', 'cells_b', 'answer']"),
        ("others.csv", "'nobody'"),
        ("perhaps.csv", "found 'perhaps' for question 2"),
    ],
)
def test_bad_answers_are_found_before_the_fit(inside, capsys, command, name, wanted):
    table = pd.read_csv("questions.csv")
    (inside / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    (inside / "empty.csv").write_text("")
    (inside / "pairs.csv").write_text("a,b\nc,d\n")
    table.assign(answer="no", cells_b='["nobody"]').to_csv("others.csv")
    table.assign(answer=["no", "perhaps", "", ""]).to_csv("perhaps.csv")
    words = ["--save", "model"] if command[0] == "fit" else []
    line = fails(capsys, [*command, *words, *K, "--answers", name], 2)
    assert wanted in line
    assert repr(name) in line


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["none.h5ad", "a.csv"], "none.h5ad"),
        (["in.h5ad", "a.csv"], "found none; run `scsiameseclu cluster` first"),
        (["out.h5ad", "a.csv", "--key", "other"], "'other'"),
        (["out.h5ad", "a.xlsx"], ".csv"),
        (["out.h5ad", "questions.csv"], "--overwrite"),
        (["out.h5ad", "none/a.csv"], "folder"),
        (["out.h5ad", "a.csv", "-n", "0"], "at least 1, found 0"),
    ],
)
def test_questions_say_what_is_wrong(inside, capsys, words, wanted):
    before = (inside / "questions.csv").read_bytes()
    assert wanted in fails(capsys, ["questions", *words], 2)
    assert (inside / "questions.csv").read_bytes() == before
    assert not (inside / "a.csv").exists()


def test_a_table_without_answers_is_told(folder, caplog):
    adata = ad.read_h5ad(folder / "in.h5ad")
    with caplog.at_level("WARNING"):
        asking.read_answers([folder / "questions.csv"], adata)
    assert f"no answers in '{folder / 'questions.csv'}'" in caplog.text


def test_no_question_is_left(inside, capsys, monkeypatch):
    monkeypatch.setattr("scsiameseclu_jax.tl.questions", lambda adata, n, key: ONE[:0])
    assert cli.main(["questions", "out.h5ad", "questions.csv", "--overwrite"]) == 0
    assert "No question is left" in capsys.readouterr().out
    assert len(pd.read_csv("questions.csv")) == 0


def test_refits_come_after_the_answers(inside, monkeypatch):
    """For they are compared with the clusters that are written."""
    calls = []
    monkeypatch.setattr(FIT, trained)
    for name in ("answer", "assess"):
        monkeypatch.setattr(
            f"scsiameseclu_jax.SiameseClu.{name}",
            lambda *_, name=name, **__: calls.append(name),
        )
    words = ["--answers", "questions.csv", "--resamples", "2"]
    assert cli.main(["cluster", "in.h5ad", "a.h5ad", *K, *words]) == 0
    assert calls == ["answer", "assess"]
