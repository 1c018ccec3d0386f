#!/usr/bin/env python3
"""Makes the pictures of the README with the program itself, or checks that they are current.

    python3 docs/pictures/make.py PROGRAM           # makes contact-sheet.png, terminal.svg and audit.png
    python3 docs/pictures/make.py PROGRAM --check   # fails if one shows something that the program no longer prints

PROGRAM is trinart-ckpt. Needs Python's standard library; for audit.png also Chromium. Each picture records the sha256 of
what it shows, and a check compares that. The pixels of the contact sheet are compared by the tests of the README.
"""

import argparse
import hashlib
import html
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib

HERE = pathlib.Path(__file__).resolve().parent
FIXTURES = HERE.parent.parent / "fixtures"
SMALL = "fixtures/small_model/small.ckpt"
SESSION = [
    ["inspect", "merged.ckpt"],
    ["scan", "downloads"],
]
# The colors of the terminal: background, text, and those of the escape sequences.
PAPER, INK = "#16181d", "#d7dae0"
COLORS = {1: "#ffffff", 2: "#8b919d", 31: "#ff6b6b", 32: "#7bd88f", 33: "#f5c451", 34: "#6cb6ff", 35: "#d69bf5", 36: "#5fd0d6"}
WIDTH, LETTER, LINE, EDGE = 100, 8.43, 19, 16


class Program:
    def __init__(self, path, folder):
        self.path, self.folder = path, folder

    def run(self, arguments, codes=(0,)):
        environment = {**os.environ, "COLUMNS": str(WIDTH), "TZ": "UTC", "XDG_CACHE_HOME": str(self.folder / "cache")}
        ran = subprocess.run([self.path, *arguments], cwd=self.folder, capture_output=True, text=True, env=environment)
        if ran.returncode not in codes:
            sys.exit(f"{arguments} ended with {ran.returncode}: {ran.stdout}{ran.stderr}")
        return ran.stdout + ran.stderr


def merge(program):
    program.run(["merge-vae", SMALL, "--vae", "fixtures/small_model/small-vae.ckpt", "-o", "merged.ckpt"])


def contact_sheet(program):
    program.run(["render-check", "merged.ckpt", "-o", "check.png", "--prompt", "a red circle on blue", "--size", "64x64",
                 "--against", SMALL])
    return (program.folder / "check.sheet.png").read_bytes()


def session(program):
    """What a terminal shows: commands, and what they print in color."""
    downloads = program.folder / "downloads"
    downloads.mkdir()
    shutil.copy(FIXTURES / "hostile" / "calls-system.ckpt", downloads / "anime-v3.ckpt")
    shutil.copy(FIXTURES / "tiny-sd1.safetensors", downloads / "tiny.safetensors")
    shown = ""
    for arguments in SESSION:
        printed = program.run(["--color", "always", *arguments], codes=(0, 1))
        shown += f"\x1b[2m$\x1b[0m \x1b[1mtrinart-ckpt {' '.join(arguments)}\x1b[0m\n{printed}\n"
    return shown.rstrip() + "\n"


