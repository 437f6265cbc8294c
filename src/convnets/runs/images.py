"""What a run keeps of its images (data.json), and how others differ from them."""

import json
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

from convnets.files import RunFolderError, read_json, removal, shown, write_atomically

RECORD = "data.json"


def record_images(run_dir: Path, facts: Mapping[str, Any]) -> None:
    """Write the record."""
    write_atomically(run_dir / RECORD, json.dumps(facts, indent=2) + "\n")


def changed_images(run_dir: Path, facts: Mapping[str, Any]) -> str:
    """How the images differ from those that the run began with, in words; empty where they are the same."""
    known = read_json(run_dir / RECORD)
    if not known:  # a run from before there was such a record
        return ""
    old, new = list(known["class_names"]), list(facts["class_names"])
    lists = {"classes removed": {*old} - {*new}, "classes added": {*new} - {*old}}
    found = [f"{what}: {shorten(', '.join(sorted(names)), 200)}" for what, names in lists.items() if names]
    if old != new and not found:
        found.append("the classes are in another order")
    keys = [key for key in ("num_images", "digest") if facts[key] != known[key]]
    found += [f"{key} was {known[key]} and is {facts[key]}" for key in keys]
    return f"The images of {shown(run_dir)} have changed since it began: {'; '.join(found)}." if found else ""


def check_images(run_dir: Path, facts: Mapping[str, Any]) -> None:
    """Refuse images that differ from those that the run began with.

    Raises:
        RunFolderError: they do; it says how.
    """
    if changed := changed_images(run_dir, facts):
        way_out = f"Bring them back, set run_name=NAME for a new folder, or remove this one: {removal(run_dir)}"
        raise RunFolderError(f"{changed} {way_out}")
