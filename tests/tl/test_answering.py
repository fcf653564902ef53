"""Questions about a clustering, and choosing again by their answers."""

from functools import partial

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score

import scsiameseclu_jax as scs
import scsiameseclu_jax.functional as F

KEY = "siameseclu"


@pytest.fixture(scope="module")
def fitted():
    adata = scs.datasets.pbmc68k_reduced()
    types = adata.obs.pop("cell_type")
    model = scs.SiameseClu(8).fit(adata, progress=False)
    scs.tl.add_clusters(adata, model)
    return adata, model, types.astype(str).to_numpy()


@pytest.fixture
def adata(fitted):
    return fitted[0].copy()


def answered(table, words=("yes", "no", "unsure")):
    return table.assign(answer=list(words)[: len(table)])


def state(adata):
    names = [f"X_{KEY}", f"{KEY}_proba", f"{KEY}_candidates", f"{KEY}_groups"]
    return [
        adata.obs[KEY].astype(str).to_numpy(),
        adata.obs[f"{KEY}_confidence"].to_numpy(),
        *(np.asarray(adata.obsm[name]) for name in names),
    ]


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_question_is_about_cells_and_genes_of_two_groups(adata):
    before = adata.copy()
    table = scs.tl.questions(adata, 3)
    assert len(table) == 3
    assert table["answer"].tolist() == [""] * 3
    counts = adata.to_df(layer="counts") if "counts" in adata.layers else adata.to_df()
    for row in table.itertuples():
        assert len(row.cells_a) == min(row.n_a, 100)
        assert not set(row.cells_a) & set(row.cells_b)
        groups = adata.obsm[f"{KEY}_groups"][adata.obs_names.get_indexer(row.cells_a), 0]
        assert len(set(groups)) == 1
        assert (adata.obsm[f"{KEY}_groups"][:, 0] == groups[0]).sum() == row.n_a
        assert 0 < row.together < 1
        assert row.n_hinge > 0
        gene, shares = row.genes_a.split(" (")[0], row.genes_a.split("(")[1].split(")")[0]
        stated = [float(share.strip(" %")) / 100 for share in shares.split(",")]
        found = [(counts.loc[cells, gene] > 0).mean() for cells in (row.cells_a, row.cells_b)]
        np.testing.assert_allclose(stated, found, atol=0.006)
        assert counts.loc[row.cells_a, gene].mean() > counts.loc[row.cells_b, gene].mean()
    assert_same(state(adata), state(before))
    assert list(adata.uns) == list(before.uns)


def test_answers_can_be_given_taken_back_and_are_those_of_the_model(adata, fitted):
    model = scs.SiameseClu(8).fit(adata, progress=False)
    table = answered(scs.tl.questions(adata, 3))
    pd.testing.assert_frame_equal(answered(model.questions(adata, 3)), table)
    before, predicted = state(adata), model.predict(adata[:40].copy()).proba
    scs.tl.answer(adata, table)
    model.answer(adata, table)
    assert not np.array_equal(adata.obs[KEY].astype(str), before[0])
    np.testing.assert_array_equal(model.labels.astype(str), adata.obs[KEY].astype(str))
    np.testing.assert_array_equal(model.proba, adata.obsm[f"{KEY}_proba"])
    np.testing.assert_array_equal(model.confidence, adata.obs[f"{KEY}_confidence"])
    record = adata.uns[KEY]["manifest"]
    assert record["answers"]["given"] == 2
    assert record["answers"] == model.manifest["answers"]
    assert adata.uns[KEY]["answers"]["answer"].tolist() == ["yes", "no", "unsure"]
    # the model assigns new cells to the clusters after the answers
    new = model.predict(adata[:40].copy())
    assert adjusted_rand_score(new.labels, model.labels[:40]) > 0.9
    scs.tl.answer(adata, None, keep=False)
    model.answer(adata, None, keep=False)
    assert_same(state(adata), before)
    np.testing.assert_array_equal(model.proba, before[3])
    np.testing.assert_array_equal(model.predict(adata[:40].copy()).proba, predicted)
    assert "answers" not in adata.uns[KEY]
    assert "answers" not in adata.uns[KEY]["manifest"]


def test_what_is_removed_is_told(adata, caplog):
    scs.tl.cluster_tree(adata, [5])
    with caplog.at_level("INFO"):
        scs.tl.answer(adata, answered(scs.tl.questions(adata, 1)))
    gone = "'siameseclu_5', 'siameseclu_leaf', 'siameseclu_tree'"
    assert f"removed what was of the clusters before: {gone}" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO"):
        scs.tl.answer(adata, None, keep=False)
    assert "removed" not in caplog.text


