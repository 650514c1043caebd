"""Draw docs/images/report.png, the README's picture of a report: a run's page in Chromium, cut down to its heart.

    .venv/bin/python scripts/report_picture.py RUN [--out docs/images/report.png]

Needs Chromium (apt-get install chromium).
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from vlsae.reporting import write_report
from vlsae.runs import resolve, runs_root

ROOT = Path(__file__).resolve().parent.parent
WIDTH, HEIGHT = 1180, 1330
MOST_BYTES = 300_000

#: What the picture leaves out of the page.
HIDDEN = """
#run, #training, #configuration, #found, footer, nav, .note, .skip, details, #all-title, #all, #concepts .figures,
#numbers > h3, #numbers > p, #numbers > table, #numbers > .figures, #concepts > p { display: none; }
h2 { margin-top: 1rem; }
.find { position: static; margin-top: 0; }
.level:nth-of-type(n + 6) { display: none; }
"""


def main() -> None:
    """Write the picture of a run's report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "report.png")
    options = parser.parse_args()
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        sys.exit("There is no Chromium here; install it first (apt-get install chromium).")
    page = write_report(resolve(options.run, runs_root()))
    with tempfile.TemporaryDirectory() as folder:
        copy, shot = Path(folder, "page.html"), Path(folder, "shot.png")
        copy.write_text(page.read_text(encoding="utf-8").replace("</head>", f"<style>{HIDDEN}</style></head>"))
        words = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT}"]
        words += ["--virtual-time-budget=4000", f"--screenshot={shot}", copy.as_uri()]
        subprocess.run([browser, *words], check=True, capture_output=True, timeout=300)
        picture = Image.open(shot).convert("RGB")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(smallest(picture))
    sys.stdout.write(f"{os.path.relpath(options.out)} {options.out.stat().st_size:,} bytes\n")


def smallest(picture: Image.Image) -> bytes:
    """Return the picture as PNG of at most 300 kB, with fewer colours where it takes that."""
    for colors in (None, 256, 128, 64, 32):
        buffer = io.BytesIO()
        drawn = picture if colors is None else picture.quantize(colors, dither=Image.Dither.NONE)
        drawn.save(buffer, "PNG", optimize=True)
        if buffer.tell() <= MOST_BYTES:
            return buffer.getvalue()
    raise ValueError(f"The picture takes {buffer.tell():,} bytes; make WIDTH or HEIGHT smaller.")


if __name__ == "__main__":
    main()
