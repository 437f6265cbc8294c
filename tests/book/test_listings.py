import dataclasses
import re
import subprocess
import sys

import pytest
from support.repository import ROOT

from convnets.book import listings
from convnets.book.listings import LISTINGS

NAMES = [f"{listing.section}: {listing.name}" for listing in LISTINGS]


@pytest.mark.parametrize("listing", LISTINGS, ids=NAMES)
def test_the_books_value_comes_out(listing):
    assert listing.ours == listing.book
    assert listing.same


def wrong(value):
    """The value with one number, word or truth changed."""
    if isinstance(value, list):
        return [*value[:-1], wrong(value[-1])]
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, (int, float)) else f"{value}0"


@pytest.mark.parametrize("listing", LISTINGS, ids=NAMES)
def test_a_wrong_value_planted_in_a_listing_is_found(listing):
    table, good = listings.as_table([dataclasses.replace(listing, book=wrong(listing.book))])
    assert not good
    assert "DIFFERENT" in table
    assert "1 values: 1 DIFFERENT" in table


def test_matrices_and_layers_are_printed_a_row_a_line():
    chosen = [listing for listing in LISTINGS if listing.name in ("the edge image", "LeNet, layer by layer")]
    table, _ = listings.as_table(chosen)
    assert len(re.findall(r" same +$", table, re.MULTILINE)) == 2
    assert len(re.findall(r"\[1, 1, 0, 0, 0, 0, 1, 1\]\S*\s+\[+1, 1, 0, 0, 0, 0, 1, 1\]", table)) == 6
    assert re.search(r"Conv2d 16x10x10 +Conv2d 16x10x10 *$", table, re.MULTILINE)


def test_every_section_of_the_book_is_there():
    assert sorted({listing.section for listing in LISTINGS}) == ["7.1", "7.2", "7.3", "7.4", "7.5", "7.6", "8.2", "8.6"]
    assert len(set(NAMES)) == len(NAMES)


def test_a_planted_value_turns_the_commands_exit_code_red():
    program = (
        "import sys, runpy, dataclasses; import convnets.book.listings as l; sys.argv = ['reproduce.py', '7.5']\n"
        "if {planted}: i = next(i for i, x in enumerate(l.LISTINGS) if x.section == '7.5'); "
        "l.LISTINGS[i] = dataclasses.replace(l.LISTINGS[i], book=[[4, 5], [7, 9]])\n"
        "runpy.run_path({script!r}, run_name='__main__')"
    )
    for planted, code in ((False, 0), (True, 1)):
        source = program.format(planted=planted, script=str(ROOT / "scripts" / "reproduce.py"))
        finished = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
        assert finished.returncode == code, finished.stderr
        assert ("DIFFERENT" in finished.stdout) == planted
