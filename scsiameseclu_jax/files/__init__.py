"""Files that are written: checked before anything long starts, then whole or not at all."""

from scsiameseclu_jax.files.errors import BAD_INPUT, FAILURES, WriteError, message
from scsiameseclu_jax.files.models import (
    check_model_folder,
    check_model_space,
    read_model,
    write_model,
)
from scsiameseclu_jax.files.objects import check_target, write_anndata, write_table_near
from scsiameseclu_jax.files.places import (
    OUTPUTS,
    PAGES,
    PLOTS,
    TABLES,
    check_apart,
    check_output,
    check_separate,
)
from scsiameseclu_jax.files.whole import write_text, write_whole

__all__ = [
    "BAD_INPUT",
    "FAILURES",
    "OUTPUTS",
    "PAGES",
    "PLOTS",
    "TABLES",
    "WriteError",
    "check_apart",
    "check_model_folder",
    "check_model_space",
    "check_output",
    "check_separate",
    "check_target",
    "message",
    "read_model",
    "write_anndata",
    "write_model",
    "write_table_near",
    "write_text",
    "write_whole",
]
