"""`python -m retally`: the command, where its script is not on the path."""

from retally.cli.main import main

if __name__ == "__main__":
    main()
