"""Run the command line as ``python -m scsiameseclu_jax``."""

import sys

from scsiameseclu_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
