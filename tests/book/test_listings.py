import dataclasses
import re
import runpy
import sys

import pytest
from support.repository import ROOT

from convnets.book import listings
from convnets.book.listings import LISTINGS

NAMES = [f"{listing.section}: {listing.name}" for listing in LISTINGS]


@pytest.mark.parametrize("listing", LISTINGS, ids=NAMES)
def test_the_books_value_comes_out(listing):
    assert listing.ours == listing.book


OPERATIONS = ["corr2d", "convolve2d", "corr2d_multi_in", "corr2d_multi_in_out", "corr2d_multi_in_out_1x1", "pool2d"]


@pytest.mark.parametrize("width", [60, 130])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_that_is_wrong_in_one_pixel_is_found(name, width, monkeypatch):
    operation = getattr(listings, name)

    def wrong(*arguments, **options):
        result = operation(*arguments, **options).clone()
        result.view(-1)[result.numel() // 2] += 1
        return result

    in_chapter = [listing for listing in LISTINGS if listing.section.startswith("7.")]
    monkeypatch.setattr(listings, name, wrong)
    table, good = listings.as_table(in_chapter, width)
    assert not good
    assert "DIFFERENT" in table
    assert re.search(rf"^{len(in_chapter)} values: \d+ DIFFERENT$", table, re.MULTILINE)
    assert max(map(len, table.splitlines())) <= width


@pytest.mark.parametrize(("output", "statistics"), [(0.01, 0), (0, 0.01)])
def test_batch_norm_by_hand_is_compared_in_both_modes(output, statistics, monkeypatch):
    by_hand = listings.batch_norm

    def wrong(images, running, is_training):
        result, running = by_hand(images, running, is_training)
        return result + output, running + statistics

    monkeypatch.setattr(listings, "batch_norm", wrong)
    compared = [listing.ours for listing in LISTINGS if "running statistics" in listing.name]
    assert [same[output == 0] for same in compared] == [False, False]


def test_matrices_and_layers_are_printed_a_row_a_line():
    chosen = [listing for listing in LISTINGS if listing.name in ("the edge image", "LeNet, layer by layer")]
    table, _ = listings.as_table(chosen, 128)
    assert len(re.findall(r" same +$", table, re.MULTILINE)) == 2
    assert len(re.findall(r"\[1, 1, 0, 0, 0, 0, 1, 1\]\S*\s+\[+1, 1, 0, 0, 0, 0, 1, 1\]", table)) == 6
    assert re.search(r"Conv2d 16x10x10 +Conv2d 16x10x10 *$", table, re.MULTILINE)


@pytest.mark.parametrize("width", [60, 80, 127, 128, 200])
def test_the_table_fits_the_terminal_and_shows_every_value(width):
    table, good = listings.as_table(LISTINGS, width)
    assert good
    assert max(map(len, table.splitlines())) <= width
    joined = " ".join(table.split())
    for listing in LISTINGS:
        for line in listings._text(listing.book).splitlines():
            assert " ".join(line.split()) in joined
    if width < 128:
        assert "7.2 same: the edge image [[1, 1, 0, 0, 0, 0, 1, 1], [1, 1, 0, 0, 0, 0, 1, 1]," in joined


def test_every_section_in_chapter_is_there():
    numbers = [f"7.{number}" for number in range(1, 7)] + [f"8.{number}" for number in range(1, 9)]
    assert sorted({listing.section for listing in LISTINGS}) == numbers
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize(("book", "code"), [([[4, 5], [7, 8]], 0), ([[4, 5], [7, 9]], 1)])
def test_a_planted_value_turns_the_commands_exit_code_red(monkeypatch, capsys, book, code):
    first, *others = (listing for listing in LISTINGS if listing.section == "7.5")
    monkeypatch.setattr(listings, "LISTINGS", [dataclasses.replace(first, book=book), *others])
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "7.5"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "scripts" / "reproduce.py"), run_name="__main__")
    assert stop.value.code == code
    assert ("DIFFERENT" in capsys.readouterr().out) == (code == 1)
