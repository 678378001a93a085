"""What is installed: engine, the scene's side of it, trained weights. See pyproject.toml for the rest."""

from setuptools import find_packages, setup

MODULE = "DeepRegistration"
WEIGHTS = "DeepRegistrationWeights"
"""Under this name the trained weights lie beside the engine; in Slicer they are in the module's Resources."""

setup(
    packages=[*find_packages(MODULE, include=["DeepRegistrationLib*", "DeepRegistrationScene*"]), WEIGHTS],
    package_dir={"": MODULE, WEIGHTS: f"{MODULE}/Resources/Weights"},
    package_data={WEIGHTS: ["*.pt", "*.json"]},
)