def test_answers_add_up_and_each_question_heeds_those_before(adata):
    seen = []
    for word in ("no", "yes", "no"):
        table = scs.tl.questions(adata, 1)
        pair = {table["cells_a"][0][0], table["cells_b"][0][0]}
        assert pair not in seen
        seen.append(pair)
        scs.tl.answer(adata, answered(table, [word]))
    assert len(adata.uns[KEY]["answers"]) == 3
    scs.tl.answer(adata, answered(table, ["yes"]))  # another word for the last
    assert adata.uns[KEY]["answers"]["answer"].tolist() == ["no", "yes", "yes"]


@pytest.mark.parametrize("name", ["cells.h5ad", "cells.zarr"])
@pytest.mark.filterwarnings("ignore:Writing zarr v2:UserWarning")
def test_a_file_keeps_candidates_and_answers(adata, tmp_path, name):
    before = state(adata)
    scs.tl.answer(adata, answered(scs.tl.questions(adata, 2)))
    write, read = ("write_h5ad", ad.read_h5ad) if "5" in name else ("write_zarr", ad.read_zarr)
    getattr(adata, write)(tmp_path / name)
    again = read(tmp_path / name)
    pd.testing.assert_frame_equal(scs.tl.questions(again, 2), scs.tl.questions(adata, 2))
    assert_same(state(again), state(adata))
    scs.tl.answer(again, None, keep=False)
    assert_same(state(again), before)


def test_a_saved_model_keeps_candidates_and_answers(fitted, tmp_path):
    adata = fitted[0]
    model = scs.SiameseClu(8).fit(adata, progress=False)
    model.answer(adata, answered(model.questions(adata, 2)))
    model.save(tmp_path / "model")
    again = scs.SiameseClu.load(tmp_path / "model")
    pd.testing.assert_frame_equal(again.answers, model.answers)
    pd.testing.assert_frame_equal(again.questions(adata, 2), model.questions(adata, 2))
    np.testing.assert_array_equal(again.proba, model.proba)
    plain = fitted[1].proba
    np.testing.assert_array_equal(again.answer(adata, None, keep=False).proba, plain)


def test_the_same_clustering_is_not_fitted_again(adata, monkeypatch):
    table = answered(scs.tl.questions(adata, 3))
    fresh = scs.datasets.pbmc68k_reduced()
    scs.tl.siameseclu(fresh, 8, answers=table, progress=False)

    def refuse(*args, **options):
        msg = "fitted"
        raise AssertionError(msg)

    monkeypatch.setattr(scs.SiameseClu, "fit", refuse)
    scs.tl.siameseclu(adata, 8, answers=table, progress=False)
    assert_same(state(adata), state(fresh))
    for other in ({"n_clusters": 7}, {"rng": 1}, {"config": scs.Config.short()}, {"layer": "x"}):
        with pytest.raises(AssertionError, match="fitted"):
            scs.tl.siameseclu(adata, **({"n_clusters": 8} | other), answers=table)


def test_other_results_of_the_clusters_go_and_those_of_the_embedding_stay(adata):
    scs.tl.umap(adata)
    scs.tl.markers(adata)
    drawn = adata.obsm[f"X_{KEY}_umap"].copy()
    scs.tl.answer(adata, answered(scs.tl.questions(adata, 1), ["no"]))
    assert f"{KEY}_markers" not in adata.uns
    np.testing.assert_array_equal(adata.obsm[f"X_{KEY}_umap"], drawn)


def test_answers_in_chorus_with_the_types_raise_the_score(adata, fitted):
    types, scores = fitted[2], []
    for _ in range(10):
        scores.append(adjusted_rand_score(types, adata.obs[KEY]))
        table = scs.tl.questions(adata, 1)
        if not len(table):
            break
        most = [
            pd.Series(types[adata.obs_names.get_indexer(table[name][0])]).mode()[0]
            for name in ("cells_a", "cells_b")
        ]
        scs.tl.answer(adata, answered(table, ["yes" if most[0] == most[1] else "no"]))
    assert adata.uns[KEY]["manifest"]["answers"]["given"] == 10
    assert max(scores[5:]) > scores[0]


def test_contradictory_answers_are_said(adata, caplog):
    cells = [[name] for name in adata.obs_names[:3]]
    words = [(cells[0], cells[1], "yes"), (cells[1], cells[2], "yes"), (cells[0], cells[2], "no")]
    table = pd.DataFrame(words, columns=["cells_a", "cells_b", "answer"])
    scs.tl.answer(adata, table)
    assert "1 of the answers say no of two groups" in caplog.text
    assert "1 of the answers say no" in adata.uns[KEY]["manifest"]["warnings"][0]


