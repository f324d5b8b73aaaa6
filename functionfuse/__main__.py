"""``python -m functionfuse``: the command line without its entry point."""

from functionfuse.cli import main

if __name__ == "__main__":
    main(prog_name="functionfuse")
