"""Features of images, for metrics that compare sets of images.

An extractor is named in every result that uses it: numbers from different extractors cannot be compared.
"""

from pyro_sri.features.cache import cache_folder, cached_features, images_hash
from pyro_sri.features.extraction import FeatureExtractor, extract
from pyro_sri.features.inception import InceptionFeatures, find_inception
from pyro_sri.features.scattering import ScatteringFeatures

__all__ = [
    "FeatureExtractor",
    "InceptionFeatures",
    "ScatteringFeatures",
    "cache_folder",
    "cached_features",
    "extract",
    "find_inception",
    "images_hash",
]
