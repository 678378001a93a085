"""`deepregistration methods`: what can be chosen."""

from __future__ import annotations

import argparse
import json
from typing import Any

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
        told = [_told(weights) for weights in method["weights"]] or ["No trained weights come with it."]
        print("\n".join(f"{'':<22}{line}" for line in told))
    print("\nTransform representations\n")
    for kind in representations:
        print(f"  {kind['name']:<20}{kind['description']}")


def weights_of(method: str) -> list[dict[str, Any]]:
    """The weights that come with a method: dimension, configuration, what they were trained on, SHA-256;
    or dimension and the error, where a file cannot be used."""
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
        numbers = {"configuration": weights.configuration, "data": weights.record.get("data")}
        found.append({"dimension": dimension, **numbers, "sha256": weights.sha256})
    return found


def _told(weights: dict[str, Any]) -> str:
    if "error" in weights:
        return f"Weights for {weights['dimension']}-D images: {weights['error']}"
    trained = f", trained on {weights['data']}" if weights["data"] else ""
    return f"Weights for {weights['dimension']}-D images: {weights['configuration']}{trained}."
