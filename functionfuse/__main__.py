"""``python -m functionfuse``: the command line without its entry point."""

from functionfuse.cli import main

main(prog_name="functionfuse")
