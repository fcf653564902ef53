"""The fingerprint that says whether a run on record is of the present code."""

from benchmarks import records


def test_comments_and_docstrings_change_no_fingerprint(tmp_path, monkeypatch):
    path = tmp_path / "a.py"
    monkeypatch.setattr(records, "code_files", lambda: [path])

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