def svg(shown, mark):
    """The text of a terminal as SVG. Lines that are too long are cut, as in a terminal that does not wrap."""
    rows, y = [], EDGE + 14
    for line in shown.splitlines():
        column, style, spans = 0, [], []
        for part in re.split(r"(\x1b\[[\d;]*m)", line):
            if part.startswith("\x1b["):
                codes = [int(code) for code in part[2:-1].split(";") if code]
                style = [code for code in codes if code] if 0 in codes or not codes else style + codes
                continue
            color = next((COLORS[code] for code in reversed(style) if code in COLORS and code > 2), None)
            color = color or next((COLORS[code] for code in style if code in COLORS), INK)
            weight = ' font-weight="bold"' if 1 in style else ""
            # SVG collapses spaces, so each run of words has a place.
            for words in re.finditer(r"\S+(?: \S+)*", part[:max(0, WIDTH - column)]):
                x = EDGE + (column + words.start()) * LETTER
                spans.append(f'<tspan x="{x:.1f}" fill="{color}"{weight}>{html.escape(words.group())}</tspan>')
            column += len(part)
        if column > WIDTH:
            spans.append(f'<tspan x="{EDGE + WIDTH * LETTER:.1f}" fill="{COLORS[2]}">…</tspan>')
        rows.append(f'<text y="{y}">{"".join(spans)}</text>')
        y += LINE
    width, height = round(2 * EDGE + (WIDTH + 1) * LETTER), y - LINE + EDGE
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">\n'
            f"<desc>{mark}</desc>\n"
            f'<rect width="{width}" height="{height}" rx="8" fill="{PAPER}"/>\n'
            '<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, \'DejaVu Sans Mono\', monospace" font-size="14">\n' + "\n".join(rows) + "\n</g>\n</svg>\n")


def audit_page(program):
    """The page of a folder with models that have something to find."""
    models = program.folder / "models"
    for name in ("Stable-diffusion", "VAE", "Lora"):
        (models / name).mkdir(parents=True)
    checkpoints = models / "Stable-diffusion"
    shutil.copy(program.folder / SMALL, checkpoints / "small.ckpt")
    shutil.copy(FIXTURES / "small_model" / "preview.png", checkpoints / "small.preview.png")
    shutil.copy(program.folder / "merged.ckpt", checkpoints / "small-merged.ckpt")
    program.run(["convert", "merged.ckpt", "-o", checkpoints / "copy of small-merged.safetensors"])
    shutil.copy(program.folder / "fixtures/small_model/small-vae.ckpt", models / "VAE" / "small-vae.ckpt")
    shutil.copy(FIXTURES / "hostile" / "calls-system.ckpt", checkpoints / "anime-v3.ckpt")
    shutil.copy(FIXTURES / "tiny-sd1.safetensors", checkpoints / "tiny.ckpt")
    (checkpoints / "download.safetensors").write_bytes((FIXTURES / "tiny-sd1.safetensors").read_bytes()[:700_000])
    (checkpoints / "removed.preview.png").write_bytes((FIXTURES / "small_model" / "preview.png").read_bytes())
    program.run(["audit", "models", "--deep", "--no-cache", "--html", "audit.html"], codes=(1,))
    return (program.folder / "audit.html").read_text()


def screenshot(page, mark):
    """A picture of the page in a browser, with `mark` as text."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        sys.exit("audit.png needs Chromium")
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "audit.png"
        subprocess.run([browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--screenshot={path}",
                        f"--user-data-dir={folder}/profile", "--window-size=1280,860", page.as_uri()],
                       check=True, capture_output=True)
        png = path.read_bytes()
    data = b"Source\0" + mark.encode()
    chunk = struct.pack(">I", len(data)) + b"tEXt" + data + struct.pack(">I", zlib.crc32(b"tEXt" + data))
    # After the signature and the header.
    return png[:33] + chunk + png[33:]


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "fixtures").symlink_to(FIXTURES)
        program = Program(str(pathlib.Path(arguments.program).resolve()), folder)
        merge(program)
        shown, page = session(program), audit_page(program)
        marks = {"terminal.svg": sha256(shown), "audit.png": sha256(page)}
        if arguments.check:
            stale = [name for name, mark in marks.items() if mark.encode() not in (HERE / name).read_bytes()]
            if stale:
                sys.exit(f"not current: {', '.join(stale)}; run python3 docs/pictures/make.py PROGRAM")
            return
        (HERE / "contact-sheet.png").write_bytes(contact_sheet(program))
        (HERE / "terminal.svg").write_text(svg(shown, marks["terminal.svg"]))
        (HERE / "audit.png").write_bytes(screenshot(folder / "audit.html", marks["audit.png"]))


if __name__ == "__main__":
    main()
