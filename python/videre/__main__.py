"""`python3 -m videre` and the `videre` command: the native program, in this process."""

import sys


def main() -> None:
    from . import _videre

    try:
        code = _videre.main(["videre", *sys.argv[1:]], [sys.executable, "-m", "videre"])
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
