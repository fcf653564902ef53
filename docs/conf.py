"""How the site is built: ``sphinx-build -W -b html docs docs/_build/html`` from the repository."""

import os
import re
import shutil
import sys
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
BUILD = HERE / "_build"

# Notebooks run on the host, with the command line of this Python, and share compiled programs:
# what they compute does not depend on it.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["TQDM_DISABLE"] = "1"  # a bar would be output of its cell
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(BUILD / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

project = "scsiameseclu_jax"
author = "The scsiameseclu_jax developers"
project_copyright = author
release = version = version_of("scsiameseclu-jax")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "**/.ipynb_checkpoints", "**/jupyter_execute"]
templates_path = ["_templates"]

# Pages. A notebook that fails, or writes to standard error, stops the build.
myst_enable_extensions = ["attrs_block", "colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_cache_path = str(BUILD / "notebooks")
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_execution_in_temp = True
nb_merge_streams = True
nb_output_stderr = "remove-warn"

# Reference.
autosummary_generate = True
autosummary_imported_members = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 80
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_preprocess_types = False
# What these sections say are lists of what is written where, not a type and its description.
napoleon_custom_sections = ["Returns", "Raises"]

html_theme = "sphinx_book_theme"
html_title = "scsiameseclu_jax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {
    "navbar_persistent": [],  # the search of the sidebar is enough
    "use_download_button": False,
    "use_fullscreen_button": False,
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True


def _copy_measurements() -> None:
    """Make pages of ``benchmarks/results``, so that no figure is written down twice."""
    source, out = ROOT / "benchmarks" / "results", HERE / "measurements"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    tables = sorted(path for path in source.glob("*.md") if path.name != "README.md")
    for path in (*tables, *source.glob("*.png")):
        text = path.read_text(encoding="utf-8") if path.suffix == ".md" else ""
        if path.suffix == ".png":
            shutil.copy(path, out)
        else:
            title = path.stem.replace("_", " ").capitalize()
            (out / path.name).write_text(f"# {title}\n\n{_rows(text)}", encoding="utf-8")
    listed = "\n".join(path.stem for path in tables)
    text = (source / "README.md").read_text(encoding="utf-8")
    tree = f"\n\n```{{toctree}}\n:hidden:\n:titlesonly:\n\n{listed}\n```\n"
    (out / "index.md").write_text(text.rstrip() + tree, encoding="utf-8")


def _link_measurements(_: object, page: str, source: list[str]) -> None:
    """Link to the pages made of ``benchmarks/results``: pages of ours link to the files themselves.

    So links work in the repository as well.
    """
    links = re.compile(r"\]\((?:\.\./)+benchmarks/results/(\w+)\.md")

    def made(link: re.Match[str]) -> str:
        return f"](/measurements/{'index' if link[1] == 'README' else link[1]}.md"

    source[0] = links.sub(made, source[0])


def setup(app: Any) -> None:
    """Tell Sphinx."""
    app.connect("source-read", _link_measurements)


def _rows(text: str) -> str:
    """Begin headings of a table's page one level below its title."""
    return re.sub(r"^(#+) ", r"#\1 ", text, flags=re.MULTILINE)


_copy_measurements()
