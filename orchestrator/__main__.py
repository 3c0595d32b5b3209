"""`python -m orchestrator`: the command line, for where no script is installed (a Ray job)."""

from orchestrator.cli import main

if __name__ == "__main__":
    main()
