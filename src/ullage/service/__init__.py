"""
`ImageService`: the store as a host sees it.
"""

from ullage.service.handle import ImageLike
from ullage.service.service import ImageService

__all__ = ["ImageLike", "ImageService"]
