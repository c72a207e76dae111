"""``python -m twotower`` is the command ``twotower``."""

from twotower.cli.main import main

if __name__ == "__main__":
    main()
