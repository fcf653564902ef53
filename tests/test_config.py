"""Settings: what is refused, before anything starts, and how it is said."""

import os

import numpy as np
import pytest

import scsiameseclu_jax as scs
from scsiameseclu_jax.config import Config, Training

NUMBERS = [
    (section, name, value)
    for section, settings in Config().to_dict().items()
    for name, value in settings.items()
    if isinstance(value, int | float) and not isinstance(value, bool)
]


def refused(values, match):
    with pytest.raises(ValueError, match=match) as raised:
        Config.from_dict(values)
    assert str(raised.value).startswith("Expected `")
    assert len(str(raised.value)) < 400
    return str(raised.value)


@pytest.mark.parametrize(("section", "name", "value"), NUMBERS)
def test_every_number_is_bounded(section, name, value):
    assert Config.from_dict({section: {name: value}}) == Config()
    wrong = [10**40, 10**400, -(10**12), -(10**400), float("nan"), float("inf"), -float("inf")]
    wrong += [10**12] if isinstance(value, int) else []
    for other in [*wrong, "1", None, [1], True]:
        refused({section: {name: other}}, f"`{section}.{name}`")


def test_a_number_is_named_with_its_range_and_what_was_found():
    found = refused({"training": {"steps": 10**12}}, "steps")
    assert found == "Expected `training.steps` to be between 0 and 1000000, found 1000000000000."
    found = refused({"losses": {"zinb": 10**400}}, "zinb")
    assert found.endswith("between 0 and 1e+30, found a number of about 400 digits.")
    found = refused({"training": {"rate": [10**9000] * 3}}, "rate")
    assert found == "Expected `training.rate` to be of type float, found a list."


@pytest.mark.parametrize("widths", [[], [0], [10**9], [16.0], [True], [8] * 17, "88", 8, None])
def test_widths(widths):
    for name in ("feature_layers", "graph_layers", "projection_layers", "contrast_layers"):
        refused({"network": {name: widths}}, f"`network.{name}`")


@pytest.mark.parametrize(
    ("name", "value"), [("edge_removal", 1.0), ("alpha", 1.0), ("diffusion_tolerance", 1.0)]
)
def test_open_ends(name, value):
    refused({"augmentation": {name: value}}, "below 1, found 1.0")


@pytest.mark.parametrize("values", [[], "x", {"training": 5}, {5: {}}, {"losses": [1]}])
def test_what_is_no_table(values):
    refused(values, "config")


def test_made_directly_they_are_checked_too():
    for wrong in (10**12, 2.5, np.nan, "4", True):
        with pytest.raises(ValueError, match=r"`training\.steps`"):
            Training(steps=wrong)
    assert Training(steps=np.int64(5)).steps == 5


@pytest.mark.parametrize(
    "text",
    [
        b"[losses]\nzinb=" + b"9" * 400,
        b"[losses]\nzinb=" + b"9" * 5000,
        b"[training]\nsteps=0x" + b"f" * 5000,
        b"[training]\nsteps=" + b"[" * 5000,
        b"[training]\nsteps=" + b"{a=" * 5000,
        b"training." + b"a." * 5000 + b"b=1",
        b"[training]\nrate=inf",
        b"[training]\nrate=1979-05-27",
        b"\xff\xfe[training]",
        b"\x00",
        b"#" * 1_000_001,
    ],
    ids=lambda text: f"{text[:24]!r}",
)
def test_files_that_are_no_settings(tmp_path, text):
    path = tmp_path / "c.toml"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=r"^Expected ") as raised:
        Config.from_toml(path)
    assert len(str(raised.value)) < 400


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").write_text("")
    for read in (Config.from_toml, scs.datasets.read_pairs, scs.datasets.read_markers):
        with pytest.raises(ValueError, match="pipe"):
            read(tmp_path / "pipe")
        with pytest.raises(ValueError, match="directory"):
            read(tmp_path)
        with pytest.raises(FileNotFoundError, match="none"):
            read(tmp_path / "none")
