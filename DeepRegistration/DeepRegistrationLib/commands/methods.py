"""`deepregistration methods`: what can be chosen."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from ..catalogue import METHODS as TEXTS
from ..errors import InputError
from ..methods import METHODS
from ..transforms import REPRESENTATIONS
from ..weights import load_weights, shipped_weights


def run(options: argparse.Namespace) -> None:
    """Print methods and transform representations."""
    methods = [
        {
            "name": method.name,
            "title": method.title,
            "description": method.description,
            "guarantee": method.guarantee,
            "weights": weights_of(method.name),
        }
        for method in METHODS.values()
    ]
    representations = [
        {"name": kind.name, "diffeomorphic": kind.diffeomorphic, "description": kind.description}
        for kind in REPRESENTATIONS.values()
    ]
    if options.json:
        print(json.dumps({"methods": methods, "representations": representations}, indent=2))
        return
    print("Methods\n")
    for method in methods:
        print(f"  {method['name']:<20}{method['title']}. {method['description']}")
        told = [_told(weights) for weights in method["weights"]]
        if TEXTS[method["name"]].learns:
            told = told or ["No trained weights come with it."]
        print("".join(f"{'':<22}{line}\n" for line in told), end="")
    print("\nTransform representations\n")
    for kind in representations:
        print(f"  {kind['name']:<20}{kind['description']}")


def weights_of(method: str) -> list[dict[str, Any]]:
    """The weights that come with a method: dimension, configuration, SHA-256, record of their training; or
    dimension and the error, where a file cannot be used."""
    found: list[dict[str, Any]] = []
    for dimension in (2, 3):
        path = shipped_weights(method, dimension)
        if path is None:
            continue
        try:
            weights = load_weights(path, method, dimension)
        except InputError as error:
            found.append({"dimension": dimension, "error": str(error)})
            continue
        numbers = {"configuration": weights.configuration, "sha256": weights.sha256}
        found.append({"dimension": dimension, **numbers, **weights.record})
    return found


def _told(weights: dict[str, Any]) -> str:
    if "error" in weights:
        return f"Weights for {weights['dimension']}-D images: {weights['error']}"
    told = f"Weights for {weights['dimension']}-D images: {weights['configuration']}"
    for part in _parts(weights):
        told += (
            f"; {part['steps']} steps, {part['seconds'] / 3600:.1f} h on {part['data']}, seed {part['seed']}"
        )
    return f"{told}; SHA-256 {weights['sha256'][:12]}."


def _parts(record: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """The trainings that made the weights, the first one first."""
    if record and record.get("data"):
        yield from _parts(record.get("start"))
        yield record
