"""The words for several devices and processes."""

import pytest

from scsiameseclu_jax.cli import main


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--devices", "2"], "Expected 1 to 1 devices, found 2: jax sees 1 CPU device."),
        (["--devices", "0"], "Expected 1 to 1 devices, found 0"),
        (["--process-id", "0"], "Expected --coordinator with --process-id"),
        (["--coordinator", "localhost:1"], "found None and None"),
        (
            ["--coordinator", "localhost:1", "--process-id", "2", "--num-processes", "2"],
            "0 <= I < M, found 2 and 2",
        ),
        (
            ["--coordinator", "localhost", "--process-id", "0", "--num-processes", "2"],
            "Expected --coordinator to be HOST:PORT or auto, found 'localhost'",
        ),
    ],
)
def test_wrong_words_end_in_a_sentence(words, message, tmp_path, capsys):
    out = tmp_path / "out.h5ad"
    assert main(["cluster", str(tmp_path / "in.h5ad"), str(out), *words]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()
