"""`python3 -m videre.entrypoints.openai.api_server --model MODEL …` is `videre serve …`."""

import sys

from videre.__main__ import main

if __name__ == "__main__":
    sys.argv.insert(1, "serve")
    main()
