"""The section on questions: what is put, drawn and told, and when there is none."""

import json

import numpy as np
import pandas as pd
import pytest

import scsiameseclu_jax as scs
from scsiameseclu_jax.certainty.questions import consequence
from scsiameseclu_jax.partition.questions import ask
from scsiameseclu_jax.reporting import figures, questions, result
from scsiameseclu_jax.tl.record import pool_of
from tests.questions import asked_about
from tests.reports import Page, clustered

KEY = "siameseclu"


@pytest.fixture(scope="module")
def pictures():
    """The figures of a section and its markup."""
    adata, drawn = asked_about(), []

    def kept(figure, *words, **options):
        drawn.append((figure, words))
        return figures.figure(figure, *words, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(questions, "figure", kept)
        section = questions.questions(result.find(adata, KEY))
    return adata, section, drawn


@pytest.fixture
def undrawn(monkeypatch):
    monkeypatch.setattr(figures, "_encoded", lambda drawn, pixels: ("image/png", b"\x89PNG"))


def section_of(adata):
    """Return the section as a page, or None."""
    section = questions.questions(result.find(adata, KEY))
    return section and Page(section.content)


def test_the_first_five_are_put(pictures):
    adata, section, drawn = pictures
    page, table = Page(section.content), scs.tl.questions(adata, 5)
    assert len(drawn) == len(page.named("img")) == len(table) == 5
    for row in table.itertuples():
        assert row.genes_a in page.text()
        assert row.genes_b in page.text()
        moves = consequence(row.if_yes, row.if_no)
        assert sum(moves in image["alt"] for image in page.named("img"))
        assert moves in page.text()
    assert "Question 5: are A and B of one type?" in page.text()
    assert "scs.tl.answer(adata, table)" in page.text()
    assert len(section.content) < 300_000


def test_the_plots_show_the_cells_that_they_say(pictures):
    adata, _, drawn = pictures
    asked = ask(pool_of(adata, KEY), n=5)
    points = adata.obsm[f"X_{KEY}_umap"]
    for question, (figure, _) in zip(asked, drawn, strict=True):
        left, right = figure.axes
        everyone, one, two = left.collections
        np.testing.assert_array_equal(everyone.get_offsets(), points)
        for dots, cells in zip((one, two), question.cells, strict=True):
            np.testing.assert_array_equal(dots.get_offsets(), points[cells])
        assert one.get_label() == f"A ({len(question.cells[0])})"
        # Groups and answers differ in their marks, too, not in colour alone.
        for ax in (left, right):
            marks = {str(dots.get_paths()[0].vertices) for dots in ax.collections[1:]}
            assert len(marks) == len(ax.collections) - 1
        # With this answer they move, with the other they stay.
        n = dict(dots.get_label().rstrip(")").rsplit(" (", 1) for dots in right.collections[1:])
        hinge = question.if_same != question.if_different
        assert sum(int(n.get(k, 0)) for k in ("if yes", "if no", "two ways")) == hinge.sum()


def test_answers_are_listed(undrawn):
    adata = asked_about()
    table = scs.tl.questions(adata, 3)
    table["answer"] = ["no", "yes", "unsure"]
    scs.tl.answer(adata, table)
    page = section_of(adata)
    counted = adata.uns[KEY]["manifest"]["answers"]
    body = page.text().partition("Several partitions")[0]
    assert body.count(" kept") - body.count("not kept") == counted["kept"]
    assert body.count("not kept") == counted["given"] - counted["kept"]
    assert "contradict" not in body
    assert "to_csv" in body
    # What is asked next heeds them.
    following = scs.tl.questions(adata, 5)
    assert all(genes in page.text() for genes in following["genes_a"])
    assert len(page.named("img")) == len(following)


def test_contradictions_are_shown(undrawn, tmp_path):
    adata = asked_about()
    sides = [json.dumps(list(names)) for names in np.split(adata.obs_names[:15].to_numpy(), 3)]
    answers = pd.DataFrame(
        {"cells_a": [sides[0], sides[1], sides[0]], "cells_b": sides[1:] + sides[2:]}
    )
    scs.tl.answer(adata, answers.assign(answer=["yes", "yes", "no"]))
    scs.report(adata, tmp_path / "report.html", markers=False)
    page = Page((tmp_path / "report.html").read_text("utf-8"))
    assert "tie together: answer 3." in page.text("questions")
    assert "Look at them again" in page.text("warnings")
    assert "--answers answers.csv" in page.text("run")


def test_nothing_without_candidates_or_counts(undrawn):
    assert section_of(clustered()) is None
    adata = asked_about()
    adata.X = np.log1p(adata.X.toarray())
    assert section_of(adata) is None
    assert section_of(asked_about()[:100].copy()) is None
    # What was answered stays to be seen.
    adata = asked_about()
    scs.tl.answer(adata, scs.tl.questions(adata, 1).assign(answer="no"))
    adata.X = np.log1p(adata.X.toarray())
    page = section_of(adata)
    assert "kept" in page.text()
    assert not page.named("img")


def test_no_question_is_left(undrawn, monkeypatch):
    empty = scs.tl.questions(asked_about(), 1)[:0]
    monkeypatch.setattr("scsiameseclu_jax.tl.questions", lambda *_, **__: empty)
    page = section_of(asked_about())
    assert "No question is left" in page.text()
    assert not page.named("img")


def test_renamed_clusters_are_called_by_their_names(undrawn):
    adata = asked_about()
    adata.obs[KEY] = adata.obs[KEY].cat.rename_categories(lambda name: f"kind {name}")
    page = section_of(adata)
    assert "kind 0" in page.text()
    scs.tl.answer(adata, scs.tl.questions(adata, 1).assign(answer="no"))


def test_questions_call_clusters_as_they_are_called_now():
    adata = asked_about()
    before = scs.tl.questions(adata, 3)
    adata.obs[KEY] = adata.obs[KEY].astype(str).map(lambda name: f"T{(int(name) + 1) % 4}")
    after = scs.tl.questions(adata, 3)
    for side in ("clusters_a", "clusters_b"):
        for one, other in zip(before[side], after[side], strict=True):
            shares = [part.split(" (") for part in one.split(", ")]
            wanted = [" (".join([f"T{(int(n) + 1) % 4}", *rest]) for n, *rest in shares]
            assert sorted(other.split(", ")) == sorted(wanted)
    pd.testing.assert_frame_equal(
        before.drop(columns=["clusters_a", "clusters_b"]),
        after.drop(columns=["clusters_a", "clusters_b"]),
    )
