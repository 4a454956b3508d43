"""Collects free fonts for rendering: picks text faces, cuts them down to ASCII and splits train from held-out.

    python -m training.fonts OUT DIR [DIR...]      # DIR: any folders with .ttf/.otf files, e.g. /usr/share/fonts

Families in HELD_OUT are written to OUT/held and never seen in training; the rest goes to OUT/train.
"""
import pathlib
import re
import sys

from fontTools import subset

HELD_OUT = ("carlito", "caladea", "gentium", "hack-", "karla", "play-", "pts5", "pts7", "ptf5", "ptf7",
            "clearsans", "lindenhill", "go-regular", "go-bold", "notoserif-", "firacode")
TRAIN = ("andika", "anonymous pro", "arundinasans", "averiasans", "averiaserif", "b612", "baskervald", "c059",
         "cabin", "cantarell", "charissil", "comfortaa", "comicneue", "courier prime", "dejavu", "dosis",
         "ebgaramond12", "fantasquesansmono", "freemono", "freesans", "freeserif", "gillius", "goudybookletter",
         "inconsolata", "inter-", "jetbrainsmono", "junction", "jura", "lato", "leaguespartan", "liberation",
         "libris", "linbiolinum_r", "linlibertine_r", "nimbus", "notosans-", "notosansdisplay", "notoserifdisplay",
         "oldstandard", "opendyslexic-", "opensans", "p052", "prociono", "ptc", "ptm", "quicksand", "roboto",
         "romandeadfstd", "stixgeneral", "sora", "tuffy", "urwbookman", "urwgothic", "universalis", "vollkorn",
         "yanonekaffeesatz", "agave", "mononoki", "arapey-regular", "century-catalogue")
# Hairlines vanish when a picture is shrunk; small capitals and swash faces do not print what the label says.
SKIP = re.compile(r"thin|hairline|extralight|[-_]light|ultralight|smallcaps|math|black|heavy|extrabold|script|"
                  r"style|_rz|minus|notoserifdisplay-.*italic|linlibertine_rb?i?z", re.I)
TEXT = "".join(chr(c) for c in range(0x20, 0x7F))


def cut(src, dst):
    """Writes the ASCII part of font `src`; False when a glyph is missing or empty."""
    options = subset.Options(hinting=True, layout_features=["kern"], notdef_outline=True, name_IDs=[1, 2],
                             drop_tables=["GSUB", "GDEF", "DSIG", "FFTM", "BASE", "STAT", "meta"])
    font = subset.load_font(src, options)
    if "fvar" in font or not all(ord(c) in font.getBestCmap() for c in TEXT):
        return False
    cutter = subset.Subsetter(options)
    cutter.populate(text=TEXT)
    cutter.subset(font)
    subset.save_font(font, dst, options)
    return True


def main():
    out = pathlib.Path(sys.argv[1])
    seen = set()
    files = [f for d in sys.argv[2:] for f in sorted(pathlib.Path(d).rglob("*")) if f.suffix.lower() in (".ttf", ".otf")]
    for f in files:
        name = f.stem.lower()
        if name in seen or SKIP.search(f.stem):
            continue
        held = name.startswith(HELD_OUT)
        if not held and not name.startswith(TRAIN):
            continue
        seen.add(name)
        folder = out / ("held" if held else "train")
        folder.mkdir(parents=True, exist_ok=True)
        dst = folder / (re.sub(r"[^A-Za-z0-9-]", "_", f.stem) + f.suffix.lower())
        try:
            if not cut(str(f), str(dst)):
                print("left out", f.name)
        except Exception as error:  # a damaged font is no reason to stop
            dst.unlink(missing_ok=True)
            print("left out", f.name, error)
    for part in ("train", "held"):
        found = list((out / part).iterdir())
        print(part, len(found), "fonts", sum(f.stat().st_size for f in found) // 1024, "KiB")


if __name__ == "__main__":
    main()
