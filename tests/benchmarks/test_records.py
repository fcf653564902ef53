"""The fingerprint that says whether a run on record is of the present code."""

import json

from benchmarks import records


def test_comments_and_docstrings_change_no_fingerprint(tmp_path, monkeypatch):
    path = tmp_path / "a.py"
    monkeypatch.setattr(records, "code_files", lambda *modules: [path])

    def mark(text, settings=None):
        path.write_text(text)
        return records.code_fingerprint(settings or {})

    plain = mark("def f(x):\n    return x\n\nclass A:\n    size: int = 1\n")
    told = mark(
        '"""What it is."""\n\ndef f(x):\n    """What it does."""\n    return x  # why\n\n'
        'class A:\n    size: int = 1\n    """Its size."""\n'
    )
    assert told == plain
    assert mark("def f(x):\n    return x\n\nclass A:\n    size: int = 2\n") != plain
    assert mark('def f(x):\n    return "x"\n') != mark('def f(x):\n    return "y"\n')
    assert mark(path.read_text(), {"seed": 1}) != mark(path.read_text())


def test_a_fit_depends_on_all_that_it_imports():
    package = records.ROOT / records.PACKAGE
    files = {path.relative_to(package).as_posix() for path in records.code_files()}
    functional = (package / "functional").glob("*.py")
    assert {f"functional/{path.name}" for path in functional} <= files
    assert {"model.py", "reference.py", "config.py", "datasets/readers.py"} <= files
    folders = {name.split("/")[0] for name in files if "/" in name}
    assert {"preprocessing", "partition", "training", "certainty"} <= folders
    assert not {"tl", "pl", "cli", "reporting"} & folders


def test_imports_are_followed_into_functions_and_past_the_root(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "ROOT", tmp_path)
    texts = {
        "scsiameseclu_jax/__init__.py": "from scsiameseclu_jax import unused\n",
        "scsiameseclu_jax/unused.py": "",
        "scsiameseclu_jax/first.py": (
            "import numpy\nimport scsiameseclu_jax as scs\n\n"
            "def f():\n    from scsiameseclu_jax.folder import second\n"
        ),
        "scsiameseclu_jax/folder/__init__.py": "",
        "scsiameseclu_jax/folder/second.py": "from scsiameseclu_jax.first import f\n",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = [path.name for path in records.code_files("scsiameseclu_jax.first")]
    assert found == ["first.py", "__init__.py", "second.py"]


def test_runs_of_other_code_are_left_out(tmp_path):
    out = tmp_path / "made.json"
    assert records.on_record(out, {"a"}) == []
    runs = [{"fingerprint": "a"}, {"fingerprint": "b"}, {}]
    records.save(out, "a table", runs=runs, bars={"error": 0.1})
    assert records.on_record(out, {"a"}) == runs[:1]
    assert records.on_record(out, {"a"}, fresh=True) == []
    assert json.loads(out.read_text())["versions"] == records.versions()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made.json", "made.md"]