def test_what_cannot_be_asked_is_refused(adata):
    table = answered(scs.tl.questions(adata, 2))
    with pytest.raises(KeyError, match="found none; run"):
        scs.tl.questions(adata, key="other")
    with pytest.raises(ValueError, match="number of questions, at least 1, found 0"):
        scs.tl.questions(adata, 0)
    with pytest.raises(ValueError, match="Expected the 700 cells"):
        scs.tl.questions(adata[:300].copy())
    with pytest.raises(ValueError, match="in another"):
        scs.tl.answer(adata[::-1].copy(), table)
    before = state(adata)
    with pytest.raises(ValueError, match="found 'maybe'"):
        scs.tl.answer(adata, answered(table, ["maybe", "no"]))
    assert_same(state(adata), before)
    del adata.obsm[f"{KEY}_candidates"]
    with pytest.raises(KeyError, match="without `restrict_to`"):
        scs.tl.answer(adata, table)
    part = adata.copy()
    scs.tl.siameseclu(part, 2, restrict_to=(KEY, ["0"]), key_added="part", progress=False)
    assert "part_candidates" not in part.obsm


def test_known_pairs_hold_beside_answers(adata):
    names = adata.obs_names
    pairs = [(names[0], names[1]), (names[2], names[3])]
    scs.tl.siameseclu(adata, 8, cannot_link=pairs, progress=False)
    table = scs.tl.questions(adata, 1)
    scs.tl.answer(adata, answered(table, ["no"]))
    record = adata.uns[KEY]["manifest"]
    assert record["cannot_link"] == {"given": 2, "kept": 2}
    assert record["answers"]["given"] == 1


def test_a_transport_of_the_user_has_to_be_at_hand(fitted, tmp_path):
    adata = fitted[0].copy()
    own = partial(F.sinkhorn_target, tau=0.9)
    model = scs.SiameseClu(8, transport=own).fit(adata, progress=False)
    table = answered(model.questions(adata, 2))
    model.save(tmp_path / "model")
    with pytest.raises(RuntimeError, match="transport"):
        scs.SiameseClu.load(tmp_path / "model").answer(adata, table)
    again = scs.SiameseClu.load(tmp_path / "model", transport=own).answer(adata, table)
    np.testing.assert_array_equal(again.proba, model.answer(adata, table).proba)
    scs.tl.add_clusters(adata, model)
    with pytest.raises(ValueError, match="usual transport"):
        scs.tl.answer(adata, table)


def test_clusters_are_chosen_in_the_space_they_were_found_in(fitted):
    adata = fitted[0].copy()
    config = scs.Config.from_dict({"training": {"contrast_steps": 10}})
    scs.tl.siameseclu(adata, 8, config=config, progress=False)
    before = state(adata)
    scs.tl.answer(adata, None, keep=False)
    assert_same(state(adata), before)
    assert not np.array_equal(adata.obsm[f"X_{KEY}"], adata.obsm[f"X_{KEY}_fused"])
    del adata.obsm[f"X_{KEY}_fused"]
    for call in (scs.tl.questions, scs.tl.cluster_tree, lambda a: scs.tl.answer(a, None)):
        with pytest.raises(KeyError, match="that cells were clustered in"):
            call(adata)


def test_a_model_does_not_heed_answers_about_other_cells(fitted):
    adata, model, _ = fitted
    other = adata.copy()
    other.X = other.X[::-1].copy()
    with pytest.raises(ValueError, match="found"):
        model.answer(other, answered(model.questions(adata, 1)))


def test_a_copy_leaves_the_object_as_it_is(adata):
    before = state(adata)
    table = answered(scs.tl.questions(adata, 2), ["no", "no"])
    other = scs.tl.answer(adata, table, copy=True)
    assert_same(state(adata), before)
    assert len(other.uns[KEY]["answers"]) == 2


def test_unsure_cells_stay_unassigned(fitted):
    adata = fitted[0].copy()
    scs.tl.siameseclu(adata, 8, min_confidence=0.9, progress=False)
    scs.tl.answer(adata, answered(scs.tl.questions(adata, 2)))
    least = adata.obs[f"{KEY}_confidence"] < 0.9
    np.testing.assert_array_equal(adata.obs[KEY] == "Unassigned", least)


def test_a_model_without_candidates_says_so(fitted):
    adata = fitted[0]
    model = scs.SiameseClu(3)
    prepared = model.prepare(adata)
    method = model.method()
    import jax

    own = method.init(jax.random.key(0), prepared.data)
    z = method.embed(own, prepared.data)
    own = method.start_clustering(own, prepared.data, z, z[:3], np.ones(3))
    with pytest.raises(RuntimeError, match="candidate partitions of a fit to ask about"):
        scs.SiameseClu.from_state(method, own, prepared).questions(adata)
